//! Twenty pods at once: every count by owner is the generators', the tables' and a census'.

use anyhow::{Context as _, Result};

use super::{
    EGRESS, INGRESS, NOT_LOOPBACK, PORT_OF_HOST, PORT_OF_NODE_AGENT, PORT_OF_UNIT, UNIT, census,
    load::{From, Load},
    owner,
};
use crate::{
    containers::{
        cluster::{
            CLIENTS, Cluster, FIREWALLED, NODE_AGENT, SERVERS, SERVICE, SERVICE_PORT, SIX, WEB,
            WEB_HOST_PORT,
        },
        network::{NODE, OUTSIDE_ADDRESS},
        pod::{PORT, Pod},
    },
    guest::{
        agent::{Agent, Mechanism},
        checks::Checks,
        command::output,
        kernel, net,
        owned::{ByOwner, Owner},
        prom::Metrics,
        unit::Unit,
    },
    scenarios::{
        of_kernel_only,
        setting::{Round, exact_or_bounded},
    },
    traffic::bench::flush_table,
};

/// Far above what is sent: nothing is dropped or evicted here.
const LIMIT: u64 = 100_000;

pub(in crate::scenarios) fn exact(mechanism: Option<Mechanism>) -> Result<()> {
    let cluster = Cluster::get(!of_kernel_only())?;
    exact_or_bounded(|| round(&cluster, mechanism))
}

/// With fentry an insert itself is never skipped, but what tells the socket of its packet is, when its task was put aside
/// meanwhile: such flows of the host's address are the host's then.
fn round(cluster: &Cluster, mechanism: Option<Mechanism>) -> Result<Round> {
    net::nft(None, NOT_LOOPBACK)?;
    kernel::set_limit(LIMIT)?;
    let firewalled = cluster.pod(FIREWALLED)?;
    let own_table = firewalled.netns()?;
    kernel::nothing_expires(None)?;
    kernel::nothing_expires(Some(own_table))?;
    output("ip", &["netns", "exec", own_table, "conntrack", "-F"])?;
    flush_table()?;

    let _unit = Unit::start(UNIT)?;
    // Entries from before the agent: known by its census.
    for (pod, arguments) in earlier(cluster)? {
        cluster.pod(pod)?.run(&arguments)?;
    }
    let before = census(cluster)?;
    let agent = Agent::start(mechanism, "")?;
    agent.wait_for_census()?;
    let start = agent.settled()?;
    // Of programs that count: a run of another one that is skipped has no part in what is compared here.
    let missed_counts = || -> Result<u64> {
        let status = agent.status()?;
        let missed = status["totals"]["lost"]["missed_counts"].as_u64();
        missed.context("the status has no missed_counts")
    };
    let missed_before = missed_counts()?;
    let mut checks = Checks::new();
    let live = ByOwner::read(&start, "entries", "direction")?;
    live.check(&mut checks, "entries at the start", &before);

    check_interfaces(&mut checks, &agent, cluster.pod(CLIENTS[0])?)?;
    let expected = send(cluster, &mut checks)?;
    let metrics = agent.settled()?;
    let after = census(cluster)?;
    // The truth itself: what the tables hold is what the generators sent.
    let sent = after.since(&before)?;
    sent.check(&mut checks, "entries listed", &expected);
    let growth = |name: &str, beside: &str| {
        let now = ByOwner::read(&metrics, name, beside)?;
        now.since(&ByOwner::read(&start, name, beside)?)
    };
    let inserts = growth("inserts_total", "direction")?;
    let tables = kernel::entries()? + kernel::entries_of(own_table)?;
    checks.equal("entries", sent.sum(), "tables", tables - before.sum());
    for (name, beside) in [
        ("deletes_total", "direction"),
        ("drops_total", "reason"),
        ("evictions_total", "role"),
    ] {
        growth(name, beside)?.check(&mut checks, name, &ByOwner::default());
    }
    let live = ByOwner::read(&metrics, "entries", "direction")?;

    // All that was live is deleted, and nothing is left.
    output("ip", &["netns", "exec", own_table, "conntrack", "-F"])?;
    flush_table()?;
    let emptied = agent.settled()?;
    let deletes = ByOwner::read(&emptied, "deletes_total", "direction")?.since(&ByOwner::read(
        &metrics,
        "deletes_total",
        "direction",
    )?)?;
    let left = ByOwner::read(&emptied, "entries", "direction")?;
    let lost = |kind: &str| {
        let labels = [("kind", kind)];
        let now = emptied.count("ctpressure_events_lost_total", &labels)?;
        anyhow::Ok(now - start.count("ctpressure_events_lost_total", &labels)?)
    };
    let missed = missed_counts()? - missed_before;
    let sockets = lost("sockets")?;
    println!(
        "of {} flows {missed} were missed, {sockets} sockets were not seen; {} runs skipped in all",
        sent.sum(),
        lost("missed_runs")?,
    );
    let skipped = missed + sockets;
    // Where a census found what a skipped run did not count, entries are known within bounds until the next one.
    let unsure = |metrics: &Metrics| {
        let unsure = metrics.count("ctpressure_entries_uncertainty", &[])?;
        anyhow::Ok(if skipped == 0 { 0 } else { unsure })
    };
    for (name, counted, truth, unsure) in [
        ("inserts_total", &inserts, &expected, 0),
        ("entries", &live, &after, unsure(&metrics)?),
        ("deletes_total", &deletes, &after, 0),
    ] {
        if skipped == 0 {
            counted.check(&mut checks, name, truth);
            continue;
        }
        // Nobody lacks more than what was counted as skipped; a socket that was not seen is lacking in no sum.
        let lacking = counted.lacking(truth);
        checks.at_most(format!("{name} lacking"), lacking, skipped + unsure);
        let of_all = counted.sum().abs_diff(truth.sum());
        checks.at_most(format!("{name} of all, off by"), of_all, missed);
    }
    let unsure = unsure(&emptied)?;
    checks.at_most("entries after a flush", left.sum(), missed + unsure);
    checks.finish()?;
    agent.stop()?;
    Ok(Round {
        skipped,
        flows: sent.sum(),
    })
}

