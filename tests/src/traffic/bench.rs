//! What one new flow costs, and the end of one. Only the sends, or only the deletion, are inside
//! the clock; under `-icount shift=0` a nanosecond is an instruction.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;
use socket2::{Domain, Socket, Type};

use ctnetlink::Deleter;

mod ctnetlink;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Flows {
    /// How many are opened or ended inside the clock.
    pub number: u64,
    /// Where they come from; it need not be an address of this host.
    pub source: Ipv4Addr,
    /// Others' entries stay: those of these flows are deleted one by one. Else the table is
    /// flushed.
    pub spare: bool,
}

/// A measurement; printed as one JSON object.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Measurement {
    /// Flows that were opened or ended inside the clock.
    pub flows: u64,
    /// `CLOCK_MONOTONIC`, all flows together.
    pub nanoseconds: u64,
    /// `CLOCK_THREAD_CPUTIME_ID`: without what other tasks did meanwhile.
    pub thread_nanoseconds: u64,
    /// Of the first.
    pub nanoseconds_per_flow: f64,
}

impl Measurement {
    fn new(flows: u64, time: Clock) -> Self {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let divisor = f64::from(u32::try_from(flows.max(1)).unwrap_or(u32::MAX));
        Self {
            flows,
            nanoseconds: nanoseconds(time.monotonic),
            thread_nanoseconds: nanoseconds(time.thread),
            nanoseconds_per_flow: time.monotonic.as_secs_f64() * 1e9 / divisor,
        }
    }
}

/// Two clocks: points of time, or times.
#[derive(Clone, Copy, Debug, Default)]
struct Clock {
    monotonic: Duration,
    thread: Duration,
}

impl Clock {
    fn now() -> Result<Self> {
        let read = |clock| -> Result<Duration> {
            Ok(clock_gettime(clock).context("reading a clock")?.into())
        };
        Ok(Self {
            monotonic: read(ClockId::CLOCK_MONOTONIC)?,
            thread: read(ClockId::CLOCK_THREAD_CPUTIME_ID)?,
        })
    }

    fn elapsed(self) -> Result<Self> {
        let now = Self::now()?;
        Ok(Self {
            monotonic: now.monotonic.saturating_sub(self.monotonic),
            thread: now.thread.saturating_sub(self.thread),
        })
    }
}

/// Entries in this network namespace's table.
const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
/// Flows before the clock starts: slabs, the route and the receiver's queue settle.
const WARM_UP: u32 = 512;

/// Time for new UDP flows over loopback: one sender, distinct destination addresses.
pub fn send(flows: Flows) -> Result<Measurement> {
    let loopback = Loopback::open(flows.source)?;
    let before = entries()?;
    let time = loopback.open_flows(flows.number)?;
    let after = entries()?;
    ensure!(
        after.saturating_sub(before) >= flows.number,
        "{} flows made {} entries: conntrack does not track loopback UDP here (add a rule with \
         `ct state`, or load nf_conntrack with enable_hooks=1), or entries expire meanwhile",
        flows.number,
        after.saturating_sub(before),
    );
    if flows.spare {
        let deleter = Deleter::open()?;
        deleter.delete(loopback.tuples(0..WARM_UP)?)?;
        deleter.delete(loopback.tuples(measured(flows.number)?)?)?;
    }
    Ok(Measurement::new(flows.number, time))
}

/// Time for the deletion of entries: a ctnetlink flush of the whole table, or a request for each
/// ([`Flows::spare`]).
///
/// Before a flush, entries that were there are flushed outside the clock.
pub fn end(flows: Flows) -> Result<Measurement> {
    let deleter = Deleter::open()?;
    if !flows.spare {
        deleter.flush()?;
    }
    let loopback = Loopback::open(flows.source)?;
    let earlier = entries()?;
    loopback.open_flows(flows.number)?;
    let before = entries()?;
    ensure!(
        before.saturating_sub(earlier) >= flows.number,
        "{} flows made only {} entries; see `ctgen bench-send`",
        flows.number,
        before.saturating_sub(earlier),
    );
    if flows.spare {
        deleter.delete(loopback.tuples(0..WARM_UP)?)?;
        let time = deleter.delete(loopback.tuples(measured(flows.number)?)?)?;
        return Ok(Measurement::new(flows.number, time));
    }
    let time = deleter.flush()?;
    let after = entries()?;
    ensure!(after == 0, "the flush left {after} of {before} entries");
    Ok(Measurement::new(before, time))
}

