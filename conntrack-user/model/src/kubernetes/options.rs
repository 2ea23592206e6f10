//! What is asked of the API: which node, which labels.

use std::{collections::BTreeSet, str::FromStr, sync::Arc, time::Duration};

/// Labels that may be asked for: each is a label of every series of a pod.
const MOST_LABELS: usize = 16;
/// The longest name of an object in Kubernetes.
const LONGEST_NAME: usize = 253;
/// The longest name of a label after its prefix.
const LONGEST_LABEL: usize = 63;

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
    /// As Kubernetes has it, in small letters.
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

impl LabelKey {
    /// As it was given, such as `tier` or `app.kubernetes.io/name`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

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

/// How patient the watch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// So long the watch has to hold before an outage is over, and an outage to last before it is called one:
    /// servers restart and balancers close connections, and that is no news.
    pub steady: Duration,
    /// The longest pause between two tries; the first is of about a second, and each is twice as long.
    pub pause: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            steady: Duration::from_secs(5),
            pause: Duration::from_secs(30),
        }
    }
}

/// What is asked of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubeOptions {
    /// Which node, or why that is not known.
    pub node: Result<NodeName, NameError>,
    labels: Arc<[LabelKey]>,
    /// How patient the watch is.
    pub pace: Pace,
}

/// These labels can't be shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelsError {
    /// More labels than may be shown.
    #[error(
        "{0} labels of pods were asked for: {MOST_LABELS} at most, each makes every series longer"
    )]
    TooMany(usize),
    /// Two look the same in `/metrics`.
    #[error("two labels of pods would both be `{0}` in /metrics: ask for one of them")]
    Same(String),
}

impl KubeOptions {
    /// The pods of `node` with these of their labels; one that is asked for twice counts once. Without a node's name
    /// nothing is asked, and that is a problem that is shown, no reason not to run.
    ///
    /// # Errors
    /// If the labels can't all be shown.
    pub fn new(
        node: Result<NodeName, NameError>,
        labels: &[LabelKey],
    ) -> Result<Self, LabelsError> {
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
            pace: Pace::default(),
        })
    }

    /// The labels of pods that are kept.
    pub fn labels(&self) -> Arc<[LabelKey]> {
        Arc::clone(&self.labels)
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
            KubeOptions::new("n".parse(), &labels)
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
}
