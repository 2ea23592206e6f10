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
//!   verbs: [get, list, watch]
//! ```
//!
//! Kubernetes has no rule for "the pods of one node": such a role may read the metadata and the specification of every pod.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    io,
    str::FromStr,
    sync::Arc,
};

use tokio::sync::watch;

use super::{Details, Owner, Workload};

#[cfg(feature = "kube")]
mod index;
#[cfg(feature = "kube")]
mod metadata;
#[cfg(feature = "kube")]
mod watching;

/// Labels that may be asked for: each is a label of every series of a pod.
const MOST_LABELS: usize = 16;
/// The longest name of an object in Kubernetes.
const LONGEST_NAME: usize = 253;
/// The longest name of a label after its prefix.
const LONGEST_LABEL: usize = 63;

/// Whether this program can ask the Kubernetes API: it was built with its feature `kube`.
pub const AVAILABLE: bool = cfg!(feature = "kube");

/// The name of a node as Kubernetes has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeName(String);

/// That can't be the name of a node or of a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not a DNS subdomain.
    #[error(
        "a node's name has lower-case letters, digits, `-` and `.`, 253 at most; `kubectl get nodes` shows them"
    )]
    Node,
    /// Not a qualified name.
    #[error("a label is a name such as `tier` or `app.kubernetes.io/name`")]
    Label,
}

impl FromStr for NodeName {
    type Err = NameError;

    /// As the kubelet does with a host's name, letters are made small.
    fn from_str(name: &str) -> Result<Self, NameError> {
        let name = name.trim().to_ascii_lowercase();
        is_subdomain(&name)
            .then_some(Self(name))
            .ok_or(NameError::Node)
    }
}

impl NodeName {
    /// This host's name: that of the node unless somebody decided otherwise.
    ///
    /// # Errors
    /// [`NameError::Node`] if no node can be called so.
    pub fn of_this_host() -> Result<Self, NameError> {
        let host = nix::sys::utsname::uname().map_err(|_| NameError::Node)?;
        host.nodename().to_str().ok_or(NameError::Node)?.parse()
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_subdomain(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let part = |part: &str| {
        part.bytes().all(|byte| inner(byte) || byte == b'-')
            && part.bytes().next().is_some_and(inner)
            && part.bytes().last().is_some_and(inner)
    };
    name.len() <= LONGEST_NAME && name.split('.').all(part)
}

/// A label of pods that is to be shown.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LabelKey(String);

impl FromStr for LabelKey {
    type Err = NameError;

    fn from_str(key: &str) -> Result<Self, NameError> {
        let (prefix, name) = match key.split_once('/') {
            Some((prefix, name)) => (Some(prefix), name),
            None => (None, key),
        };
        let ends = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
        let qualified = name.len() <= LONGEST_LABEL
            && ends(name.bytes().next())
            && ends(name.bytes().last())
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
            && prefix.is_none_or(is_subdomain);
        qualified
            .then(|| Self(key.to_owned()))
            .ok_or(NameError::Label)
    }
}

/// The name of the metric label that shows this label of pods: `label_app_kubernetes_io_name`, as
/// `kube-state-metrics` makes it.
pub fn metric_label(key: &str) -> String {
    let plain = |character: char| {
        if character.is_ascii_alphanumeric() {
            character
        } else {
            '_'
        }
    };
    "label_".chars().chain(key.chars().map(plain)).collect()
}

/// What is asked of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubeOptions {
    node: NodeName,
    labels: Arc<[LabelKey]>,
}

/// These labels can't be shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelsError {
    /// Too many.
    #[error(
        "{0} labels of pods were asked for: {MOST_LABELS} at most, each makes every series longer"
    )]
    TooMany(usize),
    /// Two look the same in `/metrics`.
    #[error("two labels of pods would both be `{0}` in /metrics: ask for one of them")]
    Same(String),
}

