//! What the agent knows of pods that a look around does not tell: names where no log folder has them, workloads.

use serde::{Deserialize, Serialize};

use crate::{
    agent::Snapshot,
    owners::{OwnerKind, Workload},
};

/// A pod by its UID.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodName {
    pub uid: String,
    pub namespace: String,
    pub pod: String,
    /// What made it, where the Kubernetes API is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<Workload>,
}

/// The answer to `pods`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodNames {
    /// Those that have a name.
    pub pods: Vec<PodName>,
}

impl From<&Snapshot> for PodNames {
    fn from(snapshot: &Snapshot) -> Self {
        let named = snapshot
            .owners
            .list
            .iter()
            .map(|sample| &sample.owner)
            .filter(|owner| owner.kind == OwnerKind::Pod && !owner.pod.is_empty());
        Self {
            pods: named
                .map(|owner| PodName {
                    uid: owner.uid.clone(),
                    namespace: owner.namespace.clone(),
                    pod: owner.pod.clone(),
                    workload: owner.workload.clone(),
                })
                .collect(),
        }
    }
}
