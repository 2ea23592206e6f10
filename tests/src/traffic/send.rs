//! Sending first packets through raw sockets, from several threads at once.

use std::{
    io,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use socket2::{Domain, Socket, Type};

use super::{
    flow::{Family, Flow, Plan},
    packet::first_packet,
    tally::{SendTimes, Tally},
};

/// How a plan is sent.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Threads; each takes one part of the plan.
    pub threads: u32,
    /// CPUs that the threads are pinned to, in turn; empty: wherever the scheduler puts them.
    pub cpus: Vec<usize>,
    /// Flows a second of all threads together; `None`: as fast as it goes.
    pub rate: Option<u32>,
    /// Stop after this time even if flows are left.
    pub limit: Option<Duration>,
    /// Take the time of each `sendto`.
    pub times: bool,
}

/// A raw socket of each family (`IPPROTO_RAW`: the sender writes the IP header).
struct Sockets {
    v4: Socket,
    v6: Option<Socket>,
}

/// `IPPROTO_RAW`
const RAW: i32 = 255;

impl Sockets {
    fn open(v6: bool) -> Result<Self> {
        let open = |domain| {
            Socket::new(domain, Type::RAW, Some(socket2::Protocol::from(RAW))).map_err(|error| {
                if error.raw_os_error() == Some(nix::libc::EPERM) {
                    anyhow!("raw sockets need CAP_NET_RAW: run ctgen as root")
                } else {
                    anyhow!("opening a raw socket: {error}")
                }
            })
        };
        let v6 = if v6 { Some(open(Domain::IPV6)?) } else { None };
        Ok(Self {
            v4: open(Domain::IPV4)?,
            v6,
        })
    }

    fn send(&self, flow: &Flow, packet: &[u8]) -> io::Result<()> {
        let socket = match (flow.family(), &self.v6) {
            (Family::V4, _) => &self.v4,
            (Family::V6, Some(socket)) => socket,
            (Family::V6, None) => return Err(io::ErrorKind::Unsupported.into()),
        };
        let sent = socket.send_to(packet, &SocketAddr::new(flow.destination, 0).into())?;
        if sent == packet.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }
}

/// Sends the first packet of each flow of the plan once, and counts.
///
/// # Errors
///
/// When sockets can't be had or a CPU does not exist. What the kernel says to a packet is no
/// error here: it is counted.
pub fn send(plan: &Plan, pace: &Pace) -> Result<Tally> {
    let threads = u64::from(pace.threads.max(1));
    let share = plan.flows().div_ceil(threads);
    let start = Instant::now();
    let parts = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let flows =
                    (thread * share).min(plan.flows())..((thread + 1) * share).min(plan.flows());
                scope.spawn(move || send_part(plan, pace, thread, flows, start))
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| {
                worker
                    .join()
                    .map_err(|_| anyhow!("a sending thread panicked"))?
            })
            .collect::<Result<Vec<_>>>()
    })?;
    let mut tally = Tally::default();
    let mut times = Vec::new();
    for (part, of_part) in parts {
        tally.add(&part);
        times.extend(of_part);
    }
    tally.send_ns = SendTimes::of(times);
    Ok(tally)
}

fn send_part(
    plan: &Plan,
    pace: &Pace,
    thread: u64,
    flows: std::ops::Range<u64>,
    start: Instant,
) -> Result<(Tally, Vec<u64>)> {
    if !pace.cpus.is_empty() {
        let turn = usize::try_from(thread).unwrap_or(0) % pace.cpus.len();
        pin_to_cpu(pace.cpus[turn])?;
    }
    let v6 = flows
        .clone()
        .take(64)
        .any(|index| plan.flow(index).family() == Family::V6);
    let sockets = Sockets::open(v6)?;
    let gap = pace.rate.map(|rate| {
        Duration::from_secs_f64(f64::from(pace.threads.max(1)) / f64::from(rate.max(1)))
    });
    let (mut tally, mut times) = (Tally::default(), Vec::new());
    let mut packet = Vec::with_capacity(128);
    for (turn, index) in (0u32..).zip(flows) {
        if let Some(gap) = gap {
            thread::sleep((start + gap * turn).saturating_duration_since(Instant::now()));
        }
        if pace.limit.is_some_and(|limit| start.elapsed() >= limit) {
            break;
        }
        let flow = plan.flow(index);
        first_packet(&flow, &mut packet)?;
        let began = pace.times.then(Instant::now);
        let result = sockets.send(&flow, &packet);
        if let Some(began) = began {
            times.push(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
        tally.count(class_name(&flow), result);
    }
    tally.seconds = start.elapsed().as_secs_f64();
    Ok((tally, times))
}

/// Keeps the calling thread on one CPU.
pub fn pin_to_cpu(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)
        .with_context(|| format!("no CPU has the number {cpu}"))?;
    sched_setaffinity(Pid::from_raw(0), &set)
        .with_context(|| format!("pinning to CPU {cpu} (is it online?)"))
}

const fn class_name(flow: &Flow) -> &'static str {
    use super::flow::Protocol::{Gre, Icmp, Other, Sctp, Tcp, Udp};
    match (flow.protocol, flow.family()) {
        (Udp, Family::V4) => "udp4",
        (Udp, Family::V6) => "udp6",
        (Tcp, Family::V4) => "tcp4",
        (Tcp, Family::V6) => "tcp6",
        (Icmp, Family::V4) => "icmp4",
        (Icmp, Family::V6) => "icmp6",
        (Sctp, Family::V4) => "sctp4",
        (Sctp, Family::V6) => "sctp6",
        (Gre, Family::V4) => "gre4",
        (Gre, Family::V6) => "gre6",
        (Other, Family::V4) => "other4",
        (Other, Family::V6) => "other6",
    }
}
