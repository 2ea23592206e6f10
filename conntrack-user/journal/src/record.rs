//! What a journal has, as rows. `schema.sql` has the tables that they come from.

use std::{net::IpAddr, time::SystemTime};

use conntrack_ebpf::owner::Direction;
use ctpressure_model::{
    events::Reason,
    limit_change::{By, Change, ChangeOutcome, Purpose},
    owner::{OwnerKind, Workload},
    pressure::state::Pressure,
};
use serde::{Deserialize, Serialize};

use super::loss::Losses;

/// Number of an owner in one journal: `owner.id`. It is the same owner as long as the journal is
/// kept, whatever slot it had, also over restarts of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OwnerId(pub(crate) i64);

/// Number of a network namespace in one journal: `netns.id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NetnsId(pub(crate) i64);

/// Who a count is attributed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RecordedOwner {
    /// Its number in this journal.
    pub id: OwnerId,
    /// What sort it is.
    pub kind: OwnerKind,
    /// UID of a pod, path of a control group; else empty.
    pub(crate) uid: String,
    /// Kubernetes namespace of a pod; empty: not known, or not a pod.
    pub(crate) namespace: String,
    /// Name of a pod; empty: not known, or not a pod.
    pub(crate) pod: String,
    /// systemd unit, or a container outside Kubernetes.
    pub(crate) unit: String,
    /// What made the pod; `None`: not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) workload: Option<Workload>,
}

impl RecordedOwner {
    /// What to call it in text: `namespace/pod`, `pod UID` while the name is not known, the unit,
    /// `host` or `unknown`.
    pub fn name(&self) -> String {
        match self.kind {
            OwnerKind::Pod if self.pod.is_empty() => format!("pod {}", self.uid),
            OwnerKind::Pod => format!("{}/{}", self.namespace, self.pod),
            OwnerKind::Cgroup => self.unit.clone(),
            OwnerKind::Host | OwnerKind::Unknown => self.kind.label().to_owned(),
        }
    }
}

/// A network namespace that had a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RecordedNetns {
    /// Its number in this journal.
    pub id: NetnsId,
    /// Its inode number, as `lsns` shows it.
    pub inode: u32,
    /// `host`, its name in /run/netns, or the inode number in digits.
    pub name: String,
}

/// What a journal has.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Coverage {
    /// Where its first sample begins.
    pub since: SystemTime,
    /// When the last sample was taken.
    pub until: SystemTime,
    /// Seconds between the two that the agent was there; the rest are gaps.
    pub recorded_seconds: f64,
    /// From here on there is a row for each second; `None`: for none.
    pub seconds_since: Option<SystemTime>,
    /// From here on each row covers at most about ten seconds.
    pub(crate) tens_since: Option<SystemTime>,
}

/// One life of the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Run {
    /// Its number, `run.id` in the journal.
    pub(crate) id: i64,
    /// When the agent began to write.
    pub(crate) started: SystemTime,
    /// When it was stopped; `None`: it still runs, or was killed.
    pub ended: Option<SystemTime>,
    /// Boot of the kernel: `/proc/sys/kernel/random/boot_id`.
    pub(crate) boot_id: String,
    /// The version of ctpressure that wrote.
    pub version: String,
    /// The kernel's release, as `uname -r` says.
    pub kernel: String,
    /// The host name of the node.
    pub node: String,
    /// Memory of the node in bytes; 0: not known.
    pub ram_bytes: u64,
    /// Possible CPUs; 0: not known.
    pub(crate) cpus: u64,
}

/// Something in the life of the agent or of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// When that was, in UTC.
    pub(crate) at: SystemTime,
    /// `start`, `stop`, `attached`, `waiting`, `degraded`, `hook`, `problem`, `clock`, `journal`.
    pub kind: String,
    /// A sentence; of a hook JSON with `event`, `function`, `mechanism`, `attached`, `reason`.
    pub detail: String,
}

/// A fact of the node from `at` on, until there is another one with this name.
///
/// Names: `nf_conntrack_*` sysctls as in `/proc/sys/net/netfilter` (the host's), `entry_bytes` (slab
/// object of an entry, without extensions), `hashsize` (module parameter).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// When that was, in UTC.
    pub(crate) at: SystemTime,
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

impl ChangedBy {
    /// All that this version writes.
    pub(crate) const ALL: [Self; 3] = [Self::Controller, Self::Hand, Self::Other];

