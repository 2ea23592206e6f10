//! New flows in process context on CPU 0, interrupted on that CPU by new flows in softirq.
//!
//! The two are in tables of different network namespaces, and `early_drop` evicts only from the
//! table that is full: so a victim of one with a cause of the other is a mistake, and seen.

use anyhow::{Result, ensure};

use super::{
    of_kernel_only,
    setting::{MANY_BUCKETS, Setting},
};
use crate::guest::{
    agent::{Agent, Mechanism},
    checks::Checks,
    generator,
    kernel::{self, online_cpus, softirqs},
    net::{self, ip},
    watch::{Line, Watch},
};

/// Sends through a veth.
const SENDER: &str = "ctp-sender";
/// Receives in softirq, tracks, routes to its dead end.
const ROUTER: &str = "ctp-router";

/// Counts what arrives before conntrack sees it (priority raw): the generator can't know what a
/// full backlog has dropped on the way.
const COUNT_ARRIVALS: &str = "
table inet ctp {
  counter arrived { }
  chain arrivals {
    type filter hook prerouting priority raw;
    iifname \"ctp-in\" ip daddr 198.19.0.0/16 counter name arrived
  }
  chain track { type filter hook prerouting priority filter; ct state new accept; }
}
";

fn make_router() -> Result<()> {
    net::add_namespace(SENDER)?;
    net::add_namespace(ROUTER)?;
    ip(
        None,
        &format!("link add ctp-out netns {SENDER} type veth peer name ctp-in netns {ROUTER}"),
    )?;
    for arguments in [
        "addr add 198.51.100.1/30 dev ctp-out",
        "link set ctp-out up",
        "link set lo up",
        "route add 198.18.0.0/15 via 198.51.100.2 dev ctp-out",
    ] {
        ip(Some(SENDER), arguments)?;
    }
    net::dead_end(Some(ROUTER))?;
    ip(Some(ROUTER), "addr add 198.51.100.2/30 dev ctp-in")?;
    ip(Some(ROUTER), "link set ctp-in up")?;
    for (path, value) in [
        ("/proc/sys/net/ipv4/ip_forward", "1"),
        ("/proc/sys/net/ipv4/conf/all/rp_filter", "0"),
        ("/proc/sys/net/ipv4/conf/ctp-in/rp_filter", "0"),
        // Steer what arrives to CPU 0.
        ("/sys/class/net/ctp-in/queues/rx-0/rps_cpus", "1"),
    ] {
        let write = format!("echo {value} > {path}");
        crate::guest::command::output("ip", &["netns", "exec", ROUTER, "sh", "-c", &write])?;
    }
    net::nft(Some(ROUTER), COUNT_ARRIVALS)
}

fn arrived() -> Result<u64> {
    let listing = net::nft_list(Some(ROUTER), "-j list counter inet ctp arrived")?;
    let listing: serde_json::Value = serde_json::from_str(&listing)?;
    let packets = listing["nftables"].as_array().and_then(|objects| {
        objects
            .iter()
            .find_map(|object| object["counter"]["packets"].as_u64())
    });
    packets.ok_or_else(|| anyhow::anyhow!("nft shows no counter: {listing}"))
}

