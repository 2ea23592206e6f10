//! `/metrics` and the other pages.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::setting::{ALL_KINDS, MANY_BUCKETS, Setting};
use crate::guest::{
    agent::{Agent, Mechanism},
    checks::Checks,
    command::{self, wait_for},
    generator,
    kernel::{self, Statistics},
    prom::Metrics,
    watch::Watch,
};

/// Metrics that are always there, without their prefix.
const CONTRACT: &[&str] = &[
    "table_entries",
    "table_pressure",
    "table_limit",
    "table_buckets",
    "table_bytes",
    "inserts_total",
    "deletes_total",
    "entries",
    "drops_total",
    "evictions_total",
    "kernel_stat_total",
    "events_lost_total",
    "probe_attached",
    "http_connections_closed_total",
    "build_info",
];
/// Those without a prefix of ours.
const PROCESS: &[&str] = &[
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
];
/// The kernel's statistics: our name, the column in /proc.
const STATISTICS: &[(&str, &str)] = &[
    ("found", "found"),
    ("invalid", "invalid"),
    ("insert_failed", "insert_failed"),
    ("drop", "drop"),
    ("early_drop", "early_drop"),
    ("icmp_error", "icmp_error"),
    ("search_restart", "search_restart"),
];
/// As above, where the kernel has them.
const NEWER_STATISTICS: &[(&str, &str)] = &[
    ("clash_resolve", "clashres"),
    ("chain_too_long", "chainlength"),
];

pub(super) fn exposition(mechanism: Option<Mechanism>) -> Result<()> {
    kernel::set_sysctl("nf_conntrack_buckets", MANY_BUCKETS)?;
    kernel::write("/proc/sys/kernel/bpf_stats_enabled", "1")?;
    let result = exposition_with_statistics(mechanism);
    kernel::write("/proc/sys/kernel/bpf_stats_enabled", "0")?;
    result
}

fn exposition_with_statistics(mechanism: Option<Mechanism>) -> Result<()> {
    let setting = Setting::new(mechanism, 5_000, "--node-exporter-names")?;
    check_forecast(&setting.agent)?;
    generator::send(None, &format!("{ALL_KINDS} --first 1000000 --flows 20000"))?;
    let metrics = setting.agent.settled()?;
    let statistics = Statistics::read()?;
    let mut checks = Checks::new();
    let prefixed = CONTRACT.iter().map(|name| format!("ctpressure_{name}"));
    let names: Vec<String> = prefixed
        .chain(PROCESS.iter().map(|&name| name.to_owned()))
        .collect();
    for name in &names {
        let there = metrics.select(name, &[]).next().is_some();
        checks.holds(there, || format!("{name} has no sample"));
    }
    check_descriptions(&mut checks, &metrics);
    let programs = metrics.select("ctpressure_program_run_seconds_total", &[]);
    checks.at_least(
        "program_run_seconds_total with statistics on",
        programs.count(),
        2,
    );
    for (ours, column) in STATISTICS.iter().chain(NEWER_STATISTICS) {
        let labels = [("stat", *ours), ("netns", "host")];
        if statistics.has(column) {
            let value = metrics.count("ctpressure_kernel_stat_total", &labels)?;
            let there = metrics
                .select("ctpressure_kernel_stat_total", &labels)
                .next()
                .is_some();
            checks.holds(there, || format!("kernel_stat_total{{{ours}}} is missing"));
            checks.equal(
                format!("kernel_stat_total{{{ours}}}"),
                value,
                column,
                statistics.get(column),
            );
        }
    }
    checks.at_least("kernel early_drop", statistics.get("early_drop"), 100);
    for dead in ["new", "delete", "ignore", "searched", "delete_list"] {
        let sample = metrics
            .select("ctpressure_kernel_stat_total", &[])
            .find(|sample| sample.labels.get("stat").is_some_and(|stat| stat == dead));
        checks.holds(sample.is_none(), || {
            format!("kernel_stat_total has the dead {dead}")
        });
    }
    check_node_exporter_names(&mut checks, &metrics, &statistics)?;
    checks.equal(
        "drops_total{table_full}",
        metrics.count("ctpressure_drops_total", &[("reason", "table_full")])?,
        "kernel drop since boot of the table",
        statistics.since(&setting.statistics, "drop"),
    );
    checks.finish()?;
    setting.agent.stop()
}