/// The status names the interface of the host through which the pod's packets go.
fn check_interfaces(checks: &mut Checks, agent: &Agent, pod: &Pod) -> Result<()> {
    let status = agent.status()?;
    let owners = status["owners"].as_array().context("no owners")?;
    let found = owners
        .iter()
        .find(|found| found["owner"]["pod"] == pod.name.as_str())
        .with_context(|| format!("{} is not in the status", pod.name))?;
    let interfaces = found["owner"]["host_interfaces"].as_array();
    let name = interfaces.and_then(|names| names.first()?.as_str());
    // The veth's other end is the pod's only device beside loopback.
    let peer = output("ip", &["-n", pod.netns()?, "-o", "link", "show", "eth0"])?;
    let index = peer
        .split_once("eth0@if")
        .and_then(|(_, rest)| rest.split_once(':'))
        .and_then(|(index, _)| index.parse::<u32>().ok());
    let of_host = name.and_then(|name| {
        let path = format!("/sys/class/net/{name}/ifindex");
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    });
    checks.equal(
        "the host's interface of a pod",
        of_host,
        "the pod's peer",
        index,
    );
    checks.holds(index.is_some(), || format!("no peer in `{peer}`"));
    Ok(())
}

/// What some pods send before there is an agent.
fn earlier(cluster: &Cluster) -> Result<Vec<(&'static str, String)>> {
    let address = cluster.pod(CLIENTS[0])?.address()?;
    let six = cluster.pod(SIX)?.address()?;
    let firewalled = cluster.pod(FIREWALLED)?.address()?;
    let numbers = |turn| format!("--flows 60 {}", first_of(turn));
    Ok(vec![
        (
            CLIENTS[0],
            format!("send --source {address}/32 {}", numbers(100)),
        ),
        (
            FIREWALLED,
            format!("send --source {firewalled}/32 {}", numbers(101)),
        ),
        (
            SIX,
            format!("send --family 6 --source6 {six}/128 {}", numbers(102)),
        ),
    ])
}

/// All generators at once; what has to be counted for whom.
fn send(cluster: &Cluster, checks: &mut Checks) -> Result<ByOwner> {
    let loads = loads(cluster)?;
    let running: Vec<_> = loads
        .iter()
        .map(|load| load.from.start(&load.arguments))
        .collect::<Result<_>>()?;
    let mut expected = ByOwner::default();
    for (load, running) in loads.into_iter().zip(running) {
        let what = format!("{} of {:?}", load.arguments, load.owner);
        let tally = running.finish().with_context(|| what.clone())?;
        // Every flow has come through, so every one is in every table on its way.
        checks.equal(
            format!("flows of `{what}`"),
            tally.accepted,
            "sent",
            tally.sent,
        );
        checks.at_least(format!("flows of `{what}`"), tally.sent, 1);
        expected.add(load.owner, load.direction, tally.accepted * load.tables);
    }
    Ok(expected)
}

/// Flow numbers of this turn's own. The node masquerades what pods send: the same flow of two pods at once, on two
/// CPUs, gets the same address and port there, and the kernel drops one of them as a clash.
fn first_of(turn: usize) -> String {
    format!("--first {}", turn * 10_000)
}

/// Packets of three protocols, from two CPUs.
const MIXED: &str = "send --protocol udp,tcp,icmp --threads 2";