/// Deletes every entry of this network namespace's table.
pub fn flush_table() -> Result<()> {
    Deleter::open()?.flush().map(drop)
}

fn entries() -> Result<u64> {
    fs::read_to_string(COUNT)
        .with_context(|| format!("reading {COUNT}: load the module with `modprobe nf_conntrack`"))?
        .trim()
        .parse()
        .with_context(|| format!("{COUNT} holds no number"))
}

/// Numbers of the flows inside the clock.
fn measured(flows: u64) -> Result<std::ops::Range<u32>> {
    const ALL_OF_127: u32 = 1 << 24;
    u32::try_from(flows)
        .ok()
        .map(|flows| WARM_UP..flows.saturating_add(WARM_UP))
        .filter(|numbers| numbers.end < ALL_OF_127 - 1)
        .with_context(|| format!("127.0.0.0/8 has no {flows} addresses: choose fewer flows"))
}

/// A sender and a receiver that never reads: datagrams end in its full queue, unanswered.
struct Loopback {
    sender: UdpSocket,
    receiver: UdpSocket,
}

impl Loopback {
    fn open(source: Ipv4Addr) -> Result<Self> {
        let receiver = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("binding a receiver")?;
        let sender = if source.is_loopback() {
            UdpSocket::bind((source, 0)).context("binding a sender")?
        } else {
            transparent(source).with_context(|| format!("binding a sender to {source}, as root"))?
        };
        Ok(Self { sender, receiver })
    }

    /// Opens the flows and says how long the sends took.
    fn open_flows(&self, flows: u64) -> Result<Clock> {
        let numbers = measured(flows)?;
        for (_, to) in self.tuples(0..WARM_UP)? {
            self.send(to)?;
        }
        let addresses: Vec<_> = self.tuples(numbers)?.map(|(_, to)| to).collect();
        let start = Clock::now()?;
        for address in addresses {
            self.send(address)?;
        }
        start.elapsed()
    }

    /// Source and destination of flows by their numbers.
    fn tuples(
        &self,
        numbers: std::ops::Range<u32>,
    ) -> Result<impl Iterator<Item = (SocketAddrV4, SocketAddrV4)> + use<>> {
        let std::net::SocketAddr::V4(from) = self.sender.local_addr()? else {
            bail!("the sender has no IPv4 address");
        };
        let port = self.receiver.local_addr()?.port();
        let first = Ipv4Addr::LOCALHOST.to_bits() + 1;
        Ok(numbers.map(move |number| {
            let to = SocketAddrV4::new(Ipv4Addr::from_bits(first + number), port);
            (from, to)
        }))
    }

    fn send(&self, to: SocketAddrV4) -> Result<()> {
        match self.sender.send_to(b"ctpressure", to) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => bail!(
                "the kernel refused a new flow: the table is full; raise \
                 net.netfilter.nf_conntrack_max above the number of flows"
            ),
            Err(error) => Err(error).with_context(|| format!("sending to {to}")),
        }
    }
}

/// A socket that sends from an address that may be anybody's (`IP_TRANSPARENT`).
fn transparent(source: Ipv4Addr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.set_ip_transparent_v4(true)?;
    socket.bind(&SocketAddrV4::new(source, 0).into())?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_are_timed_without_the_warm_up() {
        let loopback = Loopback::open(Ipv4Addr::LOCALHOST).unwrap();
        assert!(loopback.open_flows(1 << 24).is_err());
        let time = loopback.open_flows(50).unwrap();
        assert!(time.monotonic > Duration::ZERO);
        assert!(Measurement::new(50, time).nanoseconds_per_flow > 0.0);
    }

    #[test]
    fn tuples_are_those_that_are_sent() {
        let loopback = Loopback::open(Ipv4Addr::LOCALHOST).unwrap();
        let tuples: Vec<_> = loopback.tuples(0..3).unwrap().collect();
        assert_eq!(tuples.len(), 3);
        assert_eq!(*tuples[0].1.ip(), Ipv4Addr::new(127, 0, 0, 2));
        loopback.send(tuples[2].1).unwrap();
        let from = loopback.receiver.recv_from(&mut [0; 16]).unwrap().1;
        assert_eq!(from, std::net::SocketAddr::V4(tuples[2].0));
    }
}
