//! The JSON of `/status`.

use std::{cmp::Reverse, collections::BTreeSet};

use serde::Serialize;

use crate::{
    agent::{Drift, KernelInfo, Own, OwnerSample, Recount, Snapshot, State, Table, Unexplained},
    journal::JournalStatus,
    kube_events::EventsStatus,
    limit,
    owners::{Looks, Occupancy, ServiceCounts, kube::KubeStatus},
    pressure::rate::Rates,
    probes::{FieldStatus, HookStatus, ProgramTime, Totals},
};

/// What `/status` says.
#[derive(Debug, Serialize)]
pub struct Status<'a> {
    version: &'static str,
    state: State,
    reason: Option<&'a str>,
    kernel: &'a KernelInfo,
    uptime_seconds: f64,
    hooks: &'a [HookStatus],
    fields: &'a [FieldStatus],
    limit: Option<u64>,
    buckets: Option<u64>,
    table_bytes: Option<u64>,
    tables: &'a [Table],
    totals: &'a Totals,
    /// Owners that hold, open or lose most.
    owners: Vec<&'a OwnerSample>,
    /// Owners that are not among them.
    owners_not_shown: usize,
    occupancy: Occupancy,
    /// Service addresses that packets from outside ask for.
    services: ServiceCounts,
    /// The last census.
    census: Recount,
    /// What looking for owners has cost.
    looks: Looks,
    /// What only the kernel counted.
    unexplained: Unexplained,
    /// Records that watchers were too slow to take.
    watchers_lost: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    journal: Option<&'a JournalStatus>,
    drift: Option<Drift>,
    programs: &'a [ProgramTime],
    own: Own,
    capabilities: Capabilities<'a>,
    /// How the watch of the Kubernetes API goes; not there without `--kube`.
    #[serde(skip_serializing_if = "Option::is_none")]
    kubernetes: Option<&'a KubeStatus>,
    /// How the writing of Kubernetes Events goes; not there without `--kube`.
    #[serde(skip_serializing_if = "Option::is_none")]
    kubernetes_events: Option<&'a EventsStatus>,
    /// What the limit controller says; null while it is off.
    limit_control: Option<&'a limit::Report>,
    problems: &'a [String],
}

#[derive(Debug, Serialize)]
struct Capabilities<'a> {
    kept: &'a [String],
}

/// Owners that `/status` shows, by each of live entries, inserts and drops.
const OWNERS: usize = 20;

/// The owners that are first by live entries, by inserts or by drops; by live entries.
fn foremost(owners: &[OwnerSample]) -> Vec<&OwnerSample> {
    let rate = |rates: &Rates| rates.ten_seconds.unwrap_or(0.0);
    let orders: [&dyn Fn(&OwnerSample) -> f64; 3] = [
        &|owner| owner.activity.live_share,
        &|owner| rate(&owner.activity.inserts_per_second),
        &|owner| rate(&owner.activity.drops_per_second),
    ];
    let mut shown = BTreeSet::new();
    for order in orders {
        let mut sorted: Vec<_> = owners.iter().collect();
        sorted.sort_by(|a, b| order(b).total_cmp(&order(a)));
        shown.extend(sorted.iter().take(OWNERS).map(|owner| owner.slot));
    }
    let mut foremost: Vec<_> = owners
        .iter()
        .filter(|owner| shown.contains(&owner.slot))
        .collect();
    foremost.sort_by_key(|owner| (Reverse(owner.live()), owner.slot));
    foremost
}

impl<'a> From<&'a Snapshot> for Status<'a> {
    fn from(snapshot: &'a Snapshot) -> Self {
        let owners = foremost(&snapshot.owners);
        Self {
            owners_not_shown: snapshot.owners.len() - owners.len(),
            owners,
            occupancy: snapshot.occupancy,
            services: snapshot.services,
            census: snapshot.recount,
            looks: snapshot.looks,
            version: env!("CARGO_PKG_VERSION"),
            state: snapshot.state,
            reason: snapshot.reason.as_deref(),
            kernel: &snapshot.kernel,
            uptime_seconds: snapshot.uptime_seconds,
            hooks: &snapshot.status.hooks,
            fields: &snapshot.status.fields,
            limit: snapshot.limit,
            buckets: snapshot.buckets,
            table_bytes: snapshot.table_bytes,
            tables: &snapshot.tables,
            totals: &snapshot.totals,
            unexplained: snapshot.unexplained,
            watchers_lost: snapshot.watchers_lost,
            journal: snapshot.journal.as_ref(),
            drift: snapshot.drift,
            programs: &snapshot.programs,
            own: snapshot.own,
            capabilities: Capabilities {
                kept: &snapshot.capabilities,
            },
            kubernetes: snapshot.kubernetes.as_ref(),
            kubernetes_events: snapshot.kube_events.as_ref(),
            limit_control: snapshot.limit_control.as_deref(),
            problems: &snapshot.problems,
        }
    }
}
