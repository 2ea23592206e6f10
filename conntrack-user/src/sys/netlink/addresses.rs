//! The addresses of this network namespace by the interface that has them (`struct ifaddrmsg`), and which interfaces are
//! dummies (`IFLA_INFO_KIND`): `net/ipv4/devinet.c`, `net/ipv6/addrconf.c`, `net/core/rtnetlink.c`.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use libc::{
    AF_INET, AF_INET6, IFA_ADDRESS, IFA_LOCAL, IFLA_INFO_KIND, IFLA_LINKINFO, RTM_GETADDR,
    RTM_GETLINK,
};

use super::interfaces::{Interfaces, LINK_HEADER};
use super::{Attributes, NetlinkError};

/// Length of `struct ifaddrmsg`, bytes.
const ADDRESS_HEADER: usize = 8;

/// The kind of an interface that leads nowhere.
const DUMMY: &[u8] = b"dummy";

/// The addresses of one interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct InterfaceAddresses {
    /// It is a dummy: it leads nowhere, and has its addresses for the node to answer for them.
    pub dummy: bool,
    /// In the order of the kernel.
    pub addresses: Vec<IpAddr>,
}

impl Interfaces {
    /// The addresses of all interfaces, by the interface's number. Those of a VRF are among them.
    ///
    /// # Errors
    /// When the kernel refuses, or the list is not whole.
    pub(crate) fn addresses(&mut self) -> Result<HashMap<u32, InterfaceAddresses>, NetlinkError> {
        let mut dummies = HashSet::new();
        self.list(RTM_GETLINK, LINK_HEADER, |mut part| {
            let is_dummy = part
                .attributes
                .find(|(kind, _)| *kind == IFLA_LINKINFO)
                .and_then(|(_, info)| {
                    Attributes::nested(info).find(|(kind, _)| *kind == IFLA_INFO_KIND)
                })
                .is_some_and(|(_, kind)| kind.strip_suffix(b"\0").unwrap_or(kind) == DUMMY);
            if let Some(number) = number(part.header).filter(|_| is_dummy) {
                dummies.insert(number);
            }
        })?;
        let mut found: HashMap<u32, InterfaceAddresses> = HashMap::new();
        self.list(RTM_GETADDR, ADDRESS_HEADER, |part| {
            let (mut local, mut address) = (None, None);
            for (kind, value) in part.attributes {
                match kind {
                    IFA_LOCAL => local = Some(value),
                    IFA_ADDRESS => address = Some(value),
                    _ => {}
                }
            }
            // Of a pair of ends the second is the other one's.
            let own = local
                .or(address)
                .and_then(|bytes| of_family(part.header[0], bytes));
            if let (Some(number), Some(own)) = (number(part.header), own) {
                let interface = found.entry(number).or_default();
                interface.dummy = dummies.contains(&number);
                interface.addresses.push(own);
            }
        })?;
        Ok(found)
    }
}

/// The number of the interface: at the same place in the headers of links, addresses and neighbours.
pub(super) fn number(header: &[u8]) -> Option<u32> {
    header
        .get(4..8)?
        .first_chunk()
        .copied()
        .map(u32::from_ne_bytes)
}

pub(super) fn of_family(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    match i32::from(family) {
        AF_INET => Some(IpAddr::from(*bytes.first_chunk::<4>()?)),
        AF_INET6 => Some(IpAddr::from(*bytes.first_chunk::<16>()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use nix::sched::{CloneFlags, unshare};

    use super::super::tests::ip;
    use super::*;

    #[test]
    fn each_address_is_at_its_interface() {
        let of_its_own = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace (help: run as root)");
            ip("link add ctp-one type veth peer name ctp-two");
            ip("addr add 192.0.2.7 peer 192.0.2.8 dev ctp-one");
            ip("addr add 192.0.2.9/24 dev ctp-two");
            ip("addr add fd00:c7::7/64 dev ctp-one nodad");
            let found = Interfaces::new().unwrap().addresses().unwrap();
            let mut all: Vec<Vec<IpAddr>> = found
                .values()
                .map(|interface| interface.addresses.clone())
                .collect();
            all.sort_by_key(Vec::len);
            let addresses = |texts: &[&str]| -> Vec<IpAddr> {
                texts.iter().map(|text| text.parse().unwrap()).collect()
            };
            assert_eq!(
                all,
                [
                    addresses(&["192.0.2.9"]),
                    addresses(&["192.0.2.7", "fd00:c7::7"])
                ]
            );
            assert!(found.values().all(|interface| !interface.dummy));
        });
        of_its_own.join().unwrap();
    }
}
