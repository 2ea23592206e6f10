//! From the agent to the API: a queue that never makes the agent wait, and what is known of how it goes.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use ctpressure_model::kubernetes::{EventLoss, Notice};
use serde::Serialize;
use tokio::sync::mpsc::{self, error::TrySendError};

use crate::sys::lock::locked;

/// Events that wait for the API at most.
const WAITING: usize = 64;

/// How the writing of Events goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct EventsStatus {
    /// Written since the agent began; one that was counted up counts too.
    pub written: u64,
    /// Those that could not be written in time, or were refused.
    pub lost: u64,
    /// Those that wait to be written.
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
    problem: Mutex<Option<EventLoss>>,
}

impl Health {
    /// As it is now.
    pub fn status(&self) -> EventsStatus {
        EventsStatus {
            written: self.written.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
            waiting: self.waiting.load(Ordering::Relaxed),
            problem: locked(&self.problem).as_ref().map(ToString::to_string),
        }
    }

    /// One was written.
    fn write(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        self.written.fetch_add(1, Ordering::Relaxed);
        if locked(&self.problem).take().is_some() {
            tracing::info!("Kubernetes Events are written again");
        }
    }

    /// One that waited is lost; why is said if that is new.
    fn lose(&self, why: EventLoss) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        self.lost.fetch_add(1, Ordering::Relaxed);
        let mut known = locked(&self.problem);
        if known.as_ref().map(|known| &known.what) != Some(&why.what) {
            tracing::warn!("{why}");
            *known = Some(why);
        }
    }
}

/// What the writer is told.
#[derive(Debug)]
enum Message {
    /// An Event to write, and since when it waits.
    Write(Notice, Instant),
    /// To be answered when all before it is written or lost.
    Answer(SyncSender<()>),
}

/// The agent's end of the queue.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    messages: mpsc::Sender<Message>,
    health: Arc<Health>,
}

/// The writer's end of the queue.
#[derive(Debug)]
pub(super) struct Waiting {
    messages: mpsc::Receiver<Message>,
    health: Arc<Health>,
}

/// Both ends.
pub(super) fn queue() -> (Queue, Waiting) {
    let (sender, messages) = mpsc::channel(WAITING);
    let health = Arc::<Health>::default();
    let queue = Queue {
        messages: sender,
        health: Arc::clone(&health),
    };
    (queue, Waiting { messages, health })
}

impl Waiting {
    /// Writes what comes, one after another, until nothing can come any more.
    pub(super) async fn write(
        mut self,
        mut writer: impl AsyncFnMut(&Notice, Instant) -> Result<(), EventLoss>,
    ) {
        while let Some(message) = self.messages.recv().await {
            match message {
                Message::Write(notice, since) => match writer(&notice, since).await {
                    Ok(()) => self.health.write(),
                    Err(why) => self.health.lose(why),
                },
                // Whoever asked may have gone.
                Message::Answer(answer) => drop(answer.try_send(())),
            }
        }
    }
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
    use ctpressure_model::kubernetes::{About, Severity};

    use super::*;

    fn notice() -> Notice {
        Notice {
            about: About::Node,
            severity: Severity::Normal,
            reason: "Reason",
            action: "Act",
            note: String::new(),
        }
    }

    /// Lets a writer have all of it on a thread of its own; what it was given.
    fn write(waiting: Waiting, refuse: bool) -> std::thread::JoinHandle<Vec<Notice>> {
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build();
            let mut written = Vec::new();
            let writer = async |notice: &Notice, since| {
                assert!(since <= Instant::now());
                written.push(notice.clone());
                if refuse {
                    Err("refused".into())
                } else {
                    Ok(())
                }
            };
            runtime.unwrap().block_on(waiting.write(writer));
            written
        })
    }

    #[test]
    fn what_does_not_fit_is_counted_and_said() {
        let (queue, waiting) = queue();
        for _ in 0..WAITING + 3 {
            queue.push(notice());
        }
        let health = Arc::clone(queue.health());
        let status = health.status();
        assert_eq!((status.waiting, status.lost), (WAITING as u64, 3));
        assert!(status.problem.unwrap().contains("too slowly"));
        health.write();
        let status = health.status();
        assert_eq!((status.waiting, status.written), (WAITING as u64 - 1, 1));
        assert_eq!(status.problem, None, "it is over");
        drop(waiting);
        queue.push(notice());
        assert!(health.status().problem.unwrap().contains("has ended"));
    }

    #[test]
    fn the_end_waits_for_what_waits_but_not_long() {
        let (queue, waiting) = queue();
        queue.push(notice());
        let health = Arc::clone(queue.health());
        let writer = write(waiting, false);
        queue.finish(Duration::from_mins(1));
        assert_eq!(writer.join().unwrap(), [notice()]);
        assert_eq!((health.status().written, health.status().waiting), (1, 0));

        let (queue, _waiting) = super::queue();
        queue.push(notice());
        queue.finish(Duration::from_millis(10));
    }

    #[test]
    fn what_is_refused_is_lost_and_said() {
        let (queue, waiting) = queue();
        queue.push(notice());
        let health = Arc::clone(queue.health());
        let writer = write(waiting, true);
        queue.finish(Duration::from_mins(1));
        assert_eq!(writer.join().unwrap().len(), 1);
        let status = health.status();
        assert_eq!((status.lost, status.written, status.waiting), (1, 0, 0));
        assert_eq!(status.problem.as_deref(), Some("refused"));
    }
}
