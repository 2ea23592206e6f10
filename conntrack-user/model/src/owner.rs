//! Who a count is attributed to.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use crate::words::{NAME_BYTES, clean_within};

/// What sort of owner it is.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum OwnerKind {
    /// A pod of Kubernetes.
    Pod,
    /// A control group of the host: a systemd unit, or a container outside Kubernetes. Or a network namespace of none of these that is kept
    /// by a name, such as Docker Swarm's `ingress_sbox`.
    Cgroup,
    /// The host itself: what is of no pod and no unit.
    Host,
    /// Nobody that is known.
    #[default]
    Unknown,
}

impl OwnerKind {
    /// The value of the metric label `owner_kind`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Cgroup => "cgroup",
            Self::Host => "host",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for OwnerKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.label())
    }
}

/// What made a pod; only the Kubernetes API tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
pub struct Workload {
    /// `Deployment`, `StatefulSet`, `DaemonSet`, `Job`, ...
    pub kind: String,
    /// Its name, in the pod's namespace.
    pub name: String,
}

/// What is known about an owner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Details {
    /// What sort it is.
    pub kind: OwnerKind,
    /// Kubernetes namespace of a pod; empty: not known, or not a pod.
    pub namespace: String,
    /// Name of a pod; empty: not known, or not a pod.
    pub pod: String,
    /// systemd unit, or the name of a container outside Kubernetes (its short ID while that is not known); of a pod the
    /// node that it is on, where that is such a container, else empty.
    pub unit: String,
    /// UID of a pod, behind what tells the node that it is on and `/` where that is a container; of another owner what
    /// tells it from every other one of this machine.
    pub uid: String,
    /// It has no network of its own: only its sockets tell that something is its.
    pub host_network: bool,
    /// The host's interfaces that its packets go through; none if it uses the host's network, or
    /// they are not known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub host_interfaces: Vec<String>,
    /// What made the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<Workload>,
    /// Labels of the pod that were asked for.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Who a count is attributed to. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner(Arc<Details>);

/// What makes two owners the same one: a pod that is made anew under its name has another UID, and
/// is another owner.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    kind: OwnerKind,
    uid: Arc<str>,
}

impl Key {
    /// The pod with this UID.
    pub fn pod(uid: &str) -> Self {
        Self {
            kind: OwnerKind::Pod,
            uid: uid.into(),
        }
    }

    /// The unit, container or other control group that `id` tells from every other one.
    pub fn cgroup(id: &str) -> Self {
        Self {
            kind: OwnerKind::Cgroup,
            uid: id.into(),
        }
    }

    /// What sort of owner it is.
    pub const fn kind(&self) -> OwnerKind {
        self.kind
    }

    /// The pod's UID, or what tells the control group.
    pub fn uid(&self) -> &str {
        &self.uid
    }
}

/// Names as in `/metrics`; those that don't apply are empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels<'a> {
    /// The label `owner_kind`: pod, cgroup, host or unknown.
    pub owner_kind: &'static str,
    /// The label `namespace`: that of a pod.
    pub namespace: &'a str,
    /// `pod`: the UID as long as the name is not known.
    pub pod: &'a str,
    /// The label `unit`: a unit's or container's name; of a pod the container that is its node.
    pub unit: &'a str,
}

impl Owner {
    /// The pod with this UID. `name`: its namespace and name.
    pub fn pod(uid: &str, name: Option<(&str, &str)>) -> Self {
        Self::pod_on(uid, name, "")
    }

    /// A pod on a node that is a container of this machine, called `node`; empty: on this machine itself. Of one on
    /// such a node `uid` begins with what tells the node, and `/`.
    pub fn pod_on(uid: &str, name: Option<(&str, &str)>, node: &str) -> Self {
        let (namespace, pod) = name.unwrap_or_default();
        Self::from(Details {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            unit: clean_within(node, NAME_BYTES),
            uid: uid.to_owned(),
            ..Details::empty(OwnerKind::Pod)
        })
    }

    /// A control group of the host. `unit`: what to call it; `id`: what tells it from others.
    ///
    /// Anybody may name a control group, so control characters are replaced, and what is too long
    /// is cut.
    pub fn cgroup(unit: &str, id: &str) -> Self {
        Self::from(Details {
            unit: clean_within(unit, NAME_BYTES),
            uid: id.to_owned(),
            ..Details::empty(OwnerKind::Cgroup)
        })
    }

    /// The host: what is of no pod and no unit.
    pub fn host() -> Self {
        Details::empty(OwnerKind::Host).into()
    }

    /// Nobody that is known.
    pub fn unknown() -> Self {
        Details::empty(OwnerKind::Unknown).into()
    }

    /// The same with `change` made.
    #[must_use]
    pub fn with(&self, change: impl FnOnce(&mut Details)) -> Self {
        let mut owner = self.clone();
        change(Arc::make_mut(&mut owner.0));
        owner
    }

    /// What tells it from other owners.
    pub fn key(&self) -> Key {
        Key {
            kind: self.kind,
            uid: self.uid.as_str().into(),
        }
    }

