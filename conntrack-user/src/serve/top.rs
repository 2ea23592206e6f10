//! What `ctpressure top` shows, once a second: what the agent sends by its local socket, what the
//! command makes of its own snapshots without an agent, and what `top -o json` prints.
//!
//! One object:
//!
//! | field | what it is |
//! |---|---|
//! | `time` | RFC 3339, UTC |
//! | `uptime_seconds` | since the agent began |
//! | `state`, `reason` | `waiting`, `attached` or `degraded`, and why not everything is seen |
//! | `kernel` | its release |
//! | `limit`, `buckets`, `table_bytes` | what all tables share; null: not known; `limit` 0: none |
//! | `tables` | `netns`, `name`, `entries`, `occupancy` (of the limit, 0 to 1), `pressure`, `seconds_to_full`, `verdicts` (what it is full of that a higher limit would only hold more of); at most [`TABLES`], the host's first |
//! | `other_tables` | `number` and `entries` of those that are not shown, and how many of them are `empty` |
//! | `totals` | `inserts`, `deletes`, `evictions`, `drops` by reason, `refused` (requests of ctnetlink or BPF, no packet lost), since the agent began; `inserts_per_second`, `deletes_per_second`, `drops_per_second`; `not_counted`: what no probe counts here; `lost`: events without detail |
//! | `node_losses` | `drops`, `evictions`, `chain_too_long`: what only the kernel counts here, since the agent began; null: probes count it |
//! | `held` | entries that are counted and in no table, as packets hold them, at least; null: not known |
//! | `owners` | below; at most [`OWNERS`], most live entries first |
//! | `other_owners` | `number`, `live`, `inserts`, `deletes`, `drops` of those that are not shown |
//! | `census` | whether the entries from before the agent began are charged to owners |
//!
//! One owner: `slot`, `kind`, `name`, `namespace`, `pod`, `unit` (empty ones left out), `present`;
//! `live`, `live_egress`, `live_ingress`, `live_share` (of all that the kernel counts), `held_at_most`, `limit_share`; totals
//! `inserts`, `deletes`, `drops`, `drops_by_reason`, `refused`, `victims` (its entries that were evicted),
//! `causes` (evictions for its sake); rates `inserts_per_second`, `deletes_per_second`,
//! `drops_per_second`, each over `1s`, `10s` and `60s`; `insert_share`, `drop_share` (0 to 1, of the last
//! ten seconds); `lifetime` (`is`: `about`, `at_least` or `at_most`; `seconds`; `error`). The [`DETAILED`] foremost also
//! have `states` (at the last census) and `destinations`: `inserts` (real servers), `services` (as
//! asked for) and `drops`, each with `window_seconds`, `total`, `others_at_most` and `destinations`
//! (`address`, `port`, `protocol`, `count`, `error`, `share`, `per_second`); the others have null.
//!
//! What no probe counts on this kernel is null, in `totals` and of each owner: numbers, shares and rates. Where `live` is null for that
//! reason, `found` is what the last census found.
//!
//! A line is never longer than [`LINE_BYTES`].

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ctpressure_model::{
    pressure::{lifetime::Lifetime, rate::Rates, state::Pressure},
    verdict::Verdict,
    words::time::JsonTime,
};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use crate::{
    agent::{AgentState, Bounds, NodeLosses, Snapshot, Tops},
    owners::{OwnerKind, Workload},
};

mod make;

pub(crate) use make::foremost;

/// Tables that a line has at most.
pub(crate) const TABLES: usize = 1024;
/// Owners that a line has at most.
pub(crate) const OWNERS: usize = 2048;
/// Owners whose destinations and states a line has at most.
pub(crate) const DETAILED: usize = 256;
/// Bytes of a line at most.
pub(crate) const LINE_BYTES: u64 = 16 << 20;
/// Bytes that are kept of a name, or of the reason.
const NAME_BYTES: usize = 255;
/// States of an owner that are kept.
const STATES: usize = 16;
/// How long [`settled`] waits for rates and the first census, after the first sample.
const SETTLE: Duration = Duration::from_millis(2500);
/// How long [`settled`] waits for the first sample.
const FIRST: Duration = Duration::from_secs(8);

