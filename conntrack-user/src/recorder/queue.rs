//! From the agent to the file: a queue that never makes the agent wait, and a thread that writes.

use std::{
    convert::Infallible,
    future::ready,
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use ctpressure_journal::{JournalError, LimitChange};
use ctpressure_model::events::{Event, Filter, Kind};

use super::{
    Health,
    detail::{DetailFlows, SecondDetail},
    second::Observed,
    writer::{JournalOptions, JournalWriter},
};
use crate::{
    agent::{Closed, Handle},
    limit::{self, Following, report::Standing},
    probes::privileges,
    sys::priority,
};

/// What waits for the writer at most. A slow disk holds it up for some seconds.
const WAITING: usize = 16;
/// How many batches of waiting events are taken before a second is handed on.
const LAST_LOOKS: usize = 16;
/// How long the end may take: the last rows, and folding the log in.
const END: Duration = Duration::from_secs(2);

/// What the writer is told.
#[derive(Debug)]
pub(super) enum Message {
    /// What is known at one second, and when that was.
    Second(Observed, SystemTime),
    /// Somebody changed the limit.
    Limit(LimitChange),
    /// Somebody contained an owner, or ended that.
    Contain(String, SystemTime),
    End(SystemTime),
}

/// The journal that is being written.
#[derive(Debug)]
pub(crate) struct Journal {
    queue: JournalQueue,
    thread: Option<JoinHandle<()>>,
}

/// The writer's queue: for whoever has something to be noted.
#[derive(Clone, Debug)]
pub(crate) struct JournalQueue {
    sender: SyncSender<Message>,
    health: Arc<Health>,
}

impl Journal {
    /// Opens the journal, or begins one, and starts to write it.
    ///
    /// A damaged one is moved aside. A full disk is no error: it is tried again.
    ///
    /// # Errors
    /// When the folder is missing or can't be written, somebody else writes there, or what is there
    /// is not a journal or one of a newer version.
    pub(crate) fn open(options: &JournalOptions) -> Result<Self, JournalError> {
        let (sender, messages) = mpsc::sync_channel(WAITING);
        let (opened, result) = mpsc::sync_channel(1);
        let health = Arc::new(Health::default());
        let theirs = (options.clone(), Arc::clone(&health));
        let work = move || {
            // Files need none: the folder is the agent's own.
            privileges::drop_all("journal");
            let (options, health) = theirs;
            match JournalWriter::open(&options, health) {
                Ok(writer) => {
                    drop(opened.send(Ok(())));
                    write(writer, &messages);
                }
                Err(error) => drop(opened.send(Err(error))),
            }
        };
        let thread = priority::thread("journal", work)
            .map_err(|source| JournalError::Folder(options.folder.clone(), source))?;
        match result.recv() {
            Ok(Ok(())) => Ok(Self {
                queue: JournalQueue { sender, health },
                thread: Some(thread),
            }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(JournalError::Folder(
                options.folder.clone(),
                std::io::Error::other("the thread that writes it ended"),
            )),
        }
    }

    /// How it is doing, for whoever shows that.
    pub(crate) fn health(&self) -> Arc<Health> {
        Arc::clone(&self.queue.health)
    }

    /// For whoever has something to be noted.
    pub(crate) fn queue(&self) -> JournalQueue {
        self.queue.clone()
    }

    /// Writes what waits and that the agent was stopped, and closes the file.
    pub(crate) fn close(mut self) {
        let end = Instant::now() + END;
        let mut message = Message::End(SystemTime::now());
        while let Err(TrySendError::Full(back)) = self.queue.sender.try_send(message) {
            if Instant::now() >= end {
                tracing::warn!("the journal could not be ended: the disk is slow");
                return;
            }
            message = back;
            thread::sleep(Duration::from_millis(10));
        }
        let Some(thread) = self.thread.take() else {
            return;
        };
        while !thread.is_finished() && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
        }
        if thread.is_finished() {
            // A panic was printed.
            drop(thread.join());
        } else {
            tracing::warn!("the journal could not be ended: the disk is slow");
        }
    }
}

impl JournalQueue {
    /// Notes a change of the limit. One that finds no room in the queue is counted as lost.
    pub(crate) fn limit_change(&self, change: LimitChange) {
        if self.sender.try_send(Message::Limit(change)).is_err() {
            self.health.lose_events(1);
        }
    }

    /// Notes that somebody contained an owner, or ended that. One that finds no room in the queue is counted as lost.
    pub(crate) fn contain(&self, text: String) {
        let message = Message::Contain(text, SystemTime::now());
        if self.sender.try_send(message).is_err() {
            self.health.lose_events(1);
        }
    }

    /// Notes what the limit controller has told since `noted`.
    pub(crate) fn limit_changes(&self, report: &limit::Report, noted: &mut Following) {
        for change in noted.next(report) {
            self.limit_change(LimitChange::from(change));
        }
    }

    /// Hands on a second; what does not fit is written with a later one.
    pub(super) fn second(&self, observed: Observed) -> Result<(), Box<SecondDetail>> {
        match self
            .sender
            .try_send(Message::Second(observed, SystemTime::now()))
        {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(Message::Second(observed, _))) => {
                self.health.lose_sample();
                Err(Box::new(observed.detail))
            }
            // The thread is gone, which was printed.
            Err(_) => {
                self.health.lose_sample();
                Ok(())
            }
        }
    }

    /// Hands on what the agent sees, as long as it lives, and what the limit controller does, if there is one: `noted` tells
    /// which of its changes were.
    ///
    /// # Errors
    /// [`Closed`] when the agent has ended.
    pub(crate) async fn follow(
        &self,
        agent: &Handle,
        limit: Option<&limit::Control>,
        noted: &mut Following,
    ) -> Result<Infallible, Closed> {
        let filter = Filter {
            kinds: vec![Kind::Drop, Kind::Eviction],
            ..Filter::default()
        };
        let mut events = agent.subscribe(filter)?;
        let mut snapshots = agent.snapshots();
        let (mut detail, mut known) = (SecondDetail::default(), DetailFlows::default());
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                next = events.next(&mut batch) => {
                    next?;
                    take(&mut batch, &mut detail, &mut known, &self.health);
                }
                changed = snapshots.changed() => {
                    changed.map_err(|_| Closed)?;
                    let snapshot = Arc::clone(&snapshots.borrow_and_update());
                    // What has happened up to now belongs to this second.
                    for _ in 0..LAST_LOOKS {
                        tokio::select! {
                            biased;
                            next = events.next(&mut batch) => {
                                // That the agent has ended is said by the next one as well.
                                if next.is_err() {
                                    break;
                                }
                            }
                            () = ready(()) => break,
                        }
                    }
                    take(&mut batch, &mut detail, &mut known, &self.health);
                    // Before the second: what they make of the limit is nobody else's doing.
                    let report = limit.map(limit::Control::report);
                    if let Some(report) = &report {
                        self.limit_changes(report, noted);
                    }
                    let observed = Observed {
                        snapshot,
                        detail: std::mem::take(&mut detail),
                        controlled: report.is_some_and(|report| report.standing == Standing::Acting),
                    };
                    if let Err(back) = self.second(observed) {
                        detail = *back;
                    }
                }
            }
        }
    }
}