impl KubeOptions {
    /// The pods of `node` with these of their labels; one that is asked for twice counts once.
    ///
    /// # Errors
    /// If the labels can't all be shown.
    pub fn new(node: NodeName, labels: &[LabelKey]) -> Result<Self, LabelsError> {
        let labels: BTreeSet<_> = labels.iter().cloned().collect();
        if labels.len() > MOST_LABELS {
            return Err(LabelsError::TooMany(labels.len()));
        }
        let mut shown = BTreeSet::new();
        for label in &labels {
            let name = metric_label(&label.0);
            if !shown.insert(name.clone()) {
                return Err(LabelsError::Same(name));
            }
        }
        Ok(Self {
            node,
            labels: labels.into_iter().collect(),
        })
    }
}

/// What is kept of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What made it; `None`: nothing, or the node itself (a static pod).
    pub workload: Option<Workload>,
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
    /// Why that may not be up to date.
    pub problem: Option<String>,
}

/// Follows what the API says; the watch ends with it.
#[derive(Debug)]
pub struct Kube(Option<watch::Receiver<Latest>>);

impl Kube {
    /// The API is not asked.
    pub const fn off() -> Self {
        Self(None)
    }

    /// Begins to watch, on a thread of its own that first does `prepare` (such as giving up what it does not need).
    ///
    /// # Errors
    /// If there can be no thread, or if this program was built without the feature `kube`.
    #[cfg(feature = "kube")]
    pub fn watch(
        options: KubeOptions,
        prepare: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        watching::start(options, prepare).map(|latest| Self(Some(latest)))
    }

    /// Begins to watch, if this program was built with the feature `kube`.
    ///
    /// # Errors
    /// Always: it was not.
    #[cfg(not(feature = "kube"))]
    pub fn watch(_: KubeOptions, _: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Waits until the API said something new; never ends if it is not asked.
    pub async fn changed(&mut self) -> Latest {
        if let Some(latest) = &mut self.0
            && latest.changed().await.is_ok()
        {
            return latest.borrow_and_update().clone();
        }
        pending().await
    }

    /// Why what is known may not be up to date.
    pub fn problem(&self) -> Option<String> {
        let latest = self.0.as_ref()?;
        if latest.has_changed().is_err() {
            return Some(
                "the Kubernetes API is not watched any more, its thread has ended (please report this): names and \
                 workloads of new pods are not known"
                    .to_owned(),
            );
        }
        latest.borrow().problem.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_nodes() {
        assert_eq!(
            "Node-1.Example ".parse(),
            Ok(NodeName("node-1.example".into()))
        );
        for name in [
            "",
            ".",
            "a,metadata.name=b",
            "-a",
            "a..b",
            "a=b",
            &"a".repeat(254),
        ] {
            assert_eq!(name.parse::<NodeName>(), Err(NameError::Node), "{name}");
        }
    }

    #[test]
    fn names_of_labels() {
        for key in ["tier", "app.kubernetes.io/name", "X_y.z"] {
            assert_eq!(key.parse(), Ok(LabelKey(key.into())));
        }
        for key in ["", "a/", "/a", "a/b/c", "a b", "A.b/c", &"a".repeat(64)] {
            assert_eq!(key.parse::<LabelKey>(), Err(NameError::Label), "{key}");
        }
        assert_eq!(
            metric_label("app.kubernetes.io/name"),
            "label_app_kubernetes_io_name"
        );
    }

    #[test]
    fn labels_that_look_the_same_are_refused() {
        let options = |labels: &[&str]| {
            let labels: Vec<LabelKey> = labels.iter().map(|key| key.parse().unwrap()).collect();
            KubeOptions::new("n".parse().unwrap(), &labels)
        };
        assert!(options(&["tier", "tier", "app"]).is_ok());
        assert_eq!(
            options(&["a.b", "a-b"]),
            Err(LabelsError::Same("label_a_b".into()))
        );
        let many: Vec<String> = (0..17).map(|number| format!("l{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(options(&many), Err(LabelsError::TooMany(17)));
    }

    #[tokio::test]
    async fn nothing_comes_if_nobody_is_asked() {
        let mut off = Kube::off();
        let soon = std::time::Duration::from_millis(10);
        assert!(tokio::time::timeout(soon, off.changed()).await.is_err());
        assert_eq!(off.problem(), None);
    }
}
