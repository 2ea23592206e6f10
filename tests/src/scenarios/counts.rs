//! Counts are exact: equal to the kernel's own and to the generator's, to the entry.

use std::{fs, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use super::{
    of_kernel_only,
    setting::{MANY_BUCKETS, MIXED, Round, Setting, exact_or_bounded},
};
use crate::{
    guest::{
        agent::Mechanism,
        checks::Checks,
        command::{HANG, wait_for},
        generator,
        kernel::{self, Statistics, online_cpus},
        net,
    },
    traffic::{bench::flush_table, tally::Tally},
};

/// Ten times what fits the table; a third of it where only what depends on the kernel is shown.
fn flows() -> u64 {
    if of_kernel_only() { 60_000 } else { 200_000 }
}

const LIMIT: u64 = 20_000;

fn overfull(mechanism: Option<Mechanism>) -> Result<Setting> {
    ensure!(
        online_cpus() >= 2,
        "two CPUs are needed and {} is online",
        online_cpus()
    );
    // There may have been a round before.
    net::clean_up()?;
    flush_table()?;
    kernel::set_sysctl("nf_conntrack_buckets", MANY_BUCKETS)?;
    Setting::new(mechanism, LIMIT, "")
}

/// The traffic was what the scenario is about.
fn check_traffic(checks: &mut Checks, tally: &Tally, evictions: u64) {
    checks.equal("flows sent", tally.sent, "asked for", flows());
    checks.equal("protocols and families", tally.accepted_by.len(), "all", 12);
    checks.at_least("EPERM", tally.error("EPERM"), 1_000);
    checks.at_least("evictions_total", evictions, 1_000);
}

pub(super) fn exact(mechanism: Option<Mechanism>) -> Result<()> {
    exact_or_bounded(|| exact_round(mechanism))
}

fn exact_round(mechanism: Option<Mechanism>) -> Result<Round> {
    let setting = overfull(mechanism)?;
    let tally = generator::send(None, &format!("{MIXED} --flows {}", flows()))?;
    let growth = setting.growth()?;
    let mut checks = Checks::new();
    let skipped = growth.check_exact_but_skipped(&mut checks, &tally)?;
    let evictions = growth.counter("evictions_total", &[("role", "victim")])?;
    check_traffic(&mut checks, &tally, evictions);
    checks.finish()?;
    drop(growth);
    setting.agent.stop()?;
    Ok(Round {
        skipped,
        flows: tally.sent,
    })
}

pub(super) fn exact_reader_stopped(mechanism: Option<Mechanism>) -> Result<()> {
    exact_or_bounded(|| reader_stopped_round(mechanism))
}

fn reader_stopped_round(mechanism: Option<Mechanism>) -> Result<Round> {
    let setting = overfull(mechanism)?;
    let sending = generator::start(None, &format!("{MIXED} --flows {}", flows()))?;
    thread::sleep(Duration::from_millis(500));
    setting.agent.signal(Signal::SIGSTOP)?;
    thread::sleep(Duration::from_secs(5));
    // Long enough for the ring (1 MiB) to fill, however slow the machine is.
    wait_for("more evictions than the ring can hold", HANG, || {
        let evictions = Statistics::read()?.since(&setting.statistics, "early_drop");
        Ok((evictions >= 20_000).then_some(()))
    })?;
    setting.agent.signal(Signal::SIGCONT)?;
    let tally = sending.finish()?;
    let growth = setting.growth()?;
    let mut checks = Checks::new();
    let skipped = growth.check_exact_but_skipped(&mut checks, &tally)?;
    let evictions = growth.counter("evictions_total", &[("role", "victim")])?;
    check_traffic(&mut checks, &tally, evictions);
    let lost: u64 = ["insert_records", "drop_records", "eviction_records"]
        .iter()
        .map(|kind| growth.counter("events_lost_total", &[("kind", kind)]))
        .sum::<Result<u64>>()?;
    checks.at_least("events_lost_total of records", lost, 1);
    checks.finish()?;
    drop(growth);
    setting.agent.stop()?;
    Ok(Round {
        skipped,
        flows: tally.sent,
    })
}

pub(super) fn expiry(mechanism: Option<Mechanism>) -> Result<()> {
    const ENTRIES: &str = "/proc/net/nf_conntrack";
    const FLOWS: u64 = 10_000;
    let setting = Setting::new(mechanism, 2 * FLOWS, "")?;
    kernel::set_sysctl("nf_conntrack_udp_timeout", 1)?;
    let tally = generator::send(None, &format!("--family 4,6 --flows {FLOWS}"))?;
    // Reading the table reaps what has expired (ct_seq_show), as a look-up would; gc_worker, which
    // may take a minute to come by, does it in the same way. The flush is the other way out.
    thread::sleep(Duration::from_millis(2_500));
    drop(fs::read_to_string(ENTRIES).with_context(|| format!("reading {ENTRIES}"))?);
    let left = kernel::entries()?.saturating_sub(setting.entries);
    ensure!(
        left < FLOWS / 2,
        "{left} of {FLOWS} entries are left after their timeout of 1 s"
    );
    flush_table()?;
    let growth = setting.growth()?;
    let mut checks = Checks::new();
    growth.check_exact(&mut checks, &tally)?;
    checks.equal("accepted", tally.accepted, "flows", FLOWS);
    checks.equal(
        "deletes_total",
        growth.counter("deletes_total", &[])?,
        "flows",
        FLOWS,
    );
    checks.equal(
        "evictions_total",
        growth.counter("evictions_total", &[])?,
        "zero",
        0,
    );
    checks.finish()?;
    drop(growth);
    setting.agent.stop()
}
