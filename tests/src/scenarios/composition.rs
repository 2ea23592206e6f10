//! What the metrics say that the tables are made of, against what was sent.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use super::{census::Background, setting::Setting};
use crate::{
    containers::lookalike::Lookalike,
    guest::{
        agent::Mechanism,
        checks::Checks,
        command::{self, HANG, wait_for},
        generator, kernel,
        prom::Metrics,
    },
};

const SERVER: &str = "127.0.0.1:7000";
/// Of the host: one packet each, of four protocols in turn.
const FLOWS: u64 = 4_000;
/// Of a pod: of three.
const OF_POD: u64 = 300;
/// Of the host: TCP connections that are answered, and held.
const ANSWERED: u64 = 50;
/// For the two that speak with each other: ended with the scenario.
const HOLD: &str = "600";

/// Entries by protocol, state, and whether they are evictable.
fn entries(
    metrics: &Metrics,
    name: &str,
    labels: &[(&str, &str)],
) -> Result<BTreeMap<String, u64>> {
    let mut found = BTreeMap::new();
    for sample in metrics.select(name, labels) {
        let label = |name: &str| {
            let value = sample.labels.get(name).map(String::as_str);
            value.with_context(|| format!("no {name}: {sample:?}"))
        };
        let [protocol, state, evictable] =
            [label("protocol")?, label("state")?, label("evictable")?];
        let evictable = match evictable {
            "true" => "evictable",
            "false" => "spared",
            other => anyhow::bail!("evictable is {other}"),
        };
        let value = format!("{:.0}", sample.value).parse()?;
        let before = found.insert(format!("{protocol} {state} {evictable}"), value);
        ensure!(before.is_none(), "twice: {sample:?}");
    }
    Ok(found)
}

fn expected(counts: &[(&str, u64)]) -> BTreeMap<String, u64> {
    let each = counts.iter();
    each.map(|(name, count)| ((*name).to_owned(), *count))
        .collect()
}

/// Starts `ctgen`.
fn ctgen(arguments: &[&str]) -> Result<Background> {
    let mut command = Command::new("ctgen");
    command.args(arguments).stdout(Stdio::null());
    Ok(Background(command::spawn(&mut command)?))
}

pub(super) fn exact(mechanism: Option<Mechanism>) -> Result<()> {
    let setting = Setting::new(mechanism, 60_000, "")?;
    let _server = ctgen(&["serve", "--listen", SERVER])?;
    let pod = Lookalike::make(1, Ipv4Addr::new(10, 90, 0, 11), 0.0, "send --flows 0")?;
    setting.agent.wait_for_census()?;
    let source = format!("--source {}/32", pod.address);
    generator::send(
        None,
        &format!("{source} --protocol udp,tcp,gre --flows {OF_POD}"),
    )?;
    let of_host = "--source 192.0.2.1/32 --source6 fd00:c7::1/128 --family 4,6";
    generator::send(
        None,
        &format!("{of_host} --protocol udp,tcp,icmp,sctp --flows {FLOWS}"),
    )?;
    let flows = ANSWERED.to_string();
    let connect = [
        "connect",
        "--transport",
        "tcp",
        "--destination",
        SERVER,
        "--hold",
        HOLD,
    ];
    let _client = ctgen(&[&connect[..], &["--flows", &flows]].concat())?;
    let all = [
        ("tcp ESTABLISHED spared", ANSWERED),
        ("tcp SYN_SENT evictable", FLOWS / 4 + OF_POD / 3),
        ("udp UNREPLIED evictable", FLOWS / 4 + OF_POD / 3),
        ("gre UNREPLIED evictable", OF_POD / 3),
        ("icmp UNREPLIED evictable", FLOWS / 8),
        ("icmpv6 UNREPLIED evictable", FLOWS / 8),
        ("sctp CLOSED evictable", FLOWS / 4),
    ];
    let sent: u64 = all.iter().map(|(_, entries)| entries).sum();
    wait_for("all connections to be open", HANG, || {
        Ok((kernel::entries()? >= setting.entries + sent).then_some(()))
    })?;
    // One may be under way that began before.
    setting.agent.wait_for_next_census()?;
    setting.agent.wait_for_next_census()?;
    let metrics = setting.agent.scrape()?;
    let mut checks = Checks::new();
    let node = entries(&metrics, "ctpressure_census_entries", &[])?;
    checks.holds(node == expected(&all), || {
        format!("of the node {node:?}, not {all:?}")
    });
    let of_pod = [
        ("gre UNREPLIED evictable", OF_POD / 3),
        ("tcp SYN_SENT evictable", OF_POD / 3),
        ("udp UNREPLIED evictable", OF_POD / 3),
    ];
    let name = [("pod", pod.name.as_str())];
    let found = entries(&metrics, "ctpressure_owner_census_entries", &name)?;
    checks.holds(found == expected(&of_pod), || {
        format!("of the pod {found:?}, not {of_pod:?}")
    });
    checks.equal(
        "of the foremost owners",
        metrics.count("ctpressure_owner_census_entries", &[])?,
        "of the node",
        metrics.count("ctpressure_census_entries", &[])?,
    );
    let age = metrics.count("ctpressure_census_age_seconds", &[])?;
    checks.at_most("seconds since the census", age, 5);
    pod.remove()?;
    checks.finish()?;
    setting.agent.stop()
}
