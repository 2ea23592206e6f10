//! What a journal has, as rows. `schema.sql` has the tables that they come from.

use std::{fmt, net::IpAddr, time::SystemTime};

use conntrack_ebpf::owner::Direction;
use ctpressure_model::{
    events::Reason,
    limit_change::{By, Change, ChangeOutcome, Purpose},
    pressure::state::Pressure,
};
use serde::{Deserialize, Serialize};

use super::loss::Losses;

/// Number of an owner in one journal: `owner.id`. It is the same owner as long as the journal is
/// kept, whatever slot it had, also over restarts of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerId(pub(crate) i64);

/// Number of a network namespace in one journal: `netns.id`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetnsId(pub(crate) i64);

/// A network namespace that had a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedNetns {
    /// Its inode number, as `lsns` shows it.
    pub inode: u32,
    /// `host`, whose table it has, what it is kept as, or the inode number in digits.
    pub name: String,
}

/// What a journal has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coverage {
    /// Where its first sample begins.
    pub since: SystemTime,
    /// When the last sample was taken.
    pub until: SystemTime,
    /// Seconds between the two that the agent was there; the rest are gaps.
    pub recorded_seconds: f64,
    /// From here on there is a row for each second; `None`: for none.
    pub seconds_since: Option<SystemTime>,
}

/// One life of the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// When it was stopped; `None`: it still runs, or was killed.
    pub ended: Option<SystemTime>,
    /// The version of ctpressure that wrote.
    pub version: String,
    /// The kernel's release, as `uname -r` says.
    pub kernel: String,
    /// The host name of the node.
    pub node: String,
    /// Memory of the node in bytes; 0: not known.
    pub ram_bytes: u64,
}

/// Something in the life of the agent or of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    /// `start`, `stop`, `attached`, `waiting`, `degraded`, `hook`, `problem`, `clock`, `journal`, `verdict`.
    pub kind: String,
    /// A sentence; of a hook JSON with `event`, `function`, `mechanism`, `attached`, `reason`; of a verdict that of
    /// [`TableVerdicts`](ctpressure_model::verdict::TableVerdicts).
    pub detail: String,
}

/// A fact of the node from `at` on, until there is another one with this name.
///
/// Names: `nf_conntrack_*` sysctls as in `/proc/sys/net/netfilter` (the host's), `entry_bytes` (slab
/// object of an entry, without extensions), `hashsize` (module parameter).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// The name of the fact.
    pub name: String,
    /// As the kernel shows it.
    pub value: String,
}

/// Who changed a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangedBy {
    /// The limit controller of ctpressure.
    Controller,
    /// Somebody by `ctpressure limit`.
    Hand,
    /// Somebody else than ctpressure.
    Other,
    /// Somebody whom only a newer version tells apart.
    #[default]
    Unknown,
}

/// As the journal has it, in `limit_change`.
impl fmt::Display for ChangedBy {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(to)
    }
}

/// What came of a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeResult {
    /// It was made, and the kernel has it.
    Applied,
    /// A guard rail was against it.
    Refused,
    /// The kernel was against it.
    Failed,
    /// It was taken back afterwards.
    Reverted,
    /// It would have been made: a dry run.
    Would,
    /// Somebody else made it, and it was seen.
    Seen,
    /// Something that only a newer version knows.
    #[default]
    Unknown,
}

impl ChangeResult {
    /// Whether something was changed.
    pub const fn happened(self) -> bool {
        matches!(self, Self::Applied | Self::Reverted | Self::Seen)
    }
}

/// As the journal has it, in `limit_change`.
impl fmt::Display for ChangeResult {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(to)
    }
}

