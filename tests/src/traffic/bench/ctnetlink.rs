//! Deletes entries of this network namespace's table by ctnetlink messages (`IPCTNL_MSG_CT_DELETE`:
//! `ctnetlink_del_conntrack`, `nf_conntrack_netlink.c`).

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto,
        socket,
    },
};

use super::Clock;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
/// `struct nlmsghdr` and `struct nfgenmsg`.
const HEADERS: usize = 20;
const IPPROTO_UDP: u8 = 17;

/// A ctnetlink socket.
pub(super) struct Deleter(OwnedFd);

impl Deleter {
    pub(super) fn open() -> Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )
        .context("opening a netlink socket")?;
        Ok(Self(socket))
    }

    /// Deletes every entry and says how long it took: a request without a tuple, whose
    /// acknowledgement comes when all are gone.
    pub(super) fn flush(&self) -> Result<Clock> {
        const ANY_FAMILY: u8 = 0;
        let message = request(NLM_F_REQUEST | NLM_F_ACK, ANY_FAMILY, &[]);
        let start = Clock::now()?;
        self.send(&message)?;
        let answer = self.answer(MsgFlags::empty())?;
        let time = start.elapsed()?;
        match answer {
            Some(0) => Ok(time),
            Some(error) => Err(refused(error)),
            None => bail!("the kernel's answer to the flush is no acknowledgement"),
        }
    }

    /// Deletes the entries of these UDP flows (source, destination), one request each, and says
    /// how long it took.
    pub(super) fn delete(
        &self,
        flows: impl Iterator<Item = (SocketAddr, SocketAddr)>,
    ) -> Result<Clock> {
        // Only errors are answered.
        let messages: Vec<_> = flows
            .map(|(from, to)| request(NLM_F_REQUEST, family(from), &udp_tuple(from, to)))
            .collect();
        let start = Clock::now()?;
        for message in &messages {
            self.send(message)?;
        }
        let time = start.elapsed()?;
        match self.answer(MsgFlags::MSG_DONTWAIT) {
            Ok(Some(error)) if error != 0 => Err(refused(error)),
            Ok(_) => bail!("the kernel answered a request that asks for no answer"),
            Err(error) if error.downcast_ref() == Some(&Errno::EAGAIN) => Ok(time),
            Err(error) => Err(error),
        }
    }

    fn send(&self, message: &[u8]) -> Result<()> {
        let kernel = NetlinkAddr::new(0, 0);
        sendto(self.0.as_raw_fd(), message, &kernel, MsgFlags::empty())
            .context("sending a request to ctnetlink")?;
        Ok(())
    }

    /// The error number (0 or negative) that the kernel answers with; `None` if it says anything
    /// else.
    fn answer(&self, flags: MsgFlags) -> Result<Option<i32>> {
        let mut answer = [0; 256];
        let length = recv(self.0.as_raw_fd(), &mut answer, flags)?;
        Ok(acknowledged(&answer[..length]))
    }
}

fn refused(error: i32) -> anyhow::Error {
    let error = io::Error::from_raw_os_error(-error);
    anyhow::Error::new(error).context(
        "the kernel refused to delete entries (needs root, the entries still in the table, and the \
         module: `modprobe nf_conntrack_netlink`)",
    )
}

/// A message of type `IPCTNL_MSG_CT_DELETE`.
fn request(flags: u16, family: u8, attributes: &[u8]) -> Vec<u8> {
    const NFNL_SUBSYS_CTNETLINK: u16 = 1;
    const IPCTNL_MSG_CT_DELETE: u16 = 2;
    let length = HEADERS + attributes.len();
    let mut message = Vec::with_capacity(length);
    message.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    message.extend((NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE).to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]); // sequence number, port
    message.extend([family, 0, 0, 0]); // version 0
    message.extend(attributes);
    message
}

/// `AF_INET` or `AF_INET6`.
const fn family(address: SocketAddr) -> u8 {
    match address {
        SocketAddr::V4(_) => 2,
        SocketAddr::V6(_) => 10,
    }
}

/// `CTA_TUPLE_ORIG` of a UDP flow.
fn udp_tuple(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    const NESTED: u16 = 1 << 15;
    const CTA_TUPLE_ORIG: u16 = 1;
    const CTA_TUPLE_IP: u16 = 1;
    const CTA_TUPLE_PROTO: u16 = 2;
    // `CTA_IP_V4_SRC` and `_DST`, or those of IPv6.
    let address = |v4: u16, v6: u16, address| match address {
        IpAddr::V4(address) => attribute(v4, &address.octets()),
        IpAddr::V6(address) => attribute(v6, &address.octets()),
    };
    let addresses = [address(1, 3, from.ip()), address(2, 4, to.ip())];
    let protocol = [
        attribute(1, &[IPPROTO_UDP]),
        attribute(2, &from.port().to_be_bytes()),
        attribute(3, &to.port().to_be_bytes()),
    ];
    let tuple = [
        attribute(CTA_TUPLE_IP | NESTED, &addresses.concat()),
        attribute(CTA_TUPLE_PROTO | NESTED, &protocol.concat()),
    ];
    attribute(CTA_TUPLE_ORIG | NESTED, &tuple.concat())
}

/// `struct nlattr` and its value, padded to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut attribute = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    attribute.extend(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
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
    fn a_request_names_one_flow() {
        let [from, to] = ["10.0.0.1:9", "127.0.0.2:258"].map(|text| text.parse().unwrap());
        let message = request(NLM_F_REQUEST, 2, &udp_tuple(from, to));
        assert_eq!(message[..4], 72u32.to_ne_bytes());
        assert_eq!(message.len(), 72);
        assert_eq!(message[28..32], [8, 0, 1, 0]);
        assert_eq!(message[32..36], [10, 0, 0, 1]);
        assert_eq!(message[52..56], [IPPROTO_UDP, 0, 0, 0]);
        assert_eq!(message[68..], [1, 2, 0, 0]);

        let [from, to] = ["[fd00::1]:9", "[fd00::2]:258"].map(|text| text.parse().unwrap());
        let message = request(NLM_F_REQUEST, family(from), &udp_tuple(from, to));
        assert_eq!(message.len(), 96);
        assert_eq!(message[16], 10);
        assert_eq!(message[28..32], [20, 0, 3, 0]);
        assert_eq!(message[48..52], [20, 0, 4, 0]);
        assert_eq!(message[92..], [1, 2, 0, 0]);
    }
}
