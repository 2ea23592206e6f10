//! Detail: how late it comes, and what it costs in memory.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result};

use super::setting::{MANY_BUCKETS, MIXED, Setting};
use crate::guest::{
    agent::Mechanism,
    checks::Checks,
    command::wait_for,
    generator, kernel,
    machine::{Absences, MachineWatch},
    watch::{Line, Watch},
};

/// A table that is full of nothing that could be evicted in reach: with so many buckets nearly
/// every new flow is refused.
const TINY_LIMIT: u64 = 20;

/// Measurements of the latency, ten seconds each; each has to hold.
const ATTEMPTS: u64 = 3;
/// The most that the p99 from a drop to its line may be.
const MOST_MS: f64 = 20.0;

/// The delay of a line is the time from the drop in the kernel to the line, less the time in between
/// in which the machine itself was away. What is measured otherwise is the host: the p99 of a guest
/// on an idle host is around 10 ms, that of the same guest on a host with two compilers 30 to 300 ms.
/// Nothing is forgiven that the guest could have done: see [`MachineWatch`].
pub(super) fn latency(mechanism: Option<Mechanism>) -> Result<()> {
    kernel::set_sysctl("nf_conntrack_buckets", MANY_BUCKETS)?;
    let setting = Setting::new(mechanism, TINY_LIMIT, "")?;
    let watch = Watch::start(&setting.agent.socket(), "--kind drop")?;
    let warm_up = generator::start(
        None,
        "--first 1000000 --flows 20000 --rate 200 --seconds 30",
    )?;
    watch.wait_for("the first drop", |line| line.kind() == "drop")?;
    drop(warm_up);
    let mut checks = Checks::new();
    for attempt in 0..ATTEMPTS {
        measure_drops(&watch, attempt, &mut checks)?;
    }
    watch.stop()?;
    checks.finish()?;
    setting.agent.stop()
}

/// Makes 1,000 drops a second for ten seconds and looks at how late their lines come.
fn measure_drops(watch: &Watch, attempt: u64, checks: &mut Checks) -> Result<()> {
    const FLOWS: u64 = 10_000;
    thread::sleep(Duration::from_secs(1));
    let skipped = watch.len();
    let first = attempt * FLOWS;
    let machine = MachineWatch::start();
    let tally = generator::send(
        None,
        &format!("--first {first} --flows {FLOWS} --rate 1000 --cpus 0"),
    )?;
    let dropped = usize::try_from(tally.error("EPERM"))?;
    // Whether all come is checked below; the limit only ends the waiting.
    let all = wait_for("a line for each drop", Duration::from_secs(30), || {
        Ok((watch.len() >= skipped + dropped).then_some(()))
    });
    let absences = machine.stop()?;
    let lines = watch.lines();
    let drops: Vec<&Line> = lines[skipped..]
        .iter()
        .filter(|line| line.kind() == "drop")
        .collect();
    let mut delays = drops
        .iter()
        .map(|line| delay_ms(line, &Absences::default()))
        .collect::<Result<Vec<f64>>>()?;
    let mut own_delays = drops
        .iter()
        .map(|line| delay_ms(line, &absences))
        .collect::<Result<Vec<f64>>>()?;
    delays.sort_by(f64::total_cmp);
    own_delays.sort_by(f64::total_cmp);
    let p99 = quantile(&own_delays, 99)?;
    println!(
        "drop to line: median {:.2} ms, p99 {p99:.2} ms, without the times that the machine was away \
         (with them {:.2} and {:.2} ms; away {:.0} ms in {:.1} s, at most {:.1} ms at a time), {} drops",
        quantile(&own_delays, 50)?,
        quantile(&delays, 50)?,
        quantile(&delays, 99)?,
        absences.total().as_secs_f64() * 1e3,
        tally.seconds,
        absences.longest().as_secs_f64() * 1e3,
        drops.len(),
    );
    checks.holds(all.is_ok(), || format!("{all:?}"));
    checks.equal("drop lines", drops.len(), "EPERM", dropped);
    checks.at_least("drops", drops.len(), 9_000);
    checks.at_least("earliest line after its drop, ms", delays[0], -1.0);
    checks.at_most("p99 from drop to line, ms", p99, MOST_MS);
    Ok(())
}

/// From the drop to its line, milliseconds, less the absences in between.
fn delay_ms(line: &Line, absences: &Absences) -> Result<f64> {
    let happened = line.happened()?;
    Ok(match line.arrived.duration_since(happened) {
        Ok(after) => {
            let away = absences.within(happened, line.arrived);
            after.saturating_sub(away).as_secs_f64() * 1e3
        }
        Err(before) => before.duration().as_secs_f64() * -1e3,
    })
}

/// The smallest value that `percent` of the sorted values don't exceed.
fn quantile(sorted: &[f64], percent: usize) -> Result<f64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().context("no drop was seen")
}

pub(super) fn memory(mechanism: Option<Mechanism>) -> Result<()> {
    const MOST_KIB: u64 = 32 * 1_024;
    const FLOWS: u64 = 100_000;
    let everything = "--insert-budget 4000000000 --drop-budget 4000000000 \
                      --eviction-budget 4000000000";
    let setting = Setting::new(mechanism, 20_000, everything)?;
    let watch = Watch::start(&setting.agent.socket(), "--inserts")?;
    let tally = generator::send(None, &format!("{MIXED} --flows {FLOWS}"))?;
    let growth = setting.growth()?;
    let peak = setting.agent.memory_kib("VmHWM")?;
    println!(
        "peak resident memory {peak} KiB at {:.0} flows/s",
        rate(tally.sent, tally.seconds)
    );
    let mut checks = Checks::new();
    checks.at_least("lines", watch.len(), 1_000);
    checks.at_most("VmHWM, KiB", peak, MOST_KIB);
    growth.check_exact(&mut checks, &tally)?;
    checks.finish()?;
    drop(growth);
    watch.stop()?;
    setting.agent.stop()
}

fn rate(count: u64, seconds: f64) -> f64 {
    u32::try_from(count).map_or(0.0, f64::from) / seconds.max(1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_of_the_sample() {
        let sorted: Vec<f64> = (1..=100).map(f64::from).collect();
        let close = |percent, expected: f64| {
            (quantile(&sorted, percent).unwrap() - expected).abs() < f64::EPSILON
        };
        assert!(close(50, 50.0) && close(99, 99.0) && close(100, 100.0) && close(0, 1.0));
        assert!(quantile(&[], 50).is_err());
    }
}