/// Fills slowly: 300 of 5,000 entries a second take 17 s, and the forecast has to come near that.
fn check_forecast(agent: &Agent) -> Result<()> {
    let forecast = || -> Result<Option<f64>> {
        let labels = [("netns", "host")];
        Ok(agent
            .scrape()?
            .value("ctpressure_table_seconds_to_full", &labels))
    };
    let before = forecast()?;
    ensure!(
        before.is_none(),
        "table_seconds_to_full is {before:?} while nothing is sent"
    );
    let sending = generator::start(None, "--flows 4200 --rate 300")?;
    let start = Instant::now();
    let mut said = Vec::new();
    let result = wait_for(
        "table_seconds_to_full to fit",
        Duration::from_secs(13),
        || {
            let now = forecast()?;
            let truth = 5_000.0 / 300.0 - start.elapsed().as_secs_f64();
            said.push(now.map_or_else(|| "none".to_owned(), |seconds| format!("{seconds:.0}")));
            Ok(now.filter(|seconds| (seconds - truth).abs() < 4.0))
        },
    );
    said.dedup();
    drop(sending);
    result
        .map(drop)
        .with_context(|| format!("the forecasts were {} s", said.join(", ")))
}

/// No thread of the agent has a capability that it was to give up: each has its own.
fn check_capabilities(checks: &mut Checks, agent: &Agent) -> Result<()> {
    let threads = format!("/proc/{}/task", agent.pid());
    let mut names = Vec::new();
    for thread in fs::read_dir(&threads).with_context(|| format!("reading {threads}"))? {
        let status = fs::read_to_string(thread?.path().join("status"))?;
        let field = |name: &str| {
            let row = status.lines().find_map(|line| line.strip_prefix(name));
            row.map(|value| value.trim().to_owned()).unwrap_or_default()
        };
        let name = field("Name:");
        // CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN, CAP_SYS_PTRACE, CAP_NET_ADMIN, CAP_DAC_READ_SEARCH, CAP_SYSLOG.
        let kept = [39, 38, 34, 21, 19, 12, 2]
            .map(|bit| 1_u64 << bit)
            .iter()
            .sum();
        // Whoever can reach the port talks to one of these, the other asks drivers: they have none, and can get none by starting a program.
        let is_bare = ["allowances", "http"].contains(&name.as_str());
        for set in ["CapPrm:", "CapEff:", "CapInh:", "CapBnd:", "CapAmb:"] {
            let has = u64::from_str_radix(&field(set), 16)
                .with_context(|| format!("{set} of the thread {name}"))?;
            let expected = match set {
                "CapInh:" | "CapAmb:" => 0,
                _ if is_bare => 0,
                _ => kept,
            };
            checks.equal(format!("{set} {name}"), has, "kept", expected);
        }
        if is_bare {
            let sealed = field("NoNewPrivs:");
            checks.holds(sealed == "1", || format!("NoNewPrivs: {sealed} of {name}"));
        }
        names.push(name);
    }
    for needed in ["background", "http"] {
        checks.holds(names.iter().any(|name| name == needed), || {
            format!("the agent's threads are {names:?}")
        });
    }
    Ok(())
}

