//! What is known at one second. Made by the sampler, read by everyone, never changed.

use std::{sync::Arc, time::Instant};

use ctpressure_model::{pressure::state::Pressure, verdict::Verdict};
use serde::{Deserialize, Serialize};

use super::{LossCounts, NatTold, NodeLosses, NodeStates, Own, OwnerSample, Recount, SelfCheck};
use crate::{
    kernel::{stats::KernelStats, tables::HOST_NAME},
    owners::{Looks, Occupancy, Owner, ServiceCounts},
    probes::{ProbeStatus, ProgramTime, Totals},
};

/// What the agent can see now; the number is that in a journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum AgentState {
    /// Conntrack is not loaded: nothing to see yet.
    #[default]
    Waiting = 0,
    /// Every event has a hook.
    Attached = 1,
    /// Something is not seen; the reason says what.
    Degraded = 2,
}

/// The table of one network namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Table {
    /// Inode number of the namespace.
    pub netns: u32,
    /// `host`; whose it is, such as `shop/web`; else what its namespace is kept as; or the inode number in digits. No two tables have one
    /// name.
    pub name: String,
    /// What its namespace is kept as in /run/netns or by Docker, else the inode number in digits; `None`: that is its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept_as: Option<String>,
    /// Whose it is; `None`: the host's, or nobody's that is known.
    #[serde(skip)]
    pub owner: Option<Owner>,
    /// Entries that it holds now.
    pub entries: u64,
    /// How close it is to losing packets.
    pub pressure: Pressure,
    /// Seconds until it is full at the present slope; `None`: it is not filling.
    pub seconds_to_full: Option<f64>,
    /// What it is full of that a higher limit would only hold more of, as of the last census.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub verdicts: Vec<Verdict>,
    /// It has held an entry while the agent watched it.
    pub used: bool,
    /// The kernel's own statistics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats: Option<KernelStats>,
}

impl Table {
    /// Whether it is the host's.
    pub fn is_host(&self) -> bool {
        self.name == HOST_NAME
    }

    /// Whether there is more to tell of it than that it is there: of 250 pods' tables most never hold an entry.
    pub fn is_in_use(&self) -> bool {
        self.is_host() || self.used || self.stats.is_some_and(|stats| !stats.is_zero())
    }
}

/// Entries that there are against those that there should be by the probes' counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Drift {
    /// Entries of all tables. Includes those that are not confirmed yet or already dying.
    pub entries: u64,
    /// Entries when the probes were attached, plus inserts, minus deletes.
    pub expected: i64,
    /// `entries - expected`; small and around 0 while nothing is missed.
    pub difference: i64,
}

/// What is said of the running kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct KernelInfo {
    /// As `uname -r` says.
    pub release: String,
}

/// The tables, and what they share.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Tables {
    /// Entries that each table may hold (0: unlimited); `None`: not known.
    pub limit: Option<u64>,
    /// Buckets of the hash that all tables share.
    pub buckets: Option<u64>,
    /// Kernel memory of entries and buckets.
    pub table_bytes: Option<u64>,
    /// Expectations that each namespace may have; `None`: not known.
    pub expectation_limit: Option<u64>,
    /// Each table, the host's first.
    #[serde(rename = "tables")]
    pub list: Vec<Table>,
}

/// The probes: what is attached, and what was counted since the agent began.
#[derive(Clone, Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Probed {
    /// What is attached; empty while nothing is.
    #[serde(flatten)]
    pub status: ProbeStatus,
    /// What the probes have counted; never goes back. What nothing counts now is absent.
    pub totals: Totals,
    /// What the kernel counted and no probe explained.
    pub unexplained: LossCounts,
    /// What only the kernel counts here.
    pub node_losses: NodeLosses,
    /// Records that watchers were too slow to take.
    pub watchers_lost: u64,
    /// Entries against counts; `None` until attached, and where not both inserts and deletes are counted.
    pub drift: Option<Drift>,
    /// What the programs cost; empty unless `kernel.bpf_stats_enabled` is 1.
    pub programs: Vec<ProgramTime>,
}

