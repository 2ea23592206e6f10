//! What the tables are made of, as the last census found it. Series are bounded by the names of states, and by the owners that are told
//! apart.

use std::collections::BTreeMap;

use super::owners::labels;
use crate::{
    agent::{Snapshot, StateEntries},
    serve::family::{Family, f},
};

pub(super) fn families(snapshot: &Snapshot) -> [Family; 3] {
    let states = snapshot.owners.states.as_deref();
    let all = states.map_or(&[][..], |states| &states.all);
    let foremost = states.map_or(&[][..], |states| &states.foremost);
    let ended = states.and(snapshot.owners.census.ended);
    [
        Family::gauge(
            "ctpressure_census_entries",
            "Entries of all tables that the last census found, by protocol, state, and whether the kernel may remove them to make room (evictable). Absent until there was a census.",
        )
        .each(all, |family, part| family.with(&names(part), f(part.entries))),
        Family::gauge(
            "ctpressure_owner_census_entries",
            "The same of the ten owners that had the most entries at the last census. Owners come and go here: the others have no series.",
        )
        .each(by_owner(snapshot, foremost), |family, (labels, entries)| {
            family.with(&labels, f(entries))
        }),
        Family::gauge(
            "ctpressure_census_age_seconds",
            "Seconds since the last census ended. Absent until there was one.",
        )
        .maybe(
            &[],
            ended.map(|ended| snapshot.at.saturating_duration_since(ended).as_secs_f64()),
        ),
    ]
}

type Labels<'a> = Vec<(&'a str, &'a str)>;

/// Two owners may go by the same labels: a pod that was made anew under its name, while the one before has entries.
fn by_owner<'a>(
    snapshot: &'a Snapshot,
    foremost: &'a [(u32, Vec<StateEntries>)],
) -> BTreeMap<Labels<'a>, u64> {
    let mut sums: BTreeMap<Labels<'_>, u64> = BTreeMap::new();
    for (slot, parts) in foremost {
        let mut owners = snapshot.owners.list.iter();
        let Some(owner) = owners.find(|owner| owner.slot == *slot) else {
            continue;
        };
        for part in parts {
            *sums.entry(labels(owner, &names(part))).or_default() += part.entries;
        }
    }
    sums
}

fn names(part: &StateEntries) -> [(&str, &str); 3] {
    [
        ("protocol", &part.protocol),
        ("state", &part.state),
        ("evictable", if part.evictable { "true" } else { "false" }),
    ]
}
