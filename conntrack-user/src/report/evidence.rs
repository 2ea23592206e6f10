//! What a report is made from: one span of time of one node, as its journal tells it.
//!
//! Everything after this is pure: [`super::cause`], [`super::advice`] and the printing see nothing but
//! an [`Evidence`].

use std::collections::BTreeMap;

use conntrack_ebpf::record::DropReason;
use serde::Serialize;

use crate::{
    owners::OwnerKind,
    pressure::{lifetime::Lifetime, state::Pressure},
};

/// Counts by [`DropReason`], less 1.
pub type ByReason = [u64; DropReason::ALL.len()];

/// One span of time of one node.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// The node.
    pub node: Node,
    /// The table that this is about.
    pub table: TableName,
    /// What is told about.
    pub focus: Span,
    /// What is shown: the focus and some time before and after it.
    pub shown: Span,
    /// Seconds of one [`Point`].
    pub step: u64,
    /// The table, from the first second that is shown to the last.
    pub points: Vec<Point>,
    /// Owners that had anything, those who had most entries at the peak first.
    pub owners: Vec<OwnerEvidence>,
    /// Changes of the limit in what is shown.
    pub changes: Vec<LimitChange>,
    /// How far the kernel's own statistics of the table rose in the focus.
    pub kernel: KernelGrowth,
    /// Other tables that had entries: the fullest first.
    pub other_tables: Vec<OtherTable>,
    /// Times within what is shown of which the journal has nothing.
    pub gaps: Vec<Span>,
    /// Events without detail in the focus; their counts are exact all the same.
    pub lost: u64,
    /// What the agent could not see.
    pub problems: Vec<String>,
    /// The first packet lost, nanoseconds since 1970; `None`: none, or only its second is known.
    pub first_drop_ns: Option<u64>,
}

/// Seconds since 1970: from the first to the one after the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Span {
    /// The first.
    pub from: u64,
    /// The one after the last.
    pub until: u64,
}

/// The node that kept the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Its name; empty: not known.
    pub name: String,
    /// As `uname -r` says.
    pub kernel: String,
    /// Version of the agent.
    pub agent: String,
    /// Memory in bytes; 0: not known.
    pub ram_bytes: u64,
    /// Buckets of the hash that all tables share.
    pub buckets: Option<u64>,
    /// Kernel memory of entries and buckets at the peak.
    pub table_bytes: Option<u64>,
    /// Entries of all tables at the peak.
    pub all_entries: u64,
    /// Sysctls of conntrack and the like, as they were in the focus.
    pub facts: BTreeMap<String, String>,
}

/// Which table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TableName {
    /// Inode number of its network namespace.
    pub netns: u32,
    /// `host`, a name in /run/netns, or the inode number.
    pub name: String,
}

/// The table in one step of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Point {
    /// Seconds of the step that the journal has something of; 0: a gap.
    pub seconds: u64,
    /// Most entries.
    pub entries_most: u64,
    /// Entries at its end.
    pub entries: u64,
    /// The lowest limit in it; 0: none or not known.
    pub limit: u64,
    /// The highest pressure.
    pub pressure: Pressure,
    /// Entries that entered, of all tables.
    pub inserts: u64,
    /// Entries that left, of all tables.
    pub deletes: u64,
    /// Packets lost, of all tables.
    pub drops: ByReason,
    /// Live entries removed to make room, of all tables.
    pub evictions: u64,
    /// Tuples that NAT found taken, in this table.
    pub found: u64,
    /// Packets that could not be tracked, in this table.
    pub invalid: u64,
}

/// One owner in one step of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnerPoint {
    /// Entries at its end.
    pub live: u32,
    /// Entries that entered.
    pub inserts: u32,
    /// Entries that left, those evicted included.
    pub deletes: u32,
    /// Packets lost, for any reason.
    pub drops: u32,
    /// Packets lost to a full table.
    pub refused: u32,
    /// Of those, the first ones of their flow.
    pub refused_first: u32,
    /// Its live entries that were removed to make room.
    pub victims: u32,
    /// Of those, the ones of a flow that had been removed before.
    pub victims_again: u32,
}

