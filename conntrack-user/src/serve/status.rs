//! What the agent says of itself, as JSON: all of it to who asks on the node, by `ctpressure status`; to who asks by HTTP, who may be a
//! stranger, whether all is well ([`ShortStatus`]).

use std::cmp::Reverse;

use serde::Serialize;
use serde_json::Value;

use super::{CompanionStatus, life, top};
use crate::{
    agent::{AgentState, OwnerSample, Snapshot},
    probes::Totals,
};

/// What there is at `/status` of the port: no names, addresses, paths or counts.
#[derive(Debug, Serialize)]
pub(super) struct ShortStatus {
    version: &'static str,
    /// What can be seen.
    state: AgentState,
    /// Whether the agent can answer for its node, as at `/readyz`.
    ready: bool,
    /// What it waits for: `nf_conntrack`, to be loaded; absent unless it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting_for: Option<&'static str>,
    /// Seconds since the agent began, at its last sample.
    uptime_seconds: f64,
    /// Where the rest is.
    more: &'static str,
}

impl ShortStatus {
    /// What the agent saw last.
    pub(super) fn new(snapshot: &Snapshot) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            state: snapshot.state,
            ready: life::ready(snapshot).is_ok(),
            waiting_for: snapshot.waits().then_some("nf_conntrack"),
            uptime_seconds: snapshot.uptime_seconds,
            more: "ctpressure status, as root on the node or in the agent's container",
        }
    }
}

/// All of it.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct StatusPage<'a> {
    version: &'static str,
    #[serde(flatten)]
    snapshot: &'a Snapshot,
    /// Owners that hold, open or lose most.
    #[cfg_attr(test, schemars(with = "Vec<OwnerSample>"))]
    owners: Vec<Value>,
    /// Owners that are not among them.
    owners_not_shown: usize,
    #[serde(flatten)]
    companions: &'a CompanionStatus,
    /// What the agent and what runs beside it can't do.
    problems: Vec<&'a str>,
}

/// Owners that are shown, by each of live entries, inserts and drops.
const OWNERS: usize = 20;

/// The owners that are first by live entries, by inserts or by drops; by live entries.
fn foremost(owners: &[OwnerSample]) -> Vec<&OwnerSample> {
    let mut owners: Vec<_> = owners.iter().collect();
    let shown = top::foremost(&owners, OWNERS);
    owners.retain(|owner| shown.contains(&owner.slot));
    owners.sort_by_key(|owner| (Reverse(owner.live()), owner.slot));
    owners
}

/// The owner; what no probe counts is null.
fn counted(owner: &OwnerSample, totals: &Totals) -> Value {
    // Strings and numbers: this can't fail.
    let mut owner = serde_json::to_value(owner).unwrap_or_default();
    let (inserts, deletes) = (totals.inserts.is_some(), totals.deletes.is_some());
    let live = totals.flow().is_some();
    let drops = totals.drops.table_full.is_some() && totals.drops.clash.is_some();
    let evictions = totals.evictions.is_some();
    for direction in ["egress", "ingress"] {
        for (name, counted) in [
            ("inserts", inserts),
            ("deletes", deletes),
            ("live", live),
            ("victims", evictions),
            ("causes", evictions),
        ] {
            if !counted {
                owner[direction][name] = Value::Null;
            }
        }
    }
    for (name, counted) in [
        ("inserts_per_second", inserts),
        ("insert_share", inserts),
        ("deletes_per_second", deletes),
        ("drops_per_second", drops),
        ("drop_share", drops),
        ("live_share", live),
        ("limit_share", live),
        ("lifetime", live),
    ] {
        if !counted {
            owner["activity"][name] = Value::Null;
        }
    }
    owner
}

impl<'a> StatusPage<'a> {
    /// What the agent saw last, and how what runs beside it is now.
    pub(crate) fn new(snapshot: &'a Snapshot, companions: &'a CompanionStatus) -> Self {
        let owners = foremost(&snapshot.owners.list);
        let problems = snapshot.problems.iter().map(String::as_str);
        Self {
            version: env!("CARGO_PKG_VERSION"),
            snapshot,
            owners_not_shown: snapshot.owners.list.len() - owners.len(),
            owners: owners
                .into_iter()
                .map(|owner| counted(owner, &snapshot.probes.totals))
                .collect(),
            companions,
            problems: problems.chain(companions.problems()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use ctpressure_tests::schemas;
    use serde_json::json;

    use super::*;
    use crate::serve::metrics::tests::full;

    #[test]
    fn the_page_is_as_its_schema_has_it() {
        let companions = CompanionStatus::default();
        let seen = full();
        let blind = Snapshot {
            owners: seen.owners.clone(),
            ..Snapshot::default()
        };
        for snapshot in [seen, blind, Snapshot::default()] {
            let page = json!(StatusPage::new(&snapshot, &companions));
            schemas::assert_passes("status", &page);
        }
    }
}
