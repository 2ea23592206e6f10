//! Probes that are attached only while a table may fill: of a table that fills at once all is told that they tell, and while they come
//! and go no count is wrong.

use std::{
    fmt,
    net::Ipv4Addr,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::{of_kernel_only, setting::Setting};
use crate::{
    containers::lookalike::Lookalike,
    guest::{
        agent::{Agent, Mechanism},
        busy::BusyLoops,
        checks::Checks,
        command::{HANG, output, spawn, wait_for},
        generator,
        kernel::{self, online_cpus},
        net,
        owned::{ByOwner, Owner},
        unit::{Unit, in_unit},
        watch::Onlooker,
    },
    traffic::{bench::flush_table, tally::Tally},
};

/// Tables that are too small to be left without the probes, and one that is not, on two CPUs or four.
const SMALL_LIMITS: [u64; 2] = [2_000, 20_000];
const LARGE_LIMIT: u64 = 200_000;
/// So many buckets for each entry that a scan of eight of them comes back empty now and then: there are drops as well as evictions.
const BUCKETS_FOR_EACH: u64 = 13;
/// A process of the host.
const UNIT: &str = "ctp-backup.service";
/// The host's address on the way to where nobody answers.
const HOST: &str = "192.0.2.1/32";

/// What the agent says of the probes.
struct Arming {
    armed: bool,
    reason: String,
    times: u64,
    burst_to_armed_us: Option<u64>,
    without_priority: bool,
}

impl Arming {
    fn of(agent: &Agent) -> Result<Self> {
        let status = agent.status()?;
        let arming = &status["arming"];
        Ok(Self {
            armed: arming["armed"].as_bool().context("no arming.armed")?,
            reason: arming["reason"].as_str().unwrap_or_default().to_owned(),
            times: arming["times"].as_u64().context("no arming.times")?,
            burst_to_armed_us: arming["burst_to_armed_us"].as_u64(),
            without_priority: !arming["without_priority"].is_null(),
        })
    }

    /// On this kernel they are never detached.
    fn is_always(&self) -> bool {
        ["packets", "confirmation"].contains(&&*self.reason)
    }

    fn wait(agent: &Agent, armed: bool) -> Result<Self> {
        let what = if armed {
            "the probes to be attached"
        } else {
            "the probes to be detached"
        };
        wait_for(what, HANG, || {
            let now = Self::of(agent)?;
            Ok((now.armed == armed).then_some(now))
        })
    }
}

impl fmt::Display for Arming {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let armed = if self.armed { "armed" } else { "calm" };
        write!(formatter, "{armed} ({}), {} times", self.reason, self.times)?;
        if let Some(took) = self.burst_to_armed_us {
            write!(formatter, ", {took} us after the lease")?;
        }
        if self.without_priority {
            formatter.write_str(", without priority")?;
        }
        Ok(())
    }
}

/// A pod that does nothing: whoever sends from its address has its flow charged to it.
fn pod(number: u8) -> Result<Lookalike> {
    let address = Ipv4Addr::new(10, 92, 0, 10 + number);
    Lookalike::make(u32::from(number), address, 0.0, "send --flows 0")
}

fn owner(pod: &Lookalike) -> Owner {
    Owner::pod(pod.namespace, &pod.name)
}

/// Starts `ctgen` in the unit.
fn start_in_unit(arguments: &str) -> Result<Child> {
    let mut command = in_unit(UNIT, "ctgen");
    command.args(arguments.split_whitespace());
    spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()))
}

pub(super) fn burst(mechanism: Option<Mechanism>) -> Result<()> {
    ensure!(online_cpus() >= 2, "two CPUs are needed");
    kernel::never_expire()?;
    net::track_into_dead_end(None)?;
    let _unit = Unit::start(UNIT)?;
    let pods = [pod(0)?, pod(1)?];
    let small = if of_kernel_only() {
        &SMALL_LIMITS[..1]
    } else {
        &SMALL_LIMITS
    };
    for &limit in small {
        burst_round(mechanism, limit, &pods)?;
    }
    burst_round(mechanism, LARGE_LIMIT, &pods)?;
    pods.into_iter().try_for_each(Lookalike::remove)
}