    /// As the journal has it, in `limit_change`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Controller => "controller",
            Self::Hand => "hand",
            Self::Other => "other",
            Self::Unknown => "unknown",
        }
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

    /// All that this version writes.
    pub(crate) const ALL: [Self; 6] = [
        Self::Applied,
        Self::Refused,
        Self::Failed,
        Self::Reverted,
        Self::Would,
        Self::Seen,
    ];

    /// As the journal has it, in `limit_change`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Reverted => "reverted",
            Self::Would => "would",
            Self::Seen => "seen",
            Self::Unknown => "unknown",
        }
    }
}

/// A change of the limit or of the buckets; of a timeout too, which the reason names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
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
    /// Limit at the end (0: unlimited); `None`: not known.
    pub(crate) limit: Option<u64>,
}

/// One owner in one direction over some time.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnerPoint {
    /// Where the time begins.
    pub at: SystemTime,
    /// How much of it was recorded.
    pub(crate) seconds: f64,
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
    /// Entries times the seconds that they were there. Divided by `deletes`: their mean lifetime.
    pub(crate) entry_seconds: f64,
    /// What the owner lost, by kind.
    pub losses: Losses,
}

/// The kernel's own statistics of one table over some time; `/proc/net/stat/nf_conntrack` or ctnetlink's. `None`: this kernel does not count it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct KernelPoint {
    /// Where the time begins.
    pub at: SystemTime,
    /// How much of it was recorded.
    pub(crate) seconds: f64,
    /// In whose table that was.
    pub netns: NetnsId,
    /// Tuples that NAT found taken.
    pub found: u64,
    /// Packets that could not be tracked.
    pub invalid: u64,
    /// Entries that could not be inserted.
    pub insert_failed: u64,
    /// `drop`: packets lost to a full table and to clashes.
    pub dropped: u64,
    /// Live entries that were evicted for others.
    pub early_drop: u64,
    /// ICMP errors that belong to no entry.
    pub(crate) icmp_error: u64,
    /// Look-ups that began anew.
    pub(crate) search_restart: u64,
    /// Clashes resolved without loss.
    pub clash_resolve: Option<u64>,
    /// Entries not inserted because of a long hash chain.
    pub chain_too_long: Option<u64>,
}

/// Where a packet was from and to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
    /// In whose table that was.
    pub(crate) netns: NetnsId,
    /// Why the packet was lost.
    pub reason: Reason,
    /// Whose connection was refused.
    pub owner: OwnerId,
    /// Opened by the owner, or coming in to it.
    pub(crate) direction: Direction,
    /// Its addresses and ports; `None`: not known.
    pub path: Option<Path>,
}

/// A live entry that was removed to make room.
#[derive(Clone, Debug, PartialEq)]
pub struct EvictionRow {
    /// When that was, in UTC.
    pub(crate) at: SystemTime,
    /// When the sample was taken that counts it.
    pub sample: SystemTime,
    /// In whose table that was.
    pub(crate) netns: NetnsId,
    /// Whose entry it was, and its direction.
    pub victim: (OwnerId, Direction),
    /// Whose new connection needed room.
    pub cause: (OwnerId, Direction),
    /// Its addresses and ports; `None`: not known.
    pub path: Option<Path>,
    /// Protocol, destination and port of the new connection.
    pub cause_destination: Option<(String, IpAddr, u16)>,
    /// The victim was ASSURED.
    pub(crate) assured: bool,
    /// The victim had been answered.
    pub seen_reply: bool,
}

/// Drops or evictions: with detail and without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EventCount {
    /// Those that have a row.
    pub recorded: u64,
    /// Those that came with detail, which was not kept.
    pub not_recorded: u64,
}

/// Where an owner's connections went.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DestinationSum {
    /// Whose counts these are.
    pub(crate) owner: OwnerId,
    /// Address of the destination, after NAT.
    pub address: IpAddr,
    /// Its port; 0: the protocol has none.
    pub port: u16,
    /// Name or number in digits.
    pub protocol: String,
    /// Mean over the range of what was counted in about half a minute: at most this,
    pub count: f64,
    /// and at least this much less.
    pub(crate) error: f64,
    /// Samples that it was among the foremost in; each owner's `samples` in [`DestinationsOf`].
    pub samples: u64,
}

/// The destinations of one owner.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DestinationsOf {
    /// Samples that this owner had any destinations in.
    pub samples: u64,
    /// Its destinations, the foremost first.
    pub top: Vec<DestinationSum>,
}

/// Which destinations are meant: `destination.what`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// By connections opened; the real server after DNAT.
    Inserts = 0,
    /// By connections opened; the Service address where there is one.
    Services = 1,
    /// Those that packets were lost to.
    Drops = 2,
}
