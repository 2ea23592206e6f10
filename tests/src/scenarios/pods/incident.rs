//! An aggregating pod holds most of a table; its limit is halved and its backends are doubled. The
//! metrics name it, and what is dropped is charged to those who lost it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{
    INGRESS, NOT_LOOPBACK, PORT_OF_NODE_AGENT, census, load::From, owner, passed, passed::Passed,
};
use crate::{
    containers::{
        cluster::{AGGREGATOR, BYSTANDER, Cluster, NODE_AGENT, WEB, WEB_HOST_PORT},
        network::{NODE, OUTSIDE, OUTSIDE_ADDRESS},
        pod::{PORT, Pod},
    },
    guest::{
        agent::{Agent, Mechanism},
        backends::Backends,
        checks::Checks,
        command::{self, wait_for},
        kernel::{self, Statistics},
        net,
        owned::{ByOwner, Owner},
        watch::{Line, Watch},
    },
    traffic::bench::flush_table,
};

/// The limit before and after.
const LIMIT: u64 = 4_000;
const HALVED: u64 = LIMIT / 2;
/// Far above what there is.
const AFTERWARDS: u64 = 200_000;
/// Where backends are: any address of these, beyond the uplink.
const NETWORKS: &str = "10.200.0.0/15";
/// 126 backends on either side, and as many again.
const BACKENDS: &str = "10.200.0.0/25,10.201.0.0/25";
const MORE_BACKENDS: &str = "10.200.0.128/25,10.201.0.128/25";
/// Connections to each half of them: 45 % of the table, and then 180 % of what is left of it.
const CONNECTIONS: u64 = 1_800;
/// Somebody outside who asks a port of the node.
const CUSTOMER: &str = "customer";
/// Within this time of the first drop the holder is named.
const NAMED_WITHIN: Duration = Duration::from_secs(2);

