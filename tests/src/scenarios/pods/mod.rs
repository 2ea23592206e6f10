//! Whose entries they are: pods of a real runtime, and namespaces with control groups that look
//! like pods where hundreds are needed.

use std::net::IpAddr;

use anyhow::Result;

use crate::{
    containers::{
        cluster::{Cluster, FIREWALLED, NODE_AGENT},
        network::NODE,
        pod::Pod,
    },
    guest::{
        entries::{self, Entry},
        owned::{ByOwner, Owner},
    },
};

mod attacker;
mod churn;
mod exact;
mod incident;
mod load;
mod passed;

pub(super) use attacker::attacker;
pub(super) use churn::churn;
pub(super) use exact::exact;
pub(super) use incident::incident;

/// Scrapes of the agent must neither count nor be refused.
const NOT_LOOPBACK: &str = "
table inet ctp_loopback {
  chain output { type filter hook output priority raw; oif lo notrack; }
  chain prerouting { type filter hook prerouting priority raw; iif lo notrack; }
}
";

/// A unit of systemd's, by the name of its control group.
const UNIT: &str = "backup.service";

/// Destination ports of flows from the node's own address: addresses don't tell who opened those.
const PORT_OF_NODE_AGENT: u16 = 7101;
const PORT_OF_UNIT: u16 = 7102;
const PORT_OF_HOST: u16 = 7103;

const EGRESS: &str = "egress";
const INGRESS: &str = "ingress";

fn owner(pod: &Pod) -> Owner {
    Owner::pod(&pod.namespace, &pod.name)
}

/// Who has to be charged for an entry of the table of `of` (`None`: the host's), and as what.
fn truth(cluster: &Cluster, of: Option<&Pod>, entry: &Entry) -> Result<(Owner, &'static str)> {
    let (source, answers) = (entry.original.source, entry.reply.source);
    if let Some(pod) = of {
        let comes_in = pod.addresses.contains(&answers) && !pod.addresses.contains(&source);
        return Ok((owner(pod), if comes_in { INGRESS } else { EGRESS }));
    }
    let node: IpAddr = NODE.parse()?;
    let known = |address: IpAddr| {
        cluster.pod_at(address).map(owner).or_else(|| {
            (address == node).then(|| match entry.original.destination_port {
                Some(PORT_OF_UNIT) => Owner::unit(UNIT),
                Some(PORT_OF_NODE_AGENT) => Owner::pod("shop", NODE_AGENT),
                _ => Owner::host(),
            })
        })
    };
    Ok(match (known(source), known(answers)) {
        (Some(owner), _) => (owner, EGRESS),
        (None, Some(owner)) => (owner, INGRESS),
        (None, None) => (Owner::unknown(), EGRESS),
    })
}

/// Every entry of the host's table and of the pod's with rules, by who has to be charged for it.
fn census(cluster: &Cluster) -> Result<ByOwner> {
    let mut counts = ByOwner::default();
    let firewalled = cluster.pod(FIREWALLED)?;
    for (of, namespace) in [(None, None), (Some(firewalled), Some(firewalled.netns()?))] {
        for entry in entries::list(namespace)? {
            let (owner, direction) = truth(cluster, of, &entry)?;
            counts.add(owner, direction, 1);
        }
    }
    Ok(counts)
}
