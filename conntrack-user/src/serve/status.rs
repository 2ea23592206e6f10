//! The JSON of `/status`.

use std::cmp::Reverse;

use serde::Serialize;

use super::{CompanionStatus, top};
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
    let mut owners: Vec<_> = owners.iter().collect();
    let shown = top::foremost(&owners, OWNERS);
    owners.retain(|owner| shown.contains(&owner.slot));
    owners.sort_by_key(|owner| (Reverse(owner.live()), owner.slot));
    owners
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
