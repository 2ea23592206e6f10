//! Questions to the kernel's netfilter over netlink (`struct nlmsghdr`, `struct nfgenmsg`,
//! `struct nlattr`).
//!
//! Only questions: this socket joins no multicast group. A listener for conntrack events would
//! make every new entry of every namespace larger (`nf_conntrack_events=2`).

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

/// Length of `struct nlmsghdr`, bytes.
const HEADER: usize = 16;

/// Length of `struct nfgenmsg`, bytes.
const FAMILY_HEADER: usize = 4;

const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;

/// The flags of an attribute's type: nested, network byte order.
const ATTRIBUTE_FLAGS: u16 = 0xc000;

/// The kernel fills at most this much at once (`NLMSG_GOODSIZE` is at most 8 KiB, a dump 32 KiB:
/// `netlink_dump`). A longer buffer makes a dump no faster, one below 32 KiB makes it slower.
const BUFFER: usize = 1 << 16;

/// No answer of the kernel takes this long, seconds; without it a lost answer would hang the
/// caller.
const PATIENCE: i64 = 5;

/// Why there was no whole answer.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
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

/// A `NETLINK_NETFILTER` socket in the network namespace of the thread that made it.
///
/// It keeps that namespace alive, so don't hold it longer than the question takes.
#[derive(Debug)]
pub struct Socket {
    file: OwnedFd,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Socket {
    /// A new socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// When the kernel has no netfilter netlink.
    pub fn netfilter() -> Result<Self, NetlinkError> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(PATIENCE, 0))?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self {
            file: socket,
            buffer: vec![0; BUFFER],
            sequence: 0,
        })
    }

    /// Asks for all of `message` of `subsystem` (`NFNL_SUBSYS_*`, `IPCTNL_MSG_*`) and calls `each`
    /// with every part of the answer.
    ///
    /// # Errors
    /// When the kernel refuses (without `CAP_NET_ADMIN`: `EPERM`), or the answer is not whole.
    pub fn dump(
        &mut self,
        subsystem: u8,
        message: u8,
        mut each: impl FnMut(&Part<'_>),
    ) -> Result<(), NetlinkError> {
        let ended = self.stream(subsystem, message, |part| {
            each(part);
            ControlFlow::Continue(())
        })?;
        if ended.interrupted {
            return Err(NetlinkError::Interrupted);
        }
        Ok(())
    }

    /// As [`Socket::dump`], for long lists: goes on when the kernel says that what it lists changed
    /// meanwhile (the end says so), and ends early when `each` breaks.
    ///
    /// # Errors
    /// When the kernel refuses, or the answer makes no sense.
    pub fn stream(
        &mut self,
        subsystem: u8,
        message: u8,
        mut each: impl FnMut(&Part<'_>) -> ControlFlow<()>,
    ) -> Result<Ended, NetlinkError> {
        let mut ended = Ended::default();
        self.sequence = self.sequence.wrapping_add(1);
        let request = request(subsystem, message, self.sequence);
        send(self.file.as_raw_fd(), &request, MsgFlags::empty())?;
        loop {
            let length = match recv(self.file.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_TRUNC) {
                Ok(length) => length,
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            // Longer than the buffer: cut off.
            let answer = self.buffer.get(..length).ok_or(NetlinkError::Malformed)?;
            let read = read_answer(answer, self.sequence, &mut each)?;
            ended.interrupted |= read.interrupted;
            ended.stopped = read.stopped;
            if read.last || read.stopped {
                return Ok(ended);
            }
        }
    }
}

/// How a [`Socket::stream`] ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// The kernel said that what it listed changed meanwhile (`NLM_F_DUMP_INTR`): parts may be
    /// missing, or be there twice.
    pub interrupted: bool,
    /// The caller had enough; the rest was not asked for.
    pub stopped: bool,
}

/// The bytes of a question for a dump.
fn request(subsystem: u8, message: u8, sequence: u32) -> [u8; HEADER + FAMILY_HEADER] {
    let mut bytes = [0; HEADER + FAMILY_HEADER];
    let kind = u16::from_be_bytes([subsystem, message]);
    bytes[..4].copy_from_slice(&20_u32.to_ne_bytes());
    bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
    bytes[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    bytes
}

/// One message of an answer.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// `res_id` of `struct nfgenmsg`: of statistics the number of the CPU (modulo 65,536).
    pub resource: u16,
    attributes: &'a [u8],
}

impl<'a> Part<'a> {
    /// The attributes: type (without its flags) and value.
    pub fn attributes(&self) -> Attributes<'a> {
        Attributes {
            rest: self.attributes,
        }
    }
}

/// What one datagram said besides its parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Read {
    /// It ends the answer.
    last: bool,
    interrupted: bool,
    stopped: bool,
}

