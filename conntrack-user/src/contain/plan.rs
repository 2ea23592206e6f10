//! Who is to be contained, by which addresses, and what speaks against it. Pure.

use std::{net::IpAddr, time::Duration};

use conntrack_ebpf::owner::{HOST, UNKNOWN};
use serde::Serialize;

use crate::census::Charging;

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted<'a> {
    /// As other commands call it: `namespace/pod`, a unit or container.
    pub owner: &'a str,
    /// New entries that it may still make, a second; 0: none.
    pub rate: u32,
    /// After which the kernel ends the limit by itself.
    pub time: Duration,
    /// Its entries are deleted, too.
    pub delete_entries: bool,
    /// Whatever speaks against it.
    pub force: bool,
}

/// What is done, and to whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ContainPlan {
    /// Whose new entries are limited.
    pub owner: String,
    #[serde(skip)]
    pub slot: u32,
    /// By these source addresses it is known. None: it has none of its own, and there is no limit.
    pub addresses: Vec<IpAddr>,
    /// New entries a second that it may still make, of all its addresses together; 0: none.
    pub rate: u32,
    /// Seconds after which the kernel ends the limit by itself.
    pub seconds: u64,
    /// Its entries are deleted, too.
    pub delete_entries: bool,
    /// What spoke against it and was overridden by `--force`.
    pub overridden: Vec<String>,
}

/// Why nothing is done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ContainRefusal {
    #[error("nobody on this node is called {0:?}")]
    Nobody(String),
    #[error("{0} is several owners on this node, which have the same name")]
    Several(String),
    #[error("{0} is nobody: there is no one to contain")]
    Unknown(String),
    #[error("{0} has no address of its own, so its packets can't be told from the host's")]
    NoAddress(String),
    #[error("{0}")]
    Guarded(String),
}

impl ContainRefusal {
    /// What to do about it.
    pub(crate) fn help(&self) -> &'static str {
        match self {
            Self::Nobody(_) => {
                "`ctpressure table --by owner` lists them; a pod is NAMESPACE/POD, and must be on this node"
            }
            Self::Several(_) => "wait until one of them is gone",
            Self::Unknown(_) => {
                "`ctpressure table --by source` says which addresses hold the entries; block them where they come in"
            }
            Self::NoAddress(_) => {
                "stop it (`systemctl stop UNIT`, or delete the pod), or delete its entries only: --delete-entries, while the agent runs"
            }
            Self::Guarded(_) => "if you are sure, --force does it all the same",
        }
    }
}

/// Namespaces of Kubernetes' own parts, without which a node is none, and where the agent runs.
const SYSTEM: [&str; 2] = ["kube-system", "ctpressure"];

/// What is to be done; `by_agent`: the running agent said who is who, so that entries without an address of their own are known.
pub(crate) fn plan(
    charging: &Charging,
    by_agent: bool,
    wanted: &Wanted<'_>,
) -> Result<ContainPlan, ContainRefusal> {
    let (slot, addresses) = find(charging, wanted.owner)?;
    let name = || wanted.owner.to_owned();
    if slot == UNKNOWN {
        return Err(ContainRefusal::Unknown(name()));
    }
    let against = guard(charging, slot, wanted.owner);
    if let Some(against) = &against
        && !wanted.force
    {
        return Err(ContainRefusal::Guarded(against.clone()));
    }
    if addresses.is_empty() && !(wanted.delete_entries && by_agent) {
        return Err(ContainRefusal::NoAddress(name()));
    }
    Ok(ContainPlan {
        owner: name(),
        slot,
        addresses,
        rate: wanted.rate,
        seconds: wanted.time.as_secs(),
        delete_entries: wanted.delete_entries,
        overridden: against.into_iter().collect(),
    })
}

/// The owner of this name, and its addresses. Of those that had the name before only one can have addresses now.
fn find(charging: &Charging, name: &str) -> Result<(u32, Vec<IpAddr>), ContainRefusal> {
    let fixed = [
        (HOST, charging.name(HOST)),
        (UNKNOWN, charging.name(UNKNOWN)),
    ];
    let fixed = fixed.iter().find(|(_, fixed)| fixed == name);
    let named = charging.names.iter();
    let mut slots: Vec<u32> = named
        .filter(|(_, known)| *known == name)
        .map(|(slot, _)| *slot)
        .collect();
    if slots.is_empty() {
        slots.extend(fixed.map(|(slot, _)| *slot));
    }
    let addresses = |slot| {
        let claims = charging.maps.addresses.iter();
        let mut own: Vec<IpAddr> = claims
            .filter(|(_, claim)| claim.slot == slot)
            .map(|(address, _)| match address.ip() {
                IpAddr::V6(v6) => v6.to_canonical(),
                v4 @ IpAddr::V4(_) => v4,
            })
            .collect();
        own.sort_unstable();
        own
    };
    let mut found: Vec<_> = slots.iter().map(|slot| (*slot, addresses(*slot))).collect();
    if found.len() > 1 {
        found.retain(|(_, addresses)| !addresses.is_empty());
    }
    match found.len() {
        1 => Ok(found.remove(0)),
        0 if slots.is_empty() => Err(ContainRefusal::Nobody(name.to_owned())),
        0 => Err(ContainRefusal::NoAddress(name.to_owned())),
        _ => Err(ContainRefusal::Several(name.to_owned())),
    }
}

