//! The addresses that the host has: all of them, as each is one by which its processes send.
//!
//! Which interface has which address only rtnetlink says, from inside of the namespace. Those of a dummy are the host's
//! too: whoever sends to an address of a Service that kube-proxy gave to `kube-ipvs0` sends from that very address
//! (`ip route get` says so), and node-local DNS listens at one. But there may be thousands, of which hardly one is ever
//! used: all others have room first.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::Discovery;
use super::addresses::OwnAddresses;
use crate::kernel::host::HostNamespace;
use crate::kernel::{Problem, Root};
use crate::sys::netlink::addresses::InterfaceAddresses;
use crate::sys::netlink::interfaces::Interfaces;
use crate::sys::priority;

/// They are read again after this many times what that took.
const PAUSE: u32 = 50;

/// How many are read from files, which don't say what is a dummy.
const MOST: usize = 1 << 14;

/// What is known of them.
#[derive(Debug, Default)]
pub(super) struct HostAddresses {
    own: Vec<IpAddr>,
    of_dummies: Vec<IpAddr>,
    /// When they were read, and how long that took.
    read: Option<(Instant, Duration)>,
}

impl HostAddresses {
    /// Looks, if it is time to; what was known before is kept where they can't be read.
    pub(super) fn look(
        &mut self,
        root: &Root,
        host: &HostNamespace,
        now: Instant,
        found: &mut Discovery,
    ) {
        let due = self
            .read
            .is_none_or(|(at, took)| now.saturating_duration_since(at) >= took * PAUSE);
        if due {
            let began = priority::processor_time();
            self.read(root, host, found);
            self.read = Some((now, priority::processor_time().saturating_sub(began)));
        }
        found.host_addresses.clone_from(&self.own);
        found.dummy_addresses.clone_from(&self.of_dummies);
    }

    fn read(&mut self, root: &Root, host: &HostNamespace, found: &mut Discovery) {
        if let Some(interfaces) = by_interface(root, host) {
            (self.own, self.of_dummies) = sorted(interfaces);
            return;
        }
        let folder = root.proc(host.folder).join("net");
        match OwnAddresses::read(&folder, &self.own.iter().copied().collect(), MOST) {
            Ok(addresses) => {
                if addresses.cut || addresses.count > MOST {
                    let problem = "the host has more addresses or routes than are read where its network namespace can't be \
                                   entered: what belongs to the rest is counted as unknown";
                    let read = format!("{} of {}", addresses.found.len(), addresses.count);
                    found.problems.extend(Problem::new(problem).of([read]));
                }
                self.own = addresses.found.into_iter().collect();
                self.of_dummies.clear();
            }
            Err(error) => {
                let folder = folder.display();
                let problem = format!("{folder}: {error}; the host's addresses are not known");
                found.problems.push(problem.into());
            }
        }
    }
}

/// The addresses of each interface; `None` where the kernel can't be asked: its files tell all but the interface.
fn by_interface(root: &Root, host: &HostNamespace) -> Option<HashMap<u32, InterfaceAddresses>> {
    if !root.is_live() {
        return None;
    }
    let ask =
        || -> Option<HashMap<u32, InterfaceAddresses>> { Interfaces::new().ok()?.addresses().ok() };
    host.inside(root, ask)
}

/// The host's own ones, and those of its dummies.
fn sorted(interfaces: HashMap<u32, InterfaceAddresses>) -> (Vec<IpAddr>, Vec<IpAddr>) {
    let mut interfaces: Vec<_> = interfaces.into_iter().collect();
    // Those first of which there are few; then always in the same order.
    interfaces.sort_by_key(|(number, interface)| (interface.addresses.len(), *number));
    let (dummies, others): (Vec<_>, Vec<_>) = interfaces
        .into_iter()
        .map(|(_, interface)| interface)
        .partition(|interface| interface.dummy);
    let all = |interfaces: Vec<InterfaceAddresses>| -> Vec<IpAddr> {
        let addresses = interfaces
            .into_iter()
            .flat_map(|interface| interface.addresses);
        addresses.filter(|address| is_used(*address)).collect()
    };
    (all(others), all(dummies))
}

/// Whether an entry may have it. Link-local ones of IPv6 are the same on many interfaces; of IPv4 node-local DNS has one.
fn is_used(address: IpAddr) -> bool {
    let other = address.is_loopback() || address.is_unspecified() || address.is_multicast();
    let link_local = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
    !other && !link_local
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn those_of_a_dummy_with_thousands_come_last() {
        let services = (0..4300_u32).map(|number| Ipv4Addr::from_bits(0x0a60_0000 + number).into());
        let interface = |dummy, addresses: Vec<IpAddr>| InterfaceAddresses { dummy, addresses };
        let parse = |texts: &[&str]| -> Vec<IpAddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let (own, of_dummies) = sorted(HashMap::from([
            (1, interface(false, parse(&["127.0.0.1", "::1"]))),
            (
                2,
                interface(false, parse(&["192.0.2.7", "fe80::1", "2001:db8::7"])),
            ),
            (3, interface(true, services.collect())),
            (4, interface(true, parse(&["169.254.20.10"]))),
        ]));
        assert_eq!(own, parse(&["192.0.2.7", "2001:db8::7"]));
        assert_eq!(
            (of_dummies.len(), of_dummies[0]),
            (4301, parse(&["169.254.20.10"])[0])
        );
    }

    #[test]
    fn of_this_machine() {
        let root = Root::system();
        let own = crate::kernel::namespace::namespace_of(&root.proc("thread-self/ns/net")).unwrap();
        let host = HostNamespace {
            inode: own,
            folder: "thread-self",
            by_kernel: false,
        };
        let mut found = Discovery::empty(Instant::now());
        HostAddresses::default().look(&root, &host, Instant::now(), &mut found);
        assert!(found.problems.is_empty(), "{:?}", found.problems);
        assert!(!found.host_addresses.iter().any(IpAddr::is_loopback));
    }
}
