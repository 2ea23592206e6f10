//! What is asked of the Kubernetes API, what it says of pods, and what is to be said in its Events: between the agent and
//! what speaks to the API.

use std::{collections::BTreeMap, fmt, sync::Arc};

use crate::owner::{Details, Owner, Workload};

mod notice;
mod options;

pub use notice::{About, Notice, Severity};
pub use options::{KubeOptions, LabelKey, LabelsError, NameError, NodeName, Pace, metric_label};

/// What is kept of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// The namespace that the pod is in.
    pub namespace: String,
    /// Its name within the namespace.
    pub name: String,
    /// What made it; `None`: nothing, or the node itself (a static pod).
    pub workload: Option<Workload>,
    /// UID of the Job that made it, if one did.
    pub job: Option<Arc<str>>,
    /// Those of its labels that were asked for.
    pub labels: BTreeMap<String, String>,
}

impl Pod {
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

/// What the API last said.
#[derive(Clone, Debug, Default)]
pub struct Latest {
    /// The pods; while the API can't be reached those that were known.
    pub pods: Arc<Pods>,
    /// Whether the watch of the API holds.
    pub watching: bool,
    /// Why that may not be up to date.
    pub problem: Option<String>,
}

/// Why an Event was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventLoss {
    /// In words that are the same for the next one.
    pub what: String,
    /// What is of this one only; may be empty.
    pub details: String,
}

impl fmt::Display for EventLoss {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.what)?;
        if !self.details.is_empty() {
            write!(formatter, ": {}", self.details)?;
        }
        Ok(())
    }
}

impl From<&str> for EventLoss {
    fn from(what: &str) -> Self {
        Self {
            what: what.to_owned(),
            details: String::new(),
        }
    }
}
