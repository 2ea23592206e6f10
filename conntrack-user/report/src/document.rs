//! The report: everything that is said, before it is printed. This is also what `-o json` prints.

use std::collections::BTreeMap;

use conntrack_ebpf::record::DropReason;
use ctpressure_model::{
    cost::{MemoryRange, WhenFull},
    owner::OwnerKind,
    pressure::{lifetime::Lifetime, state::Pressure},
    words::{
        bytes, grouped, plural, seconds,
        time::{self, serialize_known_seconds, serialize_seconds},
    },
};
use serde::Serialize;

use super::{
    advice::Advice,
    cause::Cause,
    demand::Demand,
    evidence::{
        Evidence, NamedDestination, NodeFacts, OtherTable, OwnerEvidence, OwnerWorkload,
        SeenChange, Span, TableName,
    },
    reading::Reading,
    summary,
    timeline::ReportTimeline,
};

/// Owners that are told of, of those who filled it and of those who suffered.
const OWNERS: usize = 10;
/// Destinations and states of each.
const DETAILS: usize = 5;

/// A report of one span of time.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Report {
    pub(crate) node: NodeFacts,
    pub(crate) table: TableName,
    /// What it is about, seconds since 1970.
    pub(crate) focus: Span,
    /// The same as RFC 3339: from and until.
    pub(crate) time: [String; 2],
    /// What happened: cause, owner, remedy.
    pub(crate) summary: [String; 3],
    pub(crate) cause: Cause,
    pub(crate) losses: ReportedLosses,
    /// When the table was fullest.
    pub(crate) peak: Peak,
    pub(crate) timeline: ReportTimeline,
    /// Who filled it, most entries at the peak first.
    pub(crate) filled_by: Vec<Filler>,
    /// Owners that are not in `filled_by`, and their entries at the peak.
    pub(crate) other_fillers: (usize, u64),
    /// Entries at the peak that the kernel counted and no owner had in the table: packets held them. With their part, 0 to 1.
    pub(crate) held: Option<(u64, f64)>,
    /// Who suffered, most packets lost first.
    pub(crate) suffered: Vec<Sufferer>,
    /// Owners that are not in `suffered`, and their packets lost.
    pub(crate) other_sufferers: (usize, u64),
    pub(crate) advice: Vec<Advice>,
    /// What there would have been with room for all.
    pub(crate) demand: Demand,
    /// The limit that would have held.
    pub(crate) limit_that_holds: u64,
    /// From which limit on one may have held as well: what was refused may be few connections that were tried again and again. Null:
    /// none that is much lower.
    pub(crate) limit_that_may_hold: Option<u64>,
    /// Kernel memory of that limit, with the buckets that it asks for.
    pub(crate) limit_that_holds_bytes: Option<MemoryRange>,
    /// Kernel memory of an entry on this node.
    pub(crate) entry_bytes: MemoryRange,
    /// The tables when they are full, by the limit and the buckets that were there at the peak; null: no limit, or not known.
    pub(crate) when_full: Option<WhenFull>,
    /// Changes of the limit in what is shown.
    pub(crate) changes: Vec<SeenChange>,
    /// Other tables that had entries.
    pub(crate) other_tables: Vec<OtherTable>,
    /// What to know about the numbers.
    pub(crate) notes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ReportedLosses {
    pub(crate) packets: u64,
    /// By reason: name, packets, what it means.
    pub(crate) reasons: Vec<ReportedReason>,
    /// Live entries removed to make room.
    pub(crate) evictions: u64,
    /// When the first packet was lost, seconds since 1970.
    #[serde(serialize_with = "serialize_known_seconds")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub(crate) first_drop: Option<u64>,
    /// When the first packet was lost or the first entry evicted, seconds since 1970.
    #[serde(serialize_with = "serialize_known_seconds")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    first_loss: Option<u64>,
}

/// Packets lost for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ReportedReason {
    /// Its name in metrics.
    pub(crate) reason: &'static str,
    /// Packets; of `table_full_request` requests.
    pub(crate) packets: u64,
    pub(crate) meaning: &'static str,
}

/// When the table was fullest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Peak {
    /// Seconds since 1970.
    #[serde(serialize_with = "serialize_seconds")]
    #[cfg_attr(test, schemars(with = "String"))]
    pub(crate) time: u64,
    pub(crate) entries: u64,
    /// The limit then; 0: none or not known.
    pub(crate) limit: u64,
    pub(crate) pressure: Pressure,
}