fn burst_round(mechanism: Option<Mechanism>, limit: u64, pods: &[Lookalike; 2]) -> Result<()> {
    flush_table()?;
    kernel::set_sysctl("nf_conntrack_buckets", limit * BUCKETS_FOR_EACH)?;
    kernel::set_limit(limit)?;
    let agent = Agent::start(mechanism, "")?;
    let before = if limit == LARGE_LIMIT && !Arming::of(&agent)?.is_always() {
        Arming::wait(&agent, false)?
    } else {
        Arming::wait(&agent, true)?
    };
    let setting = Setting::with_agent(agent)?;
    let assured = send_assured(&pods[0], limit / 20)?;

    let busy = BusyLoops::start(None)?;
    let flows = limit * 13 / 30;
    let sending = pods
        .iter()
        .map(|pod| {
            let source = pod.address;
            let plan = format!("--threads 2 --source {source}/32 --first {limit} --flows {flows}");
            generator::start(None, &plan)
        })
        .collect::<Result<Vec<_>>>()?;
    let of_unit = start_in_unit(&format!("send --threads 2 --source {HOST} --flows {flows}"))?;
    let mut tallies = sending
        .into_iter()
        .map(generator::Sending::finish)
        .collect::<Result<Vec<_>>>()?;
    tallies[0].add(&assured);
    tallies.push(generator::counted(of_unit)?);
    drop(busy);
    let after = Arming::of(&setting.agent)?;
    check_burst(setting, limit, pods, &tallies, (&before, &after))
}

/// Entries that are never evicted.
fn send_assured(pod: &Lookalike, flows: u64) -> Result<Tally> {
    let plan = format!("--source {}/32 --flows {flows}", pod.address);
    let tally = generator::send(None, &plan)?;
    output("conntrack", &["-U", "-p", "udp", "-u", "ASSURED"])?;
    Ok(tally)
}

fn check_burst(
    setting: Setting,
    limit: u64,
    pods: &[Lookalike; 2],
    tallies: &[Tally],
    (before, after): (&Arming, &Arming),
) -> Result<()> {
    let mut sum = Tally::default();
    for tally in tallies {
        sum.add(tally);
    }
    let growth = setting.growth()?;
    let mut checks = Checks::new();
    let skipped = growth.check_exact_but_skipped(&mut checks, &sum)?;
    let now = |name, beside| ByOwner::read(&growth.metrics, name, beside);
    let (inserts, drops) = (
        now("inserts_total", "direction")?,
        now("drops_total", "reason")?,
    );
    let evictions = now("evictions_total", "role")?;
    let unknown = Owner::unknown();
    let (of_nobody, without_cause) = (drops.of(&unknown), evictions.get(&unknown, "cause"));
    let unarmed = growth.counter("events_lost_total", &[("kind", "unarmed")])?;
    println!(
        "limit {limit}: {} inserts, {} drops ({of_nobody} of nobody), {} evictions ({without_cause} without a cause), {unarmed} \
         unarmed, {skipped} skipped, in {:.1} s; before: {before}; after: {after}",
        inserts.sum(),
        drops.sum(),
        evictions.sum() / 2,
        sum.seconds,
    );
    // Where the kernel puts tasks aside in the middle of a program (7), and somebody else wants the CPU, others' runs of it are skipped
    // until that task goes on: chance, and said. What they would have told may be missing, and nothing else.
    checks.at_most("events_lost_total{missed_runs}", skipped, sum.sent / 10);
    checks.at_least("drops", drops.sum(), limit / 100);
    checks.at_least("evictions", evictions.sum() / 2, limit / 100);
    checks.at_most(
        "events_lost_total{unarmed} and what it says",
        unarmed.max(of_nobody + without_cause),
        skipped,
    );
    checks.holds(after.armed, || format!("{after} when the table is full"));
    if !before.armed {
        checks.equal("armings", after.times, "one more", before.times + 1);
        checks.holds(after.burst_to_armed_us.is_some(), || {
            format!("no lease ended: {after}")
        });
    }
    if skipped == 0 {
        let of_host = |counts: &ByOwner| counts.of(&Owner::unit(UNIT)) + counts.of(&Owner::host());
        for (pod, tally) in pods.iter().zip(tallies) {
            let (entered, refused) = (inserts.of(&owner(pod)), drops.of(&owner(pod)));
            checks.equal(&pod.name, entered, "accepted", tally.accepted);
            checks.equal(&pod.name, refused, "EPERM", tally.error("EPERM"));
        }
        let refused = tallies[2].error("EPERM");
        checks.equal("drops of the host", of_host(&drops), "EPERM", refused);
        let entered = inserts.of(&Owner::unit(UNIT));
        checks.equal(
            "inserts of the unit",
            entered,
            "accepted",
            tallies[2].accepted,
        );
    }
    checks.finish()?;
    drop(growth);
    setting.agent.stop()
}

