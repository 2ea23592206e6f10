//! Counts by owner. The sum over owners is what the probes have counted.
//!
//! Series are bounded by the owners of the node: each has one of packets that a full table refused, so that the first shows as an
//! increase; all others it has, by direction, once there was anything to count. Series of an owner that is gone are withdrawn with its
//! slot.

use std::collections::{HashMap, hash_map::Entry};

use conntrack_ebpf::{
    owner::{Direction, HOST, UNKNOWN},
    record::DropReason,
};
use ctpressure_model::{events::direction_name, kubernetes::metric_label};

use crate::{
    agent::{Activity, Bounds, OwnerSample, OwnerTotals, Snapshot, Tops},
    serve::family::{Family, f},
};

pub(super) fn families(snapshot: &Snapshot) -> [Family; 7] {
    let owners = by_labels(&snapshot.owners.list);
    let totals = &snapshot.probes.totals;
    // What nothing counts is withheld: 0 would say that there was none.
    let when = |counted: bool| if counted { &owners[..] } else { &[] };
    [
        Family::counter(
            "ctpressure_inserts_total",
            "Entries that entered a conntrack table, by owner: who opened the connection (egress), else its real server (ingress); absent if no probe counts them.",
        )
        .each(when(totals.inserts.is_some()), |family, owner| {
            each_direction(family, owner, |totals| totals.inserts)
        }),
        Family::counter(
            "ctpressure_deletes_total",
            "Entries that left a conntrack table, by the owner that they were charged to; absent if no probe counts them.",
        )
        .each(when(totals.deletes.is_some()), |family, owner| {
            each_direction(family, owner, |totals| totals.deletes)
        }),
        Family::gauge(
            "ctpressure_entries",
            "Entries that are in the conntrack tables of all network namespaces, by owner; absent until a census has told what was there before the agent, and if inserts or deletes are not counted.",
        )
        .each(when(totals.flow().is_some()), |family, owner| {
            each_known(family, owner, |totals| totals.live)
        }),
        Family::gauge(
            "ctpressure_entries_uncertainty",
            "Entries between what an owner has at least and at most, where that is not known exactly.",
        )
        .each(when(totals.flow().is_some()), |family, owner| {
            let width = |totals: &OwnerTotals| totals.bounds.map(Bounds::width).filter(|width| *width > 0);
            each_known(family, owner, width)
        }),
        Family::gauge(
            "ctpressure_entries_found",
            "Entries that the last census found in the conntrack tables, by owner, where ctpressure_entries is absent since inserts or deletes are not counted: of what came and went since (a minute at most, unless a census takes long) nothing is known.",
        )
        .each(&owners, |family, owner| {
            each_known(family, owner, |totals| totals.found)
        }),
        Family::counter(
            "ctpressure_drops_total",
            "Packets lost because of conntrack, by owner and reason; a reason that no probe can tell on this kernel is absent. Reason table_full_request is no lost packet: a program was refused an entry that it asked for (ctnetlink, BPF); leave it out of sums.",
        )
        .each(when(true), |family, owner| drops(family, snapshot, owner)),
        Family::counter(
            "ctpressure_evictions_total",
            "Live entries removed to make room: role victim for the owner of the entry, role cause for the owner of the connection that needed room; absent if no probe counts them.",
        )
        .each(when(totals.evictions.is_some()), |family, owner| {
            let both = owner.egress + owner.ingress;
            if both.is_zero() && !stands_for_many(owner) {
                return family;
            }
            let family = add(family, owner, &[("role", "victim")], both.victims);
            add(family, owner, &[("role", "cause")], both.causes)
        }),
    ]
}

