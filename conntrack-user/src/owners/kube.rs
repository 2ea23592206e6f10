//! What the Kubernetes API says of this node's pods: names, workloads, labels.
//!
//! A convenience, never a need: owners, counts and mostly names too are found on the node itself. The API adds what
//! made a pod and the labels that were asked for. So nothing here ever holds up the agent: the API is watched on a
//! thread of its own at a lower priority, an outage is a named problem while what was known is kept, and it is tried
//! again, with pauses of up to half a minute, for as long as the agent runs.
//!
//! What speaks to the API is the crate `ctpressure-kubernetes`; it is handed over where the program is put together.

use std::io;

use ctpressure_model::kubernetes::{KubeOptions, Latest, NameError, NodeName};
use serde::Serialize;
use tokio::{runtime, sync::watch};

use crate::sys::priority;

/// This host's name: that of the node unless somebody decided otherwise.
///
/// # Errors
/// [`NameError::Node`] if no node can be called so.
pub fn name_of_this_host() -> Result<NodeName, NameError> {
    let host = nix::sys::utsname::uname().map_err(|_| NameError::Node)?;
    host.nodename().to_str().ok_or(NameError::Node)?.parse()
}

/// How the watch goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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

/// Follows what the API says; the watch ends with the last copy.
#[derive(Clone, Debug)]
pub struct Kube {
    node: String,
    /// What the API says; else why it can't be asked.
    latest: Result<watch::Receiver<Latest>, String>,
}

impl Kube {
    /// Begins to watch, on a thread of its own that first does `prepare` (such as giving up what it does not need) and then
    /// what `watch` makes: that tells what the API says until nobody listens. If that can't be, this is a problem that is shown.
    pub fn watch<F: Future<Output = ()>>(
        options: KubeOptions,
        prepare: impl FnOnce() + Send + 'static,
        watch: impl FnOnce(NodeName, KubeOptions, watch::Sender<Latest>) -> F + Send + 'static,
    ) -> Self {
        let (node, latest) = match options.node.clone() {
            Ok(node) => {
                let (sender, latest) = watch::channel(Latest::default());
                let name = node.as_str().to_owned();
                let started = on_a_thread("kube", prepare, || watch(node, options, sender));
                let latest = started.map(|()| latest).map_err(|error| {
                    format!(
                        "the Kubernetes API can't be watched, there is no thread for it: {error}"
                    )
                });
                (name, latest)
            }
            Err(error) => {
                let problem = format!(
                    "the Kubernetes API is not asked, this node's name is not known: {error} (names and workloads of pods \
                     are those found on the node; give the right one with --node or NODE_NAME)"
                );
                (String::new(), Err(problem))
            }
        };
        if let Err(problem) = &latest {
            tracing::warn!("{problem}");
        }
        Self { node, latest }
    }

    /// What the API says, as it comes; `None` if it can't be asked.
    pub fn latest(&self) -> Option<watch::Receiver<Latest>> {
        self.latest.as_ref().ok().cloned()
    }

    /// How the watch of the API goes.
    pub fn status(&self) -> KubeStatus {
        let (latest, problem) = match &self.latest {
            Err(problem) => (Latest::default(), Some(problem.clone())),
            Ok(latest) if latest.has_changed().is_err() => (
                Latest::default(),
                Some(
                    "the Kubernetes API is not watched any more, its thread has ended (please report this): names and \
                     workloads of new pods are not known"
                        .to_owned(),
                ),
            ),
            Ok(latest) => {
                let latest = latest.borrow().clone();
                let problem = latest.problem.clone();
                (latest, problem)
            }
        };
        KubeStatus {
            node: self.node.clone(),
            watching: latest.watching,
            pods: latest.pods.len(),
            problem,
        }
    }
}

/// What talks to the API runs on a thread of its own at a lower priority, which first does `prepare`.
pub(crate) fn on_a_thread<F: Future<Output = ()>>(
    name: &str,
    prepare: impl FnOnce() + Send + 'static,
    task: impl FnOnce() -> F + Send + 'static,
) -> io::Result<()> {
    let run = move || {
        prepare();
        match runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => {
                runtime.block_on(task());
                // A look-up of a name may hang; it must not hold up the end.
                runtime.shutdown_background();
            }
            Err(error) => tracing::warn!(%error, "the Kubernetes API can't be asked"),
        }
    };
    priority::thread(name, run).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_a_name_is_a_problem_and_no_end() {
        let options = KubeOptions::new("no such=node".parse(), &[]).unwrap();
        let kube = Kube::watch(
            options,
            || panic!("there is nothing to watch"),
            async |_, _, _| (),
        );
        assert!(kube.latest().is_none());
        let problem = kube.status().problem.unwrap();
        assert!(problem.contains("--node"), "{problem}");
    }

    #[test]
    fn what_the_api_says_is_handed_on_and_the_end_of_its_thread_is_a_problem() {
        let options = KubeOptions::new("n".parse(), &[]).unwrap();
        let (say, end) = (Latest::default(), tokio::sync::oneshot::channel::<()>());
        let kube = Kube::watch(
            options,
            || {},
            async move |node, _, latest| {
                assert_eq!(node.as_str(), "n");
                latest.send_replace(Latest {
                    watching: true,
                    ..say
                });
                drop(end.1.await);
            },
        );
        let runtime = runtime::Builder::new_current_thread().build().unwrap();
        let mut latest = kube.latest().unwrap();
        runtime.block_on(latest.changed()).unwrap();
        assert!(kube.status().watching && kube.status().problem.is_none());
        drop(end.0);
        assert!(runtime.block_on(latest.changed()).is_err());
        let problem = kube.status().problem.unwrap();
        assert!(problem.contains("has ended"), "{problem}");
    }
}
