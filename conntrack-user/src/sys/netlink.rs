//! Questions to the kernel over netlink (`struct nlmsghdr`, `struct nlattr`): to netfilter here
//! (`struct nfgenmsg`), about interfaces in [`interfaces`]; and [`changes`], which only what a person asked for makes.
//!
//! No news: this socket joins no multicast group. A listener for conntrack events would
//! make every new entry of every namespace larger (`nf_conntrack_events=2`).

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc::sync_channel;
use std::thread;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

pub(crate) mod addresses;
mod attributes;
pub(crate) mod changes;
pub(crate) mod interfaces;
mod neighbours;
pub(crate) mod queues;
#[cfg(test)]
pub(super) mod tests;
pub(crate) mod tunnels;

pub(crate) use attributes::{Attributes, put, put_nested, put_string};

/// Length of `struct nlmsghdr`, bytes.
pub(crate) const HEADER: usize = 16;

/// Length of `struct nfgenmsg`, bytes.
const FAMILY_HEADER: usize = 4;

const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;

/// The kernel fills at most this much at once (`NLMSG_GOODSIZE` is at most 8 KiB, a dump 32 KiB:
/// `netlink_dump`). A longer buffer makes a dump no faster, one below 32 KiB makes it slower.
const BUFFER: usize = 1 << 16;

/// Datagrams of a long list are handed on together, this many bytes: waking a thread for each costs
/// more than it saves.
const BATCH: usize = 1 << 18;

/// How many batches there are: one is filled while another one is read.
const BATCHES: usize = 2;

/// No answer of the kernel takes this long, seconds; without it a lost answer would hang the
/// caller.
const PATIENCE: i64 = 5;

/// Why there was no whole answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetlinkError {
    /// The kernel refused the question.
    #[error("the kernel refused: {0}")]
    Refused(Errno),
    /// The socket failed, or no answer came in time.
    #[error("netlink socket: {0}")]
    Socket(#[from] io::Error),
    /// What was listed changed meanwhile, so that parts may be missing.
    #[error("what was listed changed meanwhile")]
    Interrupted,
    /// The answer can't be read.
    #[error("the kernel's answer makes no sense")]
    Malformed,
}

impl From<Errno> for NetlinkError {
    fn from(error: Errno) -> Self {
        Self::Socket(error.into())
    }
}

/// A netlink socket in the network namespace of the thread that made it.
///
/// It keeps that namespace alive, so don't hold it longer than the question takes.
#[derive(Debug)]
pub(crate) struct NetlinkSocket {
    file: OwnedFd,
    sequence: u32,
}

impl NetlinkSocket {
    /// A new socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// When the kernel has no netfilter netlink.
    pub(crate) fn netfilter() -> Result<Self, NetlinkError> {
        Self::new(SockProtocol::NetlinkNetFilter)
    }