/// One owner.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnerEvidence {
    /// `namespace/pod`, the unit, `host` or `unknown`.
    pub name: String,
    /// What sort it is.
    pub kind: OwnerKind,
    /// Entries at the begin of what is shown.
    pub live_before: u64,
    /// Entries when the table had most.
    pub live_at_peak: u64,
    /// Its own most entries in the focus.
    pub live_most: u64,
    /// The first second that the journal has of it, if that is in what is shown.
    pub appeared: Option<u64>,
    /// Entries that entered in the focus.
    pub inserts: u64,
    /// Of those, the ones of connections that others opened to it.
    pub inserts_ingress: u64,
    /// Entries that left in the focus, those evicted included.
    pub deletes: u64,
    /// Packets lost in the focus.
    pub drops: ByReason,
    /// Of those, packets that others sent to it.
    pub drops_ingress: u64,
    /// Its live entries that were removed to make room, in the focus.
    pub victims: u64,
    /// Live entries of anybody that were removed to make room for its own, in the focus.
    pub causes: u64,
    /// Its first packet lost in the focus, seconds since 1970.
    pub first_drop: Option<u64>,
    /// Mean lifetime of its entries.
    pub lifetime: Option<Lifetime>,
    /// States of its entries at the last census, most frequent first.
    pub states: Vec<(String, u64)>,
    /// Where its connections went in the focus, after DNAT.
    pub destinations: Vec<Destination>,
    /// The same as asked for, where a Service was asked.
    pub services: Vec<Destination>,
    /// What the events of its lost packets tell.
    pub lost: Flows,
    /// What the events of its evicted entries tell.
    pub evicted: Flows,
    /// Step by step over what is shown.
    pub points: Vec<OwnerPoint>,
}

/// One destination of an owner.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Destination {
    /// `10.96.0.10:53/udp`
    pub name: String,
    /// Its port; 0: the protocol has none.
    pub port: u16,
    /// Name or number in digits.
    pub protocol: String,
    /// Connections, or packets lost.
    pub count: u64,
    /// Of all of the owner's, 0 to 1.
    pub share: f64,
    /// It was not among the owner's destinations before the focus.
    pub new: bool,
}

/// What events with detail tell of packets lost, or of entries evicted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Flows {
    /// Events with detail.
    pub detailed: u64,
    /// Different flows that lost packets, or were evicted: of those that a full table refused or that were evicted,
    /// also the ones whose events are not kept.
    pub flows: u64,
    /// Refusals by a full table, or evictions, of which it is known whether they were the first of their flow.
    pub told: u64,
    /// Different sources among them, counted up to a thousand.
    pub sources: u64,
    /// Of evicted entries those that had never been answered.
    pub unanswered: u64,
    /// By protocol, most frequent first.
    pub protocols: Vec<(String, u64)>,
    /// By destination, most frequent first.
    pub destinations: Vec<Destination>,
}

/// A change of the limit or of the buckets, or what somebody wanted to change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LimitChange {
    /// Seconds since 1970.
    pub at: u64,
    /// The limit before and after; `None`: not known, 0: none.
    pub limit: [Option<u64>; 2],
    /// Buckets before and after.
    pub buckets: [Option<u64>; 2],
    /// `controller` (ctpressure by itself), `hand` (`ctpressure limit`) or `other`.
    pub by: String,
    /// Process, unit or person; empty: not known.
    pub who: String,
    /// `applied`, `seen` and so on; see the journal's schema.
    pub result: String,
    /// Why, as far as it is known.
    pub reason: String,
}

/// How far the kernel's statistics of one table rose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KernelGrowth {
    /// Tuples that NAT tried and found taken.
    pub found: u64,
    /// Packets that could not be tracked; they passed conntrack.
    pub invalid: u64,
    /// Entries that could not be inserted.
    pub insert_failed: u64,
    /// Clashes that were resolved without loss.
    pub clash_resolve: u64,
    /// Packets lost: table full, allocation failure, unresolved clash.
    pub drop: u64,
    /// Live entries removed to make room.
    pub early_drop: u64,
    /// Entries not inserted because their hash chain was too long.
    pub chain_too_long: u64,
}

