//! A program that asks for packets (`NFQUEUE`) and never says what is to be done with them: `nfqnl_recv_config`,
//! `nfnetlink_queue.c`.

use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sendto, socket,
};

/// `NFNL_SUBSYS_QUEUE`, `NFQNL_MSG_CONFIG`.
const CONFIGURE: [u8; 2] = [2, 3];
/// `NLM_F_REQUEST`
const REQUEST: [u8; 2] = [1, 0];

/// Binds to this queue, and keeps up to so many packets waiting until the process ends.
///
/// # Errors
/// If the kernel has no such queues, or this is not root.
pub fn hold(number: u16, packets: u32) -> Result<()> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )
    .context("opening a netlink socket")?;
    // A command to bind, for any family; copy no payload; so many may wait.
    let bind = attribute(1, &[1, 0, 0, 0]);
    let copy = attribute(2, &[0, 0, 0, 0, 1]);
    let most = attribute(3, &packets.to_be_bytes());
    for attributes in [bind, copy, most] {
        let message = message(number, &attributes);
        let kernel = NetlinkAddr::new(0, 0);
        sendto(socket.as_raw_fd(), &message, &kernel, MsgFlags::empty())
            .context("asking for a queue")?;
    }
    loop {
        nix::unistd::pause();
    }
}

/// `struct nlmsghdr`, `struct nfgenmsg`, and the attributes.
fn message(number: u16, attributes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(20 + attributes.len()).unwrap_or(u32::MAX);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(CONFIGURE);
    message.extend(REQUEST);
    message.extend([0; 8]);
    message.extend([0, 0]);
    message.extend(number.to_be_bytes());
    message.extend(attributes);
    message
}

/// `struct nlattr` and its value, padded to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut attribute = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    attribute.extend(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_its_queue() {
        let message = message(258, &attribute(3, &7_u32.to_be_bytes()));
        assert_eq!(message[..4], 28_u32.to_ne_bytes());
        assert_eq!(message[4..6], [2, 3]);
        assert_eq!(message[18..20], [1, 2]);
        assert_eq!(message[20..], [8, 0, 3, 0, 0, 0, 0, 7]);
    }
}
