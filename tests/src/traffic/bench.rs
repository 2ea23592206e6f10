//! What one new flow costs, and the end of one. Only the sends, or only the deletion, are inside
//! the clock; under `-icount shift=0` a nanosecond is an instruction.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};
use serde::Serialize;
use std::os::fd::AsRawFd as _;

/// A measurement; printed as one JSON object.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Measurement {
    /// Flows that were opened or ended inside the clock.
    pub flows: u64,
    /// `CLOCK_MONOTONIC`, all flows together.
    pub nanoseconds: u64,
    /// The quotient.
    pub nanoseconds_per_flow: f64,
}

impl Measurement {
    fn new(flows: u64, time: Duration) -> Self {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let divisor = f64::from(u32::try_from(flows.max(1)).unwrap_or(u32::MAX));
        Self {
            flows,
            nanoseconds,
            nanoseconds_per_flow: time.as_secs_f64() * 1e9 / divisor,
        }
    }
}

/// Entries in this network namespace's table.
const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
/// Flows before the clock starts: slabs, the route and the receiver's queue settle.
const WARM_UP: u32 = 512;

/// Time for `flows` new UDP flows over loopback: one sender, distinct destination addresses.
pub fn send(flows: u64) -> Result<Measurement> {
    let loopback = Loopback::open()?;
    let before = entries()?;
    let time = loopback.open_flows(flows)?;
    let after = entries()?;
    ensure!(
        after.saturating_sub(before) >= flows,
        "{flows} flows made {} entries: conntrack does not track loopback UDP here (add a rule \
         with `ct state`, or load nf_conntrack with enable_hooks=1), or entries expire meanwhile",
        after.saturating_sub(before),
    );
    Ok(Measurement::new(flows, time))
}

/// Time for the deletion of `flows` entries: a ctnetlink flush of the whole table.
///
/// Entries that were there before are flushed first, outside the clock.
pub fn end(flows: u64) -> Result<Measurement> {
    let flusher = Flusher::open()?;
    flusher.flush()?;
    let loopback = Loopback::open()?;
    loopback.open_flows(flows)?;
    let before = entries()?;
    ensure!(
        before >= flows,
        "{flows} flows made only {before} entries; see `ctgen bench-send`"
    );
    let time = flusher.flush()?;
    let after = entries()?;
    ensure!(after == 0, "the flush left {after} of {before} entries");
    Ok(Measurement::new(before, time))
}

/// Deletes every entry of this network namespace's table.
pub fn flush_table() -> Result<()> {
    Flusher::open()?.flush().map(drop)
}

fn entries() -> Result<u64> {
    fs::read_to_string(COUNT)
        .with_context(|| format!("reading {COUNT}: load the module with `modprobe nf_conntrack`"))?
        .trim()
        .parse()
        .with_context(|| format!("{COUNT} holds no number"))
}

/// A sender and a receiver that never reads: datagrams end in its full queue, unanswered.
struct Loopback {
    sender: UdpSocket,
    receiver: UdpSocket,
}

impl Loopback {
    fn open() -> Result<Self> {
        let receiver = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("binding a receiver")?;
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("binding a sender")?;
        Ok(Self { sender, receiver })
    }

    /// Opens the flows and says how long the sends took.
    fn open_flows(&self, flows: u64) -> Result<Duration> {
        const ALL_OF_127: u64 = 1 << 24;
        let port = self.receiver.local_addr()?.port();
        ensure!(
            flows < ALL_OF_127 - u64::from(WARM_UP) - 1,
            "127.0.0.0/8 has no {flows} addresses: choose fewer flows"
        );
        let first = Ipv4Addr::LOCALHOST.to_bits() + 1;
        let address = |number: u32| SocketAddr::from((Ipv4Addr::from_bits(first + number), port));
        for number in 0..WARM_UP {
            self.send(address(number))?;
        }
        let addresses: Vec<_> = (WARM_UP..)
            .take(usize::try_from(flows)?)
            .map(address)
            .collect();
        let start = Instant::now();
        for address in addresses {
            self.send(address)?;
        }
        Ok(start.elapsed())
    }

    fn send(&self, to: SocketAddr) -> Result<()> {
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

/// A ctnetlink socket.
struct Flusher(std::os::fd::OwnedFd);

impl Flusher {
    fn open() -> Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )
        .context("opening a netlink socket")?;
        Ok(Self(socket))
    }

    /// Deletes every entry of this network namespace and says how long it took.
    ///
    /// The message is `IPCTNL_MSG_CT_DELETE` without a tuple (`ctnetlink_del_conntrack`,
    /// `nf_conntrack_netlink.c`); the acknowledgement comes when all are gone.
    fn flush(&self) -> Result<Duration> {
        const LENGTH: u32 = 20;
        const NFNL_SUBSYS_CTNETLINK: u16 = 1;
        const IPCTNL_MSG_CT_DELETE: u16 = 2;
        const NLM_F_REQUEST_ACK: u16 = 1 | 4;
        let mut message = Vec::with_capacity(20);
        message.extend(LENGTH.to_ne_bytes());
        message.extend((NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE).to_ne_bytes());
        message.extend(NLM_F_REQUEST_ACK.to_ne_bytes());
        message.extend([0; 8]); // sequence number, port
        message.extend([0; 4]); // nfgenmsg: any family, version 0
        let mut answer = [0; 256];
        let start = Instant::now();
        sendto(
            self.0.as_raw_fd(),
            &message,
            &NetlinkAddr::new(0, 0),
            MsgFlags::empty(),
        )
        .context("sending the flush request")?;
        let length = recv(self.0.as_raw_fd(), &mut answer, MsgFlags::empty())
            .context("waiting for the end of the flush")?;
        let time = start.elapsed();
        match acknowledged(&answer[..length]) {
            Some(0) => Ok(time),
            Some(error) => Err(io::Error::from_raw_os_error(-error)).context(
                "the kernel refused to flush the table (needs root, and the module: `modprobe \
                 nf_conntrack_netlink`)",
            ),
            None => bail!("the kernel's answer to the flush is no acknowledgement"),
        }
    }
}

/// The error number (0 or negative) of an `NLMSG_ERROR` message.
fn acknowledged(message: &[u8]) -> Option<i32> {
    const NLMSG_ERROR: u16 = 2;
    let kind = u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?);
    let error = i32::from_ne_bytes(message.get(16..20)?.try_into().ok()?);
    (kind == NLMSG_ERROR).then_some(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_are_told_from_other_messages() {
        let mut message = [0; 36];
        assert_eq!(acknowledged(&message), None);
        message[4..6].copy_from_slice(&2u16.to_ne_bytes());
        assert_eq!(acknowledged(&message), Some(0));
        message[16..20].copy_from_slice(&(-1i32).to_ne_bytes());
        assert_eq!(acknowledged(&message), Some(-1));
        assert_eq!(acknowledged(&message[..18]), None);
    }

    #[test]
    fn flows_are_timed_without_the_warm_up() {
        let loopback = Loopback::open().unwrap();
        assert!(loopback.open_flows(1 << 24).is_err());
        let time = loopback.open_flows(50).unwrap();
        assert!(time > Duration::ZERO);
        assert!(Measurement::new(50, time).nanoseconds_per_flow > 0.0);
    }
}
