//! What a report is made from: one span of time of one node, as its journal tells it.
//!
//! Everything after this is pure: `super::cause`, `super::advice` and the printing see nothing but
//! an [`Evidence`].

use std::{collections::BTreeMap, fmt, time::SystemTime};

use conntrack_ebpf::record::DropReason;
use ctpressure_journal::{ChangeResult, ChangedBy, KernelGrowth};
use ctpressure_model::{
    cost::{EntryCost, Slab, entry::kernel_version},
    owner::OwnerKind,
    pressure::{lifetime::Lifetime, state::Pressure},
    verdict::Verdict,
    words::time::{rfc3339, serialize_seconds, unix},
};
use serde::Serialize;

/// Counts by [`DropReason`], less 1.
pub(crate) type ByReason = [u64; DropReason::ALL.len()];

/// One span of time of one node.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// The node, as the journal describes it.
    pub node: NodeFacts,
    /// The table that this is about.
    pub table: TableName,
    /// What is told about.
    pub focus: Span,
    /// What is shown: the focus and some time before and after it.
    pub shown: Span,
    /// Seconds of one [`EvidencePoint`].
    pub step: u64,
    /// The table, from the first second that is shown to the last.
    pub points: Vec<EvidencePoint>,
    /// Owners that had anything, those who had most entries at the peak first.
    pub owners: Vec<OwnerEvidence>,
    /// Changes of the limit in what is shown.
    pub changes: Vec<SeenChange>,
    /// How far the kernel's own statistics of the table rose in the focus.
    pub kernel: KernelGrowth,
    /// Other tables that had entries: the fullest first.
    pub other_tables: Vec<OtherTable>,
    /// Times within what is shown of which the journal has nothing.
    pub gaps: Vec<Span>,
    /// Events without detail in the focus; their counts are exact all the same.
    pub lost: u64,
    /// What the table was full of that a higher limit would only have held more of, the most entries first.
    pub verdicts: Vec<Verdict>,
    /// What the agent could not see.
    pub problems: Vec<String>,
    /// The first packet lost, nanoseconds since 1970; `None`: none, or only its second is known.
    pub first_drop_ns: Option<u64>,
}

/// Seconds since 1970: from the first to the one after the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Span {
    /// The first second, of Unix time.
    #[serde(serialize_with = "serialize_seconds")]
    #[cfg_attr(test, schemars(with = "String"))]
    pub from: u64,
    /// The one after the last.
    #[serde(serialize_with = "serialize_seconds")]
    #[cfg_attr(test, schemars(with = "String"))]
    pub until: u64,
}

/// The node that kept the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NodeFacts {
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
    /// What the instance dropped in the focus beyond its allowances: by interface and allowance, such as `eth0` and `conntrack`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowances: Vec<ExceededAllowance>,
}

/// Packets that the virtual machine's host dropped or held back, whatever the kernel's tables said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ExceededAllowance {
    /// The interface whose driver counts them.
    pub interface: String,
    /// The allowance: `conntrack`, `bw_in`, `bw_out`, `pps`, `linklocal`.
    pub allowance: String,
    /// Packets that came to the count in the focus.
    pub packets: u64,
}

/// Which table: that of one network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TableName {
    /// Inode number of its network namespace.
    pub(crate) netns: u32,
    /// `host`, whose it is, what its namespace is kept as, or the inode number.
    pub(crate) name: String,
}

/// The table in one step of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EvidencePoint {
    /// Seconds of the step that the journal has something of; 0: a gap.
    pub seconds: u64,
    /// The most entries within the step.
    pub entries_most: u64,
    /// The lowest limit in it; 0: none or not known.
    pub limit: u64,
    /// The highest pressure within the step.
    pub pressure: Pressure,
    /// Entries that entered, of all tables.
    pub inserts: u64,
    /// Packets lost, of all tables.
    pub drops: ByReason,
    /// Live entries removed to make room, of all tables.
    pub evictions: u64,
}

/// One owner in one step of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OwnerStep {
    /// Entries at its end.
    pub(crate) live: u32,
    /// Entries that entered within the step.
    pub(crate) inserts: u32,
    /// Entries that left, those evicted included.
    pub(crate) deletes: u32,
    /// Packets lost, for any reason.
    pub(crate) drops: u32,
    /// Packets lost to a full table.
    pub(crate) refused: u32,
    /// Of those, the first ones of their flow.
    pub(crate) refused_first: u32,
    /// Its live entries that were removed to make room.
    pub(crate) victims: u32,
    /// Of those, the ones of a flow that had been removed before.
    pub(crate) victims_again: u32,
}