/// Owners that go by the same labels as one: a pod that was made anew under its name, while the one
/// before has entries. A series must not come twice.
fn by_labels(owners: &[OwnerSample]) -> Vec<OwnerSample> {
    let mut merged: Vec<OwnerSample> = Vec::with_capacity(owners.len());
    let mut places = HashMap::with_capacity(owners.len());
    for owner in owners {
        match places.entry(owner.owner.labels()) {
            Entry::Vacant(place) => {
                place.insert(merged.len());
                merged.push(OwnerSample {
                    slot: owner.slot,
                    owner: owner.owner.clone(),
                    present: owner.present,
                    egress: owner.egress,
                    ingress: owner.ingress,
                    held_at_most: owner.held_at_most,
                    activity: Activity::default(),
                    destinations: Tops::default(),
                });
            }
            Entry::Occupied(place) => {
                let into = &mut merged[*place.get()];
                into.egress = into.egress + owner.egress;
                into.ingress = into.ingress + owner.ingress;
                into.held_at_most += owner.held_at_most;
                // Workload and labels are those of the one that is there.
                if owner.present && !into.present {
                    into.owner = owner.owner.clone();
                    into.present = true;
                }
            }
        }
    }
    merged
}

/// Adds a sample of this owner, with its labels and `more`.
fn add(family: Family, owner: &OwnerSample, more: &[(&str, &str)], value: u64) -> Family {
    let chosen: Vec<_> = owner
        .owner
        .labels
        .iter()
        .map(|(key, value)| (metric_label(key), value.as_str()))
        .collect();
    let mut labels = labels(owner, more);
    labels.extend(chosen.iter().map(|(name, value)| (name.as_str(), *value)));
    family.with(&labels, f(value))
}

/// The owner's labels, without those that don't apply, and `more`.
pub(super) fn labels<'a>(
    owner: &'a OwnerSample,
    more: &[(&'a str, &'a str)],
) -> Vec<(&'a str, &'a str)> {
    let of_owner = owner.owner.labels();
    [
        ("owner_kind", of_owner.owner_kind),
        ("namespace", of_owner.namespace),
        ("pod", of_owner.pod),
        ("unit", of_owner.unit),
        ("workload", owner.owner.workload_name()),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .chain(more.iter().copied())
    .collect()
}

/// Whether it is the host, or nobody that is known: what they have is there from the beginning.
const fn stands_for_many(owner: &OwnerSample) -> bool {
    matches!(owner.slot, HOST | UNKNOWN)
}

/// The directions in which there was anything, and egress if `always`.
fn directions(
    owner: &OwnerSample,
    always: bool,
) -> impl Iterator<Item = (Direction, &OwnerTotals)> {
    let both = owner.by_direction().into_iter();
    both.filter(move |(direction, totals)| {
        (always && *direction == Direction::Egress) || !totals.is_zero()
    })
}

fn each_direction(
    family: Family,
    owner: &OwnerSample,
    value: impl Fn(&OwnerTotals) -> u64,
) -> Family {
    each_known(family, owner, |totals| Some(value(totals)))
}

/// A value that may be absent.
fn each_known(
    family: Family,
    owner: &OwnerSample,
    value: impl Fn(&OwnerTotals) -> Option<u64>,
) -> Family {
    let known = directions(owner, stands_for_many(owner))
        .filter_map(|(direction, totals)| Some((direction, value(totals)?)));
    family.each(known, |family, (direction, value)| {
        add(
            family,
            owner,
            &[("direction", direction_name(direction))],
            value,
        )
    })
}

/// Table-full drops of everyone, so that the first one shows as an increase; other reasons of
/// those who had some, and of nobody.
fn drops(family: Family, snapshot: &Snapshot, owner: &OwnerSample) -> Family {
    let counted = |reason| snapshot.probes.totals.dropped(reason).is_some();
    family.each(directions(owner, true), |family, (direction, totals)| {
        let shown = DropReason::ALL.into_iter().filter(|reason| {
            counted(*reason)
                && (*reason == DropReason::TableFull
                    || totals.dropped(*reason) > 0
                    || (owner.slot == UNKNOWN
                        && direction == Direction::Egress
                        && reason.loses_packet()))
        });
        family.each(shown, |family, reason| {
            let more = [
                ("direction", direction_name(direction)),
                ("reason", reason.name()),
            ];
            add(family, owner, &more, totals.dropped(reason))
        })
    })
}