/// A change of the limit or of the buckets; of a timeout too, which the reason names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitChange {
    /// When that was, in UTC.
    pub at: SystemTime,
    /// Which of these made it.
    pub by: ChangedBy,
    /// Process, unit or person, as far as it is known.
    pub who: Option<String>,
    /// Limit (`nf_conntrack_max`) before; `None`: not known.
    pub limit_before: Option<u64>,
    /// Limit after, or that it would have had.
    pub limit_after: Option<u64>,
    /// Buckets before it, where known.
    pub buckets_before: Option<u64>,
    /// Buckets after it, where known.
    pub buckets_after: Option<u64>,
    /// What came of it.
    pub result: ChangeResult,
    /// Why, a sentence; empty: not known.
    pub reason: String,
}

impl From<&Change> for LimitChange {
    fn from(change: &Change) -> Self {
        let (by, applied) = match change.by {
            By::Controller => (ChangedBy::Controller, ChangeResult::Applied),
            By::Hand => (ChangedBy::Hand, ChangeResult::Applied),
            By::SomebodyElse => (ChangedBy::Other, ChangeResult::Seen),
        };
        let reason = match change.timeout() {
            Some(timeout) => format!("{timeout}: {}", change.reason),
            None => change.reason.clone(),
        };
        Self {
            at: change.time.0,
            by,
            who: change.who.clone(),
            limit_before: Some(change.before.limit),
            limit_after: Some(change.after.limit),
            buckets_before: Some(change.before.buckets),
            buckets_after: Some(change.after.buckets),
            result: match (change.outcome, change.purpose) {
                (ChangeOutcome::Applied, Purpose::GiveBack | Purpose::Restore) => {
                    ChangeResult::Reverted
                }
                (ChangeOutcome::Applied, _) => applied,
                (ChangeOutcome::DryRun, _) => ChangeResult::Would,
                (ChangeOutcome::Refused, _) => ChangeResult::Refused,
                (ChangeOutcome::Failed, _) => ChangeResult::Failed,
            },
            reason,
        }
    }
}

/// A table over some time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TablePoint {
    /// Where the time begins.
    pub at: SystemTime,
    /// How much of it was recorded.
    pub seconds: f64,
    /// In whose table that was.
    pub netns: NetnsId,
    /// Entries at the end.
    pub entries: u64,
    /// Fewest entries at a sample.
    pub entries_min: u64,
    /// Most entries at a sample.
    pub entries_max: u64,
    /// Limit at the end (0: unlimited); `None`: not known.
    pub limit: Option<u64>,
    /// Buckets at the end.
    pub buckets: Option<u64>,
    /// Bytes of all entries and the buckets at the end.
    pub table_bytes: Option<u64>,
    /// The highest pressure within the point.
    pub pressure: Pressure,
}

/// All owners together over some time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TotalPoint {
    /// Where the time begins.
    pub at: SystemTime,
    /// How much of it was recorded; rates are counts divided by it.
    pub seconds: f64,
    /// Entries that entered a table meanwhile.
    pub inserts: u64,
    /// Entries that left a table meanwhile.
    pub deletes: u64,
    /// Entries evicted; part of `deletes`.
    pub evictions: u64,
    /// Packets that were lost meanwhile.
    pub drops: u64,
}

/// One owner in one direction over some time.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnerPoint {
    /// Where the time begins.
    pub at: SystemTime,
    /// Whose counts these are.
    pub owner: OwnerId,
    /// Opened by the owner, or coming in to it.
    pub direction: Direction,
    /// Entries that entered a table meanwhile.
    pub inserts: u64,
    /// Entries that left a table meanwhile.
    pub deletes: u64,
    /// Entries at the end.
    pub live: u64,
    /// What the owner lost, by kind.
    pub losses: Losses,
}

/// One owner in one direction over the whole range.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnerSum {
    /// Whose counts these are.
    pub owner: OwnerId,
    /// Opened by the owner, or coming in to it.
    pub direction: Direction,
    /// Entries that entered a table meanwhile.
    pub inserts: u64,
    /// Entries that left a table meanwhile.
    pub deletes: u64,
    /// Entries at the beginning, as far as it is known: at the first row if there is none before.
    pub live_first: u64,
    /// Most entries at a sample.
    pub live_max: u64,
    /// Entries at the end.
    pub live_last: u64,
    /// What the owner lost, by kind.
    pub losses: Losses,
}

