//! A queue of packets for a program (NFQUEUE) that does not say by itself what is to become of them.

use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    setsockopt, socket, sockopt::RcvBufForce,
};

/// `NFNL_SUBSYS_QUEUE` and `NFQNL_MSG_CONFIG` (`nfnetlink.h`, `nfnetlink_queue.h`).
const CONFIG: u16 = 3 << 8 | 2;
/// `NFNL_SUBSYS_QUEUE` and `NFQNL_MSG_VERDICT_BATCH`.
const VERDICT: u16 = 3 << 8 | 3;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// `NLM_F_ACK`.
const ACK: u16 = 4;
/// `NFQA_VERDICT_HDR`.
const VERDICT_HEADER: u16 = 2;
/// `NF_ACCEPT`.
const ACCEPT: u32 = 1;
/// `NFQA_CFG_CMD` with `NFQNL_CFG_CMD_BIND`.
const BIND: (u16, &[u8]) = (1, &[1, 0, 0, 0]);
/// `NFQA_CFG_PARAMS`: nothing of the packet, `NFQNL_COPY_META`.
const NO_PAYLOAD: (u16, &[u8]) = (2, &[0, 0, 0, 0, 1]);
/// `NFQA_CFG_QUEUE_MAXLEN`: 65,536 packets.
const LENGTH: (u16, &[u8]) = (3, &[0, 1, 0, 0]);
/// Room for what the kernel tells of each packet; without it the packet is dropped.
const ROOM: usize = 64 << 20;

/// Packets wait in it until it is dropped.
#[derive(Debug)]
pub struct SilentQueue(OwnedFd);

impl SilentQueue {
    /// Binds the queue with this number.
    ///
    /// # Errors
    ///
    /// When the kernel refuses it.
    pub fn bind(number: u16) -> Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        setsockopt(&socket, RcvBufForce, &ROOM)?;
        let queue = Self(socket);
        for (attribute, value) in [BIND, NO_PAYLOAD, LENGTH] {
            queue
                .configure(number, attribute, value)
                .with_context(|| format!("attribute {attribute} of NFQUEUE {number}"))?;
        }
        Ok(queue)
    }

    /// Lets the first `packets` that came go on, in the context of this task.
    ///
    /// # Errors
    ///
    /// When the kernel does not take it.
    pub fn accept(&self, number: u16, packets: u32) -> Result<()> {
        // Packets are numbered from 1 on.
        let header = [ACCEPT.to_be_bytes(), packets.to_be_bytes()].concat();
        // Without an answer: it would come behind all that was told of packets.
        let message = message((VERDICT, REQUEST), number, VERDICT_HEADER, &header)?;
        send(self.0.as_raw_fd(), &message, MsgFlags::empty())?;
        Ok(())
    }

    fn configure(&self, number: u16, attribute: u16, value: &[u8]) -> Result<()> {
        let message = message((CONFIG, REQUEST | ACK), number, attribute, value)?;
        let socket = self.0.as_raw_fd();
        send(socket, &message, MsgFlags::empty())?;
        // A header, then the number of the error: 0 for none.
        let mut answer = [0; 128];
        let length = recv(socket, &mut answer, MsgFlags::empty())?;
        let error = answer[..length]
            .get(16..20)
            .context("an answer too short")?;
        ensure!(error == [0; 4], "the kernel answered {error:?}");
        Ok(())
    }
}

/// A message about the queue `number`, with one attribute.
fn message(
    (kind, flags): (u16, u16),
    number: u16,
    attribute: u16,
    value: &[u8],
) -> Result<Vec<u8>> {
    let attribute_len = u16::try_from(4 + value.len())?;
    let mut body = vec![0, 0];
    body.extend(number.to_be_bytes());
    body.extend(attribute_len.to_ne_bytes());
    body.extend(attribute.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
    let mut message = u32::try_from(16 + body.len())?.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    Ok(message)
}
