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
        generator, kernel, net,
        prom::Metrics,
    },
};

/// A server in a network namespace of its own: what stays on the loopback device is not tracked.
const SERVER: &str = "203.0.113.2:7000";
const SERVERS: &str = "ctp-server";
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

/// Starts a program.
fn background(words: &[&str]) -> Result<Background> {
    let (program, arguments) = words.split_first().context("a program")?;
    let mut command = Command::new(program);
    command.args(arguments).stdout(Stdio::null());
    Ok(Background(command::spawn(&mut command)?))
}

fn serve() -> Result<Background> {
    net::add_namespace(SERVERS)?;
    let link = format!("link add ctp-srv type veth peer name eth0 netns {SERVERS}");
    let here = "addr add 203.0.113.1/30 dev ctp-srv\nlink set ctp-srv up";
    net::batch(None, &format!("{link}\n{here}\n"))?;
    let there = "link set lo up\naddr add 203.0.113.2/30 dev eth0\nlink set eth0 up\n";
    net::batch(Some(SERVERS), there)?;
    let ctgen = ["ctgen", "serve", "--listen", SERVER];
    background(&[&["ip", "netns", "exec", SERVERS][..], &ctgen].concat())
}

pub(super) fn exact(mechanism: Option<Mechanism>) -> Result<()> {
    // There when the agent begins, which then knows it.
    let pod = Lookalike::make(1, Ipv4Addr::new(10, 90, 0, 11), 0.0, "send --flows 0")?;
    let setting = Setting::new(mechanism, 60_000, "")?;
    kernel::set_sysctl("nf_conntrack_sctp_timeout_closed", 3_600)?;
    let _server = serve()?;
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
        "--transport",
        "tcp",
        "--destination",
        SERVER,
        "--hold",
        HOLD,
    ];
    let _client = background(&[&["ctgen", "connect", "--flows", &flows][..], &connect].concat())?;
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
    let wanted = setting.entries + sent;
    wait_for("all connections to be open", HANG, || {
        let entries = kernel::entries()?;
        Ok((entries >= wanted).then_some(()))
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
    let age = metrics.value("ctpressure_census_age_seconds", &[]);
    checks.holds(age.is_some_and(|age| age < 5.0), || {
        format!("seconds since the census: {age:?}")
    });
    pod.remove()?;
    checks.finish()?;
    setting.agent.stop()
}
