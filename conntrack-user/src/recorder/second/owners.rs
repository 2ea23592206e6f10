//! What is written of owners.

use std::collections::{BTreeSet, HashMap};

use conntrack_ebpf::{owner::Direction, record::DropReason};
use ctpressure_journal::{Loss, What};

use super::{DestinationRow, FlowRow, LossRow, Second};
use crate::{
    agent::{OwnerSample, OwnerTotals, Snapshot},
    owners::Owner,
};

/// Owners whose destinations are written, by each of entries, inserts and drops.
const FOREMOST: usize = 8;
/// Owners whose states are written.
const MIXES: usize = 32;
/// Destinations of one owner and kind.
const TOP: usize = 5;

pub(super) fn owners(
    before: Option<&Snapshot>,
    now: &Snapshot,
    keyframe: bool,
    second: &mut Second,
) {
    let was: HashMap<u32, &OwnerSample> = before
        .iter()
        .flat_map(|before| &before.owners.list)
        .map(|sample| (sample.slot, sample))
        .collect();
    let same = |a: &OwnerSample, b: &OwnerSample| {
        a.owner == b.owner || (a.owner.kind == b.owner.kind && a.owner.uid == b.owner.uid)
    };
    let mut seen = BTreeSet::new();
    for sample in &now.owners.list {
        // Another owner in its slot has counts of its own.
        let was = was.get(&sample.slot).filter(|was| same(was, sample));
        if was.is_some() {
            seen.insert(sample.slot);
        }
        let was = was
            .zip(before)
            .map(|(was, before)| [was.egress, was.ingress].map(|was| counted(before, &was)))
            .unwrap_or_default();
        for ((direction, totals), was) in sample.by_direction().into_iter().zip(was) {
            let totals = counted(now, totals);
            moved(&sample.owner, direction, &totals, &was, keyframe, second);
        }
    }
    for gone in was.values().filter(|was| !seen.contains(&was.slot)) {
        for (direction, totals) in gone.by_direction() {
            let nothing = OwnerTotals::default();
            let totals = before.map_or(nothing, |before| counted(before, totals));
            moved(&gone.owner, direction, &nothing, &totals, false, second);
        }
    }
}

/// Without live entries where what comes or what goes is not counted: what is left would be no number of entries.
fn counted(snapshot: &Snapshot, totals: &OwnerTotals) -> OwnerTotals {
    let flow = snapshot.probes.totals.flow();
    OwnerTotals {
        live: flow.and(totals.live),
        ..*totals
    }
}

fn moved(
    owner: &Owner,
    direction: Direction,
    now: &OwnerTotals,
    was: &OwnerTotals,
    keyframe: bool,
    second: &mut Second,
) {
    let (inserts, deletes) = (
        now.inserts.saturating_sub(was.inserts),
        now.deletes.saturating_sub(was.deletes),
    );
    let (live, before) = (now.live.unwrap_or(0), was.live.unwrap_or(0));
    if inserts > 0 || deletes > 0 || live != before || (keyframe && live > 0) {
        second.flows.push(FlowRow {
            owner: owner.clone(),
            direction,
            inserts,
            deletes,
            live,
        });
    }
    let packets = DropReason::ALL.map(|reason| {
        let lost = now.dropped(reason).saturating_sub(was.dropped(reason));
        (Loss::Packet(reason), lost)
    });
    let entries = [
        (Loss::Victim, now.victims.saturating_sub(was.victims)),
        (Loss::Cause, now.causes.saturating_sub(was.causes)),
    ];
    for (what, number) in packets.into_iter().chain(entries) {
        if number > 0 {
            second.losses.push(LossRow {
                owner: owner.clone(),
                direction,
                what,
                number,
            });
        }
    }
}

pub(super) fn mixes(now: &Snapshot, second: &mut Second) {
    let mut owners: Vec<_> = now
        .owners
        .list
        .iter()
        .filter(|owner| !owner.activity.states.is_empty())
        .collect();
    owners.sort_by_key(|owner| std::cmp::Reverse(owner.live()));
    for owner in owners.into_iter().take(MIXES) {
        for (state, entries) in &owner.activity.states {
            second
                .states
                .push((owner.owner.clone(), state.clone(), *entries));
        }
    }
}

pub(super) fn destinations(now: &Snapshot, second: &mut Second) {
    let orders: [&dyn Fn(&OwnerSample) -> f64; 3] = [
        &|owner| owner.activity.live_share,
        &|owner| owner.activity.insert_share,
        &|owner| owner.activity.drop_share,
    ];
    let mut chosen = BTreeSet::new();
    for order in orders {
        let mut sorted: Vec<_> = now
            .owners
            .list
            .iter()
            .filter(|owner| order(owner) > 0.0)
            .collect();
        sorted.sort_by(|a, b| order(b).total_cmp(&order(a)));
        chosen.extend(sorted.iter().take(FOREMOST).map(|owner| owner.slot));
    }
    for sample in now
        .owners
        .list
        .iter()
        .filter(|owner| chosen.contains(&owner.slot))
    {
        let tops = &sample.destinations;
        for (what, top) in [
            (What::Inserts, &tops.inserts),
            (What::ServiceInserts, &tops.services),
            (What::Drops, &tops.drops),
        ] {
            for destination in top.destinations.iter().take(TOP) {
                second.destinations.push(DestinationRow {
                    owner: sample.owner.clone(),
                    what: what as i64,
                    destination: destination.clone(),
                });
            }
        }
    }
}
