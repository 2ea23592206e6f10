//! What the agent itself costs a node, in CPU and memory, beside `node_exporter` that is asked as often. It takes minutes:
//! `cargo xtask bench --only agent` runs it.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use procfs::process::{Process, Stat};

use crate::{
    containers::lookalike::Lookalike,
    guest::{
        agent::{Agent, free_address},
        command::{self, HANG, wait_for},
        generator, kernel, net,
    },
    traffic::bench::flush_table,
};

/// Pods, flows a second, and the network that these come from: that of the pods.
const NODES: [(u32, u32, &str); 3] = [
    (10, 50, "10.90.0.0/29"),
    (250, 50, "10.90.0.0/24"),
    (250, 5_000, "10.90.0.0/24"),
];
/// How long each is measured, and how often both are asked meanwhile.
const MEASURED: Duration = Duration::from_mins(2);
const SCRAPE: Duration = Duration::from_secs(15);
/// Until both have begun, and the flows come at their rate.
const SETTLES: Duration = Duration::from_secs(20);
const LIMIT: u64 = 524_288;
const ARGUMENTS: &str = "--journal /tmp/ctp-agent-cost";

/// Prints `AGENT <pods> <flows a second> <of whom> <CPU seconds> <seconds> <resident KiB>` for both, and for each thread of the
/// agent `THREAD <name> <CPU seconds>`.
///
/// # Errors
///
/// What could not be measured.
pub fn run() -> Result<()> {
    kernel::load_module("nf_conntrack_netlink")?;
    kernel::set_limit(LIMIT)?;
    net::track_into_dead_end(None)?;
    let mut pods = Vec::new();
    for (count, rate, source) in NODES {
        while pods.len() < count as usize {
            let number = u32::try_from(pods.len())?;
            let address = Ipv4Addr::from_bits(Ipv4Addr::new(10, 90, 0, 0).to_bits() + number);
            pods.push(Lookalike::make(number, address, 0.0, "send --flows 0")?);
        }
        flush_table()?;
        measure(count, rate, source)?;
    }
    Ok(())
}

fn measure(pods: u32, rate: u32, source: &str) -> Result<()> {
    let agent = Agent::start(None, ARGUMENTS)?;
    let exporter = Exporter::start()?;
    let seconds = (SETTLES + MEASURED).as_secs() + 30;
    let flows = u64::from(rate) * seconds;
    let sending = generator::start(
        None,
        &format!("--source {source} --flows {flows} --rate {rate}"),
    )?;
    thread::sleep(SETTLES);
    let read = || -> Result<_> {
        let both = [Usage::read(agent.pid())?, Usage::read(exporter.child.id())?];
        Ok((both, threads(agent.pid())?))
    };
    let (before, threads_before) = read()?;
    let began = Instant::now();
    while began.elapsed() < MEASURED {
        scrape(agent.address())?;
        scrape(exporter.address)?;
        thread::sleep(SCRAPE);
    }
    let measured = began.elapsed().as_secs_f64();
    let (after, threads_after) = read()?;
    for (whose, (before, after)) in ["ctpressure", "node_exporter"]
        .into_iter()
        .zip(before.into_iter().zip(after))
    {
        println!(
            "AGENT {pods} {rate} {whose} {:.2} {measured:.1} {}",
            after.seconds - before.seconds,
            after.resident_kib
        );
    }
    for (number, (name, seconds)) in threads_after {
        let before = threads_before
            .get(&number)
            .map_or(0.0, |(_, before)| *before);
        println!("THREAD {name} {:.2}", seconds - before);
    }
    drop(exporter);
    drop(sending);
    agent.stop()
}

/// What a process, or a thread, has used.
#[derive(Clone, Copy, Debug)]
struct Usage {
    seconds: f64,
    resident_kib: u64,
}

impl Usage {
    fn read(process: u32) -> Result<Self> {
        let process = Process::new(i32::try_from(process)?)?;
        Ok(Self {
            seconds: seconds(&process.stat()?),
            resident_kib: process.status()?.vmrss.context("no VmRSS")?,
        })
    }
}

fn seconds(stat: &Stat) -> f64 {
    let ticks = u32::try_from(stat.utime + stat.stime).unwrap_or(u32::MAX);
    let per_second = u32::try_from(procfs::ticks_per_second()).unwrap_or(100);
    f64::from(ticks) / f64::from(per_second)
}

/// CPU seconds of each thread, by number.
fn threads(process: u32) -> Result<BTreeMap<i32, (String, f64)>> {
    let mut threads = BTreeMap::new();
    for task in Process::new(i32::try_from(process)?)?.tasks()? {
        let task = task?;
        // It may end at any time.
        let Ok(stat) = task.stat() else { continue };
        threads.insert(task.tid, (stat.comm.clone(), seconds(&stat)));
    }
    Ok(threads)
}

/// `node_exporter` as Debian starts it.
struct Exporter {
    child: Child,
    address: SocketAddr,
}

impl Exporter {
    fn start() -> Result<Self> {
        let address = free_address()?;
        let mut command = Command::new("prometheus-node-exporter");
        command.arg(format!("--web.listen-address={address}"));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let exporter = Self {
            child: command::spawn(&mut command)?,
            address,
        };
        wait_for("node_exporter", HANG, || Ok(scrape(address).ok()))?;
        Ok(exporter)
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Asks for the metrics as Prometheus does.
fn scrape(address: SocketAddr) -> Result<()> {
    let response = minreq::get(format!("http://{address}/metrics"))
        .with_header("Accept-Encoding", "gzip")
        .with_timeout(HANG.as_secs())
        .send()?;
    ensure!(
        response.status_code == 200,
        "status {}",
        response.status_code
    );
    Ok(())
}