/// Reads one datagram.
fn read_answer(
    mut bytes: &[u8],
    sequence: u32,
    each: &mut impl FnMut(&Part<'_>) -> ControlFlow<()>,
) -> Result<Read, NetlinkError> {
    let mut read = Read::default();
    while !bytes.is_empty() {
        let header: &[u8; HEADER] = bytes.first_chunk().ok_or(NetlinkError::Malformed)?;
        let word = |at: usize| {
            u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let length = usize::try_from(word(0)).map_err(|_| NetlinkError::Malformed)?;
        let body = bytes.get(HEADER..length).ok_or(NetlinkError::Malformed)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        // An answer to an earlier question that was given up.
        if word(8) != sequence {
            continue;
        }
        read.interrupted |= half(6) & NLM_F_DUMP_INTR != 0;
        match half(4) {
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
                let family: &[u8; FAMILY_HEADER] =
                    body.first_chunk().ok_or(NetlinkError::Malformed)?;
                let part = Part {
                    resource: u16::from_be_bytes([family[2], family[3]]),
                    attributes: &body[FAMILY_HEADER..],
                };
                if each(&part).is_break() {
                    read.stopped = true;
                    return Ok(read);
                }
            }
        }
    }
    Ok(read)
}

/// Walks `struct nlattr`s; ends at the first that does not fit.
#[derive(Clone, Debug)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// The attributes inside of a nested one, of which this is the value.
    pub fn nested(value: &'a [u8]) -> Self {
        Self { rest: value }
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let header: &[u8; 4] = self.rest.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & !ATTRIBUTE_FLAGS;
        let value = self.rest.get(4..length)?;
        self.rest = self
            .rest
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
        Some((kind, value))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(HEADER + body.len())
            .unwrap()
            .to_ne_bytes()
            .to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// `res_id` and attributes.
    type Seen = (u16, Vec<(u16, Vec<u8>)>);

    /// The `res_id` after which the reader has enough.
    const ENOUGH: u16 = 0x0e0e;

    fn read(bytes: &[u8]) -> (Result<Read, NetlinkError>, Vec<Seen>) {
        let mut parts = Vec::new();
        let result = read_answer(bytes, 7, &mut |part: &Part<'_>| {
            let attributes = part
                .attributes()
                .map(|(kind, value)| (kind, value.to_vec()))
                .collect();
            parts.push((part.resource, attributes));
            if part.resource == ENOUGH {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        (result, parts)
    }

    #[test]
    fn parts_and_their_attributes() {
        let mut body = vec![0, 0, 0, 3];
        // Five bytes, padded to eight; then a nested flag that is not part of the type.
        body.extend([9_u16.to_ne_bytes(), 2_u16.to_ne_bytes()].concat());
        body.extend([1, 2, 3, 4, 5, 0, 0, 0]);
        body.extend([8_u16.to_ne_bytes(), 0x800a_u16.to_ne_bytes()].concat());
        body.extend([0, 0, 1, 0]);
        let mut bytes = message(0x0104, 2, 6, b"of an earlier question");
        bytes.extend(message(0x0104, 2, 7, &body));
        let (result, parts) = read(&bytes);
        assert_eq!(result.unwrap(), Read::default());
        assert_eq!(
            parts,
            [(3, vec![(2, vec![1, 2, 3, 4, 5]), (10, vec![0, 0, 1, 0])])]
        );

        bytes.extend(message(NLMSG_DONE, 2, 7, &0_i32.to_ne_bytes()));
        assert!(read(&bytes).0.unwrap().last);
    }

    #[test]
    fn a_change_meanwhile_is_told_and_does_not_end_the_list() {
        let mut bytes = message(0x0104, 2, 7, &[0; 4]);
        bytes.extend(message(0x0104, 2 | NLM_F_DUMP_INTR, 7, &[0; 4]));
        bytes.extend(message(0x0104, 2, 7, &[0; 4]));
        bytes.extend(message(NLMSG_DONE, 2, 7, &0_i32.to_ne_bytes()));
        let (result, parts) = read(&bytes);
        let read = result.unwrap();
        assert!(read.interrupted && read.last && !read.stopped);
        assert_eq!(parts.len(), 3);
    }

    #[test]
    fn who_has_enough_is_told_no_more() {
        let mut bytes = message(0x0104, 2, 7, &[0; 4]);
        bytes.extend(message(0x0104, 2, 7, &[0, 0, 0x0e, 0x0e]));
        bytes.extend(message(0x0104, 2, 7, &[0; 4]));
        let (result, parts) = read(&bytes);
        assert!(result.unwrap().stopped);
        assert_eq!(parts.len(), 2);
    }

    #[test]
    fn refusals_are_errors() {
        let refused = message(NLMSG_ERROR, 0, 7, &(-1_i32).to_ne_bytes());
        assert!(matches!(
            read(&refused).0,
            Err(NetlinkError::Refused(Errno::EPERM))
        ));
        let late = message(NLMSG_DONE, 2, 7, &(-12_i32).to_ne_bytes());
        assert!(matches!(
            read(&late).0,
            Err(NetlinkError::Refused(Errno::ENOMEM))
        ));
        let cut = &message(0x0104, 2, 7, &[0; 40])[..30];
        assert!(matches!(read(cut).0, Err(NetlinkError::Malformed)));
        let short = message(0x0104, 2, 7, &[0; 2]);
        assert!(matches!(read(&short).0, Err(NetlinkError::Malformed)));
    }

    #[test]
    fn the_kernel_refuses_what_it_does_not_know() {
        // There is no subsystem 0, so nothing is loaded by asking for it.
        let refused = Socket::netfilter().unwrap().dump(0, 100, |_| ());
        assert!(
            matches!(refused, Err(NetlinkError::Refused(_))),
            "{refused:?}"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(read(&bytes));
        }

        #[test]
        fn a_flipped_byte_is_read(at in 0..96_usize, with: u8) {
            let mut body = vec![0, 0, 0, 1];
            for kind in 2..8_u16 {
                body.extend([8_u16.to_ne_bytes(), kind.to_ne_bytes()].concat());
                body.extend([0, 0, 0, 9]);
            }
            let mut bytes = message(0x0104, 2, 7, &body);
            bytes.extend(message(NLMSG_DONE, 2, 7, &[0; 4]));
            let at = at % bytes.len();
            bytes[at] = with;
            prop_assert!(read(&bytes).1.len() <= 2);
        }
    }
}
