//! The JSON of `/status`.

use serde::Serialize;

use crate::{
    agent::{Drift, KernelInfo, Own, Snapshot, State, Table, Unexplained},
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
    /// What only the kernel counted.
    unexplained: Unexplained,
    /// Records that watchers were too slow to take.
    watchers_lost: u64,
    drift: Option<Drift>,
    programs: &'a [ProgramTime],
    own: Own,
    capabilities: Capabilities<'a>,
    problems: &'a [String],
}

#[derive(Debug, Serialize)]
struct Capabilities<'a> {
    kept: &'a [String],
}

impl<'a> From<&'a Snapshot> for Status<'a> {
    fn from(snapshot: &'a Snapshot) -> Self {
        Self {
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
            drift: snapshot.drift,
            programs: &snapshot.programs,
            own: snapshot.own,
            capabilities: Capabilities {
                kept: &snapshot.capabilities,
            },
            problems: &snapshot.problems,
        }
    }
}
