//! The metrics, made from a [`Snapshot`] at each scrape.

use std::sync::Arc;

use prometheus::{
    Encoder as _, Registry, TextEncoder,
    core::{Collector, Desc},
    proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType},
};

use super::node_exporter;

mod limit;
mod owners;

use crate::{
    agent::{Handle, Snapshot, State},
    kernel::stats::KernelStats,
    pressure::state::Pressure,
};

/// Content type of [`Exporter::text`].
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Turns the latest snapshot into the text that Prometheus scrapes.
#[derive(Debug)]
pub struct Exporter {
    registry: Registry,
}

impl Exporter {
    /// An exporter of this agent's snapshots; `node_exporter_names`: the names of `node_exporter` too.
    ///
    /// # Errors
    /// If the registry refuses the collector.
    pub fn new(agent: Handle, node_exporter_names: bool) -> prometheus::Result<Self> {
        let registry = Registry::new();
        registry.register(Box::new(Metrics {
            agent,
            node_exporter_names,
        }))?;
        Ok(Self { registry })
    }

    /// The metrics in the text exposition format.
    ///
    /// # Errors
    /// If a family can't be encoded.
    pub fn text(&self) -> prometheus::Result<Vec<u8>> {
        let mut text = Vec::with_capacity(16 << 10);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

struct Metrics {
    agent: Handle,
    node_exporter_names: bool,
}

impl Collector for Metrics {
    fn desc(&self) -> Vec<&Desc> {
        // Families come and go with what the kernel offers, so none is promised.
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let snapshot = self.agent.latest();
        let mut families = families(&snapshot);
        if self.node_exporter_names {
            families.extend(node_exporter::families(&snapshot));
        }
        families
    }
}

/// A family that is being filled.
pub(super) struct Family {
    described: MetricFamily,
    kind: MetricType,
    samples: Vec<Metric>,
}

impl Family {
    pub(super) fn gauge(name: &str, help: &str) -> Self {
        Self::new(name, help, MetricType::GAUGE)
    }

    pub(super) fn counter(name: &str, help: &str) -> Self {
        Self::new(name, help, MetricType::COUNTER)
    }

    fn new(name: &str, help: &str, kind: MetricType) -> Self {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        Self {
            described: family,
            kind,
            samples: Vec::new(),
        }
    }

    /// Adds a sample.
    pub(super) fn with(mut self, labels: &[(&str, &str)], value: f64) -> Self {
        let labels = labels
            .iter()
            .map(|(name, value)| {
                let mut pair = LabelPair::default();
                pair.set_name((*name).to_owned());
                pair.set_value((*value).to_owned());
                pair
            })
            .collect();
        let mut metric = Metric::from_label(labels);
        if self.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.samples.push(metric);
        self
    }

    /// Adds a sample if there is a value.
    pub(super) fn maybe(self, labels: &[(&str, &str)], value: Option<f64>) -> Self {
        match value {
            Some(value) => self.with(labels, value),
            None => self,
        }
    }

    /// Adds a sample for each item.
    pub(super) fn each<T>(
        self,
        items: impl IntoIterator<Item = T>,
        add: impl FnMut(Self, T) -> Self,
    ) -> Self {
        items.into_iter().fold(self, add)
    }

    /// The family; `None` without samples: the text format has no empty ones.
    pub(super) fn finish(mut self) -> Option<MetricFamily> {
        if self.samples.is_empty() {
            return None;
        }
        self.described.set_metric(self.samples);
        Some(self.described)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a sample is a double")]
pub(super) const fn f(number: u64) -> f64 {
    number as f64
}

/// The statistics that mean something, by name. `new`, `delete`, `ignore` and `searched` are always 0.
fn statistics(stats: &KernelStats) -> [(&'static str, Option<u64>); 13] {
    [
        ("found", Some(stats.found)),
        ("invalid", Some(stats.invalid)),
        ("insert", Some(stats.insert)),
        ("insert_failed", Some(stats.insert_failed)),
        ("clash_resolve", stats.clash_resolve),
        ("drop", Some(stats.drop)),
        ("early_drop", Some(stats.early_drop)),
        ("icmp_error", Some(stats.icmp_error)),
        ("search_restart", Some(stats.search_restart)),
        ("chain_too_long", stats.chain_too_long),
        ("expect_new", stats.expect_new),
        ("expect_create", stats.expect_create),
        ("expect_delete", stats.expect_delete),
    ]
}

/// Everything but `node_exporter`'s names.
fn families(snapshot: &Snapshot) -> Vec<MetricFamily> {
    tables(snapshot)
        .into_iter()
        .chain(if snapshot.counting {
            owners::families(snapshot).into()
        } else {
            Vec::new()
        })
        .chain(
            snapshot
                .limit_control
                .iter()
                .flat_map(|report| limit::families(report)),
        )
        .chain(own_state(snapshot))
        .filter_map(Family::finish)
        .collect()
}

fn tables(snapshot: &Snapshot) -> [Family; 7] {
    [
        Family::gauge(
            "ctpressure_table_entries",
            "Entries in the conntrack table of a network namespace.",
        )
        .each(&snapshot.tables, |family, table| {
            family.with(&[("netns", &table.name)], f(table.entries))
        }),
        Family::gauge(
            "ctpressure_table_seconds_to_full",
            "Seconds until the table is full at the slope of the last 15 seconds; absent while it is not filling.",
        )
        .each(&snapshot.tables, |family, table| {
            family.maybe(&[("netns", &table.name)], table.seconds_to_full)
        }),
        Family::gauge(
            "ctpressure_table_pressure",
            "State of a table: 1 for calm (below 50 % of the limit), rising, high (75 %) or full (95 %, or drops in the last 10 s), 0 for the others.",
        )
        .each(&snapshot.tables, |family, table| {
            family.each(Pressure::ALL, |family, state| {
                let labels = [("netns", table.name.as_str()), ("state", state.name())];
                family.with(&labels, f64::from(u8::from(table.pressure == state)))
            })
        }),
        Family::gauge(
            "ctpressure_table_limit",
            "Entries that each table may hold (nf_conntrack_max, one number for all namespaces; 0: unlimited).",
        )
        .maybe(&[], snapshot.limit.map(f)),
        Family::gauge(
            "ctpressure_table_buckets",
            "Buckets of the hash that the tables of all namespaces share.",
        )
        .maybe(&[], snapshot.buckets.map(f)),
        Family::gauge(
            "ctpressure_table_bytes",
            "Kernel memory of the entries of all namespaces (slab pages) and of the hash buckets, without extensions.",
        )
        .maybe(&[], snapshot.table_bytes.map(f)),
        Family::counter(
            "ctpressure_kernel_stat_total",
            "The kernel's own conntrack statistics. insert counts only entries made by ctnetlink or BPF, found only tuples that NAT found taken.",
        )
        .each(&snapshot.tables, |family, table| {
            let values = table.stats.as_ref().map(statistics).into_iter().flatten();
            family.each(values, |family, (stat, value)| {
                family.maybe(&[("netns", &table.name), ("stat", stat)], value.map(f))
            })
        }),
    ]
}

fn own_state(snapshot: &Snapshot) -> [Family; 10] {
    let journal = snapshot.journal.as_ref();
    let not_kept = journal.map(|journal| {
        [
            ("journal_samples", journal.samples_lost),
            ("journal_events", journal.events_lost),
        ]
    });
    let events = snapshot.kube_events.as_ref();
    let not_written = events.map(|events| ("kubernetes_events", events.lost));
    let lost = snapshot
        .losses()
        .into_iter()
        .chain(not_kept.into_iter().flatten())
        .chain(not_written);
    let own = &snapshot.own;
    [
        Family::counter(
            "ctpressure_events_lost_total",
            "What was not seen or not delivered. *_records: a buffer was full; *_not_detailed: beyond the budget of records; frames: evictions without a cause; sockets: inserts charged to the host because their socket was not seen; tags: entries that may be charged to another owner when they leave; missed_runs: the kernel skipped a probe; drops_unexplained, evictions_unseen: only the kernel counted them; journal_samples: seconds that the journal has only together with the next one; journal_events: detail that it does not have; kubernetes_events: Events that were not written, with --kube.",
        )
        .each(lost, |family, (kind, number)| family.with(&[("kind", kind)], f(number))),
        Family::gauge(
            "ctpressure_probe_attached",
            "1 for each kernel function that is probed, 0 for an event that has no hook on this kernel.",
        )
        .each(&snapshot.status.hooks, |family, hook| {
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
        Family::counter(
            "ctpressure_program_run_seconds_total",
            "Time spent in a probe's program over all CPUs; absent unless kernel.bpf_stats_enabled is 1.",
        )
        .each(programs(snapshot), |family, (program, seconds)| {
            family.with(&[("program", program)], seconds)
        }),
        Family::gauge(
            "ctpressure_journal_writing",
            "1 while the journal is written, 0 while it can't be (/status says why); absent without --journal.",
        )
        .maybe(&[], journal.map(|journal| f64::from(u8::from(journal.problem.is_none())))),
        Family::gauge(
            "ctpressure_journal_bytes",
            "Size of the journal with its log; absent without --journal.",
        )
        .maybe(&[], journal.map(|journal| f(journal.bytes))),
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
fn programs(snapshot: &Snapshot) -> Vec<(&'static str, f64)> {
    let mut sums: Vec<(&'static str, f64)> = Vec::new();
    for time in &snapshot.programs {
        match sums
            .iter_mut()
            .find(|(program, _)| *program == time.program)
        {
            Some((_, seconds)) => *seconds += time.seconds,
            None => sums.push((time.program, time.seconds)),
        }
    }
    sums
}

/// Whether the agent can answer for its node; the reason if not.
pub fn readiness(snapshot: &Snapshot) -> Result<(), String> {
    let reason = || {
        snapshot
            .reason
            .clone()
            .unwrap_or_else(|| "no sample yet".to_owned())
    };
    match snapshot.state {
        State::Waiting => Err(reason()),
        _ if !snapshot.ready => Err(reason()),
        State::Attached | State::Degraded => Ok(()),
    }
}

/// An exporter of this agent, shared by the connections.
pub type SharedExporter = Arc<Exporter>;

#[cfg(test)]
pub(super) mod tests;