/// Somebody who had entries.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Filler {
    pub(crate) owner: String,
    /// What sort it is.
    pub(crate) kind: OwnerKind,
    /// What made the pod; null: not known (only an agent with `--kube` knows), or no pod.
    pub(crate) workload: Option<OwnerWorkload>,
    /// Its part of the entries at the peak, 0 to 1.
    pub(crate) share: f64,
    /// Its entries at the peak.
    pub(crate) entries: u64,
    /// At the begin of what is shown.
    pub(crate) entries_before: u64,
    inserts: u64,
    /// The same a second, until the table was fullest or lost something.
    pub(crate) per_second: f64,
    /// Mean lifetime of its entries.
    pub(crate) lifetime: Option<Lifetime>,
    /// Where its connections went.
    pub(crate) destinations: Vec<NamedDestination>,
    /// States of its entries.
    pub(crate) states: Vec<(String, u64)>,
}

/// Somebody who lost something.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Sufferer {
    pub(crate) owner: String,
    /// What sort it is.
    pub(crate) kind: OwnerKind,
    /// What made the pod; null: not known (only an agent with `--kube` knows), or no pod.
    pub(crate) workload: Option<OwnerWorkload>,
    /// Packets lost, by reason.
    pub(crate) drops: BTreeMap<&'static str, u64>,
    /// Of those, packets that others sent to it.
    pub(crate) from_others: u64,
    /// Its first packet lost, seconds since 1970.
    #[serde(serialize_with = "serialize_known_seconds")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub(crate) first_drop: Option<u64>,
    /// Its live entries that were removed to make room.
    pub(crate) evicted: u64,
    /// Different connections among the lost packets, as far as they were seen in detail.
    pub(crate) connections: u64,
    pub(crate) failed: Vec<NamedDestination>,
}

const fn meaning(reason: DropReason) -> &'static str {
    match reason {
        DropReason::TableFull => {
            "The table was full and nothing in it could be evicted; the first packet of a new connection was dropped."
        }
        DropReason::Clash => {
            "Another connection held the same tuple, or NAT found no free port; the first packet was dropped."
        }
        DropReason::ChainTooLong => {
            "The hash chain for the new entry was too long: too few buckets; the first packet was dropped."
        }
        DropReason::Dying => {
            "The entry was removed while its first packet was under way; the packet was dropped."
        }
        DropReason::TableFullRequest => {
            "A program asked for an entry in a full table; no packet was lost."
        }
    }
}

impl Report {
    /// Reads the evidence, and says what it comes to.
    pub fn new(evidence: &Evidence) -> Self {
        let reading = Reading::new(evidence);
        let cause = Cause::find(&reading);
        let advice = Advice::all(&reading, &cause);
        let summary = summary::sentences(&reading, &cause, &advice);
        let owners = evidence.owners.iter();
        let fillers: Vec<&OwnerEvidence> = owners
            .filter(|owner| owner.live_at_peak + owner.inserts > 0)
            .collect();
        let rest = |owners: &[&OwnerEvidence], of: fn(&OwnerEvidence) -> u64| {
            let left = owners.get(OWNERS..).unwrap_or_default();
            (left.len(), left.iter().map(|owner| of(owner)).sum())
        };
        Self {
            node: evidence.node.clone(),
            table: evidence.table.clone(),
            focus: evidence.focus,
            time: [
                time::rfc3339(evidence.focus.from),
                time::rfc3339(evidence.focus.until),
            ],
            losses: losses(&reading),
            peak: Peak {
                time: reading.peak_at,
                entries: reading.entries,
                limit: reading.limit,
                pressure: reading.pressure,
            },
            timeline: ReportTimeline::new(evidence),
            filled_by: fillers
                .iter()
                .take(OWNERS)
                .map(|owner| filler(&reading, owner))
                .collect(),
            other_fillers: rest(&fillers, |owner| owner.live_at_peak),
            suffered: reading
                .sufferers
                .iter()
                .take(OWNERS)
                .map(|owner| sufferer(owner))
                .collect(),
            held: reading.held(),
            other_sufferers: rest(&reading.sufferers, OwnerEvidence::dropped),
            demand: reading.demand,
            limit_that_holds: reading.demand.limit(),
            limit_that_may_hold: reading.demand.limit_at_least(),
            limit_that_holds_bytes: reading.full_with_buckets(reading.demand.limit()),
            entry_bytes: evidence.node.entry_cost().bytes(1, 0),
            when_full: reading.when_full(),
            changes: evidence.changes.clone(),
            other_tables: evidence.other_tables.clone(),
            notes: notes(&reading),
            summary,
            cause,
            advice,
        }
    }
}

