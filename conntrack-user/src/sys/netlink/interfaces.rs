//! Which interface of this network namespace leads into another one (`struct ifinfomsg`,
//! `IFLA_LINK_NETNSID`, `RTM_GETNSID`): `net/core/rtnetlink.c` and `net/core/net_namespace.c`.

use std::ffi::CStr;

use libc::{IFLA_IFNAME, RTM_GETLINK, RTM_GETNSID};
use nix::sys::socket::SockProtocol;

use super::{DumpPart, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkError, NetlinkSocket};

/// Length of `struct ifinfomsg`, bytes.
pub(super) const LINK_HEADER: usize = 16;

/// Length of `struct rtgenmsg` with what pads it, bytes.
const GENERAL_HEADER: usize = 4;

const IFLA_LINK_NETNSID: u16 = 37;

const NETNSA_NSID: u16 = 1;
const NETNSA_PID: u16 = 2;

/// By what number a network namespace calls another one. Never negative.
pub(crate) type NamespaceNumber = i32;

/// A `NETLINK_ROUTE` socket in the network namespace of the thread that made it.
#[derive(Debug)]
pub(crate) struct Interfaces(NetlinkSocket);

impl Interfaces {
    /// A new socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// When there can be none.
    pub(crate) fn new() -> Result<Self, NetlinkError> {
        NetlinkSocket::new(SockProtocol::NetlinkRoute).map(Self)
    }

    /// The names of all interfaces whose other end (of a veth pair) or lower device is in another
    /// network namespace, and that namespace's number. The kernel gives it a number if it had none.
    ///
    /// # Errors
    /// When the kernel refuses, or the list is not whole.
    pub(crate) fn leading_out(&mut self) -> Result<Vec<(NamespaceNumber, String)>, NetlinkError> {
        let mut found = Vec::new();
        self.list(RTM_GETLINK, LINK_HEADER, |part| {
            let (mut name, mut number) = (None, None);
            for (kind, value) in part.attributes {
                match kind {
                    IFLA_IFNAME => name = CStr::from_bytes_until_nul(value).ok(),
                    IFLA_LINK_NETNSID => number = value.first_chunk().copied(),
                    _ => {}
                }
            }
            if let (Some(name), Some(number)) = (name, number.map(NamespaceNumber::from_ne_bytes))
                && number >= 0
            {
                found.push((number, name.to_string_lossy().into_owned()));
            }
        })?;
        Ok(found)
    }

    /// Asks for a list whose parts begin with a header of this length.
    pub(super) fn list(
        &mut self,
        kind: u16,
        header: usize,
        each: impl FnMut(DumpPart<'_>),
    ) -> Result<(), NetlinkError> {
        let flags = NLM_F_REQUEST | NLM_F_DUMP;
        self.0.send(kind, flags, &vec![0; header])?;
        self.0.collect(header, each)
    }

    /// The number of the network namespace of a process; `None`: it has none, so that no interface
    /// leads there.
    ///
    /// # Errors
    /// When the kernel refuses, as it does when there is no such process.
    pub(crate) fn number_of(
        &mut self,
        process: u32,
    ) -> Result<Option<NamespaceNumber>, NetlinkError> {
        let mut body = [0; GENERAL_HEADER + 8];
        body[4..6].copy_from_slice(&8_u16.to_ne_bytes());
        body[6..8].copy_from_slice(&NETNSA_PID.to_ne_bytes());
        body[8..].copy_from_slice(&process.to_ne_bytes());
        // With an acknowledgement the answer ends as a list does.
        let flags = NLM_F_REQUEST | NLM_F_ACK;
        self.0.send(RTM_GETNSID, flags, &body)?;
        let mut number = None;
        self.0.collect(GENERAL_HEADER, |mut part| {
            number = part
                .attributes
                .find(|(kind, _)| *kind == NETNSA_NSID)
                .and_then(|(_, value)| value.first_chunk().copied())
                .map(NamespaceNumber::from_ne_bytes)
                .filter(|number| *number >= 0);
        })?;
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::{Command, Stdio};
    use std::thread;
    use std::time::{Duration, Instant};

    use nix::sched::{CloneFlags, unshare};

    use super::super::tests::ip;
    use super::*;

    /// In a namespace of its own, with a veth pair into that of another process.
    #[test]
    fn the_interface_that_leads_to_a_process() {
        let of_its_own = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace (help: run as root)");
            let mut command = Command::new("unshare");
            command.args(["--net", "sleep", "30"]);
            let mut child = command.stdin(Stdio::null()).spawn().expect("util-linux");
            let process = child.id();
            let netns = |process: &str| fs::read_link(format!("/proc/{process}/ns/net"));
            let deadline = Instant::now() + Duration::from_secs(20);
            while netns(&process.to_string()).unwrap() == netns("thread-self").unwrap() {
                assert!(Instant::now() < deadline, "unshare has not begun");
                thread::sleep(Duration::from_millis(5));
            }
            let mut interfaces = Interfaces::new().unwrap();
            assert_eq!(interfaces.leading_out().unwrap(), []);
            assert_eq!(interfaces.number_of(process).unwrap(), None);
            ip("link add ctp-here type veth peer name ctp-there");
            assert_eq!(interfaces.leading_out().unwrap(), [], "both ends are here");
            ip(&format!("link set ctp-there netns {process}"));
            let found = interfaces.leading_out().unwrap();
            let number = interfaces.number_of(process).unwrap();
            child.kill().unwrap();
            child.wait().unwrap();
            let [(found, name)] = found.as_slice() else {
                panic!("{found:?}")
            };
            assert_eq!((Some(*found), name.as_str()), (number, "ctp-here"));
            assert!(matches!(
                interfaces.number_of(u32::MAX >> 1),
                Err(NetlinkError::Refused(_))
            ));
        });
        of_its_own.join().unwrap();
    }
}
