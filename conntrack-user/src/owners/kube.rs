//! What the Kubernetes API says of this node's pods: names, workloads, labels.
//!
//! A convenience, never a need: owners, counts and mostly names too are found on the node itself. The API adds what
//! made a pod and the labels that were asked for. So nothing here ever holds up the agent: the API is watched on a
//! thread of its own at a lower priority, an outage is a named problem while what was known is kept, and it is tried
//! again, with pauses of up to half a minute, for as long as the agent runs.
//!
//! Only the metadata of pods is asked for, only those of one node (field selector `spec.nodeName`, answered from the
//! API server's cache), and only what is in [`Pod`] is kept. What the service account needs (for a cluster-wide role):
//!
//! ```yaml
//! rules:
//! - apiGroups: [""]
//!   resources: [pods]
//!   verbs: [list, watch]
//! - apiGroups: [batch]     # optional: which CronJob a Job is of
//!   resources: [jobs]
//!   verbs: [get]
//! ```
//!
//! Kubernetes has no rule for "the pods of one node": such a role may read the metadata and the specification of every pod.

use std::{collections::BTreeMap, future::pending, sync::Arc};

use serde::Serialize;

use tokio::sync::watch;

use super::{Details, Owner, Workload};

#[cfg(feature = "kube")]
mod index;
#[cfg(feature = "kube")]
mod jobs;
#[cfg(feature = "kube")]
mod metadata;
mod options;
#[cfg(feature = "kube")]
mod watching;

#[cfg(feature = "kube")]
pub(crate) use watching::causes;

pub use options::{KubeOptions, LabelKey, LabelsError, NameError, NodeName, Pace, metric_label};

/// Whether this program can ask the Kubernetes API: it was built with its feature `kube`.
pub const AVAILABLE: bool = cfg!(feature = "kube");

/// What a program without that says.
pub const MISSING: &str = "this ctpressure was built without the cargo feature `kube`";

/// What is kept of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What made it; `None`: nothing, or the node itself (a static pod).
    pub workload: Option<Workload>,
    /// UID of the Job that made it, if one did.
    job: Option<Arc<str>>,
    /// Those of its labels that were asked for.
    pub labels: BTreeMap<String, String>,
}

impl Pod {
    /// A pod that no Job made.
    pub fn new(
        namespace: &str,
        name: &str,
        workload: Option<Workload>,
        labels: &[(&str, &str)],
    ) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            workload,
            job: None,
            labels: labels
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    /// Whether all of this is known of `owner` already.
    pub fn is_known(&self, owner: &Owner) -> bool {
        owner.namespace == self.namespace
            && owner.pod == self.name
            && owner.workload == self.workload
            && owner.labels == self.labels
    }

    /// Writes it into what is known of its owner.
    pub fn describe(&self, details: &mut Details) {
        details.namespace.clone_from(&self.namespace);
        details.pod.clone_from(&self.name);
        details.workload.clone_from(&self.workload);
        details.labels.clone_from(&self.labels);
    }
}

/// The pods of this node by UID, as in the names of their control groups.
pub type Pods = BTreeMap<Arc<str>, Arc<Pod>>;

/// How the watch goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KubeStatus {
    /// The node whose pods are asked for; empty: not known.
    pub node: String,
    /// The watch holds: what is known is up to date.
    pub watching: bool,
    /// Pods that are known.
    pub pods: usize,
    /// What is wrong; the same is among the `problems`.
    pub problem: Option<String>,
}

/// What the API last said.
#[derive(Clone, Debug, Default)]
pub struct Latest {
    /// The pods; while the API can't be reached those that were known.
    pub pods: Arc<Pods>,
    /// The watch holds.
    pub watching: bool,
    /// Why that may not be up to date.
    pub problem: Option<String>,
}

/// Follows what the API says; the watch ends with it.
#[derive(Debug)]
pub struct Kube {
    node: String,
    state: State,
}

#[derive(Debug)]
enum State {
    Off,
    /// It can't be asked.
    Impossible(String),
    #[cfg_attr(
        not(feature = "kube"),
        expect(dead_code, reason = "only the feature makes one")
    )]
    Watched(watch::Receiver<Latest>),
}

impl Kube {
    /// The API is not asked.
    pub const fn off() -> Self {
        Self {
            node: String::new(),
            state: State::Off,
        }
    }

    /// Begins to watch, on a thread of its own that first does `prepare` (such as giving up what it does not need).
    /// If that can't be, this is a problem that is shown.
    pub fn watch(options: KubeOptions, prepare: impl FnOnce() + Send + 'static) -> Self {
        let (node, state) = match &options.node {
            Ok(node) => (
                node.as_str().to_owned(),
                start(&node.clone(), options, prepare),
            ),
            Err(error) => {
                let problem = format!(
                    "the Kubernetes API is not asked, this node's name is not known: {error} (names and workloads of pods \
                     are those found on the node; give the right one with --node or NODE_NAME)"
                );
                (String::new(), State::Impossible(problem))
            }
        };
        if let State::Impossible(problem) = &state {
            tracing::warn!("{problem}");
        }
        Self { node, state }
    }

    /// Waits until the API said something new; never ends if it is not asked.
    pub async fn changed(&mut self) -> Latest {
        if let State::Watched(latest) = &mut self.state
            && latest.changed().await.is_ok()
        {
            return latest.borrow_and_update().clone();
        }
        pending().await
    }

    /// How it goes; `None` if it is not asked.
    pub fn status(&self) -> Option<KubeStatus> {
        let (latest, problem) = match &self.state {
            State::Off => return None,
            State::Impossible(problem) => (Latest::default(), Some(problem.clone())),
            State::Watched(latest) if latest.has_changed().is_err() => (
                Latest::default(),
                Some(
                    "the Kubernetes API is not watched any more, its thread has ended (please report this): names and \
                     workloads of new pods are not known"
                        .to_owned(),
                ),
            ),
            State::Watched(latest) => {
                let latest = latest.borrow().clone();
                let problem = latest.problem.clone();
                (latest, problem)
            }
        };
        Some(KubeStatus {
            node: self.node.clone(),
            watching: latest.watching,
            pods: latest.pods.len(),
            problem,
        })
    }
}

#[cfg(feature = "kube")]
fn start(node: &NodeName, options: KubeOptions, prepare: impl FnOnce() + Send + 'static) -> State {
    match watching::start(node, options, prepare) {
        Ok(latest) => State::Watched(latest),
        Err(error) => State::Impossible(format!(
            "the Kubernetes API can't be watched, there is no thread for it: {error}"
        )),
    }
}

#[cfg(not(feature = "kube"))]
fn start(_: &NodeName, _: KubeOptions, _: impl FnOnce() + Send + 'static) -> State {
    State::Impossible(format!("the Kubernetes API can't be asked: {MISSING}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_comes_if_nobody_is_asked() {
        let mut off = Kube::off();
        let soon = std::time::Duration::from_millis(10);
        assert!(tokio::time::timeout(soon, off.changed()).await.is_err());
        assert_eq!(off.status(), None);
    }

    #[tokio::test]
    async fn a_node_without_a_name_is_a_problem_and_no_end() {
        let options = KubeOptions::new("no such=node".parse(), &[]).unwrap();
        let mut kube = Kube::watch(options, || panic!("there is nothing to watch"));
        let soon = std::time::Duration::from_millis(10);
        assert!(tokio::time::timeout(soon, kube.changed()).await.is_err());
        let problem = kube.status().unwrap().problem.unwrap();
        assert!(problem.contains("--node"), "{problem}");
    }
}
