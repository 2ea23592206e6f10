//! Tables of other network namespaces.

use anyhow::Result;

use super::setting::{MANY_BUCKETS, Setting};
use crate::guest::{
    agent::Mechanism,
    checks::Checks,
    generator, kernel,
    net::{self, namespace_inode},
    watch::Watch,
};

const POD: &str = "ctp-pod";

/// A pod with rules of its own, and nothing else in it.
const POD_RULES: &str = "
table inet pod {
  chain output { type filter hook output priority filter; ct state new,established accept; }
}
";

pub(super) fn netns_table(mechanism: Option<Mechanism>) -> Result<()> {
    const LIMIT: u64 = 500;
    const FLOWS: u64 = 3_000;
    const HOST_FLOWS: u64 = 40;
    kernel::set_sysctl("nf_conntrack_buckets", MANY_BUCKETS)?;
    let setting = Setting::new(mechanism, LIMIT, "")?;
    net::add_namespace(POD)?;
    net::dead_end(Some(POD))?;
    net::nft(Some(POD), POD_RULES)?;
    generator::send(None, &format!("--flows {HOST_FLOWS}"))?;
    setting.agent.wait_for_table(POD)?;
    let watch = Watch::start(&setting.agent.socket(), "")?;
    let warm_up = generator::send(Some(POD), "--flows 2000 --rate 1000 --first 100000")?;
    watch.wait_for("a drop in the pod", |line| line.kind() == "drop")?;
    let tally = generator::send(Some(POD), &format!("--flows {FLOWS} --rate 3000"))?;
    let growth = setting.growth()?;
    let (status, metrics) = (setting.agent.status()?, &growth.metrics);
    let lines = watch.stop()?;

    let mut checks = Checks::new();
    let table =
        |name: &str, netns: &str| metrics.value(&format!("ctpressure_{name}"), &[("netns", netns)]);
    checks.holds(
        table("table_entries", POD).is_some_and(|entries| entries >= 450.0),
        || {
            format!(
                "table_entries of the pod is {:?}, of {LIMIT}",
                table("table_entries", POD)
            )
        },
    );
    checks.equal(
        "table_entries of the host",
        table("table_entries", "host"),
        "its flows",
        Some(40.0),
    );
    checks.equal(
        "table_limit",
        metrics.value("ctpressure_table_limit", &[]),
        "limit",
        Some(500.0),
    );
    let refused = tally.error("EPERM") + warm_up.error("EPERM");
    checks.at_least("EPERM in the pod", refused, 1_000);
    checks.equal(
        "drops_total",
        growth.counter("drops_total", &[])?,
        "EPERM",
        refused,
    );
    let statistic =
        |netns| growth.counter("kernel_stat_total", &[("stat", "drop"), ("netns", netns)]);
    checks.equal(
        "kernel_stat_total{drop} of the pod",
        statistic(POD)?,
        "EPERM",
        refused,
    );
    checks.equal(
        "kernel_stat_total{drop} of the host",
        statistic("host")?,
        "zero",
        0,
    );

    let inode = namespace_inode(POD)?;
    checks.at_least("lines", lines.len(), 100);
    let events = || lines.iter().filter(|line| line.kind() != "lost");
    let strange = events().find(|line| line.event["netns"].as_u64() != Some(inode));
    checks.holds(strange.is_none(), || {
        format!("not of the pod's inode {inode}: {strange:?}")
    });
    let strange = events().find(|line| line.text("/netns_name") != POD);
    checks.holds(strange.is_none(), || {
        format!("not of the name {POD}: {strange:?}")
    });
    let in_status = status["tables"].as_array().is_some_and(|tables| {
        tables
            .iter()
            .any(|table| table["netns"] == inode && table["name"] == POD)
    });
    checks.holds(in_status, || {
        format!("the status has no table {POD}: {}", status["tables"])
    });
    checks.finish()?;
    drop(growth);
    setting.agent.stop()
}
