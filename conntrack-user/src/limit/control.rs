//! The controller on a thread of its own: reading files, taking a look at a table and writing a
//! sysctl (a resize of the hash waits for all CPUs) take time, and events must not wait for them.

use std::{
    fmt, io,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{
    Change, Controller, Place, Report, Sample, Settings,
    controller::{Set, SetError},
    node,
};
use crate::{agent::Snapshot, sys::priority};

/// What can wait for the thread: samples beyond that are left out, it takes the next one.
const WAITING: usize = 4;
/// How much lower than the agent's its priority is.
const NICE: i32 = 5;

/// How soon a busy thread is asked again.
const AGAIN: Duration = Duration::from_millis(10);

enum Job {
    Sample(Arc<Snapshot>),
    Set {
        limit: u64,
        force: bool,
        who: Option<String>,
        answer: oneshot::Sender<Result<Set, SetError>>,
    },
    /// Put back what is only for a while, and end; what that changed is the answer.
    End(SyncSender<Vec<Change>>),
}

struct Shared {
    settings: Settings,
    report: Mutex<Arc<Report>>,
    jobs: SyncSender<Job>,
    waiting: Mutex<Option<Receiver<Job>>>,
}

/// The agent's hold on its controller; copies are of the same one.
#[derive(Clone)]
pub struct Control(Arc<Shared>);

impl fmt::Debug for Control {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_tuple("Control").field(&self.0.settings).finish()
    }
}

impl Control {
    /// A controller that is not started yet.
    pub fn new(settings: Settings) -> Self {
        let (jobs, waiting) = sync_channel(WAITING);
        let report = Report {
            mode: settings.mode,
            now: "waiting for the first sample".to_owned(),
            ..Report::default()
        };
        Self(Arc::new(Shared {
            settings,
            report: Mutex::new(Arc::new(report)),
            jobs,
            waiting: Mutex::new(Some(waiting)),
        }))
    }

    /// Starts the thread, if it does not run yet. It has the capabilities of the caller's: to be called
    /// after giving up those that are not needed.
    ///
    /// # Errors
    /// If the kernel gives no thread.
    pub fn start(&self) -> io::Result<()> {
        let mut waiting = self
            .0
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(jobs) = waiting.take() else {
            return Ok(());
        };
        let weak = Arc::downgrade(&self.0);
        let settings = self.0.settings.clone();
        let work = move || {
            priority::lower(NICE);
            let mut controller = Controller::new(settings, Place::node());
            for job in jobs {
                match job {
                    Job::Sample(snapshot) => {
                        controller.tick(&Sample::from(&*snapshot), node::since_boot());
                    }
                    Job::Set {
                        limit,
                        force,
                        who,
                        answer,
                    } => {
                        let set = controller.set(limit, force, who, node::since_boot());
                        // Whoever asked may have gone.
                        drop(answer.send(set));
                    }
                    Job::End(answer) => {
                        drop(answer.send(controller.end(node::since_boot())));
                        return;
                    }
                }
                let Some(shared) = weak.upgrade() else { return };
                *shared.report.lock().unwrap_or_else(PoisonError::into_inner) =
                    Arc::new(controller.report().clone());
            }
        };
        thread::Builder::new()
            .name("limit".to_owned())
            .spawn(work)?;
        Ok(())
    }

    /// Hands on a sample; never waits.
    pub fn sample(&self, snapshot: Arc<Snapshot>) {
        match self.0.jobs.try_send(Job::Sample(snapshot)) {
            // It is busy with an earlier one, or gone.
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }

    /// Ends the thread: what is only for a while (a shortened timeout) is put back; gives the changes that
    /// this took. Waits for that, at most so long.
    pub fn end(&self, most: Duration) -> Vec<Change> {
        let started = self
            .0
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_none();
        if !started {
            return Vec::new();
        }
        let deadline = Instant::now() + most;
        let (answer, changes) = sync_channel(1);
        let mut job = Job::End(answer);
        loop {
            match self.0.jobs.try_send(job) {
                Ok(()) => break,
                // Samples that are taken one after another.
                Err(TrySendError::Full(back)) if Instant::now() < deadline => {
                    job = back;
                    thread::sleep(AGAIN);
                }
                Err(TrySendError::Full(_)) => {
                    tracing::warn!(
                        "the limit controller is busy: its next start puts back what is left"
                    );
                    return Vec::new();
                }
                Err(TrySendError::Disconnected(_)) => return Vec::new(),
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        changes.recv_timeout(left).unwrap_or_else(|_| {
            tracing::warn!(
                "the limit controller did not end in time: its next start puts back what is left"
            );
            Vec::new()
        })
    }

    /// What the controller said last.
    pub fn report(&self) -> Arc<Report> {
        Arc::clone(&self.0.report.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What it may do.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// Sets the limit by hand.
    ///
    /// # Errors
    /// What speaks against it, or is in the way.
    pub async fn set(&self, limit: u64, force: bool, who: Option<String>) -> Result<Set, SetError> {
        let (answer, set) = oneshot::channel();
        let job = Job::Set {
            limit,
            force,
            who,
            answer,
        };
        let busy =
            || SetError::Blocked("the controller is busy, or waits for conntrack".to_owned());
        self.0.jobs.try_send(job).map_err(|_| busy())?;
        set.await.map_err(|_| busy())?
    }
}