    fn new(protocol: SockProtocol) -> Result<Self, NetlinkError> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            protocol,
        )?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(PATIENCE, 0))?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self {
            file: socket,
            sequence: 0,
        })
    }

    /// Asks for all of `message` of `subsystem` (`NFNL_SUBSYS_*`, `IPCTNL_MSG_*`), of one address family
    /// (`nfgen_family`, 0: all) and with attributes that say what is wanted of it, and calls `each` with
    /// every part of the answer.
    ///
    /// # Errors
    /// When the kernel refuses (without `CAP_NET_ADMIN`: `EPERM`), or the answer is not whole.
    pub(crate) fn dump(
        &mut self,
        subsystem: u8,
        message: u8,
        family: u8,
        attributes: &[u8],
        each: impl FnMut(DumpPart<'_>),
    ) -> Result<(), NetlinkError> {
        self.ask(subsystem, message, family, attributes)?;
        self.collect(FAMILY_HEADER, each)
    }

    /// Takes the whole answer to what was asked, whose parts begin with a header of this length.
    fn collect(
        &mut self,
        header: usize,
        mut each: impl FnMut(DumpPart<'_>),
    ) -> Result<(), NetlinkError> {
        let mut interrupted = false;
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = self.receive(&mut buffer)?;
            let answer = buffer.get(..length).unwrap_or_default();
            let read = read_answer(answer, self.sequence, header, &mut |part| {
                each(part);
                ControlFlow::Continue(())
            })?;
            interrupted |= read.interrupted;
            if read.last {
                break;
            }
        }
        if interrupted {
            return Err(NetlinkError::Interrupted);
        }
        Ok(())
    }

    /// As [`Socket::dump`], for long lists: goes on when the kernel says that what it lists changed
    /// meanwhile (the end says so), and ends early when `each` breaks.
    ///
    /// The kernel makes the next piece of a list in the call that takes the one before, so a thread
    /// does that while this one reads.
    ///
    /// # Errors
    /// When the kernel refuses, or the answer makes no sense.
    pub(crate) fn stream(
        &mut self,
        subsystem: u8,
        message: u8,
        mut each: impl FnMut(DumpPart<'_>) -> ControlFlow<()>,
    ) -> Result<DumpEnd, NetlinkError> {
        self.ask(subsystem, message, 0, &[])?;
        let mut ended = DumpEnd::default();
        let socket = &*self;
        // As many batches as there are buffers, so that giving one back never blocks.
        let (full, batches) = sync_channel(BATCHES);
        let (give_back, empty) = sync_channel(BATCHES);
        thread::scope(|scope| {
            for _ in 0..BATCHES {
                // Nobody has hung up yet.
                drop(give_back.send(vec![0; BATCH]));
            }
            thread::Builder::new()
                .name("netlink".into())
                .spawn_scoped(scope, move || {
                    // Ends with the list, with an error, or when nobody wants more.
                    for mut buffer in empty {
                        let filled = socket.fill(&mut buffer);
                        let more = matches!(filled, Ok((_, false)));
                        if full.send(filled.map(|filled| (buffer, filled))).is_err() || !more {
                            break;
                        }
                    }
                })?;
            // Both ends go with this closure, before the thread is waited for.
            let (batches, give_back) = (batches, give_back);
            for batch in batches {
                let (buffer, (length, _)) = batch?;
                let answer = buffer.get(..length).unwrap_or_default();
                let read = read_answer(answer, socket.sequence, FAMILY_HEADER, &mut each)?;
                ended.interrupted |= read.interrupted;
                ended.stopped = read.stopped;
                if read.last || read.stopped {
                    break;
                }
                // The thread may have met the end by now.
                drop(give_back.send(buffer));
            }
            Ok(ended)
        })
    }

    /// Sends a question for a list of netfilter's. Attributes end at a multiple of four bytes
    /// ([`put_string`]).
    fn ask(
        &mut self,
        subsystem: u8,
        message: u8,
        family: u8,
        attributes: &[u8],
    ) -> Result<(), NetlinkError> {
        let kind = u16::from_be_bytes([subsystem, message]);
        let mut body = vec![family, 0, 0, 0];
        body.extend_from_slice(attributes);
        self.send(kind, NLM_F_REQUEST | NLM_F_DUMP, &body)
    }

    /// Sends a question: its kind, its flags, and what follows `struct nlmsghdr`.
    fn send(&mut self, kind: u16, flags: u16, body: &[u8]) -> Result<(), NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = request(kind, flags, self.sequence, body);
        send(self.file.as_raw_fd(), &request, MsgFlags::empty())?;
        Ok(())
    }

    fn receive(&self, buffer: &mut [u8]) -> Result<usize, NetlinkError> {
        loop {
            match recv(self.file.as_raw_fd(), buffer, MsgFlags::MSG_TRUNC) {
                // Longer than the buffer: cut off.
                Ok(length) if length > buffer.len() => return Err(NetlinkError::Malformed),
                Ok(length) => return Ok(length),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes datagrams, one behind the other, until there is no room for another one. How many bytes,
    /// and whether the answer ends in them.
    fn fill(&self, buffer: &mut [u8]) -> Result<(usize, bool), NetlinkError> {
        let mut filled = 0;
        loop {
            let room = buffer.get_mut(filled..).unwrap_or_default();
            let length = self.receive(room)?;
            let last = ends(room.get(..length).unwrap_or_default(), self.sequence);
            filled += length;
            let whole = filled.is_multiple_of(4);
            if last || !whole || buffer.len() - filled < BUFFER {
                return Ok((filled, last));
            }
        }
    }
}

/// The bytes of a question.
fn request(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(body);
    bytes
}

/// One message of an answer.
#[derive(Clone, Debug)]
pub(crate) struct DumpPart<'a> {
    /// What comes before the attributes; of netfilter `struct nfgenmsg`, which begins with the family:
    /// `NFPROTO_IPV4` (2), `NFPROTO_IPV6` (10) and so on.
    pub header: &'a [u8],
    /// Type (without its flags) and value of each.
    pub attributes: Attributes<'a>,
}

/// What datagrams said besides their parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DumpEnd {
    /// It ends the answer.
    last: bool,
    /// The kernel said that what it listed changed meanwhile (`NLM_F_DUMP_INTR`): parts may be
    /// missing, or be there twice.
    pub interrupted: bool,
    /// The caller had enough; the rest was not asked for.
    pub stopped: bool,
}

pub(crate) struct MessageHeader {
    pub length: usize,
    pub kind: u16,
    flags: u16,
    sequence: u32,
}

impl MessageHeader {
    /// The first message's header, and what follows the message.
    #[inline]
    pub(crate) fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let header: &[u8; HEADER] = bytes.first_chunk()?;
        let word = |at: usize| {
            u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let length = usize::try_from(word(0)).ok().filter(|length| {
            // Else the walk would not get on.
            *length >= HEADER
        })?;
        let rest = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        let header = Self {
            length,
            kind: half(4),
            flags: half(6),
            sequence: word(8),
        };
        Some((header, rest))
    }
}

/// Whether nothing follows this datagram: it ends the answer, or can't be read.
fn ends(mut bytes: &[u8], sequence: u32) -> bool {
    while !bytes.is_empty() {
        let Some((header, rest)) = MessageHeader::read(bytes) else {
            return true;
        };
        if header.sequence == sequence && matches!(header.kind, NLMSG_ERROR | NLMSG_DONE) {
            return true;
        }
        bytes = rest;
    }
    false
}

/// Reads datagrams, whose parts begin with a header of `family` bytes.
fn read_answer(
    mut bytes: &[u8],
    sequence: u32,
    family: usize,
    each: &mut impl FnMut(DumpPart<'_>) -> ControlFlow<()>,
) -> Result<DumpEnd, NetlinkError> {
    let mut read = DumpEnd::default();
    while !bytes.is_empty() {
        let (header, rest) = MessageHeader::read(bytes).ok_or(NetlinkError::Malformed)?;
        let body = bytes
            .get(HEADER..header.length)
            .ok_or(NetlinkError::Malformed)?;
        bytes = rest;
        // An answer to an earlier question that was given up.
        if header.sequence != sequence {
            continue;
        }
        read.interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
        match header.kind {
            NLMSG_NOOP => {}
            NLMSG_ERROR | NLMSG_DONE => {
                let status = body
                    .first_chunk()
                    .map_or(0, |four| i32::from_ne_bytes(*four));
                if status < 0 {
                    return Err(NetlinkError::Refused(Errno::from_raw(
                        status.saturating_neg(),
                    )));
                }
                read.last = true;
                return Ok(read);
            }
            _ => {
                let (header, attributes) = body
                    .split_at_checked(family)
                    .ok_or(NetlinkError::Malformed)?;
                let part = DumpPart {
                    header,
                    attributes: Attributes::nested(attributes),
                };
                if each(part).is_break() {
                    read.stopped = true;
                    return Ok(read);
                }
            }
        }
    }
    Ok(read)
}
