//! What one new flow costs, and the end of one. Only the sends, or only the deletion, are inside
//! the clock; under `-icount shift=0` a nanosecond is an instruction.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    ops::Range,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use ipnet::IpNet;
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;
use socket2::{Domain, Socket, Type};

use super::flow::Ports;
use ctnetlink::Deleter;

mod ctnetlink;

/// What is measured.
#[derive(Clone, Debug)]
pub struct Flows {
    /// How many are opened or ended inside the clock.
    pub number: u64,
    /// Where they come from; it need not be an address of this host.
    pub source: IpAddr,
    /// Where they go: from this address on, those of its network.
    pub destination: IpNet,
    /// To each of these ports of an address before the next address. Nobody may answer. Else to the port of a
    /// receiver on this host, whose the addresses have to be.
    pub ports: Option<Ports>,
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

/// Time for new UDP flows: one sender, distinct destinations.
pub fn send(flows: &Flows) -> Result<Measurement> {
    let sender = Sender::open(flows)?;
    let before = entries()?;
    let time = sender.open_flows(flows.number)?;
    let after = entries()?;
    ensure!(
        after.saturating_sub(before) >= flows.number,
        "{} flows made {} entries: conntrack does not track UDP here (add a rule with \
         `ct state`, or load nf_conntrack with enable_hooks=1), or entries expire meanwhile",
        flows.number,
        after.saturating_sub(before),
    );
    if flows.spare {
        let deleter = Deleter::open()?;
        deleter.delete(sender.tuples(0..WARM_UP)?)?;
        deleter.delete(sender.tuples(measured(flows.number)?)?)?;
    }
    Ok(Measurement::new(flows.number, time))
}

/// Time for the deletion of entries: a ctnetlink flush of the whole table, or a request for each
/// ([`Flows::spare`]).
///
/// Before a flush, entries that were there are flushed outside the clock.
pub fn end(flows: &Flows) -> Result<Measurement> {
    let deleter = Deleter::open()?;
    if !flows.spare {
        deleter.flush()?;
    }
    let sender = Sender::open(flows)?;
    let earlier = entries()?;
    sender.open_flows(flows.number)?;
    let before = entries()?;
    ensure!(
        before.saturating_sub(earlier) >= flows.number,
        "{} flows made only {} entries; see `ctgen bench-send`",
        flows.number,
        before.saturating_sub(earlier),
    );
    if flows.spare {
        deleter.delete(sender.tuples(0..WARM_UP)?)?;
        let time = deleter.delete(sender.tuples(measured(flows.number)?)?)?;
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
fn measured(flows: u64) -> Result<Range<u32>> {
    u32::try_from(flows)
        .ok()
        .and_then(|flows| Some(WARM_UP..flows.checked_add(WARM_UP)?))
        .with_context(|| format!("{flows} flows are too many"))
}

/// Destinations of flows by their numbers.
#[derive(Clone, Debug)]
struct Destinations {
    net: IpNet,
    ports: Ports,
}

impl Destinations {
    fn nth(&self, number: u32) -> Result<SocketAddr> {
        let ports = self.ports.count();
        let (address, port) = (u64::from(number) / ports, u64::from(number) % ports);
        let address = match self.net.addr() {
            IpAddr::V4(first) => u32::try_from(address)
                .ok()
                .and_then(|address| first.to_bits().checked_add(address))
                .map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
            IpAddr::V6(first) => first
                .to_bits()
                .checked_add(u128::from(address))
                .map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
        };
        address
            .filter(|address| self.net.contains(address))
            .map(|address| SocketAddr::new(address, self.ports.nth(port)))
            .with_context(|| {
                let (net, number) = (self.net, u64::from(number) + 1);
                format!("{net} has no {number} destinations: choose fewer flows")
            })
    }
}

/// A socket that sends the first packet of each flow, and a receiver that never reads: datagrams end in its full
/// queue, unanswered.
struct Sender {
    socket: UdpSocket,
    destinations: Destinations,
    /// `None`: nobody is there who could answer.
    _receiver: Option<UdpSocket>,
}

impl Sender {
    fn open(flows: &Flows) -> Result<Self> {
        let (source, net) = (flows.source, flows.destination);
        ensure!(
            source.is_ipv4() == net.addr().is_ipv4(),
            "{source} and {net} are of different families"
        );
        let (ports, receiver) = match flows.ports.clone() {
            Some(ports) => (ports, None),
            None => receiver(source).context("binding a receiver")?,
        };
        let socket = if source.is_loopback() {
            UdpSocket::bind((source, 0)).context("binding a sender")?
        } else {
            transparent(source).with_context(|| format!("binding a sender to {source}, as root"))?
        };
        Ok(Self {
            socket,
            destinations: Destinations { net, ports },
            _receiver: receiver,
        })
    }

    /// Opens the flows and says how long the sends took.
    fn open_flows(&self, flows: u64) -> Result<Clock> {
        let addresses = self.addresses(measured(flows)?)?;
        for to in self.addresses(0..WARM_UP)? {
            self.send(to)?;
        }
        let start = Clock::now()?;
        for address in addresses {
            self.send(address)?;
        }
        start.elapsed()
    }

    fn addresses(&self, numbers: Range<u32>) -> Result<Vec<SocketAddr>> {
        numbers
            .map(|number| self.destinations.nth(number))
            .collect()
    }

    /// Source and destination of flows by their numbers.
    fn tuples(
        &self,
        numbers: Range<u32>,
    ) -> Result<impl Iterator<Item = (SocketAddr, SocketAddr)> + use<>> {
        let from = self.socket.local_addr()?;
        let addresses = self.addresses(numbers)?;
        Ok(addresses.into_iter().map(move |to| (from, to)))
    }

    fn send(&self, to: SocketAddr) -> Result<()> {
        match self.socket.send_to(b"ctpressure", to) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => bail!(
                "the kernel refused a new flow: the table is full; raise \
                 net.netfilter.nf_conntrack_max above the number of flows"
            ),
            Err(error) => Err(error).with_context(|| format!("sending to {to}")),
        }
    }
}

/// A socket that receives at every address of the family, and its port.
fn receiver(family: IpAddr) -> io::Result<(Ports, Option<UdpSocket>)> {
    let receiver = match family {
        IpAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?,
        IpAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?,
    };
    Ok((Ports::from(receiver.local_addr()?.port()), Some(receiver)))
}

/// A socket that sends from an address that may be anybody's (`IP_TRANSPARENT`, `IPV6_TRANSPARENT`).
fn transparent(source: IpAddr) -> io::Result<UdpSocket> {
    let address = SocketAddr::new(source, 0);
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    match source {
        IpAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
        IpAddr::V6(_) => socket.set_ip_transparent_v6(true)?,
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flows(source: &str, destination: &str, ports: Option<&str>) -> Flows {
        Flows {
            number: 0,
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            ports: ports.map(|ports| ports.parse().unwrap()),
            spare: false,
        }
    }

    fn sender(source: &str, destination: &str, ports: Option<&str>) -> Result<Sender> {
        Sender::open(&flows(source, destination, ports))
    }

    #[test]
    fn flows_are_timed_without_the_warm_up() {
        let sender = sender("127.0.0.1", "127.0.0.2/8", None).unwrap();
        assert!(sender.open_flows(1 << 24).is_err());
        let time = sender.open_flows(50).unwrap();
        assert!(time.monotonic > Duration::ZERO);
        assert!(Measurement::new(50, time).nanoseconds_per_flow > 0.0);
    }

    #[test]
    fn tuples_are_those_that_are_sent() {
        let receiver = UdpSocket::bind("0.0.0.0:0").unwrap();
        let port = receiver.local_addr().unwrap().port().to_string();
        let sender = sender("127.0.0.1", "127.0.0.2/8", Some(&port)).unwrap();
        let tuples: Vec<_> = sender.tuples(0..3).unwrap().collect();
        assert_eq!(tuples.len(), 3);
        assert_eq!(tuples[0].1.ip(), Ipv4Addr::new(127, 0, 0, 2));
        sender.send(tuples[2].1).unwrap();
        let from = receiver.recv_from(&mut [0; 16]).unwrap().1;
        assert_eq!(from, tuples[2].0);
    }

    #[test]
    fn ports_of_an_address_come_before_the_next_address() {
        let sender = sender("127.0.0.1", "127.0.0.9/31", Some("7-9")).unwrap();
        let tuples: Vec<_> = sender.tuples(1..3).unwrap().map(|(_, to)| to).collect();
        assert_eq!(
            tuples,
            ["127.0.0.9:8", "127.0.0.9:9"].map(|text| text.parse().unwrap())
        );
        assert!(sender.tuples(0..4).is_err());
        let destinations = Destinations {
            net: "fd00::ffff/64".parse().unwrap(),
            ports: "7-8".parse().unwrap(),
        };
        assert_eq!(
            destinations.nth(2).unwrap(),
            "[fd00::1:0]:7".parse().unwrap()
        );
    }

    #[test]
    fn families_are_not_mixed() {
        assert!(sender("::1", "127.0.0.2/8", None).is_err());
    }
}
