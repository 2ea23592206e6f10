//! The controller on a thread of its own: reading files, taking a look at a table and writing a
//! sysctl (a resize of the hash waits for all CPUs) take time, and events must not wait for them.

use std::{
    convert::Infallible,
    fmt, io,
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{
    Controller, ControllerPlace, ControllerSample, Report, Settings,
    controller::{LimitSet, SetError, SetRequest},
    look::LookOwners,
    node,
    report::Standing,
};
use crate::{
    agent::{Closed, Handle, Snapshot},
    sys::{lock::locked, priority},
};

/// What can wait for the thread: samples beyond that are left out, it takes the next one.
const WAITING: usize = 4;

/// How soon a busy thread is asked again.
const AGAIN: Duration = Duration::from_millis(10);

enum Job {
    Sample(Arc<Snapshot>),
    Set(SetRequest, oneshot::Sender<Result<LimitSet, SetError>>),
    /// Revert temporary settings, and end; answered when the report says so.
    End(SyncSender<()>),
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
            raise_netns: settings.raise_netns.clone(),
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

    /// Starts the thread, if it was not tried yet. It has the capabilities of the caller's.
    fn start(&self, agent: &Handle) -> io::Result<()> {
        let Some(jobs) = locked(&self.0.waiting).take() else {
            return Ok(());
        };
        let weak = Arc::downgrade(&self.0);
        let settings = self.0.settings.clone();
        let agent = agent.clone();
        let work = move || {
            let place = ControllerPlace::node(move || LookOwners::of_agent(&agent.charged()));
            let mut controller = Controller::new(settings, place);
            for job in jobs {
                let mut ended = None;
                match job {
                    Job::Sample(snapshot) => {
                        controller.tick(&ControllerSample::from(&*snapshot), node::since_boot());
                    }
                    Job::Set(SetRequest { limit, force, who }, answer) => {
                        // Whoever asked may have gone.
                        let set = controller.set(limit, force, who, node::since_boot());
                        drop(answer.send(set));
                    }
                    Job::End(answer) => {
                        controller.end(node::since_boot());
                        ended = Some(answer);
                    }
                }
                let Some(shared) = weak.upgrade() else { return };
                *locked(&shared.report) = Arc::new(controller.report().clone());
                if let Some(answer) = ended {
                    // Whoever asked may not wait any more.
                    let _ = answer.send(());
                    return;
                }
            }
        };
        priority::thread("limit", work).map(drop)
    }

    /// Hands on what the agent sees, as long as it lives. The thread is started when the agent has begun: by then it
    /// has given up the capabilities that it does not need, and the thread, too, is to have only what was kept.
    ///
    /// # Errors
    /// [`Closed`] when the agent has ended.
    pub async fn follow(&self, agent: &Handle) -> Result<Infallible, Closed> {
        let mut snapshots = agent.snapshots();
        loop {
            snapshots.changed().await.map_err(|_| Closed)?;
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            if !snapshot.begun {
                continue;
            }
            if let Err(error) = self.start(agent) {
                self.blocked(format!("there is no thread for it: {error}"));
            }
            self.sample(snapshot);
        }
    }

    fn blocked(&self, why: String) {
        tracing::warn!("no limit controller: {why}");
        let report = Report {
            standing: Standing::Blocked(why),
            ..(*self.report()).clone()
        };
        *locked(&self.0.report) = Arc::new(report);
    }

    /// Hands on a sample; never waits.
    fn sample(&self, snapshot: Arc<Snapshot>) {
        match self.0.jobs.try_send(Job::Sample(snapshot)) {
            // It is busy with an earlier one, or gone.
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }

    /// Ends the thread: reverts temporary settings (a shortened timeout). Waits for that, at most so long; then
    /// [`Control::report`] has all that was changed.
    pub fn end(&self, most: Duration) {
        if locked(&self.0.waiting).is_some() {
            return;
        }
        let deadline = Instant::now() + most;
        let (answer, ended) = sync_channel(1);
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
                    return;
                }
                Err(TrySendError::Disconnected(_)) => return,
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if ended.recv_timeout(left).is_err() {
            tracing::warn!(
                "the limit controller did not end in time: its next start puts back what is left"
            );
        }
    }

    /// What the controller said last.
    pub fn report(&self) -> Arc<Report> {
        Arc::clone(&locked(&self.0.report))
    }

    /// What it may do.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// Sets the limit by hand.
    ///
    /// # Errors
    /// What speaks against it, or is in the way.
    pub async fn set(&self, request: SetRequest) -> Result<LimitSet, SetError> {
        let (answer, set) = oneshot::channel();
        let busy =
            || SetError::Blocked("the controller is busy, or waits for conntrack".to_owned());
        let job = Job::Set(request, answer);
        self.0.jobs.try_send(job).map_err(|_| busy())?;
        set.await.map_err(|_| busy())?
    }
}