pub(super) fn toggled(mechanism: Option<Mechanism>) -> Result<()> {
    const FLOWS: u64 = 16_000;
    const RATE: u32 = 400;
    let _unit = Unit::start(UNIT)?;
    let pod = pod(0)?;
    kernel::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    let setting = Setting::new(mechanism, LARGE_LIMIT, "")?;
    kernel::set_sysctl("nf_conntrack_udp_timeout", 3)?;
    let always = Arming::of(&setting.agent)?.is_always();
    let before = Arming::wait(&setting.agent, always)?;
    // The pod's come through its network, in softirqs.
    let plan = |source: &str| format!("send --source {source} --flows {FLOWS} --rate {RATE}");
    let mut sending = [
        pod.run(&plan(&format!("{}/32", pod.address)))?,
        start_in_unit(&plan(HOST))?,
    ];
    let mut still_sends = || -> Result<bool> {
        let ends = sending.iter_mut().map(Child::try_wait);
        Ok(ends.collect::<Result<Vec<_>, _>>()?.contains(&None))
    };
    let mut turns = 0;
    while still_sends()? {
        // The agent looks each second who watches.
        let watcher = Onlooker::of(&setting.agent, "insert")?;
        thread::sleep(Duration::from_millis(1_200));
        delete(HOST)?;
        watcher.leave()?;
        thread::sleep(Duration::from_millis(1_200));
        delete(&format!("{}/32", pod.address))?;
        turns += 1;
    }
    let after = Arming::of(&setting.agent)?;
    let tallies = sending
        .into_iter()
        .map(generator::counted)
        .collect::<Result<Vec<_>>>()?;
    flush_table()?;
    let growth = setting.growth()?;
    let counts = |name| ByOwner::read(&growth.metrics, name, "direction");
    let (inserts, deletes) = (counts("inserts_total")?, counts("deletes_total")?);
    println!(
        "{turns} watches came and went; before: {before}; after: {after}; {} inserts, {} deletes",
        inserts.sum(),
        deletes.sum()
    );
    let mut checks = Checks::new();
    checks.equal("entries after a flush", growth.entries(), "none", 0);
    for (owner, tally) in [owner(&pod), Owner::unit(UNIT)].into_iter().zip(&tallies) {
        checks.equal("accepted", tally.accepted, "flows", FLOWS);
        let (entered, left) = (inserts.of(&owner), deletes.of(&owner));
        checks.equal(format!("inserts of {owner}"), entered, "sent", FLOWS);
        checks.equal(format!("deletes of {owner}"), left, "sent", FLOWS);
    }
    checks.equal("inserts of all", inserts.sum(), "sent", 2 * FLOWS);
    checks.equal("deletes of all", deletes.sum(), "sent", 2 * FLOWS);
    let lost = |kind| growth.counter("events_lost_total", &[("kind", kind)]);
    for kind in ["sockets", "tags", "unarmed"] {
        checks.equal(
            format!("events_lost_total{{{kind}}}"),
            lost(kind)?,
            "zero",
            0,
        );
    }
    // As in a burst: of probes that tell nothing in a table with room, since all counts are exact.
    checks.at_most(
        "events_lost_total{missed_runs}",
        lost("missed_runs")?,
        FLOWS / 100,
    );
    let armings = growth.counter("armings_total", &[])?;
    checks.at_least("armings", armings, if always { 0 } else { 10 });
    checks.finish()?;
    drop(growth);
    setting.agent.stop()?;
    pod.remove()
}

/// Deletes all entries of a source, and lets the kernel reap what has expired.
fn delete(source: &str) -> Result<()> {
    let mut command = Command::new("conntrack");
    command.args(["-D", "-s", source]);
    // It fails if there is none.
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.context("deleting entries")?;
    drop(std::fs::read("/proc/net/nf_conntrack")?);
    Ok(())
}