/// The owners of this node.
#[derive(Clone, Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Owners {
    /// Each owner, by slot: the first two are what is nobody's and the host's. Too many for `ctpressure status`, which shows the foremost.
    #[serde(skip)]
    pub list: Vec<OwnerSample>,
    /// Entries that the kernel counts and that are in no table, as packets hold them: at least so many; `None`: not known.
    pub held: Option<u64>,
    /// How many owners there are.
    pub occupancy: Occupancy,
    /// How many Service addresses there are that packets from outside ask for.
    pub services: ServiceCounts,
    /// What the last census found.
    pub census: Recount,
    /// What it found the tables to be made of; `None`: there was none yet.
    #[serde(skip)]
    pub(crate) states: Option<Arc<NodeStates>>,
    /// What it told of NAT; `None`: as above.
    #[serde(skip)]
    pub(crate) nat: Option<Arc<NatTold>>,
    /// What looking for owners has cost.
    pub looks: Looks,
}

/// Capabilities of the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Capabilities {
    /// Those that it did not give up.
    pub kept: Vec<String>,
}

/// Everything that is known at one second. As JSON it is most of `ctpressure status`.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Snapshot {
    /// When it was made.
    #[serde(skip)]
    pub at: Instant,
    /// Seconds since the agent began.
    pub uptime_seconds: f64,
    /// What can be seen.
    pub state: AgentState,
    /// Why not everything is seen.
    pub reason: Option<String>,
    /// Whether the agent sees what there is to see: it has tried to attach its probes, and the tables were read; or there are none, since
    /// conntrack is not loaded.
    #[serde(skip)]
    pub ready: bool,
    /// Whether the agent does its work: it has attached what it can, and gave up the capabilities that it does not
    /// need.
    #[serde(skip)]
    pub begun: bool,
    /// The kernel that this is about.
    pub kernel: KernelInfo,
    /// The tables of all network namespaces.
    #[serde(flatten)]
    pub tables: Tables,
    /// What the probes are, and what they counted.
    #[serde(flatten)]
    pub probes: Probed,
    /// Who is on the node, and what each has.
    #[serde(flatten)]
    pub owners: Owners,
    /// Whether the numbers agree.
    pub self_check: SelfCheck,
    /// What the agent costs.
    pub own: Own,
    /// What it may do.
    pub capabilities: Capabilities,
    /// What can't be seen, as far as it is known why. `ctpressure status` adds what is wrong beside the agent.
    #[serde(skip)]
    pub problems: Vec<String>,
}

impl Snapshot {
    /// Whether the agent has looked, and waits for conntrack to be loaded.
    pub fn waits(&self) -> bool {
        self.ready && self.state == AgentState::Waiting
    }

    /// What was not seen or not delivered since the agent began, by the kinds of
    /// `ctpressure_events_lost_total`.
    pub const fn losses(&self) -> [(&'static str, u64); 13] {
        let lost = &self.probes.totals.lost;
        [
            ("insert_records", lost.insert_records),
            ("drop_records", lost.drop_records),
            ("eviction_records", lost.eviction_records),
            ("drops_not_detailed", lost.drops_not_detailed),
            ("evictions_not_detailed", lost.evictions_not_detailed),
            ("frames", lost.frames),
            ("sockets", lost.sockets_missed),
            ("tags", lost.tags),
            ("unarmed", lost.unarmed),
            ("missed_runs", lost.missed_runs),
            ("drops_unexplained", self.probes.unexplained.drops),
            ("evictions_unseen", self.probes.unexplained.evictions),
            ("watcher_records", self.probes.watchers_lost),
        ]
    }
}

impl Default for Snapshot {
    fn default() -> Self {
        Self {
            at: Instant::now(),
            uptime_seconds: 0.0,
            state: AgentState::default(),
            reason: Some("not attached yet".to_owned()),
            ready: false,
            begun: false,
            kernel: KernelInfo::default(),
            tables: Tables::default(),
            probes: Probed::default(),
            owners: Owners::default(),
            self_check: SelfCheck::default(),
            own: Own::default(),
            capabilities: Capabilities::default(),
            problems: Vec::new(),
        }
    }
}