/// Every sample belongs to a metric with help and a fitting type.
fn check_descriptions(checks: &mut Checks, metrics: &Metrics) {
    for sample in metrics.samples() {
        let name = &sample.name;
        let known = ["ctpressure_", "process_", "node_nf_conntrack_"];
        checks.holds(known.iter().any(|prefix| name.starts_with(prefix)), || {
            format!("{name} has a foreign prefix")
        });
        let counter = name.ends_with("_total");
        let fits = metrics.type_of(name) == Some(if counter { "counter" } else { "gauge" });
        checks.holds(fits, || format!("{name} is a {:?}", metrics.type_of(name)));
        let helped = metrics.help_of(name).is_some_and(|help| help.len() > 10);
        checks.holds(helped, || {
            format!("{name} has the help {:?}", metrics.help_of(name))
        });
    }
}

fn check_node_exporter_names(
    checks: &mut Checks,
    metrics: &Metrics,
    statistics: &Statistics,
) -> Result<()> {
    let entries = metrics.count("node_nf_conntrack_entries", &[])?;
    checks.equal(
        "node_nf_conntrack_entries",
        entries,
        "nf_conntrack_count",
        kernel::entries()?,
    );
    let limit = metrics.count("node_nf_conntrack_entries_limit", &[])?;
    checks.equal(
        "node_nf_conntrack_entries_limit",
        limit,
        "nf_conntrack_max",
        5_000,
    );
    for stat in [
        "found",
        "invalid",
        "insert_failed",
        "drop",
        "early_drop",
        "search_restart",
    ] {
        let name = format!("node_nf_conntrack_stat_{stat}");
        let value = metrics.count(&name, &[])?;
        checks.equal(&name, value, stat, statistics.get(stat));
    }
    Ok(())
}

pub(super) fn pages(mechanism: Option<Mechanism>) -> Result<()> {
    let setting = Setting::new(mechanism, 10_000, "")?;
    let agent = &setting.agent;
    let mut checks = Checks::new();
    for (path, expected) in [
        ("/healthz", 200),
        ("/readyz", 200),
        ("/metrics", 200),
        ("/status", 200),
        ("/", 200),
        ("/no", 404),
    ] {
        checks.equal(
            format!("GET {path}"),
            agent.get(path)?.0,
            "expected",
            expected,
        );
    }
    let post = minreq::post(format!("http://{}/metrics", agent.address()))
        .with_timeout(5)
        .send()?;
    checks.equal("POST /metrics", post.status_code, "expected", 405);
    let short: serde_json::Value = serde_json::from_str(&agent.get("/status")?.1)?;
    for (name, told) in short.as_object().context("/status is no object")? {
        let known = ["more", "ready", "state", "uptime_seconds", "version"];
        checks.holds(known.contains(&name.as_str()), || {
            format!("/status tells strangers {name}: {told}")
        });
    }
    let socket = agent.socket();
    let printed = command::output(
        "ctpressure",
        &["status", "--socket", &socket.to_string_lossy()],
    )?;
    let status: serde_json::Value = serde_json::from_str(&printed)?;
    for pointer in [
        "/version",
        "/kernel/release",
        "/uptime_seconds",
        "/limit",
        "/buckets",
        "/own/rss_bytes",
    ] {
        let there = status
            .pointer(pointer)
            .is_some_and(|value| !value.is_null());
        checks.holds(there, || format!("the status has no {pointer}"));
    }
    checks.equal(
        "limit in the status",
        status["limit"].as_u64(),
        "set",
        Some(10_000),
    );
    checks.equal(
        "state in the status",
        status["state"].as_str(),
        "expected",
        Some("attached"),
    );
    let hooks = status["hooks"].as_array().map_or(0, Vec::len);
    checks.at_least("hooks in the status", hooks, 4);
    check_capabilities(&mut checks, agent)?;
    // A watch that is connected but asks for nothing does not hold up the pages: not for the 5 s that
    // it may take to ask.
    let watch = Watch::start(&agent.socket(), "")?;
    let start = Instant::now();
    agent.get("/metrics")?;
    checks.within(
        "time for /metrics",
        start.elapsed(),
        Duration::from_millis(4_999),
    );
    thread::sleep(Duration::from_millis(500));
    watch.stop()?;
    checks.finish()?;
    setting.agent.stop()
}