pub(in crate::scenarios) fn incident(mechanism: Option<Mechanism>) -> Result<()> {
    let cluster = Cluster::get(true)?;
    let (aggregator, bystander) = (cluster.pod(AGGREGATOR)?, cluster.pod(BYSTANDER)?);
    let web = cluster.pod(WEB)?;
    net::nft(None, NOT_LOOPBACK)?;
    let outside = [(CUSTOMER, OUTSIDE_ADDRESS)];
    passed::count(&[aggregator, bystander, web], &outside)?;
    kernel::nothing_expires(None)?;
    kernel::set_limit(LIMIT)?;
    flush_table()?;
    let _backends = Backends::start(OUTSIDE, NETWORKS, PORT)?;
    let agent = Agent::start(mechanism, "--drop-budget 4000000000 --ring-size 8388608")?;
    let watch = Watch::start(&agent.socket(), "--kind drop")?;
    let start = agent.settled()?;
    let statistics = Statistics::read()?;
    ask_host_port(&agent)?;
    let mut checks = Checks::new();

    let fan = |networks: &str, hold: u32| {
        format!(
            "fan --destination {networks} --port {PORT} --flows {CONNECTIONS} --rate 400 --hold {hold}"
        )
    };
    let first = aggregator.start(&fan(BACKENDS, 300))?;
    wait_for("the first connections", Duration::from_mins(1), || {
        Ok((kernel::entries()? >= CONNECTIONS).then_some(()))
    })?;
    checks.equal(
        "drops before",
        Statistics::read()?.since(&statistics, "drop"),
        "zero",
        0,
    );

    kernel::set_limit(HALVED)?;
    let source = bystander.address()?;
    let beside = bystander.start(&format!("send --source {source}/32 --flows 300 --rate 30"))?;
    let second = aggregator.start(&fan(MORE_BACKENDS, 5))?;
    wait_for("the first drop", Duration::from_mins(1), || {
        let drops = Statistics::read()?.since(&statistics, "drop");
        Ok((drops > 0).then_some(()))
    })?;
    let (took, share) = time_until_named(&agent, aggregator)?;
    println!("named after {took:?} with {share:.3} of the table");
    checks.within("time until the holder is named", took, NAMED_WITHIN);
    check_top(&mut checks, &agent, aggregator)?;
    second.finish()?;
    beside.finish()?;
    // Alone: what a softirq drops inside the drop of a process can be missed.
    let of_node_agent = lose_packets_of_the_host(&agent, &cluster)?;
    let asked = From::Outside.start(&to_host_port("--flows 200 --first 1000 --rate 100"))?;
    asked.finish()?;
    // What is sent again from now on finds room: nothing is dropped between two readings.
    kernel::set_limit(AFTERWARDS)?;

    let metrics = agent.settled()?;
    let live = ByOwner::read(&metrics, "entries", "direction")?;
    live.check(&mut checks, "entries", &census(&cluster)?);
    let counts = Passed::read()?;
    let drops = ByOwner::read(&metrics, "drops_total", "reason")?.since(&ByOwner::read(
        &start,
        "drops_total",
        "reason",
    )?)?;
    println!("drops {:?}", drops.0);
    // Which a busy host brings about: each is counted, and none is charged to somebody else.
    let missed = metrics.count(
        "ctpressure_events_lost_total",
        &[("kind", "drops_unexplained")],
    )?;
    println!("{missed} drops that only the kernel counted");
    // No rule saw where a customer's packets were to go: it is known from those before.
    let to_web = counts.dropped(CUSTOMER);
    for (pod, dropped) in [
        (aggregator, counts.dropped(AGGREGATOR)),
        (bystander, counts.dropped(BYSTANDER)),
        // Its answer is a new flow where the entry of what it answers was evicted meanwhile.
        (web, to_web + counts.dropped(WEB)),
        // It shares the host's addresses: only the sockets tell whose packets these were.
        (cluster.pod(NODE_AGENT)?, of_node_agent),
    ] {
        let charged = drops.get(&owner(pod), "table_full");
        checks.at_least(format!("packets lost by {}", pod.name), dropped, 20);
        checks.at_most(format!("drops_total of {}", pod.name), charged, dropped);
        checks.at_least(
            format!("drops_total of {} and missed ones", pod.name),
            charged + missed,
            dropped,
        );
    }
    let by_direction = ByOwner::read(&metrics, "drops_total", "direction")?;
    let by_direction = by_direction.since(&ByOwner::read(&start, "drops_total", "direction")?)?;
    let ingress = by_direction.get(&owner(web), INGRESS);
    checks.at_most("ingress drops_total of web", ingress, to_web);
    checks.at_least(
        "ingress drops_total of web and missed ones",
        ingress + missed,
        to_web,
    );
    // With those of other pods, which may send something of their own meanwhile.
    checks.equal(
        "drops_total of all and missed ones",
        drops.sum() + missed,
        "kernel drop",
        Statistics::read()?.since(&statistics, "drop"),
    );
    let lost = metrics.count("ctpressure_events_lost_total", &[("kind", "drop_records")])?;
    check_lines(&mut checks, &cluster, &watch.stop()?, drops.sum(), lost)?;
    drop(first);
    checks.finish()?;
    agent.stop()
}

/// From outside, for the port of the node that leads to a pod.
fn to_host_port(flows: &str) -> String {
    format!(
        "send --protocol tcp --source {OUTSIDE_ADDRESS}/32 --destination {NODE}/32 \
         --destination-ports {WEB_HOST_PORT} {flows}"
    )
}

/// Connections from outside to the port of the node, until it is known where they go.
fn ask_host_port(agent: &Agent) -> Result<()> {
    From::Outside.start(&to_host_port("--flows 20"))?.finish()?;
    wait_for(
        "the pod behind the port to be known",
        Duration::from_secs(30),
        || {
            let status = agent.status()?;
            Ok((status["services"]["told"].as_u64() > Some(0)).then_some(()))
        },
    )
}

/// A pod in the host's network sends while the table is full and sockets are looked at; how many of
/// its packets the kernel refused.
fn lose_packets_of_the_host(agent: &Agent, cluster: &Cluster) -> Result<u64> {
    let armed = [("event", "new_flow_packet")];
    wait_for("sockets to be looked at", Duration::from_secs(30), || {
        let seen = agent.scrape()?.value("ctpressure_probe_attached", &armed);
        let by_kprobe = agent.status()?["hooks"].as_array().is_some_and(|hooks| {
            hooks
                .iter()
                .any(|hook| hook["event"] == "new_flow" && hook["mechanism"] == "kprobe")
        });
        Ok((by_kprobe || seen == Some(1.0)).then_some(()))
    })?;
    let flood = format!(
        "send --protocol udp --source {NODE}/32 --destination-ports {PORT_OF_NODE_AGENT} --flows 150 --rate 100"
    );
    let tally = From::Pod(cluster.pod(NODE_AGENT)?)
        .start(&flood)?
        .finish()?;
    Ok(tally.error("EPERM"))
}

