//! The incident of the seed with an agent that nobody looks at: afterwards the journal has to tell it,
//! and the limit that it advises has to hold when the same comes again.

use std::{
    fs,
    net::Ipv4Addr,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::setting::MANY_BUCKETS;
use crate::{
    containers::lookalike::Lookalike,
    guest::{
        agent::{Agent, Mechanism},
        backends::Backends,
        checks::Checks,
        command::{self, HANG, wait_for},
        kernel::{self, Statistics},
        net::{self, ip},
    },
    traffic::{bench::flush_table, tally::Tally},
};

/// The limit before and after.
const LIMIT: u64 = 2_000;
const HALVED: u64 = LIMIT / 2;
/// Connections to each half of the backends.
const CONNECTIONS: u64 = 900;
/// What somebody else sends meanwhile.
const BESIDE: u64 = 150;
/// Where backends are: any address of these.
const NETWORKS: &str = "10.200.0.0/15";
const BACKENDS: &str = "10.200.0.0/25,10.201.0.0/25";
const MORE_BACKENDS: &str = "10.200.0.128/25,10.201.0.128/25";
const OUTSIDE: &str = "ctp-outside";
const PORT: u16 = 7000;
const JOURNAL: &str = "/tmp/ctp-report-journal";
const PAGE: &str = "/tmp/ctp-report.html";
/// A pod that is made waits so long (seconds) before it sends: then it is known.
const DELAY: f64 = 2.0;
/// Conntrack looks at what is forwarded since rules ask for it.
const RULES: &str = "
table inet ctp_track {
  chain output { type filter hook output priority raw; oif lo notrack; }
  chain prerouting { type filter hook prerouting priority raw; iif lo notrack; }
  chain forward { type filter hook forward priority filter; ct state new accept; }
}
";

/// What is removed at the end.
struct Files;

impl Drop for Files {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(JOURNAL));
        drop(fs::remove_file(PAGE));
    }
}

fn network() -> Result<()> {
    net::track_into_dead_end(None)?;
    net::nft(None, RULES)?;
    net::add_namespace(OUTSIDE)?;
    let link = format!("link add ctpout type veth peer name eth0 netns {OUTSIDE}");
    for arguments in [
        link.as_str(),
        "addr add 192.168.78.2/24 dev ctpout",
        "link set ctpout up",
    ] {
        ip(None, arguments)?;
    }
    for arguments in [
        "link set lo up",
        "addr add 192.168.78.1/24 dev eth0",
        "link set eth0 up",
        "route add 10.90.0.0/16 via 192.168.78.2",
    ] {
        ip(Some(OUTSIDE), arguments)?;
    }
    ip(None, &format!("route add {NETWORKS} via 192.168.78.1"))?;
    kernel::write("/proc/sys/net/ipv4/ip_forward", "1")
}

/// What came of the traffic.
struct Traffic {
    /// The most entries that there were.
    peak: u64,
    /// What the kernel refused and evicted.
    lost: u64,
    /// The second in which it was first seen to, at the earliest and at the latest.
    first: Option<[u64; 2]>,
}

fn now() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())
}

/// The incident, under a limit that is `before` and then `after`.
fn traffic(agent: Option<&Agent>, turn: u8, before: u64, after: u64) -> Result<Traffic> {
    // Names and addresses of their own: what earlier ones had is not gone at once.
    let [aggregator, bystander] = [10 * turn, 10 * turn + 1];
    let address = |pod: u8| Ipv4Addr::new(10, 90, 0, pod);
    flush_table()?;
    kernel::set_limit(before)?;
    let fan = |networks: &str, rest: &str| {
        format!(
            "fan --destination {networks} --port {PORT} --flows {CONNECTIONS} --rate 300 {rest}"
        )
    };
    let aggregator = Lookalike::make(
        aggregator.into(),
        address(aggregator),
        DELAY,
        &fan(BACKENDS, "--hold 300"),
    )?;
    let beside = format!(
        "send --source {}/32 --flows {BESIDE} --rate 20",
        address(bystander)
    );
    wait_for("the first connections", HANG, || {
        Ok((kernel::entries()? >= CONNECTIONS).then_some(()))
    })?;
    if let Some(agent) = agent {
        known(agent, &aggregator)?;
    }
    let start = Statistics::read()?;
    kernel::set_limit(after)?;
    let bystander = Lookalike::make(bystander.into(), address(bystander), DELAY, &beside)?;
    let mut more = aggregator.run(&fan(MORE_BACKENDS, "--hold 9"))?;
    let mut seen = Traffic {
        peak: 0,
        lost: 0,
        first: None,
    };
    let mut earlier = now()?;
    while more.try_wait()?.is_none() {
        let at = now()?;
        seen.peak = seen.peak.max(kernel::entries()?);
        let so_far = Statistics::read()?;
        seen.lost = so_far.since(&start, "drop") + so_far.since(&start, "early_drop");
        if so_far.since(&start, "drop") > 0 && seen.first.is_none() {
            seen.first = Some([earlier, now()?]);
        }
        earlier = at;
        thread::sleep(Duration::from_millis(20));
    }
    let sent: Tally = wait_for("the bystander", HANG, || bystander.counts())?;
    ensure!(sent.sent == BESIDE, "the bystander sent {sent:?}");
    seen.peak = seen.peak.max(kernel::entries()?);
    let end = Statistics::read()?;
    seen.lost = end.since(&start, "drop") + end.since(&start, "early_drop");
    aggregator.remove()?;
    bystander.remove()?;
    Ok(seen)
}