/// What speaks against it.
fn guard(charging: &Charging, slot: u32, name: &str) -> Option<String> {
    if slot == HOST {
        return Some(
            "host is the node itself: its kubelet, its name resolution, your own session"
                .to_owned(),
        );
    }
    let namespace = name.split_once('/').map(|(namespace, _)| namespace);
    if let Some(namespace) = namespace.filter(|namespace| SYSTEM.contains(namespace)) {
        return Some(format!(
            "{name} is in {namespace}: other pods of the cluster may need it"
        ));
    }
    let workload = charging.workload_name(charging.workload(slot));
    workload
        .starts_with("DaemonSet ")
        .then(|| format!("{name} is one of the node's own agents ({workload})"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use conntrack_ebpf::owner::{Address, Claim};

    use super::*;
    use crate::owners::{Owner, SlotMaps, Workload};

    fn charging() -> Charging {
        let pod = |uid, namespace, name| Owner::pod(uid, Some((namespace, name)));
        let agent = pod("u-4", "logs", "shipper-x").with(|details| {
            details.workload = Some(Workload {
                kind: "DaemonSet".to_owned(),
                name: "shipper".to_owned(),
            });
        });
        let owners = [
            (2, pod("u-2", "shop", "web")),
            (3, pod("u-3", "kube-system", "coredns-1")),
            (4, agent),
            (10, pod("u-10", "ctpressure", "agent-1")),
            (5, Owner::cgroup("nginx.service", "x")),
            (6, pod("u-6", "shop", "twice")),
            (7, pod("u-7", "shop", "twice")),
            (8, pod("u-8", "shop", "gone")),
            (9, pod("u-9", "shop", "gone")),
        ];
        let addresses = [
            ("10.42.1.2", 2),
            ("fd00::2", 2),
            ("10.42.1.3", 3),
            ("10.42.1.4", 4),
            ("10.42.1.6", 6),
            ("10.42.1.10", 10),
            ("10.42.1.7", 7),
            ("10.42.1.9", 9),
            ("192.0.2.1", HOST),
        ];
        let claim = |slot| Claim {
            slot,
            base: slot,
            flags: 0,
        };
        let maps = SlotMaps {
            addresses: addresses
                .map(|(address, slot)| (Address::of(address.parse().unwrap()), claim(slot)))
                .into(),
            ..SlotMaps::default()
        };
        let owners = owners.iter().map(|(slot, owner)| (*slot, owner));
        Charging::new(Arc::new(maps), 1, owners)
    }

    fn ask(owner: &str, force: bool, delete_entries: bool) -> Result<ContainPlan, ContainRefusal> {
        let wanted = Wanted {
            owner,
            rate: 10,
            time: Duration::from_mins(10),
            delete_entries,
            force,
        };
        plan(&charging(), true, &wanted)
    }

    #[test]
    fn a_pod_is_contained_by_all_its_addresses() {
        let plan = ask("shop/web", false, false).unwrap();
        assert_eq!((plan.slot, plan.seconds), (2, 600));
        let addresses: Vec<String> = plan.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.42.1.2", "fd00::2"]);
        assert!(plan.overridden.is_empty());
        let again = ask("shop/gone", false, false).unwrap();
        assert_eq!(
            again.slot, 9,
            "of two that had the name the one that has an address"
        );
    }

    #[test]
    fn what_a_node_needs_is_refused_unless_forced() {
        for (owner, why) in [
            ("host", "the node itself"),
            ("kube-system/coredns-1", "is in kube-system"),
            ("ctpressure/agent-1", "is in ctpressure"),
            ("logs/shipper-x", "DaemonSet logs/shipper"),
        ] {
            let refused = ask(owner, false, true).unwrap_err();
            assert!(matches!(refused, ContainRefusal::Guarded(_)), "{refused}");
            assert!(refused.to_string().contains(why), "{refused}");
            assert!(refused.help().contains("--force"), "{owner}");
            let forced = ask(owner, true, true).unwrap();
            assert_eq!(forced.overridden.len(), 1, "{owner}");
            assert_eq!(forced.addresses.len(), 1, "{owner}");
        }
    }

    #[test]
    fn who_can_not_be_told_is_an_error_with_a_name() {
        let refused = |owner, delete| ask(owner, true, delete).unwrap_err();
        let named = |name: &str| name.to_owned();
        assert_eq!(
            refused("shop/nobody", true),
            ContainRefusal::Nobody(named("shop/nobody"))
        );
        assert_eq!(
            refused("unknown", true),
            ContainRefusal::Unknown(named("unknown"))
        );
        assert_eq!(
            refused("shop/twice", true),
            ContainRefusal::Several(named("shop/twice"))
        );
        let unit = "nginx.service";
        assert_eq!(refused(unit, false), ContainRefusal::NoAddress(named(unit)));
        // Its entries are known to the agent by their tags.
        assert!(ask(unit, false, true).unwrap().addresses.is_empty());
    }
}
