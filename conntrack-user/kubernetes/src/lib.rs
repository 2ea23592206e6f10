//! What speaks to the Kubernetes API, for the agent's `--kube`: [`watch_pods`] learns names, workloads and labels of one
//! node's pods, [`event_writer`] writes Events on pods and on the node.
//!
//! All that needs the API's client and its dependencies is here and nothing else is: `ctpressure` has this crate behind its
//! feature `kube`, while what decides is in the agent, and what both speak of in [`ctpressure_model::kubernetes`].
//!
//! Only the metadata of pods is asked for, only those of one node (field selector `spec.nodeName`, answered from the
//! API server's cache), and only what is in [`Pod`](ctpressure_model::kubernetes::Pod) is kept. What the service account
//! needs (for a cluster-wide role):
//!
//! ```yaml
//! rules:
//! - apiGroups: [""]
//!   resources: [pods]
//!   verbs: [list, watch]
//! - apiGroups: [batch]     # optional: which CronJob a Job is of
//!   resources: [jobs]
//!   verbs: [get]
//! - apiGroups: [events.k8s.io]
//!   resources: [events]
//!   verbs: [create, patch]
//! ```
//!
//! Kubernetes has no rule for "the pods of one node": such a role may read the metadata and the specification of every pod.

#![forbid(unsafe_code)]

mod causes;
mod events;
mod pods;

pub use events::event_writer;
pub use pods::watch_pods;