/// Waits until the agent has charged the pod for its connections.
fn known(agent: &Agent, pod: &Lookalike) -> Result<()> {
    wait_for("the pod to be known", HANG, || {
        let metrics = agent.scrape()?;
        let labels = [("pod", pod.name.as_str()), ("direction", "egress")];
        let live = metrics.count("ctpressure_entries", &labels)?;
        Ok((live >= CONNECTIONS).then_some(()))
    })
}

/// What `ctpressure report -o json` says of the first incident.
fn report(arguments: &[&str]) -> Result<String> {
    let mut words = vec!["report", "--journal", JOURNAL, "--incident", "1"];
    words.extend(arguments);
    command::output("ctpressure", &words)
}

fn seconds(value: &Value) -> Result<u64> {
    let text = value.as_str().context("no time")?;
    let time = humantime::parse_rfc3339(text).with_context(|| format!("`{text}`"))?;
    Ok(time.duration_since(UNIX_EPOCH)?.as_secs())
}

pub(super) fn incident(mechanism: Option<Mechanism>) -> Result<()> {
    kernel::set_sysctl("nf_conntrack_buckets", MANY_BUCKETS)?;
    kernel::nothing_expires(None)?;
    network()?;
    let _files = Files;
    fs::create_dir_all(JOURNAL)?;
    let _backends = Backends::start(OUTSIDE, NETWORKS, PORT)?;
    let agent = Agent::start(mechanism, &format!("--journal {JOURNAL}"))?;
    let first = traffic(Some(&agent), 1, LIMIT, HALVED)?;
    // The journal has it when it was seen to be over.
    flush_table()?;
    kernel::set_limit(100 * LIMIT)?;
    agent.settled()?;
    agent.stop()?;

    let said: Value = serde_json::from_str(&report(&["-o", "json"])?).context("not JSON")?;
    let page = report(&["--html", PAGE])?;
    let advised = said["limit_that_holds"].as_u64().context("no limit")?;
    println!("{page}\ndemand {}", said["demand"]);
    let mut checks = Checks::new();
    let owner = |list: &str, at: usize| said[list][at]["owner"].as_str().unwrap_or("").to_owned();
    checks.equal(
        "who filled it",
        owner("filled_by", 0).as_str(),
        "the pod",
        "batch/job-10",
    );
    let sufferers: Vec<String> = (0..2).map(|at| owner("suffered", at)).collect();
    for pod in ["batch/job-10", "batch/job-11"] {
        checks.holds(sufferers.iter().any(|name| name == pod), || {
            format!("{pod} is not among those who suffered: {sufferers:?}")
        });
    }
    let told = seconds(&said["losses"]["first_drop"])?;
    let [earliest, latest] = first.first.context("nothing was lost")?;
    checks.holds((earliest..=latest).contains(&told), || {
        format!(
            "the first packet was lost at {told}, by the kernel's count from {earliest} to {latest}"
        )
    });
    checks.at_most("bytes of the page", fs::metadata(PAGE)?.len(), 1 << 20);

    let again = traffic(None, 2, advised, advised)?;
    println!(
        "{} lost; advised {advised}, {} were enough",
        first.lost, again.peak
    );
    checks.equal("lost with the advised limit", again.lost, "none", 0);
    match said["limit_that_may_hold"].as_u64() {
        None => checks.at_most("the advised limit", advised, again.peak * 13 / 10),
        Some(least) => checks.at_most("the least that may hold", least, again.peak),
    }
    checks.finish()
}
