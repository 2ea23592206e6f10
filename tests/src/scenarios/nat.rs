//! Losses that are not the table's size: NAT without free ports, too long hash chains.

use anyhow::Result;

use super::{census::table, setting::Setting};
use crate::guest::{
    agent::Mechanism,
    checks::Checks,
    command::{self, HANG, wait_for},
    generator, kernel, net,
    prom::Metrics,
};

/// Ten ports for whatever leaves by the dead end.
const MASQUERADE: &str = "
table ip ctp_nat {
  chain post {
    type nat hook postrouting priority srcnat;
    oifname \"ctp0\" meta l4proto udp masquerade to :10000-10009
  }
}
";

pub(super) fn exhausted(mechanism: Option<Mechanism>) -> Result<()> {
    const FLOWS: u64 = 40;
    const PORTS: u64 = 10;
    let setting = Setting::new(mechanism, 10_000, "")?;
    net::nft(None, MASQUERADE)?;
    let one_destination = "--source 192.0.2.1/32 --destination 198.19.0.1/32";
    let tally = generator::send(None, &format!("{one_destination} --flows {FLOWS}"))?;
    let growth = setting.growth()?;
    let mut checks = Checks::new();
    checks.equal("flows", tally.sent, "asked for", FLOWS);
    let failed = growth.kernel("insert_failed");
    checks.at_least("kernel insert_failed", failed, FLOWS - PORTS - 1);
    let clashes = growth.counter("drops_total", &[("reason", "clash")])?;
    checks.equal(
        "drops_total{clash}",
        clashes,
        "kernel insert_failed",
        failed,
    );
    checks.equal("drops_total{clash}", clashes, "EPERM", tally.error("EPERM"));
    let full = growth.counter("drops_total", &[("reason", "table_full")])?;
    checks.equal("drops_total{table_full}", full, "zero", 0);
    let inserts = growth.counter("inserts_total", &[])?;
    checks.equal("inserts_total", inserts, "accepted", tally.accepted);
    let deletes = growth.counter("deletes_total", &[])?;
    checks.equal(
        "deletes + live",
        deletes + growth.entries(),
        "inserts_total",
        inserts,
    );
    checks.finish()?;
    drop(growth);
    setting.agent.stop()
}

pub(super) fn ports(mechanism: Option<Mechanism>) -> Result<()> {
    const FIRST: u64 = 3_000;
    const MORE: u64 = 600;
    const ELSEWHERE: u64 = 40;
    const SERVER: &str = "198.19.0.1";
    let setting = Setting::new(mechanism, 60_000, "")?;
    net::nft(None, &MASQUERADE.replace(" to :10000-10009", ""))?;
    let send = |server: &str, first: u64, flows: u64| {
        let flows = format!("--first {first} --flows {flows}");
        let from = format!("--source 198.18.5.5/32 --destination {server}/32");
        generator::send(None, &format!("{from} {flows}"))
    };
    let told = || -> Result<Metrics> {
        // One may be under way that began before.
        setting.agent.wait_for_next_census()?;
        setting.agent.wait_for_next_census()?;
        setting.agent.scrape()
    };
    let mut checks = Checks::new();
    send(SERVER, 0, FIRST)?;
    send("198.19.0.2", 0, ELSEWHERE)?;
    let space = [
        ("netns", "host"),
        ("source", "192.0.2.1"),
        ("destination", SERVER),
        ("port", "7000"),
        ("protocol", "udp"),
    ];
    let used = |metrics: &Metrics, labels: &[(&str, &str)]| {
        metrics.count("ctpressure_nat_ports_used", labels)
    };
    let metrics = told()?;
    checks.equal("ports used", used(&metrics, &space)?, "sent", FIRST);
    let all = used(&metrics, &[])?;
    checks.equal("of all spaces", all, "sent", FIRST + ELSEWHERE);
    let ports = metrics.count("ctpressure_nat_ports", &[])?;
    checks.equal("ports", ports, "those from 1,024 on", 64_512);
    let fills = |metrics: &Metrics| metrics.value("ctpressure_nat_ports_seconds_to_full", &space);
    checks.holds(fills(&metrics).is_none(), || "it fills".to_owned());
    send(SERVER, FIRST, MORE)?;
    setting.agent.wait_for_next_census()?;
    let metrics = setting.agent.scrape()?;
    let now = used(&metrics, &space)?;
    checks.equal("ports used", now, "sent", FIRST + MORE);
    let told = table("")?;
    let first = &told["tables"][0]["nat_ports"][0];
    let in_table = (first["used"].as_u64(), first["destination"].as_str());
    checks.equal("in table", in_table, "sent", (Some(now), Some(SERVER)));
    let text = command::output("ctpressure", &["table"])?;
    let line =
        "3,600 of 64,512 NAT ports (5.5 %) in use from 192.0.2.1 to udp port 7000 of 198.19.0.1";
    checks.holds(text.contains(line), || text.clone());
    // A census comes every ten seconds, or later where the machine is slow.
    let seconds = fills(&metrics).unwrap_or(0.0);
    let left = 64_512 - now;
    let each = seconds * 600.0 / f64::from(u32::try_from(left)?);
    checks.holds((5.0..60.0).contains(&each), || {
        format!("full in {seconds} s: {each} s between two censuses")
    });
    checks.finish()?;
    setting.agent.stop()
}

pub(super) fn chain_too_long(mechanism: Option<Mechanism>) -> Result<()> {
    const FLOWS: u64 = 24_000;
    let setting = Setting::new(mechanism, 10 * FLOWS, "")?;
    // Two nodes for each entry in 512 buckets: chains of 94 if none were refused, and the kernel
    // (5.15 and later) stops at 50 to 79.
    kernel::set_sysctl("nf_conntrack_buckets", 512)?;
    if mechanism == Some(Mechanism::Fentry) {
        wait_for("long chains to be expected", HANG, || {
            let armed = [("reason", "chains")];
            let armed = setting.agent.scrape()?.value("ctpressure_armed", &armed);
            Ok((armed == Some(1.0)).then_some(()))
        })?;
    }
    let tally = generator::send(None, &format!("--family 4,6 --flows {FLOWS}"))?;
    let growth = setting.growth()?;
    let mut checks = Checks::new();
    // /proc calls the statistic chaintoolong `chainlength`; older kernels have neither.
    let has_limit = setting.statistics.has("chainlength");
    let too_long = growth.kernel("chainlength");
    if has_limit {
        checks.at_least("kernel chaintoolong", too_long, 100);
    }
    checks.equal(
        "kernel chaintoolong",
        too_long,
        "EPERM",
        tally.error("EPERM"),
    );
    let reason = [("reason", "chain_too_long")];
    if growth
        .metrics
        .select("ctpressure_drops_total", &reason)
        .next()
        .is_some()
    {
        let drops = growth.counter("drops_total", &reason)?;
        checks.equal(
            "drops_total{chain_too_long}",
            drops,
            "kernel chaintoolong",
            too_long,
        );
    } else {
        // Then it has to say so itself: no probe here can tell.
        checks.holds(mechanism == Some(Mechanism::Kprobe) || !has_limit, || {
            "drops_total{chain_too_long} is absent with fentry".to_owned()
        });
    }
    let full = growth.counter("drops_total", &[("reason", "table_full")])?;
    checks.equal("drops_total{table_full}", full, "zero", 0);
    let inserts = growth.counter("inserts_total", &[])?;
    checks.equal("inserts_total", inserts, "accepted", tally.accepted);
    checks.finish()?;
    drop(growth);
    setting.agent.stop()
}