/// What the journal has of one owner.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OwnerEvidence {
    /// `namespace/pod`, the unit, `host` or `unknown`.
    pub(crate) name: String,
    /// What sort it is.
    pub(crate) kind: OwnerKind,
    /// What made the pod; `None`: not known, or no pod.
    pub(crate) workload: Option<OwnerWorkload>,
    /// Entries at the begin of what is shown.
    pub(crate) live_before: u64,
    /// Entries when the table had most.
    pub(crate) live_at_peak: u64,
    /// The first second that the journal has of it, if that is in what is shown.
    pub(crate) appeared: Option<u64>,
    /// Entries that entered in the focus.
    pub(crate) inserts: u64,
    /// Of those, the ones of connections that others opened to it.
    pub(crate) inserts_ingress: u64,
    /// Entries that left in the focus, those evicted included.
    pub(crate) deletes: u64,
    /// Packets lost in the focus.
    pub(crate) drops: ByReason,
    /// Of those, packets that others sent to it.
    pub(crate) drops_ingress: u64,
    /// Its live entries that were removed to make room, in the focus.
    pub(crate) victims: u64,
    /// Live entries of anybody that were removed to make room for its own, in the focus.
    pub(crate) causes: u64,
    /// Its first packet lost in the focus, seconds since 1970.
    pub(crate) first_drop: Option<u64>,
    /// Mean lifetime of its entries.
    pub(crate) lifetime: Option<Lifetime>,
    /// States of its entries at the last census, most frequent first.
    pub(crate) states: Vec<(String, u64)>,
    /// Where its connections went in the focus, after DNAT.
    pub(crate) destinations: Vec<NamedDestination>,
    /// The same as asked for, where a Service was asked.
    pub(crate) services: Vec<NamedDestination>,
    /// What the events of its lost packets tell.
    pub(crate) lost: LostFlows,
    /// What the events of its evicted entries tell.
    pub(crate) evicted: LostFlows,
    /// Step by step over what is shown.
    pub(crate) points: Vec<OwnerStep>,
}

/// What made a pod: the same on every node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct OwnerWorkload {
    pub(crate) namespace: String,
    /// `Deployment` and the like.
    pub(crate) kind: String,
    pub(crate) name: String,
}

/// One destination of an owner.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct NamedDestination {
    /// As it is shown: `10.96.0.10:53/udp`.
    pub(crate) name: String,
    /// Its port; 0: the protocol has none.
    pub(crate) port: u16,
    /// Name or number in digits.
    pub(crate) protocol: String,
    /// Connections, or packets lost.
    pub(crate) count: u64,
    /// Of all of the owner's, 0 to 1.
    pub(crate) share: f64,
    /// It was not among the owner's destinations before the focus.
    pub(crate) new: bool,
}

impl NamedDestination {
    /// Its name after `lead`; nothing where there is none.
    pub(crate) fn after(lead: &str, destination: Option<&Self>) -> String {
        destination.map_or_else(String::new, |one| format!("{lead}{}", one.name))
    }
}

/// What events with detail tell of packets lost, or of entries evicted.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct LostFlows {
    /// Events whose addresses the journal has.
    pub(crate) detailed: u64,
    /// Different flows that lost packets, or were evicted: of those that a full table refused or that were evicted,
    /// also the ones whose events are not kept.
    pub(crate) flows: u64,
    /// Refusals by a full table, or evictions, of which it is known whether they were the first of their flow.
    pub(crate) told: u64,
    /// Different sources among them, counted up to a thousand.
    pub(crate) sources: u64,
    /// Of evicted entries those that had never been answered.
    pub(crate) unanswered: u64,
    /// By protocol, most frequent first.
    pub(crate) protocols: Vec<(String, u64)>,
    /// By destination, most frequent first.
    pub(crate) destinations: Vec<NamedDestination>,
}

/// A change of the limit or of the buckets, or what somebody wanted to change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SeenChange {
    /// In seconds of Unix time.
    #[serde(serialize_with = "serialize_seconds")]
    #[cfg_attr(test, schemars(with = "String"))]
    pub(crate) at: u64,
    /// The limit before and after; `None`: not known, 0: none.
    pub(crate) limit: [Option<u64>; 2],
    /// Buckets before and after.
    pub(crate) buckets: [Option<u64>; 2],
    /// `controller` (ctpressure by itself), `hand` (`ctpressure limit`) or `other`.
    #[cfg_attr(test, schemars(with = "String"))]
    pub(crate) by: ChangedBy,
    /// Process, unit or person; empty: not known.
    pub(crate) who: String,
    /// `applied`, `seen` and so on; see the journal's schema.
    #[cfg_attr(test, schemars(with = "String"))]
    pub(crate) result: ChangeResult,
    /// Why, as far as it is known.
    pub(crate) reason: String,
}

/// A table that this is not about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct OtherTable {
    /// Whose table it is.
    pub(crate) name: TableName,
    /// Its most entries in the focus.
    pub(crate) entries: u64,
}