fn losses(reading: &Reading<'_>) -> ReportedLosses {
    let reasons = DropReason::ALL
        .into_iter()
        .filter(|reason| reading.dropped(*reason) > 0)
        .map(|reason| ReportedReason {
            reason: reason.name(),
            packets: reading.dropped(reason),
            meaning: meaning(reason),
        })
        .collect();
    ReportedLosses {
        packets: reading.lost,
        reasons,
        evictions: reading.evictions,
        first_drop: reading.first_drop,
        first_loss: reading.first_loss,
    }
}

fn filler(reading: &Reading<'_>, owner: &OwnerEvidence) -> Filler {
    let mut destinations = owner.services.clone();
    destinations.extend(owner.destinations.iter().cloned());
    destinations.truncate(2 * DETAILS);
    Filler {
        owner: owner.name.clone(),
        kind: owner.kind,
        workload: owner.workload.clone(),
        share: reading.share(owner),
        entries: owner.live_at_peak,
        entries_before: owner.live_before,
        inserts: owner.inserts,
        per_second: reading.attempts_climbing(owner),
        lifetime: owner.lifetime,
        destinations: destinations.into_iter().take(DETAILS).collect(),
        states: owner.states.iter().take(DETAILS).cloned().collect(),
    }
}

fn sufferer(owner: &OwnerEvidence) -> Sufferer {
    let drops = DropReason::ALL
        .into_iter()
        .map(|reason| (reason.name(), owner.drops[reason as usize - 1]))
        .filter(|(_, number)| *number > 0)
        .collect();
    let failed = if owner.lost.destinations.is_empty() {
        &owner.evicted.destinations
    } else {
        &owner.lost.destinations
    };
    Sufferer {
        owner: owner.name.clone(),
        kind: owner.kind,
        workload: owner.workload.clone(),
        drops,
        from_others: owner.drops_ingress,
        first_drop: owner.first_drop.filter(|_| owner.dropped() > 0),
        evicted: owner.victims,
        connections: owner.lost.flows,
        failed: failed.iter().take(DETAILS).cloned().collect(),
    }
}

/// What to know about the numbers.
fn notes(reading: &Reading<'_>) -> Vec<String> {
    let evidence = reading.evidence;
    let day = evidence.focus.from;
    let mut notes = Vec::new();
    if evidence.step > 1 {
        notes.push(format!(
            "The journal is shown in steps of {}; what happened within one is summed up.",
            seconds(evidence.step)
        ));
    }
    for gap in evidence.gaps.iter().take(5) {
        notes.push(format!(
            "There is nothing in the journal from {}.",
            time::between(gap.from, gap.until, day)
        ));
    }
    if evidence.lost > 0 {
        notes.push(format!(
            "{} without detail: destinations and the number of connections are of those that had it; the counts of \
             packets and entries are exact.",
            plural(evidence.lost, "event was", "events were")
        ));
    }
    if !evidence.other_tables.is_empty() && reading.lost + reading.evictions > 0 {
        notes.push(
            "Packets lost and entries of owners are those of all tables of the node together."
                .to_owned(),
        );
    }
    for other in &evidence.other_tables {
        notes.push(format!(
            "The table of {} held {} at most.",
            other.name.name,
            plural(other.entries, "entry", "entries")
        ));
    }
    notes.extend(
        evidence
            .problems
            .iter()
            .take(5)
            .map(|problem| format!("The agent said: {problem}")),
    );
    if let Some(table_bytes) = evidence.node.table_bytes {
        notes.push(format!(
            "Entries and buckets took {} of kernel memory, without extensions of entries, for {} in all tables.",
            bytes(table_bytes),
            plural(evidence.node.all_entries, "entry", "entries")
        ));
    }
    if let Some(full) = reading.when_full() {
        let memory = Some(evidence.node.ram_bytes);
        notes.push(format!(
            "With the limit of then, full tables and their {} take {} of the node's memory.",
            plural(full.buckets, "bucket", "buckets"),
            full.bytes.of_memory(memory)
        ));
    }
    if evidence.node.agent.is_empty() {
        notes.push("The journal does not say which node it is of.".to_owned());
    }
    notes
}

/// `4,000`, or `none` for 0.
pub(crate) fn limit_in_words(limit: u64) -> String {
    if limit == 0 {
        "none".to_owned()
    } else {
        grouped(limit)
    }
}
