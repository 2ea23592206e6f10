//! Addresses that nobody answers for on a bridge of containers (`struct ndmsg`): `net/core/neighbour.c`.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use libc::{
    IFLA_INFO_KIND, IFLA_LINKINFO, IFLA_MASTER, NDA_DST, NUD_FAILED, NUD_INCOMPLETE, RTM_GETLINK,
    RTM_GETNEIGH,
};

use super::addresses::{number, of_family};
use super::interfaces::{Interfaces, LINK_HEADER};
use super::{Attributes, NetlinkError};

/// Length of `struct ndmsg`, bytes.
const NEIGHBOUR_HEADER: usize = 12;

impl Interfaces {
    /// The addresses that the kernel asks for in vain, or did last, on bridges that lead to containers only: each port is one end
    /// of a veth pair. Who would have such an address would be on this node.
    ///
    /// # Errors
    /// When the kernel refuses, or the list is not whole.
    pub(crate) fn unanswered(&mut self) -> Result<HashSet<IpAddr>, NetlinkError> {
        let bridges = self.bridges_of_containers()?;
        let mut found = HashSet::new();
        if bridges.is_empty() {
            return Ok(found);
        }
        self.list(RTM_GETNEIGH, NEIGHBOUR_HEADER, |mut part| {
            let state = part.header.get(8..10).and_then(<[u8]>::first_chunk);
            let state = state.copied().map_or(0, u16::from_ne_bytes);
            let on_bridge = number(part.header).is_some_and(|number| bridges.contains(&number));
            if !on_bridge || state & (NUD_FAILED | NUD_INCOMPLETE) == 0 {
                return;
            }
            let address = part.attributes.find(|(kind, _)| *kind == NDA_DST);
            found.extend(address.and_then(|(_, bytes)| of_family(part.header[0], bytes)));
        })?;
        Ok(found)
    }

    fn bridges_of_containers(&mut self) -> Result<HashSet<u32>, NetlinkError> {
        let mut bridges = HashSet::new();
        let mut ports: HashMap<u32, bool> = HashMap::new();
        self.list(RTM_GETLINK, LINK_HEADER, |part| {
            let Some(own) = number(part.header) else {
                return;
            };
            let (mut is, mut bridge): (Option<&[u8]>, Option<u32>) = (None, None);
            for (kind, value) in part.attributes {
                match kind {
                    IFLA_LINKINFO => {
                        is = Attributes::nested(value)
                            .find(|(kind, _)| *kind == IFLA_INFO_KIND)
                            .map(|(_, kind)| kind.strip_suffix(b"\0").unwrap_or(kind));
                    }
                    IFLA_MASTER => bridge = value.first_chunk().copied().map(u32::from_ne_bytes),
                    _ => {}
                }
            }
            if is == Some(b"bridge") {
                bridges.insert(own);
            }
            if let Some(bridge) = bridge {
                *ports.entry(bridge).or_insert(true) &= is == Some(b"veth");
            }
        })?;
        bridges.retain(|bridge| ports.get(bridge).is_none_or(|all_veth| *all_veth));
        Ok(bridges)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use nix::sched::{CloneFlags, unshare};

    use super::super::tests::ip;
    use super::*;

    #[test]
    fn only_bridges_of_containers_tell_who_does_not_answer() {
        let of_its_own = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace (help: run as root)");
            let mut interfaces = Interfaces::new().unwrap();
            assert_eq!(interfaces.unanswered().unwrap(), HashSet::new());
            for line in [
                "link add ctp-pods type bridge",
                "link add ctp-a type veth peer name ctp-b",
                "link set ctp-a master ctp-pods",
                "link add ctp-lan type bridge",
                "tuntap add ctp-nic mode tap",
                "link set ctp-nic master ctp-lan",
                "link set ctp-pods up",
                "link set ctp-lan up",
                "neigh add 10.42.0.9 dev ctp-pods nud failed",
                "neigh add 10.42.0.8 dev ctp-pods lladdr 02:00:00:00:00:01 nud reachable",
                "neigh add fd00::9 dev ctp-pods nud failed",
                "neigh add 192.0.2.9 dev ctp-lan nud failed",
            ] {
                ip(line);
            }
            let found = interfaces.unanswered().unwrap();
            let gone = ["10.42.0.9", "fd00::9"].map(|text| text.parse().unwrap());
            assert_eq!(found, HashSet::from(gone));
        });
        of_its_own.join().unwrap();
    }
}
