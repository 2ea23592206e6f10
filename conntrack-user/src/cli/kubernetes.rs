//! `--kube`: its arguments, and the door to the crate that speaks to the Kubernetes API. What stands on either side of the door is
//! compiled whether it is open or not.

use clap::Args;
use ctpressure_model::kubernetes::{KubeOptions, LabelKey};

use super::Failure;
use crate::{
    kube_events::KubeEvents,
    owners::kube::{Kube, name_of_this_host},
};

/// Whether this program can ask the Kubernetes API.
const IS_OPEN: bool = cfg!(feature = "kube");

/// Begins to watch the API.
#[cfg(feature = "kube")]
pub(super) fn watch(options: KubeOptions) -> Option<Kube> {
    let prepare = || {
        if let Err(error) = crate::probes::privileges::drop_unneeded() {
            tracing::warn!(%error, "the thread that watches the Kubernetes API keeps its capabilities");
        }
    };
    IS_OPEN.then(|| Kube::watch(options, prepare, ctpressure_kubernetes::watch_pods))
}

/// Begins to write Events.
#[cfg(feature = "kube")]
pub(super) fn events(options: &KubeOptions) -> Option<KubeEvents> {
    KubeEvents::start(options, ctpressure_kubernetes::event_writer)
}

#[cfg(not(feature = "kube"))]
pub(super) fn watch(_: KubeOptions) -> Option<Kube> {
    None
}

#[cfg(not(feature = "kube"))]
pub(super) const fn events(_: &KubeOptions) -> Option<KubeEvents> {
    None
}

/// What is asked of the Kubernetes API.
#[derive(Args, Debug)]
#[command(next_help_heading = "Kubernetes")]
pub(super) struct KubeArgs {
    /// Ask the Kubernetes API for the workloads and labels of this node's pods
    ///
    /// Uses the pod's service account, or KUBECONFIG. Needs list and watch on pods, and get on jobs to tell which
    /// `CronJob` a pod belongs to. Nothing else depends on it.
    #[arg(long, env = "CTPRESSURE_KUBE")]
    kube: bool,
    /// This node's name in Kubernetes [default: the host's name]
    // Not checked here: it means nothing without --kube, and a wrong one is no reason not to count.
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    node: Option<String>,
    /// A pod label to show, such as app.kubernetes.io/name. Repeatable
    #[arg(
        long,
        env = "CTPRESSURE_KUBE_LABELS",
        value_name = "KEY",
        value_delimiter = ','
    )]
    kube_label: Vec<LabelKey>,
    /// Write no Kubernetes Events on pods and on this node
    ///
    /// By default --kube writes Events on the pod that holds most of a full table, on pods that lose packets, and on
    /// the node for each action of the limit controller. That needs create and patch on events.k8s.io.
    #[arg(long, env = "CTPRESSURE_NO_KUBE_EVENTS")]
    no_kube_events: bool,
}

impl KubeArgs {
    /// What was asked for.
    ///
    /// # Errors
    /// If it can't be done, with what to do instead.
    pub(super) fn options(&self) -> Result<Option<KubeOptions>, Failure> {
        let failure = |what: &dyn ToString, help: &str| Failure {
            what: what.to_string(),
            help: help.to_owned(),
        };
        if !self.kube {
            return if self.kube_label.is_empty() {
                Ok(None)
            } else {
                Err(failure(
                    &"labels of pods come from the Kubernetes API, which is not asked",
                    "give --kube too",
                ))
            };
        }
        if !IS_OPEN {
            return Err(failure(
                &"this ctpressure was built without the cargo feature `kube`",
                "leave out --kube, or build it with `cargo build --features kube`",
            ));
        }
        let node = match &self.node {
            Some(node) => node.parse(),
            None => name_of_this_host(),
        };
        KubeOptions::new(node, &self.kube_label)
            .map(Some)
            .map_err(|error| failure(&error, "change --kube-label"))
    }

    /// Whether Events are to be written.
    pub(super) const fn events(&self) -> bool {
        self.kube && !self.no_kube_events
    }
}