/// Until `/metrics` says that the pod holds most of the table and loses packets; its share then.
fn time_until_named(agent: &Agent, pod: &Pod) -> Result<(Duration, f64)> {
    let start = Instant::now();
    wait_for("the holder to be named", Duration::from_secs(30), || {
        let metrics = agent.scrape()?;
        let live = ByOwner::read(&metrics, "entries", "direction")?;
        let drops = ByOwner::read(&metrics, "drops_total", "reason")?;
        let owner = owner(pod);
        let of_table = |count: u64| -> Result<f64> {
            let limit = metrics.value("ctpressure_table_limit", &[]);
            Ok(f64::from(u32::try_from(count)?) / limit.context("no ctpressure_table_limit")?)
        };
        let share = of_table(live.of(&owner))?;
        let most = live
            .0
            .keys()
            .all(|(other, _)| live.of(other) <= live.of(&owner));
        let named = most && share >= 0.8 && drops.of(&owner) > 0;
        Ok(named.then(|| (start.elapsed(), share)))
    })
}

/// `top` shows who holds the table first: its share, where its connections go, how long they live.
fn check_top(checks: &mut Checks, agent: &Agent, pod: &Pod) -> Result<()> {
    let socket = agent.socket();
    let socket = socket.to_str().context("the socket's path")?;
    let words = ["top", "--once", "-o", "json", "--socket", socket];
    let said = command::output("ctpressure", &words)?;
    let value: Value = serde_json::from_str(&said).context("not JSON")?;
    let first = &value["owners"][0];
    checks.equal(
        "first of top",
        first["pod"].as_str(),
        "holder",
        Some(pod.name.as_str()),
    );
    let share = first["limit_share"].as_f64().unwrap_or(0.0);
    checks.holds(share >= 0.8, || format!("its share in top is {share}"));
    let lifetime = first["lifetime"]["seconds"].as_f64().unwrap_or(0.0);
    checks.holds(lifetime > 0.0, || format!("no lifetime: {first}"));
    for what in ["inserts", "drops"] {
        let destinations = first["destinations"][what]["destinations"].as_array();
        let destinations = destinations.map_or(&[][..], Vec::as_slice);
        checks.holds(!destinations.is_empty(), || {
            format!("no destinations of its {what}: {first}")
        });
        for destination in destinations {
            let address = destination["address"].as_str().unwrap_or_default();
            let of_backend = address.starts_with("10.200.0.") || address.starts_with("10.201.0.");
            let port = destination["port"].as_u64();
            checks.holds(of_backend && port == Some(u64::from(PORT)), || {
                format!("a destination of its {what} is no backend: {destination}")
            });
        }
    }
    println!("top: {share:.3} of the limit, entries live {lifetime:.1} s");
    Ok(())
}

/// Every line names the pod that its packet came from, and none is missing.
fn check_lines(
    checks: &mut Checks,
    cluster: &Cluster,
    lines: &[Line],
    drops: u64,
    lost: u64,
) -> Result<()> {
    let mut seen = 0_u64;
    for line in lines.iter().filter(|line| line.kind() == "drop") {
        seen += 1;
        let source = line.text("/original/source");
        let pod = if source == OUTSIDE_ADDRESS {
            cluster.pod(WEB)?
        } else if source == NODE {
            cluster.pod(NODE_AGENT)?
        } else {
            let pod = cluster.pod_at(source.parse()?);
            pod.context("a drop of no pod")?
        };
        let said = Owner::of_event(&line.event["owner"]);
        checks.holds(said == owner(pod), || {
            format!("wrong owner: {}", line.event)
        });
    }
    checks.equal(
        "lines of drops and lost ones",
        seen + lost,
        "drops_total",
        drops,
    );
    Ok(())
}