pub(super) fn nested_softirq(mechanism: Option<Mechanism>) -> Result<()> {
    ensure!(
        online_cpus() >= 2,
        "two CPUs are needed and {} is online",
        online_cpus()
    );
    // Of table, hash and flows the same part, so that as many of the scans find a victim.
    let part = if of_kernel_only() { 4 } else { 1 };
    kernel::set_sysctl("nf_conntrack_buckets", MANY_BUCKETS / part)?;
    make_router()?;
    let details = "--drop-budget 4000000000 --eviction-budget 4000000000 --ring-size 8388608";
    let setting = Setting::new(mechanism, 20_000 / part, details)?;
    let watch = Watch::start(&setting.agent.socket(), "--kind eviction")?;
    let interrupts = softirqs("NET_RX", 0)?;
    let flows = format!("--flows {} --destination 198.19.0.0/16", 80_000 / part);
    let inner = generator::start(
        Some(SENDER),
        &format!("{flows} --source 198.18.128.0/17 --cpus 1"),
    )?;
    let outer = generator::send(None, &format!("{flows} --source 198.18.0.0/17 --cpus 0"))?;
    let inner = inner.finish()?;
    let growth = setting.growth()?;
    let arrived = arrived()?;
    let lines = watch.stop()?;

    let mut checks = Checks::new();
    let inserts = growth.counter("inserts_total", &[])?;
    let drops = growth.counter("drops_total", &[])?;
    let statistic = |name: &str, netns: &str| {
        growth.counter("kernel_stat_total", &[("stat", name), ("netns", netns)])
    };
    let kernel_drops = statistic("drop", "host")? + statistic("drop", ROUTER)?;
    let early_drops = statistic("early_drop", "host")? + statistic("early_drop", ROUTER)?;
    checks.equal(
        "host's kernel_stat_total{drop}",
        statistic("drop", "host")?,
        "EPERM",
        outer.error("EPERM"),
    );
    let lost = |kind: &str| growth.counter("events_lost_total", &[("kind", kind)]);
    let (missed, unexplained, unseen) = (
        lost("missed_runs")?,
        lost("drops_unexplained")?,
        lost("evictions_unseen")?,
    );
    let evictions = growth.counter("evictions_total", &[("role", "victim")])?;
    let expected = (outer.sent + arrived).saturating_sub(kernel_drops);
    println!(
        "inserts {inserts} of {expected}, drops {drops} of {kernel_drops}, evictions {evictions} \
         of {early_drops}; missed runs {missed}, unexplained drops {unexplained}, unseen evictions \
         {unseen}"
    );
    // The kernel's recursion guard skips a program that the interrupted context is just running,
    // and for kprobes any of them. What it skipped may be missing here, but not silently.
    checks.at_most("inserts_total", inserts, expected);
    let missing = expected.saturating_sub(inserts);
    match mechanism {
        // An insert is counted with softirqs off: nothing can be running below it.
        Some(Mechanism::Fentry) => checks.equal("inserts missing", missing, "fentry", 0),
        _ if counts_missed_runs(&setting.agent)? => {
            checks.at_most("inserts missing (by missed runs)", missing, missed);
        }
        _ => checks.at_most("inserts missing", missing, expected / 20),
    }
    checks.equal(
        "drops and unexplained",
        drops + unexplained,
        "kernel drop",
        kernel_drops,
    );
    checks.equal(
        "evictions and unseen",
        evictions + unseen,
        "early_drop",
        early_drops,
    );
    checks.at_most("unexplained drops", unexplained, kernel_drops / 20);
    checks.at_most("unseen evictions", unseen, early_drops / 20);
    checks.at_least("arrivals in softirq", arrived, inner.sent / 4);
    checks.at_least(
        "NET_RX softirqs on CPU 0",
        softirqs("NET_RX", 0)? - interrupts,
        100,
    );
    check_causes(&mut checks, &lines)?;
    checks.finish()?;
    drop(growth);
    setting.agent.stop()
}

/// Whether the kernel counts skipped runs of kprobes (6.8 and later).
fn counts_missed_runs(agent: &Agent) -> Result<bool> {
    let status = agent.status()?;
    let release = status["kernel"]["release"].as_str().unwrap_or("");
    let mut numbers = release
        .split(['.', '-', '+'])
        .map_while(|part| part.parse::<u32>().ok());
    Ok((numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 8))
}

/// Every named victim and cause belongs to the table of its line.
fn check_causes(checks: &mut Checks, lines: &[Line]) -> Result<()> {
    let router = net::namespace_inode(ROUTER)?;
    let (mut known, mut unknown, mut of_router) = (0u64, 0u64, 0u64);
    for line in lines.iter().filter(|line| line.kind() == "eviction") {
        let in_router = line.event["netns"].as_u64() == Some(router);
        of_router += u64::from(in_router);
        let fits = |source: &str| from_sender(source) == in_router;
        checks.holds(fits(line.text("/victim/source")), || {
            format!("wrong victim: {}", line.event)
        });
        if line.event["cause"].is_null() {
            unknown += 1;
        } else {
            known += 1;
            checks.holds(fits(line.text("/cause/source")), || {
                format!("wrong cause: {}", line.event)
            });
        }
    }
    println!(
        "evictions with cause {known}, cause unknown {unknown}, in softirq's table {of_router}"
    );
    checks.at_least("evictions with a cause", known, 1_000);
    checks.at_least("evictions in softirq's table", of_router, 100);
    checks.at_most("evictions without a cause", unknown, (known + unknown) / 20);
    Ok(())
}

/// Whether an address is one of 198.18.128.0/17.
fn from_sender(source: &str) -> bool {
    source
        .parse::<std::net::Ipv4Addr>()
        .is_ok_and(|address| address.octets()[..2] == [198, 18] && address.octets()[2] >= 128)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_ranges_are_told_apart() {
        assert!(from_sender("198.18.128.0") && from_sender("198.18.255.255"));
        assert!(!from_sender("198.18.127.255") && !from_sender("198.19.128.1"));
        assert!(!from_sender("") && !from_sender("fd00::1"));
    }
}