/// Adds events to those of the second.
fn take(
    batch: &mut Vec<Event>,
    detail: &mut SecondDetail,
    known: &mut DetailFlows,
    health: &Health,
) {
    for event in batch.drain(..) {
        if let Event::Lost(lost) = &event {
            health.lose_events(lost.watcher);
        }
        detail.add(event, known);
    }
}

/// How often the writer looks after the file when nothing comes.
const TEND: Duration = Duration::from_secs(5);

fn write(mut writer: JournalWriter, messages: &Receiver<Message>) {
    loop {
        match messages.recv_timeout(TEND) {
            Ok(Message::Second(observed, at)) => writer.second(observed, at),
            Ok(Message::Limit(change)) => writer.limit_change(change),
            Ok(Message::Contain(text, at)) => writer.contain(at, &text),
            Ok(Message::End(at)) => {
                writer.end(Some(at));
                return;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                writer.end(None);
                return;
            }
        }
        writer.tend(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use ctpressure_journal::{ChangeResult, ChangedBy};

    use super::*;
    use crate::limit::{
        Report,
        change::{By, Change, ChangeOutcome, Purpose, Size},
    };
    use ctpressure_model::words::time::JsonTime;

    fn change(sequence: u64, millis: u64, by: By) -> Change {
        Change {
            sequence,
            time: JsonTime(SystemTime::UNIX_EPOCH + Duration::from_millis(millis)),
            by,
            who: Some("uid 0".to_owned()),
            purpose: Purpose::Raise,
            before: Size {
                limit: 1000,
                buckets: 250,
                time_wait: Some(120),
            },
            after: Size {
                limit: 2000,
                buckets: 500,
                time_wait: Some(120),
            },
            outcome: ChangeOutcome::Applied,
            reason: "full in 7 s".to_owned(),
        }
    }

    fn report(changes: Vec<Change>) -> Report {
        Report {
            changes,
            ..Report::default()
        }
    }

    fn noted(changes: &mut Following, report: &Report) -> Vec<LimitChange> {
        let new = changes.next(report);
        new.into_iter().map(LimitChange::from).collect()
    }

    #[test]
    fn each_change_of_the_limit_is_noted_once() {
        let mut changes = Following::since(SystemTime::UNIX_EPOCH + Duration::from_secs(5));
        assert!(changes.next(&Report::default()).is_empty());
        let earlier = change(1, 4_999, By::Controller);
        let ours = change(2, 6_000, By::Controller);
        let found = change(3, 7_000, By::SomebodyElse);
        let first = noted(&mut changes, &report(vec![earlier.clone(), ours.clone()]));
        assert_eq!(first, [LimitChange::from(&ours)]);
        assert_eq!(
            (first[0].by, first[0].result, first[0].limit_after),
            (ChangedBy::Controller, ChangeResult::Applied, Some(2000))
        );
        let all = report(vec![earlier, ours, found]);
        let second = noted(&mut changes, &all);
        assert_eq!(second.len(), 1);
        assert_eq!(
            (second[0].by, second[0].result),
            (ChangedBy::Other, ChangeResult::Seen)
        );
        assert!(changes.next(&all).is_empty());
    }

    #[test]
    fn a_change_of_the_limit_that_finds_no_room_is_counted_as_lost() {
        let (sender, _nobody_reads) = mpsc::sync_channel(WAITING);
        let queue = JournalQueue {
            sender,
            health: Arc::default(),
        };
        for _ in 0..WAITING + 3 {
            queue.limit_change(LimitChange::from(&change(1, 0, By::Controller)));
        }
        assert_eq!(queue.health.status().events_lost, 3);
    }
}
