//! From the agent to the API: a queue that never makes the agent wait, and what is known of how it goes.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::sync::mpsc::{self, error::TrySendError};

use super::Notice;

/// Events that wait for the API at most.
const WAITING: usize = 64;

/// How the writing of Events goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EventsStatus {
    /// Written since the agent began; one that was counted up counts too.
    pub written: u64,
    /// Those that could not be written in time, or were refused.
    pub lost: u64,
    /// Those that wait.
    pub waiting: u64,
    /// Why the last one was lost; the same is among the `problems`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// What the writer says, and whoever wants to know reads.
#[derive(Debug, Default)]
pub struct Health {
    written: AtomicU64,
    lost: AtomicU64,
    waiting: AtomicU64,
    problem: Mutex<Option<Problem>>,
}

/// Why an Event was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// In words that are the same for the next one.
    pub(super) what: String,
    /// What is of this one only; may be empty.
    pub(super) details: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.what)?;
        if !self.details.is_empty() {
            write!(formatter, ": {}", self.details)?;
        }
        Ok(())
    }
}

impl From<&str> for Problem {
    fn from(what: &str) -> Self {
        Self {
            what: what.to_owned(),
            details: String::new(),
        }
    }
}

impl Health {
    /// As it is now.
    pub fn status(&self) -> EventsStatus {
        EventsStatus {
            written: self.written.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
            waiting: self.waiting.load(Ordering::Relaxed),
            problem: self.locked().as_ref().map(ToString::to_string),
        }
    }

    /// One was written.
    #[cfg_attr(
        not(any(feature = "kube", test)),
        expect(dead_code, reason = "only the feature writes")
    )]
    pub(super) fn write(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        self.written.fetch_add(1, Ordering::Relaxed);
        if self.locked().take().is_some() {
            tracing::info!("Kubernetes Events are written again");
        }
    }

    /// One that waited is lost; why is said if that is new.
    pub(super) fn lose(&self, problem: Problem) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        self.lost.fetch_add(1, Ordering::Relaxed);
        let mut known = self.locked();
        if known.as_ref().map(|known| &known.what) != Some(&problem.what) {
            tracing::warn!("{problem}");
            *known = Some(problem);
        }
    }

    fn locked(&self) -> MutexGuard<'_, Option<Problem>> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the writer is told.
#[derive(Debug)]
#[cfg_attr(
    not(any(feature = "kube", test)),
    expect(dead_code, reason = "only the feature reads them")
)]
pub(super) enum Message {
    /// An Event to write, and since when it waits.
    Write(Notice, Instant),
    /// To be answered when all before it is written or lost.
    Answer(SyncSender<()>),
}

/// The agent's end of the queue.
#[derive(Debug)]
pub(super) struct Queue {
    messages: mpsc::Sender<Message>,
    health: Arc<Health>,
}

/// Both ends.
pub(super) fn queue() -> (Queue, mpsc::Receiver<Message>, Arc<Health>) {
    let (messages, receiver) = mpsc::channel(WAITING);
    let health = Arc::<Health>::default();
    let queue = Queue {
        messages,
        health: Arc::clone(&health),
    };
    (queue, receiver, health)
}

impl Queue {
    /// Hands on what is to be said; never waits.
    pub(super) fn push(&self, notice: Notice) {
        self.health.waiting.fetch_add(1, Ordering::Relaxed);
        let why = match self
            .messages
            .try_send(Message::Write(notice, Instant::now()))
        {
            Ok(()) => return,
            Err(TrySendError::Full(_)) => {
                "Kubernetes Events are lost: the API takes them too slowly"
            }
            Err(TrySendError::Closed(_)) => {
                "Kubernetes Events are lost: the thread that writes them has ended (please report this)"
            }
        };
        self.health.lose(why.into());
    }

    /// Waits until what was handed on is written, at most so long; what is left is lost.
    pub(super) fn finish(self, most: Duration) {
        if self.health.waiting.load(Ordering::Relaxed) == 0 {
            return;
        }
        let (sender, answer) = sync_channel(1);
        let asked = self.messages.try_send(Message::Answer(sender));
        let answered = asked.is_ok() && answer.recv_timeout(most).is_ok();
        let left = self.health.waiting.load(Ordering::Relaxed);
        if !answered && left > 0 {
            tracing::warn!("{left} Kubernetes Events could not be written before the end");
        }
    }

    pub(super) const fn health(&self) -> &Arc<Health> {
        &self.health
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube_events::{About, Severity};

    fn notice() -> Notice {
        Notice {
            about: About::Node,
            severity: Severity::Normal,
            reason: "Reason",
            action: "Act",
            note: String::new(),
        }
    }

    #[test]
    fn what_does_not_fit_is_counted_and_said() {
        let (queue, receiver, health) = queue();
        for _ in 0..WAITING + 3 {
            queue.push(notice());
        }
        let status = health.status();
        assert_eq!((status.waiting, status.lost), (WAITING as u64, 3));
        assert!(status.problem.unwrap().contains("too slowly"));
        health.write();
        let status = health.status();
        assert_eq!((status.waiting, status.written), (WAITING as u64 - 1, 1));
        assert_eq!(status.problem, None, "it is over");
        drop(receiver);
        queue.push(notice());
        assert!(health.status().problem.unwrap().contains("has ended"));
    }

    #[test]
    fn the_end_waits_for_what_waits_but_not_long() {
        let (queue, mut receiver, health) = queue();
        queue.push(notice());
        let writer = std::thread::spawn(move || {
            while let Some(message) = receiver.blocking_recv() {
                match message {
                    Message::Write(written, since) => {
                        assert_eq!((written, since <= Instant::now()), (notice(), true));
                        health.write();
                    }
                    Message::Answer(answer) => answer.send(()).unwrap(),
                }
            }
            health.status().written
        });
        queue.finish(Duration::from_mins(1));
        assert_eq!(writer.join().unwrap(), 1);

        let (queue, _receiver, _) = super::queue();
        queue.push(notice());
        queue.finish(Duration::from_millis(10));
    }
}
