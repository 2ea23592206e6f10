//! What a census costs on a node with many network namespaces and entries, and whether counts hold from its first second on. Too
//! much for a scenario: `cargo xtask bench --only census` runs it.

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::{
    containers::lookalike::Lookalike,
    guest::{
        agent::Agent,
        checks::Checks,
        command::{self, HANG, wait_for},
        generator, kernel, net,
        owned::{ByOwner, Owner},
    },
    traffic::bench::flush_table,
};

/// Numbers of network namespaces, and of entries in the host's table.
const NAMESPACES: [u32; 3] = [1, 50, 250];
const ENTRIES: [u64; 2] = [10_000, 1_000_000];

/// Of each pod, before the agent starts and while it makes its first census.
const PODS: u32 = 250;
const BEFORE: u64 = 1_600;
const AFTER: u64 = 2_400;
/// At so many moments counts are compared with the truth.
const MOMENTS: u32 = 10;

const LIMIT: u64 = 1_200_000;
const BUCKETS: &str = "1048576";

fn address(pod: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 90, 0, 1).to_bits() + pod)
}

/// Prints `CENSUS-TIME <namespaces> <entries> <seconds>` for each, then whether the counts of a busy start hold.
///
/// # Errors
///
/// What did not hold.
pub fn run() -> Result<()> {
    kernel::load_module("nf_conntrack_netlink")?;
    kernel::never_expire()?;
    kernel::write("/sys/module/nf_conntrack/parameters/hashsize", BUCKETS)?;
    kernel::set_limit(LIMIT)?;
    net::track_into_dead_end(None)?;
    let mut pods = Vec::new();
    for namespaces in NAMESPACES {
        while pods.len() < namespaces as usize {
            let number = u32::try_from(pods.len())?;
            let pod = Lookalike::make(number, address(number), 0.0, "send --flows 0")?;
            pods.push(pod);
        }
        for entries in ENTRIES {
            flush_table()?;
            let flows = format!("--flows {entries} --source-ports 1024-1033");
            generator::send(None, &flows)?;
            let agent = Agent::start(None, "")?;
            let seconds = first_census(&agent)?;
            println!("CENSUS-TIME {namespaces} {entries} {seconds:.3}");
            agent.stop()?;
        }
    }
    busy_start(&pods)
}

/// Seconds that the first census took.
fn first_census(agent: &Agent) -> Result<f64> {
    wait_for("the first census", HANG, || {
        let census = &agent.status()?["census"];
        let done = census["times"].as_u64().unwrap_or(0) > 0;
        Ok(census["seconds"].as_f64().filter(|_| done))
    })
}

/// How many pods have sent so far, and what is sent meanwhile.
fn send_all(pods: &[Lookalike], first: u64, flows: u64, sent: &AtomicU64) -> Result<()> {
    for (number, pod) in (0_u64..).zip(pods) {
        let first = number * 10_000 + first;
        let arguments = format!(
            "--source {}/32 --flows {flows} --first {first}",
            pod.address
        );
        let tally = generator::send(None, &arguments)?;
        ensure!(tally.accepted == flows, "{tally:?}");
        sent.fetch_add(1, Ordering::SeqCst);
    }
    Ok(())
}

/// The counts of pods while more entries come than the first census can keep up with.
fn busy_start(pods: &[Lookalike]) -> Result<()> {
    let looked_at = [0, PODS / 2, PODS - 1];
    flush_table()?;
    let sent = AtomicU64::new(0);
    send_all(pods, 0, BEFORE, &sent)?;
    sent.store(0, Ordering::SeqCst);
    let agent = Agent::launch(None, "")?;
    let mut checks = Checks::new();
    thread::scope(|scope| -> Result<()> {
        let sending = scope.spawn(|| send_all(pods, BEFORE, AFTER, &sent));
        let agent = agent.wait_until_ready()?;
        let began = Instant::now();
        for moment in 0..MOMENTS {
            // The last ones when nothing comes any more.
            if moment + 3 >= MOMENTS {
                wait_for("all flows to be sent", 10 * HANG, || {
                    thread::sleep(command::POLL);
                    Ok(sending.is_finished().then_some(()))
                })?;
            }
            let before = sent.load(Ordering::SeqCst);
            let metrics = if moment + 1 == MOMENTS {
                agent.wait_for_census()?;
                agent.settled()?
            } else {
                agent.sample()?
            };
            let after = sent.load(Ordering::SeqCst);
            let entries = ByOwner::read(&metrics, "entries", "direction")?;
            let unsure = ByOwner::read(&metrics, "entries_uncertainty", "direction")?;
            let table = metrics.count("ctpressure_table_entries", &[])?;
            let at = began.elapsed().as_secs();
            println!(
                "moment {moment}, {at} s, {before} pods have sent: {} of {table} entries have an owner",
                entries.sum()
            );
            for number in looked_at {
                let pod = &pods[number as usize];
                let owner = Owner::pod(pod.namespace, &pod.name);
                let value = entries.get(&owner, "egress");
                // Not known yet: absent.
                if entries.0.keys().all(|(known, _)| *known != owner) {
                    continue;
                }
                let slack = unsure.of(&owner);
                // The sample is of a moment between the two; one more may be sending.
                let sent_by = |done: u64| BEFORE + if u64::from(number) < done { AFTER } else { 0 };
                let (least, most) = (sent_by(before), sent_by(after + 1));
                let name = format!("entries of {} at moment {moment}", pod.name);
                checks.at_least(format!("{name} (± {slack})"), value + slack, least);
                checks.at_most(format!("{name} (± {slack})"), value, most + slack);
                println!(
                    "  {}: {value} (± {slack}), {least} to {most} were sent",
                    pod.name
                );
            }
            if entries.sum() > 0 && moment + 3 >= MOMENTS {
                checks.equal(
                    "entries of all owners",
                    entries.sum(),
                    "of all tables",
                    table,
                );
            }
            thread::sleep(Duration::from_secs(2));
        }
        let sent = sending.join().map_err(|_| anyhow!("the sender panicked"));
        sent?.context("sending")?;
        let census = first_census(&agent)?;
        println!(
            "CENSUS-TIME busy {} {census:.3}",
            u64::from(PODS) * (BEFORE + AFTER)
        );
        agent.stop()
    })?;
    checks.finish()
}