/// The kernel's own statistics of one table over some time; `/proc/net/stat/nf_conntrack` or ctnetlink's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KernelPoint {
    /// Where the time begins.
    pub at: SystemTime,
    /// In whose table that was.
    pub netns: NetnsId,
    /// How far they rose.
    pub growth: KernelGrowth,
}

/// How far the kernel's statistics of one table rose; 0 also for what this kernel does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelGrowth {
    /// Tuples that NAT tried and found taken.
    pub found: u64,
    /// Packets that could not be tracked; they passed conntrack.
    pub invalid: u64,
    /// Entries that could not be inserted.
    pub insert_failed: u64,
    /// Packets lost: table full, allocation failure, unresolved clash.
    pub drop: u64,
    /// Live entries removed to make room.
    pub early_drop: u64,
    /// Clashes that were resolved without loss.
    pub clash_resolve: u64,
    /// Entries not inserted because their hash chain was too long.
    pub chain_too_long: u64,
}

impl KernelGrowth {
    /// All of them, in the order of their columns in the journal.
    pub const fn counts(&mut self) -> [&mut u64; 7] {
        [
            &mut self.found,
            &mut self.invalid,
            &mut self.insert_failed,
            &mut self.drop,
            &mut self.early_drop,
            &mut self.clash_resolve,
            &mut self.chain_too_long,
        ]
    }
}

/// Where a packet was from and to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// Name or number in digits.
    pub protocol: String,
    /// Who opened the connection.
    pub source: IpAddr,
    /// Port, GRE key, or ICMP id.
    pub source_port: u16,
    /// As the opener asked for it: before DNAT.
    pub destination: IpAddr,
    /// Port, GRE key, or ICMP type * 256 + code.
    pub destination_port: u16,
}

/// A packet that was lost.
#[derive(Clone, Debug, PartialEq)]
pub struct DropRow {
    /// When that was, in UTC.
    pub at: SystemTime,
    /// When the sample was taken that counts it.
    pub sample: SystemTime,
    /// Why the packet was lost.
    pub reason: Reason,
    /// Whose connection was refused.
    pub owner: OwnerId,
    /// Its addresses and ports; `None`: not known.
    pub path: Option<Path>,
}

/// A live entry that was removed to make room.
#[derive(Clone, Debug, PartialEq)]
pub struct EvictionRow {
    /// When the sample was taken that counts it.
    pub sample: SystemTime,
    /// Whose entry it was.
    pub victim: OwnerId,
    /// Its addresses and ports; `None`: not known.
    pub path: Option<Path>,
    /// The victim had been answered.
    pub seen_reply: bool,
}

/// Drops or evictions: with detail and without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventCount {
    /// Those that have a row.
    pub recorded: u64,
    /// Those that came with detail, which was not kept.
    pub not_recorded: u64,
}

/// Where an owner's connections went.
#[derive(Clone, Debug, PartialEq)]
pub struct DestinationSum {
    /// Address of the destination, after NAT.
    pub address: IpAddr,
    /// Its port; 0: the protocol has none.
    pub port: u16,
    /// Name or number in digits.
    pub protocol: String,
    /// Mean over the range of what was counted in about half a minute: at most this.
    pub count: f64,
    /// Samples that it was among the foremost in; each owner's `samples` in [`DestinationsOf`].
    pub samples: u64,
}

/// The destinations of one owner.
#[derive(Clone, Debug, PartialEq)]
pub struct DestinationsOf {
    /// Samples that this owner had any destinations in.
    pub samples: u64,
    /// Its destinations, the foremost first.
    pub top: Vec<DestinationSum>,
}
