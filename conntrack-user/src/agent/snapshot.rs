//! What is known at one second. Made by the sampler, read by everyone, never changed.

use std::{sync::Arc, time::Instant};

use serde::{Deserialize, Serialize};

use super::{Own, OwnerSample, Recount, Unexplained};
use crate::{
    events::Names,
    journal::JournalStatus,
    kernel::stats::KernelStats,
    kube_events::EventsStatus,
    limit,
    owners::{Looks, Occupancy, ServiceCounts, kube::KubeStatus},
    pressure::state::Pressure,
    probes::{ProgramTime, Status, Totals},
};

/// What the agent can see now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Conntrack is not loaded: nothing to see yet.
    #[default]
    Waiting,
    /// Every event has a hook.
    Attached,
    /// Something is not seen; the reason says what.
    Degraded,
}

/// The table of one network namespace.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Table {
    /// Inode number of the namespace.
    pub netns: u32,
    /// `host`, its name in /run/netns, or the inode number in digits.
    pub name: String,
    /// Entries in it.
    pub entries: u64,
    /// How close it is to losing packets.
    pub pressure: Pressure,
    /// Seconds until it is full at the present slope; `None`: it is not filling.
    pub seconds_to_full: Option<f64>,
    /// The kernel's own statistics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats: Option<KernelStats>,
}

/// Entries that there are against those that there should be by the probes' counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Drift {
    /// Entries of all tables. Includes those that are not confirmed yet or already dying.
    pub entries: u64,
    /// Entries when the probes were attached, plus inserts, minus deletes.
    pub expected: i64,
    /// `entries - expected`; small and around 0 while nothing is missed.
    pub difference: i64,
}

/// The running kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KernelInfo {
    /// As `uname -r` says.
    pub release: String,
}

/// Everything that is known at one second.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When it was made.
    pub at: Instant,
    /// Seconds since the agent began.
    pub uptime_seconds: f64,
    /// What can be seen.
    pub state: State,
    /// Why not all.
    pub reason: Option<String>,
    /// Whether the probes are attached and the tables were read.
    pub ready: bool,
    /// Whether there are counts: probes are, or were, attached.
    pub counting: bool,
    /// The kernel.
    pub kernel: Arc<KernelInfo>,
    /// What is attached; empty while nothing is.
    pub status: Arc<Status>,
    /// Entries that each table may hold (0: unlimited); `None`: not known.
    pub limit: Option<u64>,
    /// Buckets of the hash that all tables share.
    pub buckets: Option<u64>,
    /// Kernel memory of entries and buckets.
    pub table_bytes: Option<u64>,
    /// Tables, the host's first.
    pub tables: Vec<Table>,
    /// What the probes have counted since the agent began; never goes back.
    pub totals: Totals,
    /// The same by owner, by slot: the first two are what is nobody's and the host's.
    pub owners: Vec<OwnerSample>,
    /// How many owners there are.
    pub occupancy: Occupancy,
    /// How many Service addresses there are.
    pub services: ServiceCounts,
    /// The last census.
    pub recount: Recount,
    /// What looking for owners has cost.
    pub looks: Looks,
    /// What the kernel counted and no probe explained.
    pub unexplained: Unexplained,
    /// Records that watchers were too slow to take.
    pub watchers_lost: u64,
    /// The journal; `None`: none is kept.
    pub journal: Option<JournalStatus>,
    /// Entries against counts; `None` until attached.
    pub drift: Option<Drift>,
    /// What the programs cost; empty unless `kernel.bpf_stats_enabled` is 1.
    pub programs: Vec<ProgramTime>,
    /// What the agent costs.
    pub own: Own,
    /// Capabilities that it kept.
    pub capabilities: Arc<Vec<String>>,
    /// How the watch of the Kubernetes API goes; `None`: it is not asked.
    pub kubernetes: Option<KubeStatus>,
    /// How the writing of Kubernetes Events goes; `None`: none are written.
    pub kube_events: Option<EventsStatus>,
    /// What can't be seen, as far as it is known why.
    pub problems: Vec<String>,
    /// What the limit controller says, with the last changes of the limit; `None` while it is off.
    pub limit_control: Option<Arc<limit::Report>>,
    /// Names of the namespaces in `tables`, and of `owners`.
    pub names: Arc<Names>,
}

impl Snapshot {
    /// What was not seen or not delivered since the agent began, by the kinds of
    /// `ctpressure_events_lost_total`.
    pub const fn losses(&self) -> [(&'static str, u64); 12] {
        let lost = &self.totals.lost;
        [
            ("insert_records", lost.insert_records),
            ("drop_records", lost.drop_records),
            ("eviction_records", lost.eviction_records),
            ("drops_not_detailed", lost.drops_not_detailed),
            ("evictions_not_detailed", lost.evictions_not_detailed),
            ("frames", lost.frames),
            ("sockets", lost.sockets_missed),
            ("tags", lost.tags),
            ("missed_runs", lost.missed_runs),
            ("drops_unexplained", self.unexplained.drops),
            ("evictions_unseen", self.unexplained.evictions),
            ("watcher_records", self.watchers_lost),
        ]
    }
}

impl Default for Snapshot {
    fn default() -> Self {
        Self {
            at: Instant::now(),
            uptime_seconds: 0.0,
            state: State::default(),
            reason: Some("not attached yet".to_owned()),
            ready: false,
            counting: false,
            kernel: Arc::default(),
            status: Arc::default(),
            limit: None,
            buckets: None,
            table_bytes: None,
            tables: Vec::new(),
            totals: Totals::default(),
            owners: Vec::new(),
            occupancy: Occupancy::default(),
            services: ServiceCounts::default(),
            recount: Recount::default(),
            looks: Looks::default(),
            unexplained: Unexplained::default(),
            watchers_lost: 0,
            journal: None,
            drift: None,
            programs: Vec::new(),
            own: Own::default(),
            capabilities: Arc::default(),
            kubernetes: None,
            kube_events: None,
            problems: Vec::new(),
            limit_control: None,
            names: Arc::default(),
        }
    }
}