/// What is shown at one second. See the [module](self).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct TopSample {
    /// When it was made: RFC 3339, as in `watch`.
    pub time: JsonTime,
    /// Seconds since the agent began.
    pub uptime_seconds: f64,
    /// What can be seen.
    pub state: AgentState,
    pub reason: Option<String>,
    pub kernel: String,
    /// Entries that each table may hold; 0: any number; `None`: not known.
    pub limit: Option<u64>,
    /// Buckets of the hash that all tables share.
    pub buckets: Option<u64>,
    /// Kernel memory of entries and buckets.
    pub table_bytes: Option<u64>,
    /// Tables, the host's first.
    pub tables: Vec<TopTable>,
    /// Tables that are not shown.
    pub other_tables: OtherTables,
    pub totals: TotalsRow,
    /// What only the kernel counts here.
    #[serde(default)]
    pub node_losses: NodeLosses,
    /// Entries that the kernel counts and that are in no table, as packets hold them: at least so many; `None`: not known.
    #[serde(default)]
    pub held: Option<u64>,
    /// Owners, most live entries first.
    pub owners: Vec<OwnerRow>,
    /// Owners that are not shown.
    pub other_owners: OtherOwners,
    /// Whether a census has charged the entries from before the agent began.
    pub census: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct TopTable {
    /// Inode number of its network namespace.
    pub netns: u32,
    /// `host`, whose it is, what its namespace is kept as, or the inode number.
    pub name: String,
    pub entries: u64,
    /// Part of the limit, 0 to 1; `None`: no limit.
    pub occupancy: Option<f64>,
    /// How close it is to losing packets.
    pub pressure: Pressure,
    /// Seconds until it is full; `None`: it is not filling.
    pub seconds_to_full: Option<f64>,
    /// What it is full of that a higher limit would only hold more of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verdicts: Vec<Verdict>,
}

impl TopTable {
    /// Whether it holds an entry, or loses packets.
    pub(crate) fn has_something(&self) -> bool {
        self.entries > 0 || self.pressure != Pressure::Calm
    }
}

/// Tables that are not shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct OtherTables {
    pub number: u64,
    pub entries: u64,
    /// How many of them are empty.
    #[serde(default)]
    pub empty: u64,
}