impl SeenChange {
    /// Whether something was changed.
    pub(crate) fn happened(&self) -> bool {
        self.result.happened()
    }

    /// The limits, where the limit was lowered.
    pub(crate) fn lowered(&self) -> Option<(u64, u64)> {
        match self.limit {
            // 0 is no limit.
            [Some(from), Some(to)] if self.happened() && to > 0 && (from > to || from == 0) => {
                Some((from, to))
            }
            _ => None,
        }
    }

    /// Whether ctpressure did it, by itself or told to.
    pub(crate) fn ours(&self) -> bool {
        matches!(self.by, ChangedBy::Controller | ChangedBy::Hand)
    }
}

impl NodeFacts {
    /// A number among the facts.
    pub(crate) fn fact(&self, name: &str) -> Option<u64> {
        self.facts.get(name)?.parse().ok()
    }

    /// What an entry costs on this node.
    pub(crate) fn entry_cost(&self) -> EntryCost {
        let shape = self
            .fact("entry_slab_bytes")
            .zip(self.fact("entry_slab_objects"));
        let slab = self.fact("entry_bytes");
        let slab = slab.and_then(|bytes| Slab::kept(bytes, shape));
        EntryCost::of(slab, kernel_version(&self.kernel), |switch| {
            self.fact(&format!("nf_conntrack_{switch}"))
        })
    }
}

impl Span {
    /// Its length in seconds.
    pub(crate) const fn seconds(&self) -> u64 {
        self.until.saturating_sub(self.from)
    }

    /// Whether this second is in it.
    pub(crate) const fn contains(&self, second: u64) -> bool {
        self.from <= second && second < self.until
    }
}

impl fmt::Display for Span {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{} to {}", rfc3339(self.from), rfc3339(self.until))
    }
}

impl EvidencePoint {
    /// Packets lost, for any reason.
    pub(crate) fn lost(&self) -> u64 {
        lost(&self.drops)
    }
}

impl OwnerEvidence {
    /// Packets lost, for any reason.
    pub(crate) fn dropped(&self) -> u64 {
        lost(&self.drops)
    }

    /// Entries that it came by since the begin of what is shown.
    pub(crate) const fn growth(&self) -> u64 {
        self.live_at_peak.saturating_sub(self.live_before)
    }

    /// An owner with nothing yet.
    pub(crate) fn new(name: &str, kind: OwnerKind, points: usize) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            points: vec![OwnerStep::default(); points],
            ..Self::default()
        }
    }
}

/// Packets lost: what ctnetlink or BPF asked for in vain was no packet.
pub(crate) fn lost(drops: &ByReason) -> u64 {
    DropReason::ALL
        .iter()
        .filter(|reason| reason.loses_packet())
        .map(|reason| drops[*reason as usize - 1])
        .sum()
}

impl Evidence {
    /// The second in which a step begins.
    pub(crate) const fn at(&self, point: usize) -> u64 {
        self.shown.from + point as u64 * self.step
    }

    /// The step that begins at this time, if it is one of those that are shown.
    pub(crate) fn step_at(&self, time: SystemTime) -> Option<usize> {
        let since = unix(time).checked_sub(self.shown.from)?;
        usize::try_from(since / self.step.max(1)).ok()
    }

    /// The point of that step.
    pub(crate) fn point_at(&mut self, time: SystemTime) -> Option<&mut EvidencePoint> {
        let at = self.step_at(time)?;
        self.points.get_mut(at)
    }

    /// The points of the focus.
    pub(crate) fn focus_points(&self) -> std::ops::Range<usize> {
        let index = |second: u64| {
            usize::try_from(second.saturating_sub(self.shown.from) / self.step.max(1))
                .unwrap_or(usize::MAX)
                .min(self.points.len())
        };
        let from = index(self.focus.from);
        from..index(self.focus.until + self.step.saturating_sub(1)).max(from)
    }

    /// The point at which the table had most entries in the focus.
    pub(crate) fn peak(&self) -> usize {
        let focus = self.focus_points();
        let first = focus.start;
        focus
            .rev()
            .max_by_key(|at| self.points[*at].entries_most)
            .unwrap_or(first)
    }

    /// Packets lost in the focus, by reason.
    pub(crate) fn drops(&self) -> ByReason {
        let mut sum = ByReason::default();
        for point in &self.points[self.focus_points()] {
            for (sum, more) in sum.iter_mut().zip(point.drops) {
                *sum += more;
            }
        }
        sum
    }

    /// Live entries removed in the focus to make room.
    pub(crate) fn evictions(&self) -> u64 {
        self.points[self.focus_points()]
            .iter()
            .map(|point| point.evictions)
            .sum()
    }
}