    /// The values of the metric labels.
    pub fn labels(&self) -> Labels<'_> {
        Labels {
            owner_kind: self.kind.label(),
            namespace: &self.namespace,
            pod: match self.kind {
                OwnerKind::Pod if self.pod.is_empty() => self.own_uid(),
                _ => &self.pod,
            },
            unit: &self.unit,
        }
    }

    /// What to call it in text: `namespace/pod`, `pod UID` while the name is not known (with `on NODE` where the node is
    /// a container of this machine), the unit, `host` or `unknown`.
    pub fn name(&self) -> String {
        self.to_string()
    }

    /// The name of what made the pod; empty: not known, or nothing.
    pub fn workload_name(&self) -> &str {
        self.workload
            .as_ref()
            .map_or("", |workload| workload.name.as_str())
    }

    /// `found` is the same owner as seen now: what only this one knows is taken over.
    #[must_use]
    pub fn updated(&self, found: &Self) -> Self {
        let forgets_name = found.pod.is_empty() && !self.pod.is_empty();
        let forgets_rest = (found.workload.is_none() && self.workload.is_some())
            || (found.labels.is_empty() && !self.labels.is_empty());
        if !forgets_name && !forgets_rest {
            return found.clone();
        }
        found.with(|details| {
            if forgets_name {
                details.namespace.clone_from(&self.namespace);
                details.pod.clone_from(&self.pod);
            }
            if details.workload.is_none() {
                details.workload.clone_from(&self.workload);
            }
            if details.labels.is_empty() {
                details.labels.clone_from(&self.labels);
            }
        })
    }
}

impl Details {
    /// A pod's UID as Kubernetes has it.
    fn own_uid(&self) -> &str {
        self.uid
            .rsplit_once('/')
            .map_or(self.uid.as_str(), |(_, uid)| uid)
    }

    fn empty(kind: OwnerKind) -> Self {
        Self {
            kind,
            ..Self::default()
        }
    }
}

impl From<Details> for Owner {
    fn from(details: Details) -> Self {
        Self(Arc::new(details))
    }
}

impl Deref for Owner {
    type Target = Details;

    fn deref(&self) -> &Details {
        &self.0
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            OwnerKind::Pod => {
                match self.pod.as_str() {
                    "" => write!(formatter, "pod {}", self.own_uid())?,
                    pod => write!(formatter, "{}/{pod}", self.namespace)?,
                }
                match self.unit.as_str() {
                    "" => Ok(()),
                    node => write!(formatter, " on {node}"),
                }
            }
            OwnerKind::Cgroup => formatter.write_str(&self.unit),
            OwnerKind::Host | OwnerKind::Unknown => formatter.write_str(self.kind.label()),
        }
    }
}

#[cfg(any(test, feature = "testing"))]
impl schemars::JsonSchema for Owner {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Owner".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        Details::json_schema(generator)
    }
}

impl Serialize for Owner {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UID: &str = "1f0c6f4e-2d0b-4a52-9c39-6a3e5d1c8b77";

    #[test]
    fn names_and_labels() {
        let known = Owner::pod(UID, Some(("shop", "cart-0")));
        assert_eq!(known.name(), "shop/cart-0");
        let labels = known.labels();
        assert_eq!(
            (labels.owner_kind, labels.namespace, labels.pod, labels.unit),
            ("pod", "shop", "cart-0", "")
        );
        let nameless = Owner::pod(UID, None);
        assert_eq!(nameless.name(), format!("pod {UID}"));
        assert_eq!(nameless.labels().pod, UID, "two of them are told apart");
        let unit = Owner::cgroup("sshd.service", "sshd.service");
        assert_eq!(
            (unit.name().as_str(), unit.labels().pod),
            ("sshd.service", "")
        );
        assert_eq!(unit.labels().unit, "sshd.service");
        assert_eq!(Owner::host().name(), "host");
        assert_eq!(Owner::unknown().name(), "unknown");
    }

    #[test]
    fn a_pod_made_anew_is_another_owner() {
        let before = Owner::pod(UID, Some(("shop", "cart-0")));
        let after = Owner::pod(
            "2f0c6f4e-2d0b-4a52-9c39-6a3e5d1c8b77",
            Some(("shop", "cart-0")),
        );
        assert_ne!(before.key(), after.key());
        assert_eq!(before.key(), Owner::pod(UID, None).key());
        assert_ne!(Key::pod("a"), Key::cgroup("a"));
    }

    #[test]
    fn what_is_known_is_not_forgotten() {
        let workload = Workload {
            kind: "StatefulSet".into(),
            name: "cart".into(),
        };
        let known = Owner::pod(UID, Some(("shop", "cart-0")))
            .with(|details| details.workload = Some(workload));
        let seen = Owner::pod(UID, None).with(|details| details.host_network = true);
        let both = known.updated(&seen);
        assert_eq!(both.name(), "shop/cart-0");
        assert!(both.host_network && both.workload == known.workload);
        assert_eq!(seen.updated(&known), known);
    }

    #[test]
    fn as_json() {
        let json = serde_json::to_value(Owner::pod(UID, Some(("shop", "cart-0")))).unwrap();
        assert_eq!(json["kind"], "pod");
        assert_eq!(json["pod"], "cart-0");
        assert_eq!(json["uid"], UID);
        assert!(json.get("workload").is_none() && json.get("labels").is_none());
    }

    proptest! {
        #[test]
        fn any_name_is_printable(name in any::<String>()) {
            let unit = Owner::cgroup(&name, "x").name();
            prop_assert!(unit.len() <= NAME_BYTES && !unit.chars().any(char::is_control));
        }
    }
}