/// A table that this is not about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OtherTable {
    /// Which.
    pub name: TableName,
    /// Its most entries in the focus.
    pub entries: u64,
}

impl LimitChange {
    /// Whether something was changed.
    pub fn happened(&self) -> bool {
        matches!(self.result.as_str(), "applied" | "seen" | "reverted")
    }

    /// The limits, where the limit was lowered.
    pub fn lowered(&self) -> Option<(u64, u64)> {
        match self.limit {
            // 0 is no limit.
            [Some(from), Some(to)] if self.happened() && to > 0 && (from > to || from == 0) => {
                Some((from, to))
            }
            _ => None,
        }
    }

    /// Whether ctpressure did it, by itself or told to.
    pub fn ours(&self) -> bool {
        self.by != "other"
    }
}

impl Node {
    /// A number among the facts.
    pub fn fact(&self, name: &str) -> Option<u64> {
        self.facts.get(name)?.parse().ok()
    }
}

impl Span {
    /// Its length in seconds.
    pub const fn seconds(&self) -> u64 {
        self.until.saturating_sub(self.from)
    }

    /// Whether this second is in it.
    pub const fn contains(&self, second: u64) -> bool {
        self.from <= second && second < self.until
    }
}

impl Point {
    /// Packets lost, for any reason.
    pub fn lost(&self) -> u64 {
        lost(&self.drops)
    }
}

impl OwnerEvidence {
    /// Packets lost, for any reason.
    pub fn dropped(&self) -> u64 {
        lost(&self.drops)
    }

    /// Entries that it came by since the begin of what is shown.
    pub const fn growth(&self) -> u64 {
        self.live_at_peak.saturating_sub(self.live_before)
    }

    /// An owner with nothing yet.
    pub fn new(name: &str, kind: OwnerKind, points: usize) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            live_before: 0,
            live_at_peak: 0,
            live_most: 0,
            appeared: None,
            inserts: 0,
            inserts_ingress: 0,
            deletes: 0,
            drops: ByReason::default(),
            drops_ingress: 0,
            victims: 0,
            causes: 0,
            first_drop: None,
            lifetime: None,
            states: Vec::new(),
            destinations: Vec::new(),
            services: Vec::new(),
            lost: Flows::default(),
            evicted: Flows::default(),
            points: vec![OwnerPoint::default(); points],
        }
    }
}

/// Packets lost: what ctnetlink or BPF asked for in vain was no packet.
pub fn lost(drops: &ByReason) -> u64 {
    DropReason::ALL
        .iter()
        .filter(|reason| **reason != DropReason::TableFullRequest)
        .map(|reason| drops[*reason as usize - 1])
        .sum()
}

impl Evidence {
    /// The second in which a step begins.
    pub const fn at(&self, point: usize) -> u64 {
        self.shown.from + point as u64 * self.step
    }

    /// The points of the focus.
    pub fn focus_points(&self) -> std::ops::Range<usize> {
        let index = |second: u64| {
            usize::try_from(second.saturating_sub(self.shown.from) / self.step.max(1))
                .unwrap_or(usize::MAX)
                .min(self.points.len())
        };
        let from = index(self.focus.from);
        from..index(self.focus.until + self.step.saturating_sub(1)).max(from)
    }

    /// The point at which the table had most entries in the focus.
    pub fn peak(&self) -> usize {
        let focus = self.focus_points();
        let first = focus.start;
        focus
            .rev()
            .max_by_key(|at| self.points[*at].entries_most)
            .unwrap_or(first)
    }

    /// Packets lost in the focus, by reason.
    pub fn drops(&self) -> ByReason {
        let mut sum = ByReason::default();
        for point in &self.points[self.focus_points()] {
            for (sum, more) in sum.iter_mut().zip(point.drops) {
                *sum += more;
            }
        }
        sum
    }

    /// Live entries removed in the focus to make room.
    pub fn evictions(&self) -> u64 {
        self.points[self.focus_points()]
            .iter()
            .map(|point| point.evictions)
            .sum()
    }
}
