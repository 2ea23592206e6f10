//! What came to conntrack from an address, and what it let through: counted by rules before and
//! behind it. The difference is what it dropped, whatever anybody else says.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{containers::pod::Pod, guest::net};

/// Counts by the name of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Passed {
    came: BTreeMap<String, u64>,
    passed: BTreeMap<String, u64>,
}

const TABLE: &str = "ctp_passed";

fn rules(pods: &[(&str, String)]) -> String {
    let for_each = |rule: &dyn Fn(&str, &str) -> String| -> String {
        let lines = pods
            .iter()
            .map(|(name, address)| rule(&name.replace('-', "_"), address));
        lines.collect::<Vec<_>>().join("\n")
    };
    let counters =
        for_each(&|name, _| format!("counter came_{name} {{ }}\ncounter passed_{name} {{ }}"));
    let before = for_each(&|name, address| format!("ip saddr {address} counter name came_{name}"));
    let behind =
        for_each(&|name, address| format!("ip saddr {address} counter name passed_{name}"));
    // Conntrack's own priority is -200; NAT comes later.
    format!(
        "table inet {TABLE} {{
{counters}
chain before {{
type filter hook prerouting priority -300;
{before}
}}
chain behind {{
type filter hook prerouting priority -190;
{behind}
}}
}}
"
    )
}

/// Begins to count what comes from these pods, and from others by a name and their address.
pub(super) fn count(pods: &[&Pod], others: &[(&str, &str)]) -> Result<()> {
    let mut senders: Vec<_> = pods
        .iter()
        .map(|pod| Ok((pod.name.as_str(), pod.address()?.to_string())))
        .collect::<Result<_>>()?;
    let others = others.iter().map(|(name, at)| (*name, (*at).to_owned()));
    senders.extend(others);
    net::nft(None, &rules(&senders))
}

impl Passed {
    /// The counts now.
    pub(super) fn read() -> Result<Self> {
        let listing = net::nft_list(None, &format!("-j list counters table inet {TABLE}"))?;
        Self::parse(&serde_json::from_str(&listing).context("reading nft's counters")?)
    }

    fn parse(listing: &Value) -> Result<Self> {
        let mut counts = Self::default();
        let objects = listing["nftables"].as_array();
        for object in objects.context("nft lists nothing")? {
            let (Some(name), Some(packets)) = (
                object["counter"]["name"].as_str(),
                object["counter"]["packets"].as_u64(),
            ) else {
                continue;
            };
            let (into, name) = match name.split_once('_') {
                Some(("came", name)) => (&mut counts.came, name),
                Some(("passed", name)) => (&mut counts.passed, name),
                _ => continue,
            };
            into.insert(name.replace('_', "-"), packets);
        }
        Ok(counts)
    }

    /// Packets that conntrack let through.
    pub(super) fn passed(&self, pod: &Pod) -> u64 {
        self.passed.get(&pod.name).copied().unwrap_or(0)
    }

    /// Packets that conntrack dropped.
    pub(super) fn dropped(&self, name: &str) -> u64 {
        let of = |counts: &BTreeMap<String, u64>| counts.get(name).copied().unwrap_or(0);
        of(&self.came).saturating_sub(of(&self.passed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pod_has_a_counter_on_either_side() {
        let rules = rules(&[("a-b", "10.88.0.2".to_owned())]);
        assert!(rules.contains("counter came_a_b { }"), "{rules}");
        assert!(rules.contains("ip saddr 10.88.0.2 counter name passed_a_b"));
        let listing = serde_json::json!({"nftables": [
            {"metainfo": {}},
            {"counter": {"name": "came_a_b", "packets": 7}},
            {"counter": {"name": "passed_a_b", "packets": 5}},
        ]});
        let counts = Passed::parse(&listing).unwrap();
        assert_eq!(counts.came["a-b"], 7);
        assert_eq!(counts.passed["a-b"], 5);
        assert!(Passed::parse(&Value::Null).is_err());
    }
}
