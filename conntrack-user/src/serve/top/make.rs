//! From a snapshot to what is shown of it.

use std::{cmp::Reverse, collections::BTreeSet, time::SystemTime};

use conntrack_ebpf::record::DropReason;
use ctpressure_model::{
    pressure::{
        destinations::{Destination, Top},
        lifetime::Lifetime,
        rate::Rates,
    },
    verdict::{Verdict, VerdictKind},
    words::{clean_within, time::JsonTime},
};

use super::{
    DETAILED, NAME_BYTES, OWNERS, OtherOwners, OtherTables, OwnerRow, STATES, TABLES, TopSample,
    TopTable, TotalsRow, rate,
};
use crate::{
    agent::{OwnerSample, OwnerTotals, Snapshot, Table, Tops},
    owners::Workload,
    probes::Totals,
};

/// Three places; JSON knows no infinity.
fn rounded(number: f64) -> f64 {
    if number.is_finite() {
        (number * 1000.0).round() / 1000.0
    } else {
        0.0
    }
}

/// A share to twelve places: nearly all does not become all, and it reads back as it is. JSON knows no infinity.
fn exact(share: f64) -> f64 {
    if share.is_finite() {
        (share * 1e12).round() / 1e12
    } else {
        0.0
    }
}

fn rounded_rates(rates: &Rates) -> Rates {
    Rates {
        second: rates.second.map(rounded),
        ten_seconds: rates.ten_seconds.map(rounded),
        minute: rates.minute.map(rounded),
    }
}

fn rounded_top(top: &Top) -> Top {
    Top {
        window_seconds: rounded(top.window_seconds),
        total: rounded(top.total),
        others_at_most: rounded(top.others_at_most),
        destinations: top
            .destinations
            .iter()
            .map(|destination| Destination {
                count: rounded(destination.count),
                error: rounded(destination.error),
                share: exact(destination.share),
                per_second: rounded(destination.per_second),
                ..destination.clone()
            })
            .collect(),
    }
}

/// The text, fit to be shown and cut to what is kept.
fn cut(text: &str) -> String {
    clean_within(text, NAME_BYTES)
}

/// A verdict whose names are fit to be shown.
fn cut_verdict(verdict: &Verdict) -> Verdict {
    let mut verdict = verdict.clone();
    if let VerdictKind::Flood { who } = &mut verdict.kind {
        *who = clean_within(who, 2 * NAME_BYTES);
    }
    verdict
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn part(entries: u64, limit: u64) -> Option<f64> {
    (limit > 0).then(|| exact(entries as f64 / limit as f64))
}

/// What of an owner is counted on this kernel.
#[derive(Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct Counted {
    inserts: bool,
    deletes: bool,
    live: bool,
    drops: bool,
    requests: bool,
    evictions: bool,
}

impl Counted {
    fn of(totals: &Totals) -> Self {
        Self {
            inserts: totals.inserts.is_some(),
            deletes: totals.deletes.is_some(),
            live: totals.flow().is_some(),
            drops: totals.drops.table_full.is_some() && totals.drops.clash.is_some(),
            requests: totals.refused_table_full.is_some(),
            evictions: totals.evictions.is_some(),
        }
    }
}

