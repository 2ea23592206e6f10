//! Pods come and go, their addresses are used again, and they send all the while: no count lands on
//! a wrong pod, and nothing is left of them afterwards.

use std::{
    collections::{BTreeMap, VecDeque},
    net::Ipv4Addr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};

use super::{EGRESS, NOT_LOOPBACK};
use crate::{
    containers::lookalike::Lookalike,
    guest::{
        agent::{Agent, Mechanism},
        checks::Checks,
        command::wait_for,
        kernel, net,
        owned::{ByOwner, Owner},
    },
};

/// One pod is made in this time, and one removed.
const GAP: Duration = Duration::from_millis(200);
/// How long each lives at least.
const LIFE: Duration = Duration::from_secs(3);
/// Addresses for all of them: about 16 are in use at any time.
const ADDRESSES: u8 = 24;
const FLOWS: u64 = 150;
/// Every other pod waits so long before it sends: then it has to be known.
const DELAY: f64 = 1.2;

/// How many there are in all.
const PODS: u32 = 300;

/// What became of one pod.
struct Past {
    name: String,
    delayed: bool,
    accepted: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(in crate::scenarios) fn churn(mechanism: Option<Mechanism>) -> Result<()> {
    net::nft(None, NOT_LOOPBACK)?;
    net::track_into_dead_end(None)?;
    net::nft(None, TRACK_FORWARDED)?;
    kernel::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    kernel::never_expire()?;
    kernel::set_limit(200_000)?;
    let agent = Agent::start(mechanism, "")?;
    let start = agent.settled()?;
    let before = kernel::entries()?;

    let (past, most, memory) = run(&agent)?;
    let metrics = agent.settled()?;
    let counts = most.merged(&seen(&metrics)?);
    let inserts = ByOwner::read(&metrics, "inserts_total", "direction")?.since(&ByOwner::read(
        &start,
        "inserts_total",
        "direction",
    )?)?;

    let mut checks = Checks::new();
    let sent: u64 = past.iter().map(|pod| pod.accepted).sum();
    checks.equal("entries", kernel::entries()? - before, "sent", sent);
    checks.equal("inserts_total of all", inserts.sum(), "sent", sent);
    let mut of_pods = 0;
    for pod in &past {
        let count = counts.0.get(&pod.name).copied().unwrap_or(0);
        of_pods += count;
        checks.at_most(format!("inserts of {}", pod.name), count, pod.accepted);
        if pod.delayed {
            checks.equal(
                format!("inserts of {}", pod.name),
                count,
                "sent",
                pod.accepted,
            );
        }
    }
    let unknown = inserts.of(&Owner::unknown());
    println!("{of_pods} of {sent} flows by pod, {unknown} of nobody");
    println!("looks for owners: {}", agent.status()?["looks"]);
    checks.equal("of pods and of nobody", of_pods + unknown, "sent", sent);
    checks.at_most("pods that are named", counts.0.len(), past.len());

    crate::traffic::bench::flush_table()?;
    wait_for(
        "the series of gone pods to be withdrawn",
        Duration::from_secs(150),
        || Ok(seen(&agent.scrape()?)?.0.is_empty().then_some(())),
    )?;
    let end = agent.memory_kib("VmRSS")?;
    println!("the agent's memory: {memory} KiB after a third of the pods, {end} KiB at the end");
    checks.at_most("memory at the end (KiB)", end, memory + 2_048);
    checks.finish()?;
    agent.stop()
}

/// Conntrack has to look at what is forwarded, and only rules make it.
const TRACK_FORWARDED: &str = "
table inet ctp_forward {
  chain forward { type filter hook forward priority filter; ct state new accept; }
}
";

/// Inserts by name of a pod of these.
#[derive(Clone, Debug, Default)]
struct Counts(BTreeMap<String, u64>);

impl Counts {
    /// The greater one of each: a series that is withdrawn was never less than it had been.
    fn merged(mut self, other: &Self) -> Self {
        for (name, count) in &other.0 {
            let most = self.0.entry(name.clone()).or_default();
            *most = (*most).max(*count);
        }
        self
    }
}

fn seen(metrics: &crate::guest::prom::Metrics) -> Result<Counts> {
    let mut counts = Counts::default();
    for ((owner, direction), count) in ByOwner::read(metrics, "inserts_total", "direction")?.0 {
        if owner.namespace == "batch" {
            ensure!(
                direction == EGRESS || count == 0,
                "{count} inserts of {owner} {direction}"
            );
            *counts.0.entry(owner.pod).or_default() += count;
        }
    }
    Ok(counts)
}

/// Makes and removes them all; what became of them, what was ever counted for them, and the agent's
/// memory (KiB) when some had come and gone.
fn run(agent: &Agent) -> Result<(Vec<Past>, Counts, u64)> {
    let free: Mutex<VecDeque<Ipv4Addr>> = Mutex::new(
        (0..ADDRESSES)
            .map(|last| Ipv4Addr::new(10, 90, 0, 10 + last))
            .collect(),
    );
    let past = Mutex::new(Vec::new());
    let (sender, born) = mpsc::channel::<(Instant, bool, Lookalike)>();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let remover = scope.spawn(|| -> Result<()> {
            for (birth, delayed, pod) in born {
                thread::sleep((birth + LIFE).saturating_duration_since(Instant::now()));
                let counts = wait_for("a pod's counts", Duration::from_secs(30), || pod.counts());
                let counts = counts.with_context(|| pod.name.clone())?;
                ensure!(counts.accepted == FLOWS, "{} sent {counts:?}", pod.name);
                let (name, address) = (pod.name.clone(), pod.address);
                pod.remove()?;
                lock(&free).push_back(address);
                lock(&past).push(Past {
                    name,
                    delayed,
                    accepted: counts.accepted,
                });
            }
            Ok(())
        });
        let scraper = scope.spawn(|| -> Result<Counts> {
            let mut most = Counts::default();
            while !done.load(Ordering::Relaxed) {
                most = most.merged(&seen(&agent.scrape()?)?);
                thread::sleep(Duration::from_secs(1));
            }
            Ok(most)
        });
        let made = make_all(agent, &free, &sender);
        drop(sender);
        let all_gone = remover
            .join()
            .map_err(|_| anyhow!("the remover panicked"))?;
        done.store(true, Ordering::Relaxed);
        let most = scraper
            .join()
            .map_err(|_| anyhow!("the scraper panicked"))??;
        all_gone?;
        let memory = made?;
        Ok((std::mem::take(&mut *lock(&past)), most, memory))
    })
}

fn make_all(
    agent: &Agent,
    free: &Mutex<VecDeque<Ipv4Addr>>,
    born: &mpsc::Sender<(Instant, bool, Lookalike)>,
) -> Result<u64> {
    let start = Instant::now();
    let mut memory = 0;
    for number in 0..PODS {
        thread::sleep((start + GAP * number).saturating_duration_since(Instant::now()));
        let address = wait_for("a free address", Duration::from_mins(1), || {
            // The one that has been free longest, as IPAM plugins have it.
            Ok(lock(free).pop_front())
        })?;
        let delayed = number % 2 == 0;
        let first = u64::from(number) * FLOWS;
        let arguments = format!("send --source {address}/32 --flows {FLOWS} --first {first}");
        let delay = if delayed { DELAY } else { 0.0 };
        let pod = Lookalike::make(number, address, delay, &arguments)?;
        born.send((Instant::now(), delayed, pod))
            .context("the remover has ended")?;
        if number == PODS / 3 {
            memory = agent.memory_kib("VmRSS")?;
        }
    }
    println!("{} pods in {:.1} s", PODS, start.elapsed().as_secs_f64());
    Ok(memory)
}
