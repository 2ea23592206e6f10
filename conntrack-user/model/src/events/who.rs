//! Whose an event is.

use std::collections::HashMap;

use conntrack_ebpf::owner::{Direction, UNKNOWN};
use serde::{Deserialize, Serialize};

use crate::owner::Owner;

/// The owner that an event is charged to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
pub struct Who {
    /// `pod`, `cgroup`, `host` or `unknown`.
    pub kind: String,
    /// Kubernetes namespace of a pod.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Name of a pod; its UID while the name is not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pod: String,
    /// Name of what made the pod, where the Kubernetes API is asked.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub workload: String,
    /// systemd unit, or a container outside Kubernetes; of a pod the container that is its node.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub unit: String,
    /// `egress`: the owner opened the connection; `ingress`: it is its real server.
    pub direction: String,
}

impl Who {
    /// The owner in this direction, as events name it.
    fn new(owner: &Owner, direction: Direction) -> Self {
        let labels = owner.labels();
        Self {
            kind: labels.owner_kind.to_owned(),
            namespace: labels.namespace.to_owned(),
            pod: labels.pod.to_owned(),
            workload: owner.workload_name().to_owned(),
            unit: labels.unit.to_owned(),
            direction: direction_name(direction).to_owned(),
        }
    }

    /// `namespace/pod` (with `on NODE` where that is a container of this machine), the unit, `host` or `unknown`.
    pub(crate) fn name(&self) -> String {
        let pod = match (self.namespace.as_str(), self.pod.as_str()) {
            ("", pod) => pod.to_owned(),
            (namespace, pod) => format!("{namespace}/{pod}"),
        };
        match (pod.as_str(), self.unit.as_str()) {
            ("", "") => self.kind.clone(),
            ("", unit) => unit.to_owned(),
            (_, "") => pod,
            (pod, node) => format!("{pod} on {node}"),
        }
    }

    /// Whether it has a name that says more than the table does.
    pub(crate) fn is_named(&self) -> bool {
        !self.pod.is_empty() || !self.unit.is_empty()
    }
}

/// The name used in metrics and output.
pub const fn direction_name(direction: Direction) -> &'static str {
    match direction {
        Direction::Egress => "egress",
        Direction::Ingress => "ingress",
    }
}

/// Which owner has which slot now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnersBySlot(HashMap<u32, Owner>);

impl OwnersBySlot {
    /// The owner of a slot; the unknown one if nobody has it (any more).
    pub(crate) fn who(&self, slot: u32, direction: Direction) -> Who {
        let unknown = Owner::unknown();
        Who::new(self.0.get(&slot).unwrap_or(&unknown), direction)
    }

    /// What the owner of a slot is called; `None`: nobody has it.
    pub fn name(&self, slot: u32) -> Option<String> {
        self.0.get(&slot).map(Owner::name)
    }

    /// Whether the slot's owner goes by `name`: `namespace/pod`, the pod's name alone, the same with its workload
    /// instead, all pods of a namespace as `namespace/`, a unit or container (also of all pods on a node that is one),
    /// `host` or `unknown`.
    pub(crate) fn is(&self, slot: u32, name: &str) -> bool {
        let Some(owner) = self.0.get(&slot) else {
            return slot == UNKNOWN && name == "unknown";
        };
        let labels = owner.labels();
        let workload = owner.workload_name();
        if !name.is_empty() && labels.unit == name {
            return true;
        }
        if let Some((namespace, pod)) = name.split_once('/') {
            return labels.namespace == namespace
                && !namespace.is_empty()
                && (pod.is_empty() || labels.pod == pod || workload == pod);
        }
        !name.is_empty()
            && (labels.pod == name
                || workload == name
                || (owner.labels().pod.is_empty()
                    && labels.unit.is_empty()
                    && labels.owner_kind == name))
    }
}

impl FromIterator<(u32, Owner)> for OwnersBySlot {
    fn from_iter<I: IntoIterator<Item = (u32, Owner)>>(owners: I) -> Self {
        Self(owners.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owner::Workload;

    fn owners() -> OwnersBySlot {
        [
            (0, Owner::unknown()),
            (1, Owner::host()),
            (2, Owner::pod("u-1", Some(("shop", "cart-1")))),
            (
                3,
                Owner::cgroup("sshd.service", "/system.slice/sshd.service"),
            ),
            (
                4,
                Owner::pod("u-4", Some(("shop", "web-6b7f9c8d54-x2k9q"))).with(|details| {
                    details.workload = Some(Workload {
                        kind: "Deployment".to_owned(),
                        name: "web".to_owned(),
                    });
                }),
            ),
            (
                5,
                Owner::cgroup("user@1000.service/web", "user@1000.service/web"),
            ),
            (6, Owner::pod_on("x/u-6", None, "kind-worker")),
        ]
        .into_iter()
        .collect()
    }

    #[test]
    fn names_that_an_owner_goes_by() {
        let owners = owners();
        for (slot, name, fits) in [
            (2, "shop/cart-1", true),
            (2, "cart-1", true),
            (2, "shop/", true),
            (2, "shop", false),
            (2, "other/cart-1", false),
            (2, "", false),
            (2, "/", false),
            (4, "shop/web", true),
            (4, "web", true),
            (4, "other/web", false),
            (4, "shop/web-6b7f9c8d54-x2k9q", true),
            (3, "sshd.service", true),
            (3, "cgroup", false),
            (5, "user@1000.service/web", true),
            (5, "user@1000.service/", false),
            (6, "u-6", true),
            (6, "kind-worker", true),
            (1, "host", true),
            (0, "unknown", true),
            (9, "unknown", false),
        ] {
            assert_eq!(owners.is(slot, name), fits, "slot {slot}, {name:?}");
        }
    }

    #[test]
    fn a_slot_without_an_owner_is_unknown() {
        let who = owners().who(77, Direction::Ingress);
        assert_eq!(
            (who.kind.as_str(), who.name().as_str()),
            ("unknown", "unknown")
        );
        assert_eq!(owners().who(2, Direction::Egress).name(), "shop/cart-1");
        assert_eq!(owners().who(4, Direction::Egress).workload, "web");
        assert_eq!(
            owners().who(6, Direction::Egress).name(),
            "u-6 on kind-worker"
        );
    }
}
