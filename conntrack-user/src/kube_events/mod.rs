//! Kubernetes Events: what people who look at a pod or a node with `kubectl describe` are told, with `--kube`.
//!
//! | Event | on | when |
//! |---|---|---|
//! | `ConntrackTableHeld` | a pod | a table is full, and the pod has held most of it for ten seconds |
//! | `ConntrackPacketsDropped` | a pod | packets of it were dropped: table full, chain too long, or ten clashes within five minutes |
//! | `ConntrackLimit...`, `ConntrackBuckets...`, `ConntrackTimeout...` | the node | each action of the limit controller, or what it would do; what somebody else set |
//!
//! Said again after five minutes at the earliest, for as long as it lasts; then the Event that is there is counted up
//! (its `series`), there is no second one. All Events on pods together are 20 at once and 240 an hour, the worst first;
//! what has to wait comes later with all that was lost until then. The limit controller's are 10 at once and 120 an hour.
//! An Event on a pod is in the pod's namespace, and names no pod of another one.
//!
//! What is to be said is worked out of snapshots ([`Notice`]) without input or output; it is written on a thread of its own,
//! by way of a bounded queue that never holds up the agent. An outage of the API is waited for, at most five minutes for each
//! Event; what is lost is counted. What speaks to the API is the crate `ctpressure-kubernetes`.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use ctpressure_model::kubernetes::{EventLoss, KubeOptions, NodeName, Notice};

use crate::{
    agent::{Closed, Handle, Snapshot},
    limit::{Control, Following, Report},
    owners::kube::on_a_thread,
    probes::privileges,
};

mod bucket;
mod containments;
mod limits;
mod pods;
mod queue;
#[cfg(test)]
mod tests;

pub use queue::{EventsStatus, Health};

pub(crate) use containments::ContainEvents;
use limits::Limits;
use pods::Pods;
use queue::Queue;

/// What is to be said, and when. Pure.
#[derive(Debug)]
struct Rules {
    pods: Pods,
    limits: Limits,
    /// The time of the last snapshot.
    at: Duration,
}

impl Rules {
    fn new(node: &str, following: Following) -> Self {
        Self {
            pods: Pods::new(node),
            limits: Limits::new(node, following),
            at: Duration::ZERO,
        }
    }

    /// What is to be said after this snapshot, and this report of the limit controller.
    fn next(&mut self, snapshot: &Snapshot, limit: Option<&Report>) -> Vec<Notice> {
        self.at = Duration::from_secs_f64(snapshot.uptime_seconds.max(0.0));
        let mut notices = self.pods.next(self.at, snapshot);
        if let Some(report) = limit {
            notices.extend(self.limits.next(self.at, report));
        }
        notices
    }
}

/// The Events of one agent.
#[derive(Debug)]
pub struct KubeEvents {
    rules: Rules,
    queue: Queue,
}

impl KubeEvents {
    /// Begins to write them, on a thread of its own, by what `writer` makes for this node. `None` if that can't be: the node's
    /// name is not known, which is a problem that the watch of the API shows, or there is no thread.
    pub fn start<W>(
        options: &KubeOptions,
        writer: impl FnOnce(NodeName) -> W + Send + 'static,
    ) -> Option<Self>
    where
        W: AsyncFnMut(&Notice, Instant) -> Result<(), EventLoss>,
    {
        let node = options.node.as_ref().ok()?;
        let rules = Rules::new(node.as_str(), Following::from_now());
        let (queue, waiting) = queue::queue();
        let node = node.clone();
        let name = "kube-events";
        // It talks to the API and needs no capability.
        let prepare = || privileges::drop_all(name);
        let write = async move || waiting.write(writer(node)).await;
        match on_a_thread(name, prepare, write) {
            Ok(()) => Some(Self { rules, queue }),
            Err(error) => {
                tracing::warn!(%error, "no Kubernetes Events: there is no thread to write them");
                None
            }
        }
    }

    /// By which it is said that somebody contains an owner.
    pub(crate) fn containments(&self) -> ContainEvents {
        ContainEvents::new(&self.rules.limits.node, self.queue.clone())
    }

    /// How the writing of Events goes.
    pub fn health(&self) -> Arc<Health> {
        Arc::clone(self.queue.health())
    }

    /// Says what is to be said, as long as the agent lives; `limit`: the limit controller, if there is one.
    ///
    /// # Errors
    /// When the agent has ended.
    pub async fn follow(
        &mut self,
        agent: &Handle,
        limit: Option<&Control>,
    ) -> Result<Infallible, Closed> {
        let mut snapshots = agent.snapshots();
        loop {
            snapshots.changed().await.map_err(|_| Closed)?;
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            self.take(&snapshot, limit.map(Control::report).as_deref());
        }
    }

    /// Says what is to be said after this snapshot, and this report of the limit controller.
    pub fn take(&mut self, snapshot: &Snapshot, limit: Option<&Report>) {
        for notice in self.rules.next(snapshot, limit) {
            self.queue.push(notice);
        }
    }

    /// Ends: what the limit controller did last is said too, and what waits is written, within this time.
    pub fn finish(mut self, limit: Option<&Report>, most: Duration) {
        if let Some(report) = limit {
            for notice in self.rules.limits.next(self.rules.at, report) {
                self.queue.push(notice);
            }
        }
        self.queue.finish(most);
    }
}
