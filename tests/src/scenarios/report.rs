//! An aggregating pod's backends are doubled after somebody halved the limit, and nobody looks on:
//! the journal has it, the report names who did it, who suffered and since when, and the limit that it
//! advises holds in a second run.

use std::{
    net::Ipv4Addr,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{
    containers::lookalike::Lookalike,
    guest::{
        agent::{Agent, Mechanism},
        checks::Checks,
        command::{self, HANG, wait_for},
        kernel::{self, Statistics},
        net,
    },
    traffic::bench::flush_table,
};

/// The limit before and after.
const LIMIT: u64 = 4_000;
const HALVED: u64 = LIMIT / 2;
const AGGREGATOR: Ipv4Addr = Ipv4Addr::new(10, 44, 0, 1);
const BYSTANDER: Ipv4Addr = Ipv4Addr::new(10, 44, 0, 2);
/// Connections to each half of the backends.
const CONNECTIONS: u64 = 1_700;
const BACKENDS: [&str; 2] = [
    "10.200.0.0/25,10.201.0.0/25",
    "10.200.0.128/25,10.201.0.128/25",
];
/// Flows of the other pod, and how many a second.
const FLOWS: u64 = 250;
const RATE: u64 = 25;

const FORWARDED: &str = "
table inet ctp_forward {
  chain forward { type filter hook forward priority filter; ct state new accept; }
  chain input { type filter hook input priority filter; ct state new accept; }
}
";

/// A child that is ended when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Either it is already gone, or it is to be.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// `ctgen` in a pod's network namespace.
fn generate(number: u32, arguments: &str) -> Result<Running> {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &format!("ctp-job-{number}"), "ctgen"]);
    command
        .args(arguments.split_whitespace())
        .stdout(Stdio::null());
    Ok(Running(command::spawn(&mut command)?))
}

fn fan(backends: &str) -> String {
    format!("fan --destination {backends} --port 7000 --flows {CONNECTIONS} --rate 400 --hold 60")
}

