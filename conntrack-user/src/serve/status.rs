//! The JSON of `/status`.

use std::{cmp::Reverse, collections::BTreeSet};

use ctpressure_model::pressure::rate::Rates;
use serde::Serialize;

use super::CompanionStatus;
use crate::agent::{OwnerSample, Snapshot};

#[derive(Debug, Serialize)]
pub(crate) struct StatusPage<'a> {
    version: &'static str,
    #[serde(flatten)]
    snapshot: &'a Snapshot,
    /// Owners that hold, open or lose most.
    owners: Vec<&'a OwnerSample>,
    /// Owners that are not among them.
    owners_not_shown: usize,
    #[serde(flatten)]
    companions: &'a CompanionStatus,
    /// What the agent and what runs beside it can't do.
    problems: Vec<&'a str>,
}

/// Owners that `/status` shows, by each of live entries, inserts and drops.
const OWNERS: usize = 20;

/// The owners that are first by live entries, by inserts or by drops; by live entries.
fn foremost(owners: &[OwnerSample]) -> Vec<&OwnerSample> {
    let rate = |rates: &Rates| rates.ten_seconds.unwrap_or(0.0);
    let orders: [&dyn Fn(&OwnerSample) -> f64; 3] = [
        &|owner| owner.activity.live_share,
        &|owner| rate(&owner.activity.inserts_per_second),
        &|owner| rate(&owner.activity.drops_per_second),
    ];
    let mut shown = BTreeSet::new();
    for order in orders {
        let mut sorted: Vec<_> = owners.iter().collect();
        sorted.sort_by(|a, b| order(b).total_cmp(&order(a)));
        shown.extend(sorted.iter().take(OWNERS).map(|owner| owner.slot));
    }
    let mut foremost: Vec<_> = owners
        .iter()
        .filter(|owner| shown.contains(&owner.slot))
        .collect();
    foremost.sort_by_key(|owner| (Reverse(owner.live()), owner.slot));
    foremost
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
            owners,
            companions,
            problems: problems.chain(companions.problems()).collect(),
        }
    }
}
