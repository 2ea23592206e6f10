//! The metrics, made from a [`Snapshot`].

use std::{cmp::Reverse, collections::BTreeMap, sync::Mutex};

use prometheus::{
    Encoder as _, Registry, TextEncoder,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::{
    CompanionStatus, Companions,
    family::{Family, f},
    node_exporter,
};

mod exported;
mod limit;
mod nat;
mod owners;
mod states;
mod table_sums;

use exported::Exported;
use table_sums::TableSums;

use crate::{
    agent::{AgentState, Handle, Snapshot, Table},
    kernel::allowances::InterfaceAllowances,
    probes::ArmedFor,
    sys::lock::locked,
};

/// Content type of [`Exporter::text`].
pub(crate) const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Turns the latest snapshot into the text that Prometheus scrapes.
#[derive(Debug)]
pub(crate) struct Exporter {
    registry: Registry,
}

impl Exporter {
    /// An exporter of this agent's snapshots and of what runs beside it; `node_exporter_names`: the names of `node_exporter` too.
    ///
    /// # Errors
    /// If the registry refuses the collector.
    pub(crate) fn new(
        agent: Handle,
        companions: Companions,
        node_exporter_names: bool,
    ) -> prometheus::Result<Self> {
        let registry = Registry::new();
        registry.register(Box::new(Metrics {
            agent,
            companions,
            node_exporter_names,
            exported: Mutex::default(),
        }))?;
        Ok(Self { registry })
    }

    /// The metrics in the text exposition format.
    ///
    /// # Errors
    /// If a family can't be encoded.
    pub(crate) fn text(&self) -> prometheus::Result<Vec<u8>> {
        let mut text = Vec::with_capacity(16 << 10);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

struct Metrics {
    agent: Handle,
    companions: Companions,
    node_exporter_names: bool,
    exported: Mutex<Exported>,
}

impl Collector for Metrics {
    fn desc(&self) -> Vec<&Desc> {
        // Families come and go with what the kernel offers, so none is promised.
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        families(
            &self.agent.latest(),
            &self.companions.status(),
            self.node_exporter_names,
            &mut locked(&self.exported),
        )
    }
}

/// Everything that is exported.
fn families(
    snapshot: &Snapshot,
    companions: &CompanionStatus,
    node_exporter_names: bool,
    exported: &mut Exported,
) -> Vec<MetricFamily> {
    let limit = companions.limit.as_deref();
    let mut families: Vec<_> = tables(snapshot, exported.tables())
        .into_iter()
        .chain(owners::families(snapshot))
        .chain(states::families(snapshot))
        .chain(nat::families(snapshot))
        .chain(by_nobody(snapshot))
        .chain(of_no_use(snapshot))
        .chain(limit.into_iter().flat_map(limit::families))
        .chain(allowances(&companions.allowances))
        .chain([companions.contain_actions.family()])
        .chain(own_state(snapshot, companions, exported.fell()))
        .chain([conntrack_loaded(snapshot)])
        .filter_map(Family::finish)
        .collect();
    if node_exporter_names {
        families.extend(node_exporter::families(snapshot));
    }
    exported.keep(&mut families);
    families
}

/// Tables that have series: who may make network namespaces, which takes no right, makes as many as he likes.
const MOST_TABLES: usize = 1024;

/// The host's table has all series, another one those that say something, from when it held an entry or the kernel counted something in
/// it: most of 250 pods' tables never do.
fn tables(snapshot: &Snapshot, sums: &mut TableSums) -> [Family; 10] {
    let all = snapshot.tables.list.iter();
    let mut tables: Vec<_> = all.filter(|table| table.is_in_use()).collect();
    let left_out = tables.len().saturating_sub(MOST_TABLES);
    if left_out > 0 {
        tables.sort_by_key(|table| {
            (
                !table.is_host(),
                table.owner.is_none(),
                Reverse(table.entries),
            )
        });
        tables.truncate(MOST_TABLES);
    }
    sums.forget(&tables);
    [
        Family::gauge(
            "ctpressure_tables_left_out",
            "Tables in use that have no series, because 1,024 others have: the host's, those of pods and containers, then the fullest. ctpressure top shows all.",
        )
        .with(&[], f(left_out as u64)),
        Family::gauge(
            "ctpressure_table_entries",
            "Entries in the conntrack table of a network namespace; absent of another one than the host's that has never held any.",
        )
        .each(&tables, |family, table| {
            family.with(&labels(table), f(table.entries))
        }),
        Family::gauge(
            "ctpressure_table_seconds_to_full",
            "Seconds until the table is full at the slope of the last 15 seconds; absent while it is not filling.",
        )
        .each(&tables, |family, table| {
            family.maybe(&labels(table), table.seconds_to_full)
        }),
        Family::gauge(
            "ctpressure_table_pressure",
            "1 for the state that a table is in: calm (below 50 % of the limit), rising, high (75 %) or full (95 %, or drops in the last 10 s). The others are absent.",
        )
        .each(&tables, |family, table| {
            let mut labels = labels(table);
            labels.push(("state", table.pressure.name()));
            family.with(&labels, 1.0)
        }),
        Family::gauge(
            "ctpressure_table_limit",
            "Entries that each table may hold (nf_conntrack_max, one number for all namespaces; 0: unlimited).",
        )
        .maybe(&[], snapshot.tables.limit.map(f)),
        Family::gauge(
            "ctpressure_table_buckets",
            "Buckets of the hash that the tables of all namespaces share.",
        )
        .maybe(&[], snapshot.tables.buckets.map(f)),
        Family::gauge(
            "ctpressure_table_bytes",
            "Kernel memory of the entries of all namespaces (slab pages) and of the hash buckets, without extensions.",
        )
        .maybe(&[], snapshot.tables.table_bytes.map(f)),
        Family::gauge(
            "ctpressure_table_expectations",
            "Expectations of a network namespace: connections that a helper (FTP, SIP, ...) has announced. At the limit it drops the packet that would announce one more. Absent where the kernel has no /proc/net/stat/nf_conntrack, and of another table than the host's that never had one.",
        )
        .each(&tables, |family, table| {
            let stats = table.stats.filter(|stats| table.is_host() || stats.expect_create > Some(0));
            let there = stats.and_then(|stats| stats.expectations());
            family.maybe(&labels(table), there.map(f))
        }),
        Family::gauge(
            "ctpressure_expectation_limit",
            "Expectations that each network namespace may have (nf_conntrack_expect_max, one number for all of them).",
        )
        .maybe(&[], snapshot.tables.expectation_limit.map(f)),
        Family::counter(
            "ctpressure_kernel_stat_total",
            "The kernel's own conntrack statistics. insert counts only entries made by ctnetlink or BPF, found only tuples that NAT found taken. Of other tables than the host's what is 0 is absent.",
        )
        .each(&tables, |family, table| {
            let values = table.stats.iter().flat_map(|stats| sums.add(table, stats));
            let values = values.filter(|(_, value)| table.is_host() || *value > Some(0));
            family.each(values, |family, (stat, value)| {
                let mut labels = labels(table);
                labels.push(("stat", stat));
                family.maybe(&labels, value.map(f))
            })
        }),
    ]
}

/// What a higher limit would only hold more of.
fn of_no_use(snapshot: &Snapshot) -> [Family; 2] {
    [
        Family::gauge(
            "ctpressure_entries_held",
            "Entries that the kernel counts and that are in no table, since packets that wait (in a queue, for a neighbour) hold them: at least so many, and no owner's in ctpressure_entries. Absent as that is.",
        )
        .maybe(&[], snapshot.owners.held.map(f)),
        Family::gauge(
            "ctpressure_table_verdict_entries",
            "Entries of a table that is nearly full of which a higher limit would only hold more, by what they are: flood (one-way connections with a sender or a destination in common), overlay (outer packets of a tunnel), held (in no list). Absent while there is no such verdict: then a higher limit can help.",
        )
        .each(&snapshot.tables.list, |family, table| {
            let mut sums = BTreeMap::new();
            for verdict in &table.verdicts {
                *sums.entry(verdict.name()).or_insert(0) += verdict.entries;
            }
            family.each(sums, |family, (verdict, entries)| {
                let mut labels = labels(table);
                labels.push(("verdict", verdict));
                family.with(&labels, f(entries))
            })
        }),
    ]
}

/// The name of a table, and the labels of whose it is, to join by.
fn labels(table: &Table) -> Vec<(&str, &str)> {
    let mut labels = vec![("netns", table.name.as_str())];
    if let Some(owner) = &table.owner {
        let of_owner = owner.labels();
        let of_owner = [
            ("namespace", of_owner.namespace),
            ("pod", of_owner.pod),
            ("unit", of_owner.unit),
        ];
        labels.extend(of_owner.into_iter().filter(|(_, value)| !value.is_empty()));
    }
    labels
}

/// What the machine under the node allows.
fn allowances(interfaces: &[InterfaceAllowances]) -> [Family; 2] {
    fn series<'a>(
        family: Family,
        interface: &'a InterfaceAllowances,
        values: &'a BTreeMap<String, u64>,
    ) -> Family {
        family.each(values, |family, (allowance, value)| {
            let labels = [
                ("interface", interface.interface.as_str()),
                ("driver", &interface.driver),
                ("allowance", allowance),
            ];
            family.with(&labels, f(*value))
        })
    }
    [
        Family::counter(
            "ctpressure_interface_allowance_exceeded_total",
            "Packets that the instance (the virtual machine's host) dropped or held back since an allowance was used up, whatever the kernel's tables say, as the driver of the interface counts them: conntrack (connections that the instance tracks), bw_in, bw_out, pps, linklocal. Absent where the driver has no such counters.",
        )
        .each(interfaces, |family, interface| series(family, interface, &interface.exceeded)),
        Family::gauge(
            "ctpressure_interface_allowance_available",
            "What is left of an allowance of the instance, as the driver of the interface says: conntrack, connections that may still be opened. Absent where the driver does not tell.",
        )
        .each(interfaces, |family, interface| series(family, interface, &interface.available)),
    ]
}

/// What only the kernel counts here, so that no owner can be charged.
fn by_nobody(snapshot: &Snapshot) -> [Family; 2] {
    let node = &snapshot.probes.node_losses;
    [
        Family::counter(
            "ctpressure_node_drops_total",
            "Packets lost over all network namespaces that only the kernel's own statistics count, where a probe is missing, so that no owner is charged: drop (full tables, unresolved clashes, no memory; less what probes told), chain_too_long (less what probes told, which are only attached while ctpressure_armed). Absent for what probes count: that is in ctpressure_drops_total.",
        )
        .maybe(&[("stat", "drop")], node.drops.map(f))
        .maybe(&[("stat", "chain_too_long")], node.chain_too_long.map(f)),
        Family::counter(
            "ctpressure_node_evictions_total",
            "Live entries removed to make room, over all network namespaces, that only the kernel's own statistics count; absent where probes count them: those are in ctpressure_evictions_total.",
        )
        .maybe(&[], node.evictions.map(f)),
    ]
}

/// Absent until the agent has looked.
fn conntrack_loaded(snapshot: &Snapshot) -> Family {
    let looked = snapshot.waits() || snapshot.state != AgentState::Waiting;
    Family::gauge(
        "ctpressure_conntrack_loaded",
        "1 while conntrack is in the kernel; 0 while it is not loaded: the agent waits for it, and there is no table.",
    )
    .maybe(&[], looked.then(|| f64::from(u8::from(!snapshot.waits()))))
}

fn own_state(snapshot: &Snapshot, companions: &CompanionStatus, fell: u64) -> [Family; 14] {
    let wrong = snapshot.self_check.by_name().into_iter();
    let wrong = wrong.chain([("counters", fell)]);
    let journal = companions.journal.as_ref();
    let not_kept = journal.map(|journal| {
        [
            ("journal_samples", journal.samples_lost),
            ("journal_events", journal.events_lost),
        ]
    });
    let events = companions.kubernetes_events.as_ref();
    let not_written = events.map(|events| ("kubernetes_events", events.lost));
    let lost = snapshot
        .losses()
        .into_iter()
        .chain(not_kept.into_iter().flatten())
        .chain(not_written);
    let own = &snapshot.own;
    let arming = snapshot.probes.status.arming.as_ref();
    [
        Family::counter(
            "ctpressure_events_lost_total",
            "What was not seen or not delivered. *_records: a buffer was full; *_not_detailed: beyond the budget of records; frames: evictions without a cause; sockets: inserts charged to the host because their socket was not seen; tags: entries charged to the host, or to who had the address before, since there was no room to mark whose they are, or the mark of one with the same tuple was in its way; unarmed: drops and evictions without a cause, since the table filled faster than the probes that tell it were attached; missed_runs: the kernel skipped a probe; drops_unexplained, evictions_unseen: only the kernel counted them; journal_samples: seconds that the journal has only together with the next one; journal_events: detail that it does not have; kubernetes_events: Events that were not written, with --kube.",
        )
        .each(lost, |family, (kind, number)| family.with(&[("kind", kind)], f(number))),
        Family::counter(
            "ctpressure_self_check_failures_total",
            "By how much the agent's own numbers disagreed so far: owners, the sum over owners and the count of all; census, what a census found and what was known before; drops and evictions, what only the kernel counted; counters, by how much exported ones would have fallen. 0 unless something is wrong.",
        )
        .each(wrong, |family, (check, number)| {
            family.with(&[("check", check)], f(number))
        }),
        Family::gauge(
            "ctpressure_probe_attached",
            "1 for each kernel function that is probed, 0 for an event that has no hook on this kernel; absent for one that is only attached while a table may fill (ctpressure_armed).",
        )
        .each(snapshot.probes.status.hooks.iter().filter(|hook| !hook.waits), |family, hook| {
            let mechanism = hook.mechanism.map_or_else(|| "none".to_owned(), |it| it.to_string());
            let mechanism = match (mechanism.as_str(), hook.at_return) {
                ("fentry", true) => "fexit",
                ("kprobe", true) => "kretprobe",
                (other, _) => other,
            };
            let labels =
                [("event", hook.event), ("function", &hook.function), ("mechanism", mechanism)];
            family.with(&labels, f64::from(u8::from(hook.attached)))
        }),
        Family::gauge(
            "ctpressure_armed",
            "1 while the probes are attached that only matter when a table may fill or chains are long, and each new connection pays for them; reason: why, or why they were last.",
        )
        .each(arming, |family, arming| {
            let reason = arming.reason.map_or("none", ArmedFor::name);
            family.with(&[("reason", reason)], f64::from(u8::from(arming.armed)))
        }),
        Family::counter(
            "ctpressure_armings_total",
            "Times that those probes were attached.",
        )
        .each(arming, |family, arming| family.with(&[], f(arming.times))),
        Family::counter(
            "ctpressure_program_run_seconds_total",
            "Time spent in a probe's program over all CPUs; absent unless kernel.bpf_stats_enabled is 1.",
        )
        .each(programs(snapshot), |family, (program, seconds)| {
            family.with(&[("program", program)], seconds)
        }),
        Family::gauge(
            "ctpressure_journal_writing",
            "1 while the journal is written, 0 while it can't be (ctpressure status says why); absent without --journal.",
        )
        .maybe(&[], journal.map(|journal| f64::from(u8::from(journal.problem.is_none())))),
        Family::gauge(
            "ctpressure_journal_bytes",
            "Size of the journal with its log; absent without --journal.",
        )
        .maybe(&[], journal.map(|journal| f(journal.bytes))),
        Family::counter(
            "ctpressure_http_connections_closed_total",
            "Connections to this port that were closed before their end: peer_full: for another one of a peer that held as many as one may; full: for a newcomer while all places were taken; slow: they did not ask within five seconds, or took more than ten.",
        )
        .each(companions.http.closed(), |family, (reason, number)| {
            family.with(&[("reason", reason)], f(number))
        }),
        Family::gauge("ctpressure_build_info", "1, with the version of ctpressure.")
            .with(&[("version", env!("CARGO_PKG_VERSION"))], 1.0),
        Family::counter(
            "process_cpu_seconds_total",
            "Total user and system CPU time spent in seconds.",
        )
        .with(&[], own.cpu_seconds),
        Family::gauge("process_resident_memory_bytes", "Resident memory size in bytes.")
            .with(&[], f(own.rss_bytes)),
        Family::gauge(
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
        )
        .with(&[], own.start_time_seconds),
        Family::gauge("process_open_fds", "Number of open file descriptors.")
            .with(&[], f(own.open_fds)),
    ]
}

/// Run time by program: one that is in several functions has one sum.
fn programs(snapshot: &Snapshot) -> BTreeMap<&'static str, f64> {
    let mut sums = BTreeMap::new();
    for time in &snapshot.probes.programs {
        *sums.entry(time.program).or_default() += time.seconds;
    }
    sums
}

#[cfg(test)]
pub(super) mod tests;