pub(super) fn incident(mechanism: Option<Mechanism>) -> Result<()> {
    net::track_into_dead_end(None)?;
    net::nft(None, FORWARDED)?;
    kernel::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    kernel::nothing_expires(None)?;
    kernel::set_limit(LIMIT)?;
    // Addresses of whole networks without adding any (a local route, "AnyIP").
    net::ip(None, "route replace local 10.200.0.0/15 dev lo")?;
    let mut keep = Command::new("ctgen");
    keep.args(["keep", "--listen", "[::]:7000"])
        .stdout(Stdio::null());
    let _backends = Running(command::spawn(&mut keep)?);
    let pods = [(1, AGGREGATOR), (2, BYSTANDER)]
        .map(|(number, address)| Lookalike::make(number, address, 0.0, "pause"));
    let [aggregator, bystander] = pods;
    let (aggregator, bystander) = (aggregator?, bystander?);
    let folder = tempfile::Builder::new().prefix("ctp-journal-").tempdir()?;
    let journal = folder.path().to_string_lossy().into_owned();
    let details =
        format!("--journal {journal} --drop-budget 4000000000 --eviction-budget 4000000000");
    let agent = Agent::start(mechanism, &details)?;
    flush_table()?;
    let start = Statistics::read()?;

    let (before, after) = first_run()?;
    let report = wait_for("the journal to have the incident", HANG, || {
        let arguments = [
            "report",
            "--journal",
            &journal,
            "--incident",
            "1",
            "-o",
            "json",
        ];
        let Ok(printed) = command::output("ctpressure", &arguments) else {
            return Ok(None);
        };
        let report: Value = serde_json::from_str(&printed).context("not JSON")?;
        let lost = report["losses"]["packets"].as_u64().unwrap_or(0);
        let drops = Statistics::read()?.since(&start, "drop");
        Ok((lost == drops).then_some(report))
    })?;
    println!("{}", report["summary"]);
    println!("{}", report["demand"]);
    let text = |pointer: &str| {
        report
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let mut checks = Checks::new();
    let names = |key: &str| -> Vec<&str> {
        let rows = report[key].as_array().map_or(&[][..], |rows| &rows[..]);
        rows.iter()
            .filter_map(|row| row["owner"].as_str())
            .collect()
    };
    let (who, victim) = ("batch/job-1", "batch/job-2");
    checks.holds(names("filled_by").first() == Some(&who), || {
        format!("filled by {:?}", names("filled_by"))
    });
    checks.holds(text("/summary/1").contains(who), || {
        text("/summary/1").to_owned()
    });
    for victim in [who, victim] {
        checks.holds(names("suffered").contains(&victim), || {
            format!("{victim} is not in {:?}", names("suffered"))
        });
    }
    checks.holds(text("/cause/kind").starts_with("limit_lowered"), || {
        format!("cause: {}", report["cause"])
    });
    let first = text("/losses/first_drop");
    let told = (before..=after).map(rfc3339).collect::<Result<Vec<_>>>()?;
    checks.holds(told.iter().any(|second| second == first), || {
        format!("the first drop was between {told:?}, and the report says {first}")
    });
    let advised = advised(&report)?;

    flush_table()?;
    let most = second_run(advised)?;
    println!("advised {advised}; {most} were there at most");
    checks.at_least("advised limit", advised, most);
    checks.at_most("advised limit", advised, most * 3 / 2);
    let page = folder.path().join("report.html");
    let html = page.to_string_lossy().into_owned();
    let arguments = [
        "report",
        "--journal",
        &journal,
        "--incident",
        "1",
        "--html",
        &html,
    ];
    command::output("ctpressure", &arguments)?;
    checks.at_least("bytes of the page", std::fs::metadata(&page)?.len(), 10_000);
    aggregator.remove()?;
    bystander.remove()?;
    checks.finish()?;
    agent.stop()
}

/// The incident; the first and the last second in which its first drop can have been.
fn first_run() -> Result<(u64, u64)> {
    let _first = generate(1, &fan(BACKENDS[0]))?;
    wait_for("the first connections", HANG, || {
        Ok((kernel::entries()? >= CONNECTIONS).then_some(()))
    })?;
    // A sample or two of what was before.
    thread::sleep(Duration::from_secs(3));
    let start = Statistics::read()?;
    kernel::set_limit(HALVED)?;
    let _beside = beside()?;
    let _second = generate(1, &fan(BACKENDS[1]))?;
    let mut before = now()?;
    let after = wait_for("the first drop", HANG, || {
        let asked = now()?;
        if Statistics::read()?.since(&start, "drop") > 0 {
            return Ok(Some(now()?));
        }
        before = asked;
        Ok(None)
    })?;
    // All connections were tried, and some of them again.
    thread::sleep(Duration::from_secs(8));
    Ok((before, after))
}

/// The same at once with this limit: nothing may be lost. The most entries.
fn second_run(limit: u64) -> Result<u64> {
    kernel::set_limit(limit)?;
    let start = Statistics::read()?;
    let _first = generate(1, &fan(BACKENDS[0]))?;
    let _beside = beside()?;
    let _second = generate(1, &fan(BACKENDS[1]))?;
    let all = 2 * CONNECTIONS + FLOWS;
    wait_for("all connections", Duration::from_mins(1), || {
        Ok((kernel::entries()? >= all).then_some(()))
    })?;
    thread::sleep(Duration::from_secs(1));
    let end = Statistics::read()?;
    let mut checks = Checks::new();
    for lost in ["drop", "early_drop"] {
        checks.equal(
            format!("{lost} with the advised limit"),
            end.since(&start, lost),
            "zero",
            0,
        );
    }
    checks.finish()?;
    kernel::entries()
}

fn beside() -> Result<Running> {
    generate(
        2,
        &format!("send --source {BYSTANDER}/32 --flows {FLOWS} --rate {RATE}"),
    )
}

/// The limit that the report would set.
fn advised(report: &Value) -> Result<u64> {
    let advice = report["advice"].as_array().context("no advice")?;
    advice
        .iter()
        .find(|one| one["set"][0] == "nf_conntrack_max")
        .and_then(|one| one["set"][1].as_u64())
        .with_context(|| format!("no limit is advised: {advice:?}"))
}

/// Seconds since 1970.
fn now() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())
}

/// As `date` says it.
fn rfc3339(second: u64) -> Result<String> {
    let printed = command::output(
        "date",
        &["-u", "-d", &format!("@{second}"), "+%Y-%m-%dT%H:%M:%SZ"],
    )?;
    Ok(printed.trim().to_owned())
}
