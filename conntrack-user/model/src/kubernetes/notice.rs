//! One thing that is to be said in an Event.

use crate::words::clean_within;

/// The longest note that the API takes is 1024 bytes.
const NOTE_BYTES: usize = 1000;

/// What it is about. The same of the same pod, said again, counts up the Event that is there; one on the node is each time
/// one of its own: two raises of the limit have different figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// A pod of this node, as the API names it.
    Pod {
        /// Its namespace; the Event is in it too.
        namespace: String,
        /// Its name, without the namespace.
        name: String,
        /// Its UID; of a static pod the hash by which the kubelet knows it, as `kubectl describe` asks for.
        uid: String,
    },
    /// The agent's own node.
    Node,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Somebody should look at it.
    Warning,
    /// Good to know: Kubernetes' type `Normal`.
    Normal,
}

/// What is to be said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The pod or node that it is about.
    pub about: About,
    /// How bad it is.
    pub severity: Severity,
    /// Why there is an Event, in one word for programs.
    pub reason: &'static str,
    /// What was done or happened, in one word for programs.
    pub action: &'static str,
    /// The same for people.
    pub note: String,
}

impl Notice {
    /// The note is made fit: names and reasons in it may be anybody's.
    pub fn new(
        about: About,
        severity: Severity,
        reason: &'static str,
        action: &'static str,
        note: &str,
    ) -> Self {
        Self {
            about,
            severity,
            reason,
            action,
            note: clean_within(note, NOTE_BYTES),
        }
    }
}
