//! Where packets wait in this network namespace: the queues of interfaces (`struct tcmsg`, `net/sched/sch_api.c`), and neighbours
//! that have not answered (`struct ndmsg`, `net/core/neighbour.c`).

use std::collections::HashMap;
use std::ffi::CStr;

use libc::{IFLA_IFNAME, NUD_INCOMPLETE, RTM_GETLINK, RTM_GETNEIGH, RTM_GETQDISC};

use super::interfaces::{Interfaces, LINK_HEADER};
use super::{Attributes, NetlinkError};

/// Length of `struct tcmsg`, bytes.
const QUEUE_HEADER: usize = 20;
/// Length of `struct ndmsg`, bytes.
const NEIGHBOUR_HEADER: usize = 12;

const TCA_KIND: u16 = 1;
const TCA_STATS2: u16 = 7;
const TCA_STATS_QUEUE: u16 = 3;

/// A queue of an interface that has packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InterfaceQueue {
    pub interface: String,
    /// What sort of queue it is: `netem`, `fq_codel`.
    pub kind: String,
    pub packets: u64,
}

impl Interfaces {
    /// Of each interface the queue with the most packets, if it has any; the fullest first.
    ///
    /// # Errors
    /// When the kernel refuses, or the list is not whole.
    pub(crate) fn queues(&mut self) -> Result<Vec<InterfaceQueue>, NetlinkError> {
        let mut fullest: HashMap<i32, InterfaceQueue> = HashMap::new();
        self.list(RTM_GETQDISC, QUEUE_HEADER, |part| {
            let Some(interface) = number(part.header, 4) else {
                return;
            };
            let (mut kind, mut packets) = (String::new(), 0);
            for (attribute, value) in part.attributes {
                match attribute {
                    TCA_KIND => kind = text(value),
                    TCA_STATS2 => packets = length(value).unwrap_or(0),
                    _ => {}
                }
            }
            let queue = fullest.entry(interface).or_insert_with(|| InterfaceQueue {
                interface: String::new(),
                kind: String::new(),
                packets: 0,
            });
            if packets > queue.packets {
                queue.packets = packets;
                queue.kind = kind;
            }
        })?;
        self.list(RTM_GETLINK, LINK_HEADER, |mut part| {
            let name = part.attributes.find(|(kind, _)| *kind == IFLA_IFNAME);
            let queue = number(part.header, 4).and_then(|number| fullest.get_mut(&number));
            if let (Some((_, name)), Some(queue)) = (name, queue) {
                queue.interface = text(name);
            }
        })?;
        let mut queues: Vec<_> = fullest
            .into_values()
            .filter(|queue| queue.packets > 0)
            .collect();
        queues.sort_by(|one, other| {
            let order = other.packets.cmp(&one.packets);
            order.then_with(|| one.interface.cmp(&other.interface))
        });
        Ok(queues)
    }

    /// Neighbours that were asked for and have not answered: packets to them wait.
    ///
    /// # Errors
    /// When the kernel refuses, or the list is not whole.
    pub(crate) fn unanswered_neighbours(&mut self) -> Result<u64, NetlinkError> {
        let mut unanswered = 0;
        self.list(RTM_GETNEIGH, NEIGHBOUR_HEADER, |part| {
            let state = part.header.get(8..10).and_then(|two| two.first_chunk());
            let is_asked =
                state.is_some_and(|state| u16::from_ne_bytes(*state) & NUD_INCOMPLETE != 0);
            unanswered += u64::from(is_asked);
        })?;
        Ok(unanswered)
    }
}

/// The packets that the statistics of a queue tell (`struct gnet_stats_queue`).
fn length(statistics: &[u8]) -> Option<u64> {
    let mut parts = Attributes::nested(statistics);
    let (_, queue) = parts.find(|(kind, _)| *kind == TCA_STATS_QUEUE)?;
    Some(u32::from_ne_bytes(*queue.first_chunk()?).into())
}

fn number(header: &[u8], at: usize) -> Option<i32> {
    let bytes = header.get(at..)?.first_chunk()?;
    Some(i32::from_ne_bytes(*bytes))
}

fn text(value: &[u8]) -> String {
    let text = CStr::from_bytes_until_nul(value).unwrap_or_default();
    text.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::{net::UdpSocket, thread};

    use nix::sched::{CloneFlags, unshare};

    use super::super::tests::ip;
    use super::*;

    #[test]
    fn neighbours_that_do_not_answer_and_empty_queues() {
        let of_its_own = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace (help: run as root)");
            let mut interfaces = Interfaces::new().unwrap();
            ip("link add ctp-one type veth peer name ctp-other");
            ip("addr add 192.0.2.1/24 dev ctp-one");
            ip("link set ctp-one up");
            ip("link set ctp-other up");
            assert_eq!(interfaces.queues().unwrap(), []);
            assert_eq!(interfaces.unanswered_neighbours().unwrap(), 0);
            let socket = UdpSocket::bind("192.0.2.1:0").unwrap();
            for host in 10..13 {
                socket.send_to(b"x", format!("192.0.2.{host}:9")).unwrap();
            }
            assert_eq!(interfaces.unanswered_neighbours().unwrap(), 3);
        });
        of_its_own.join().unwrap();
    }
}