/// What nothing counts.
fn not_counted(totals: &Totals) -> Vec<String> {
    let counts = [
        ("inserts", totals.inserts),
        ("deletes", totals.deletes),
        ("evictions", totals.evictions),
    ];
    let drops = reasons().map(|reason| (reason.name(), totals.dropped(reason)));
    counts
        .into_iter()
        .chain(drops)
        .filter(|(_, count)| count.is_none())
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// Why packets are lost.
fn reasons() -> impl Iterator<Item = DropReason> {
    DropReason::ALL
        .into_iter()
        .filter(|reason| reason.loses_packet())
}

impl TopSample {
    /// What a snapshot says; `now`: when it was made.
    pub(crate) fn new(snapshot: &Snapshot, now: SystemTime) -> Self {
        let owners = ordered(&snapshot.owners.list);
        let detailed = detailed(&owners);
        let (shown, others) = chosen(&owners, &detailed);
        let limit = snapshot.tables.limit.unwrap_or(0);
        let (tables, other_tables) = tables(&snapshot.tables.list, limit);
        let sum = |of: fn(&OwnerSample) -> &Rates| {
            rounded(owners.iter().map(|owner| rate(of(owner))).sum::<f64>())
        };
        let rest = others.iter().fold(OwnerTotals::default(), |sum, owner| {
            sum + owner.egress + owner.ingress
        });
        let totals = &snapshot.probes.totals;
        let counted = Counted::of(totals);
        let lost = &totals.lost;
        Self {
            time: JsonTime(now),
            uptime_seconds: rounded(snapshot.uptime_seconds),
            state: snapshot.state,
            reason: snapshot.reason.as_deref().map(cut),
            kernel: cut(&snapshot.kernel.release),
            limit: snapshot.tables.limit,
            buckets: snapshot.tables.buckets,
            table_bytes: snapshot.tables.table_bytes,
            tables,
            other_tables,
            totals: TotalsRow {
                inserts: totals.inserts,
                deletes: totals.deletes,
                evictions: totals.evictions,
                refused: totals.refused_table_full,
                drops: reasons()
                    .filter_map(|reason| Some((reason.name().to_owned(), totals.dropped(reason)?)))
                    .filter(|(_, number)| *number > 0)
                    .collect(),
                inserts_per_second: counted
                    .inserts
                    .then(|| sum(|owner| &owner.activity.inserts_per_second)),
                deletes_per_second: counted
                    .deletes
                    .then(|| sum(|owner| &owner.activity.deletes_per_second)),
                drops_per_second: counted
                    .drops
                    .then(|| sum(|owner| &owner.activity.drops_per_second)),
                not_counted: not_counted(totals),
                lost: lost.insert_records
                    + lost.drop_records
                    + lost.eviction_records
                    + lost.drops_not_detailed
                    + lost.evictions_not_detailed,
            },
            node_losses: snapshot.probes.node_losses,
            held: snapshot.owners.held,
            owners: shown
                .iter()
                .map(|owner| OwnerRow::new(owner, counted, detailed.contains(&owner.slot)))
                .collect(),
            other_owners: OtherOwners {
                number: others.len() as u64,
                live: (counted.live || others.iter().any(|owner| owner.egress.found.is_some()))
                    .then(|| others.iter().map(|owner| owner.live()).sum()),
                inserts: counted.inserts.then_some(rest.inserts),
                deletes: counted.deletes.then_some(rest.deletes),
                drops: counted.drops.then(|| rest.lost()),
            },
            census: snapshot.owners.census.times > 0,
        }
    }
}

/// Owners that have, or had, anything: most live entries first.
fn ordered(owners: &[OwnerSample]) -> Vec<&OwnerSample> {
    let mut owners: Vec<_> = owners.iter().collect();
    owners.sort_by_key(|owner| (Reverse(owner.live()), owner.slot));
    owners
}

/// Those that are shown, and the others: the foremost have a place, whatever they hold.
fn chosen<'a>(
    owners: &[&'a OwnerSample],
    foremost: &BTreeSet<u32>,
) -> (Vec<&'a OwnerSample>, Vec<&'a OwnerSample>) {
    let mut room = OWNERS.saturating_sub(foremost.len());
    owners.iter().partition(|owner| {
        foremost.contains(&owner.slot) || {
            let fits = room > 0;
            room = room.saturating_sub(1);
            fits
        }
    })
}

/// Slots of the owners whose destinations are worth their bytes.
fn detailed(owners: &[&OwnerSample]) -> BTreeSet<u32> {
    if owners.len() <= DETAILED {
        return owners.iter().map(|owner| owner.slot).collect();
    }
    foremost(owners, DETAILED / 3)
}

/// Slots of the owners that are among the first so many by live entries, by inserts or by drops.
pub(crate) fn foremost(owners: &[&OwnerSample], count: usize) -> BTreeSet<u32> {
    let orders: [fn(&OwnerSample) -> f64; 3] = [
        |owner| owner.activity.live_share,
        |owner| rate(&owner.activity.inserts_per_second),
        |owner| rate(&owner.activity.drops_per_second),
    ];
    let mut slots = BTreeSet::new();
    for of in orders {
        let mut owners = owners.to_vec();
        owners.sort_by(|one, other| of(other).total_cmp(&of(one)));
        slots.extend(owners.iter().take(count).map(|owner| owner.slot));
    }
    slots
}

/// The host's table and the fullest ones, in the order of the snapshot.
fn tables(all: &[Table], limit: u64) -> (Vec<TopTable>, OtherTables) {
    let mut places: Vec<usize> = (0..all.len()).collect();
    places.sort_by_key(|place| (*place != 0, Reverse(all[*place].entries)));
    let mut shown: Vec<usize> = places.iter().copied().take(TABLES).collect();
    shown.sort_unstable();
    let rows = shown
        .into_iter()
        .map(|place| TopTable {
            netns: all[place].netns,
            name: cut(&all[place].name),
            entries: all[place].entries,
            occupancy: part(all[place].entries, limit),
            pressure: all[place].pressure,
            seconds_to_full: all[place]
                .seconds_to_full
                .filter(|seconds| seconds.is_finite())
                .map(rounded),
            verdicts: all[place].verdicts.iter().map(cut_verdict).collect(),
        })
        .collect();
    let others = &places[places.len().min(TABLES)..];
    let others = OtherTables {
        number: others.len() as u64,
        entries: others.iter().map(|place| all[*place].entries).sum(),
        empty: others
            .iter()
            .filter(|place| all[**place].entries == 0)
            .count() as u64,
    };
    (rows, others)
}

impl OwnerRow {
    fn new(sample: &OwnerSample, counted: Counted, detailed: bool) -> Self {
        let OwnerSample {
            egress,
            ingress,
            activity,
            ..
        } = sample;
        let both = *egress + *ingress;
        let labels = sample.owner.labels();
        let live = |entries: Option<u64>| entries.filter(|_| counted.live);
        let rates = |counted: bool, rates| {
            if counted {
                rounded_rates(rates)
            } else {
                Rates::default()
            }
        };
        Self {
            slot: sample.slot,
            kind: sample.owner.kind,
            name: clean_within(&sample.owner.name(), 2 * NAME_BYTES),
            namespace: cut(labels.namespace),
            pod: cut(labels.pod),
            unit: cut(labels.unit),
            workload: sample.owner.workload.as_ref().map(|workload| Workload {
                kind: cut(&workload.kind),
                name: cut(&workload.name),
            }),
            present: sample.present,
            live: live(both.live),
            found: both.found,
            live_egress: live(egress.live),
            live_ingress: live(ingress.live),
            live_bounds: both.bounds.filter(|_| counted.live),
            live_share: counted.live.then(|| exact(activity.live_share)),
            limit_share: activity.limit_share.filter(|_| counted.live).map(exact),
            inserts: counted.inserts.then_some(both.inserts),
            deletes: counted.deletes.then_some(both.deletes),
            drops: counted.drops.then(|| both.lost()),
            refused: counted
                .requests
                .then(|| both.dropped(DropReason::TableFullRequest)),
            held_at_most: sample.held_at_most,
            drops_by_reason: reasons()
                .map(|reason| (reason.name().to_owned(), both.dropped(reason)))
                .filter(|(_, number)| *number > 0)
                .collect(),
            victims: counted.evictions.then_some(both.victims),
            causes: counted.evictions.then_some(both.causes),
            inserts_per_second: rates(counted.inserts, &activity.inserts_per_second),
            deletes_per_second: rates(counted.deletes, &activity.deletes_per_second),
            drops_per_second: rates(counted.drops, &activity.drops_per_second),
            insert_share: counted.inserts.then(|| exact(activity.insert_share)),
            drop_share: counted.drops.then(|| exact(activity.drop_share)),
            lifetime: activity
                .lifetime
                .filter(|_| counted.live)
                .map(|lifetime| Lifetime {
                    seconds: rounded(lifetime.seconds),
                    error: rounded(lifetime.error),
                    ..lifetime
                }),
            states: detailed.then(|| activity.states.iter().take(STATES).cloned().collect()),
            destinations: detailed.then(|| Tops {
                inserts: rounded_top(&sample.destinations.inserts),
                services: rounded_top(&sample.destinations.services),
                drops: rounded_top(&sample.destinations.drops),
            }),
        }
    }
}