fn loads(cluster: &Cluster) -> Result<Vec<Load<'_>>> {
    let mut loads = Vec::new();
    for (name, tables, arguments) in of_pods(cluster)? {
        let pod = cluster.pod(name)?;
        loads.push(Load {
            from: From::Pod(pod),
            arguments,
            owner: owner(pod),
            direction: EGRESS,
            tables,
        });
    }
    for (from, owner, direction, arguments) in of_others(cluster)? {
        loads.push(Load {
            from,
            arguments,
            owner,
            direction,
            tables: 1,
        });
    }
    Ok(loads)
}

/// Pods that open flows, the number of tables that see each flow, and what they do.
fn of_pods(cluster: &Cluster) -> Result<Vec<(&'static str, u64, String)>> {
    let address = |name: &str| cluster.pod(name)?.address();
    let service = format!("--destination {SERVICE}:{SERVICE_PORT}");
    let mut loads = Vec::new();
    for (number, name) in CLIENTS.into_iter().enumerate() {
        let (tcp, udp, raw) = (60 + number, 80 + 3 * number, 900 + 7 * number);
        let source = address(name)?;
        loads.extend([
            (
                name,
                1,
                format!("connect --transport tcp {service} --flows {tcp}"),
            ),
            (
                name,
                1,
                format!("connect --transport udp {service} --flows {udp}"),
            ),
            (
                name,
                1,
                format!(
                    "{MIXED} --source {source}/32 --flows {raw} {}",
                    first_of(number)
                ),
            ),
        ]);
    }
    let server = address(SERVERS[1])?;
    let (firewalled, six) = (address(FIREWALLED)?, address(SIX)?);
    loads.extend([
        (
            SERVERS[1],
            1,
            format!("send --source {server}/32 --flows 77 {}", first_of(10)),
        ),
        // Straight to another pod, by the bridge and by the host's routes.
        (
            CLIENTS[1],
            1,
            format!("connect --destination {server}:{PORT} --flows 23"),
        ),
        (
            CLIENTS[4],
            1,
            format!("connect --destination {server}:{PORT} --flows 29"),
        ),
        // Its own rules see each of its flows, and the host's see it again.
        (
            FIREWALLED,
            2,
            format!(
                "{MIXED} --source {firewalled}/32 --flows 450 {}",
                first_of(11)
            ),
        ),
        (FIREWALLED, 2, format!("connect {service} --flows 31")),
        (
            SIX,
            1,
            format!("{MIXED} --family 6 --source6 {six}/128 --flows 510"),
        ),
        // The node's address, told apart by the socket.
        (NODE_AGENT, 1, from_node(PORT_OF_NODE_AGENT, 240)),
    ]);
    Ok(loads)
}

/// The others that open flows, who has to be charged as what, and what they do.
fn of_others(cluster: &Cluster) -> Result<Vec<(From<'static>, Owner, &'static str, String)>> {
    let service = format!("--destination {SERVICE}:{SERVICE_PORT}");
    let (web, six) = (cluster.pod(WEB)?, cluster.pod(SIX)?);
    let address = web.address()?;
    let to_web = format!("--destination {address}:{PORT}");
    let to_six = format!("--destination [{}]:{PORT}", six.address()?);
    let to_host = format!("--destination {NODE}/32 --destination-ports 9");
    Ok(vec![
        (
            From::Host,
            Owner::host(),
            EGRESS,
            from_node(PORT_OF_HOST, 130),
        ),
        (
            From::Host,
            Owner::host(),
            EGRESS,
            format!("connect {service} --flows 17"),
        ),
        (
            From::Unit,
            Owner::unit(UNIT),
            EGRESS,
            from_node(PORT_OF_UNIT, 170),
        ),
        (
            From::Outside,
            owner(web),
            INGRESS,
            format!("connect --transport tcp {to_web} --flows 45"),
        ),
        (
            From::Outside,
            owner(web),
            INGRESS,
            format!("connect --transport udp {to_web} --flows 46"),
        ),
        (
            From::Outside,
            owner(web),
            INGRESS,
            format!("connect --destination {NODE}:{WEB_HOST_PORT} --flows 21"),
        ),
        (
            From::Outside,
            owner(web),
            INGRESS,
            format!("{MIXED} --source 203.0.113.0/24 --destination {address}/32 --flows 600"),
        ),
        (
            From::Outside,
            owner(six),
            INGRESS,
            format!("connect {to_six} --flows 33"),
        ),
        (
            From::Outside,
            Owner::host(),
            INGRESS,
            format!("send --source {OUTSIDE_ADDRESS}/32 {to_host} --flows 19"),
        ),
    ])
}

fn from_node(port: u16, flows: u64) -> String {
    format!("send --protocol udp,tcp --source {NODE}/32 --destination-ports {port} --flows {flows}")
}