/// What all tables together did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct TotalsRow {
    /// Entries that entered, since the agent began; `None`, as everywhere below: nothing counts them.
    pub inserts: Option<u64>,
    pub deletes: Option<u64>,
    /// Live entries that were removed to make room.
    pub evictions: Option<u64>,
    /// Requests of ctnetlink or BPF that were refused an entry, for which no packet was lost.
    #[serde(default)]
    pub refused: Option<u64>,
    /// Packets lost, by reason.
    pub drops: BTreeMap<String, u64>,
    /// Inserts a second, over the last ten.
    pub inserts_per_second: Option<f64>,
    /// Deletes a second, over the last ten.
    pub deletes_per_second: Option<f64>,
    /// Packets lost a second, over the last ten.
    pub drops_per_second: Option<f64>,
    /// What nothing counts here: `inserts`, `deletes`, `evictions`, reasons of drops.
    #[serde(default)]
    pub not_counted: Vec<String>,
    /// Events whose detail did not reach user space; their counts are exact all the same.
    pub lost: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct OwnerRow {
    pub slot: u32,
    /// What sort it is.
    pub kind: OwnerKind,
    /// What to call it: `namespace/pod`, the unit, `host` or `unknown`.
    pub name: String,
    /// Kubernetes namespace of a pod.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Name of a pod, or its UID.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pod: String,
    /// systemd unit, or a container outside Kubernetes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub unit: String,
    /// What made the pod, where the Kubernetes API is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<Workload>,
    /// It is there; else it is gone and may still have entries.
    pub present: bool,
    /// Entries in both directions; `None`: not known yet, or, as everywhere below, nothing counts them.
    pub live: Option<u64>,
    /// Entries that the last census found, where they are not counted: of what came and went since nothing is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<u64>,
    /// Of connections that it opened.
    pub live_egress: Option<u64>,
    /// Of connections to it.
    pub live_ingress: Option<u64>,
    /// At least so many in both directions, and at most so many; the same where it is known exactly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live_bounds: Option<Bounds>,
    /// Its part of all entries that the kernel counts, 0 to 1.
    pub live_share: Option<f64>,
    /// Its entries as a part of the limit, 0 to 1; `None`: no limit.
    pub limit_share: Option<f64>,
    pub inserts: Option<u64>,
    pub deletes: Option<u64>,
    pub drops: Option<u64>,
    /// Its entries that ctnetlink or BPF was refused; no packet was lost.
    #[serde(default)]
    pub refused: Option<u64>,
    /// Entries that left the table while packets held them, and that the kernel still counts: at most so many. They are not in `live`.
    #[serde(default)]
    pub held_at_most: u64,
    /// Packets lost, by reason.
    pub drops_by_reason: BTreeMap<String, u64>,
    /// Its entries that were evicted.
    pub victims: Option<u64>,
    /// Entries of anybody that were evicted for its sake.
    pub causes: Option<u64>,
    /// Entries that enter, a second.
    pub inserts_per_second: Rates,
    /// Entries that leave, a second.
    pub deletes_per_second: Rates,
    /// Packets lost, a second.
    pub drops_per_second: Rates,
    /// Its part of what entered in the last ten seconds, 0 to 1.
    pub insert_share: Option<f64>,
    /// Its part of the packets lost in the last ten seconds, 0 to 1.
    pub drop_share: Option<f64>,
    /// Mean lifetime of its entries; `None`: too few inserts to say.
    pub lifetime: Option<Lifetime>,
    /// States of its entries at the last census; `None`: not among the foremost.
    pub states: Option<Vec<(String, u64)>>,
    /// Where its connections go; `None`: not among the foremost.
    pub destinations: Option<Tops>,
}

/// Owners that are not shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct OtherOwners {
    pub number: u64,
    pub live: Option<u64>,
    pub inserts: Option<u64>,
    pub deletes: Option<u64>,
    pub drops: Option<u64>,
}

pub(crate) fn rate(rates: &Rates) -> f64 {
    rates.ten_seconds.unwrap_or(0.0)
}

impl OwnerRow {
    /// Its entries, or those that the last census found.
    pub(crate) fn entries(&self) -> Option<u64> {
        self.live.or(self.found)
    }
}

impl TopSample {
    /// Whether there are rates and everything is charged to its owner.
    pub(crate) fn is_settled(&self) -> bool {
        // Without counts there are no rates to wait for.
        let counted = self.totals.inserts.is_some();
        (self.uptime_seconds > 0.0 && !counted)
            || self.census
                && self
                    .owners
                    .iter()
                    .any(|owner| owner.inserts_per_second.second.is_some())
    }

    /// Packets lost, for any reason that is counted; `None`: nothing counts those of full tables or of clashes.
    pub(crate) fn drops(&self) -> Option<u64> {
        self.totals.drops_per_second?;
        Some(self.totals.drops.values().sum())
    }
}

/// The first snapshot with rates and a census; after a time whatever there is.
pub(crate) async fn settled(snapshots: &mut watch::Receiver<Arc<Snapshot>>) -> TopSample {
    let mut deadline = Instant::now() + FIRST;
    let mut began = false;
    loop {
        let sample = TopSample::new(&snapshots.borrow_and_update(), SystemTime::now());
        if sample.is_settled() {
            return sample;
        }
        if !began && sample.uptime_seconds > 0.0 {
            began = true;
            deadline = Instant::now() + SETTLE;
        }
        match timeout_at(deadline, snapshots.changed()).await {
            Ok(Ok(())) => {}
            // Time is up, or the agent has ended.
            _ => return sample,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
