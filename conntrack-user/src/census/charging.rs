//! Charges entries to owners by the rules that the programs in the kernel follow
//! (`conntrack-ebpf/src/programs/owner.rs`), from what the kernel was told.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use conntrack_ebpf::{
    owner::{Address, Claim, Direction, FLAG_SOCKET, FLAG_TAGGED, HOST, Party, TagKey, UNKNOWN},
    record,
};

use super::Owners;
use crate::{
    kernel::{
        Root,
        entries::{Entry, Layer4, Tuple},
    },
    owners::{Details, Limits, Maps, Scanner, Sighting, Slots},
    sys::netns::Inode,
};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const NOBODY: Party = Party::new(UNKNOWN, Direction::Egress);

/// Who is charged for an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    /// Whose it is.
    pub party: Party,
    /// An entry with its address should have a tag, and this one has none: `party` is whose it is
    /// if that stays so. The key that its tag would have, and the address.
    pub untagged: Option<(TagKey, IpAddr)>,
    /// It is tagged as nobody's: the address that the tag stands for.
    pub nobodys: Option<IpAddr>,
}

/// What the kernel was told, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Charging {
    /// Claims, cgroups and network namespaces.
    pub maps: Maps,
    /// Tags of single entries.
    pub tags: HashMap<TagKey, Party>,
    /// Inode number of the host's network namespace.
    pub host_netns: Inode,
    /// Names of slots.
    pub names: BTreeMap<u32, String>,
    /// Which slots are of one workload.
    pub workloads: Workloads,
}

/// Workloads by slot; each goes by its lowest one.
#[derive(Clone, Debug, Default)]
pub struct Workloads {
    slots: BTreeMap<u32, u32>,
    names: BTreeMap<u32, String>,
}

impl FromIterator<(u32, String)> for Workloads {
    /// Slots that have a workload, with its name.
    fn from_iter<I: IntoIterator<Item = (u32, String)>>(workloads: I) -> Self {
        let sorted: BTreeMap<u32, String> = workloads.into_iter().collect();
        let mut firsts = HashMap::new();
        let mut made = Self::default();
        for (slot, name) in sorted {
            let first = *firsts.entry(name.clone()).or_insert(slot);
            made.slots.insert(slot, first);
            made.names.entry(first).or_insert(name);
        }
        made
    }
}

impl Charging {
    /// Whose an entry is, by a look around of the caller's own. Sockets of the host are the host's:
    /// only the running agent saw whose they are.
    /// `describe` may add what is known of them from elsewhere.
    pub fn look_around(root: &Root, describe: impl FnOnce(&mut Slots)) -> Self {
        let mut slots = Slots::new(Limits::default());
        let found = Scanner::new(root.clone()).scan();
        slots.apply(&found, |_| true, |_| false);
        describe(&mut slots);
        let workload = |details: &Details| {
            let workload = details.workload.as_ref()?;
            let namespace = &details.namespace;
            Some(format!("{} {namespace}/{}", workload.kind, workload.name))
        };
        Self {
            maps: slots.maps().clone(),
            host_netns: found.host_netns.unwrap_or_default(),
            names: slots
                .occupants()
                .map(|(slot, occupant)| (slot, occupant.owner.name()))
                .collect(),
            workloads: slots
                .occupants()
                .filter_map(|(slot, occupant)| Some((slot, workload(&occupant.owner)?)))
                .collect(),
            ..Self::default()
        }
    }

    /// Who is charged for this entry of the table of `netns`.
    pub fn charge(&self, netns: Inode, entry: &Entry) -> Charge {
        let source = self.claim(entry.original.source);
        let server = self.claim(entry.reply.source);
        if netns != self.host_netns
            && let Some(slot) = self.maps.netns.get(&netns)
        {
            let own = |claim: Option<&Claim>| claim.is_some_and(|claim| claim.slot == *slot);
            let direction = if !own(source) && own(server) {
                Direction::Ingress
            } else {
                Direction::Egress
            };
            return Charge {
                party: Party::new(*slot, direction),
                untagged: None,
                nobodys: None,
            };
        }
        let mut untagged = None;
        if let Some(claim) = source {
            if claim.flags & FLAG_TAGGED == 0 {
                return plain(claim.slot, Direction::Egress);
            }
            let key = tag_key(netns, entry);
            if let Some(party) = self.tags.get(&key) {
                return tagged(*party, entry.original.source);
            }
            untagged = Some((key, entry.original.source));
            if claim.base != UNKNOWN {
                return Charge {
                    party: Party::new(claim.base, Direction::Egress),
                    untagged,
                    nobodys: None,
                };
            }
        }
        let Some(claim) = server else {
            return Charge {
                party: NOBODY,
                untagged,
                nobodys: None,
            };
        };
        if claim.flags & FLAG_TAGGED == 0 || claim.flags & FLAG_SOCKET != 0 {
            return Charge {
                party: Party::new(claim.slot, Direction::Ingress),
                untagged,
                nobodys: None,
            };
        }
        let key = tag_key(netns, entry);
        if let Some(party) = self.tags.get(&key) {
            return tagged(*party, entry.reply.source);
        }
        let party = if claim.base == UNKNOWN {
            NOBODY
        } else {
            Party::new(claim.base, Direction::Ingress)
        };
        Charge {
            party,
            untagged: untagged.or(Some((key, entry.reply.source))),
            nobodys: None,
        }
    }

    fn claim(&self, address: IpAddr) -> Option<&Claim> {
        self.maps.addresses.get(&Address::of(address))
    }
}

impl Owners for Charging {
    fn party(&self, netns: Inode, entry: &Entry) -> Option<Party> {
        Some(self.charge(netns, entry).party)
    }

    fn name(&self, slot: u32) -> String {
        match (self.names.get(&slot), slot) {
            (Some(name), _) => name.clone(),
            (None, UNKNOWN) => "unknown".to_owned(),
            (None, HOST) => "host".to_owned(),
            (None, slot) => format!("slot {slot}"),
        }
    }

    fn workload(&self, slot: u32) -> u32 {
        self.workloads.slots.get(&slot).copied().unwrap_or(slot)
    }

    fn workload_name(&self, slot: u32) -> String {
        let name = self.workloads.names.get(&slot).cloned();
        name.unwrap_or_else(|| self.name(slot))
    }
}

/// What an entry that was charged to `party` tells of the Service that it asked for.
pub(crate) fn sighting(netns: Inode, entry: &Entry, party: Party) -> Option<Sighting> {
    let (original, reply) = (kernel_tuple(&entry.original), kernel_tuple(&entry.reply));
    Sighting::of(&original, &reply, netns, party)
}

const fn plain(slot: u32, direction: Direction) -> Charge {
    Charge {
        party: Party::new(slot, direction),
        untagged: None,
        nobodys: None,
    }
}

/// Charged by its tag, which stands for this address.
fn tagged(party: Party, address: IpAddr) -> Charge {
    Charge {
        party,
        untagged: None,
        nobodys: (party.slot() == UNKNOWN).then_some(address),
    }
}

fn tag_key(netns: Inode, entry: &Entry) -> TagKey {
    TagKey {
        tuple: kernel_tuple(&entry.original),
        netns,
        zone: u32::from(entry.zone),
    }
}

/// The tuple as the kernel has it in memory.
fn kernel_tuple(tuple: &Tuple) -> record::Tuple {
    let words = |address: IpAddr| match address {
        IpAddr::V4(v4) => [u32::from_ne_bytes(v4.octets()), 0, 0, 0],
        IpAddr::V6(_) => Address::of(address).words,
    };
    let (src_port, dst_port) = match tuple.layer4 {
        Layer4::Ports {
            source,
            destination,
        } => (source.to_be(), destination.to_be()),
        Layer4::Icmp { id, kind, code } => (id.to_be(), u16::from_ne_bytes([kind, code])),
        Layer4::Addresses => (0, 0),
    };
    record::Tuple {
        src: words(tuple.source),
        src_port,
        l3num: if tuple.source.is_ipv4() {
            AF_INET
        } else {
            AF_INET6
        },
        dst: words(tuple.destination),
        dst_port,
        protonum: tuple.protocol,
        dir: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::entries::{State, Status};

    const HOST_NETNS: Inode = 1;
    const POD_NETNS: Inode = 7;

    fn entry(from: &str, to: &str, server: &str) -> Entry {
        let tuple = |source: &str, destination: &str, ports: (u16, u16)| Tuple {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            protocol: 17,
            layer4: Layer4::Ports {
                source: ports.0,
                destination: ports.1,
            },
        };
        Entry {
            original: tuple(from, to, (1000, 53)),
            reply: tuple(server, from, (53, 1000)),
            zone: 0,
            status: Status::default(),
            state: State::of(Status::default()),
            timeout: Some(30),
            mark: 0,
            id: 0,
            start: None,
        }
    }

    fn claim(slot: u32, base: u32, flags: u32) -> Claim {
        Claim {
            slot,
            base,
            flags,
            reserved: 0,
        }
    }

    fn charging() -> Charging {
        let claims = [
            ("10.0.0.2", claim(2, 2, 0)),
            ("10.0.0.3", claim(3, 3, 0)),
            ("10.0.0.4", claim(4, 3, FLAG_TAGGED)),
            ("10.0.0.5", claim(5, UNKNOWN, FLAG_TAGGED)),
            ("10.0.0.1", claim(HOST, HOST, FLAG_TAGGED | FLAG_SOCKET)),
        ];
        Charging {
            maps: Maps {
                addresses: claims
                    .into_iter()
                    .map(|(address, claim)| (Address::of(address.parse().unwrap()), claim))
                    .collect(),
                netns: [(POD_NETNS, 2)].into(),
                ..Maps::default()
            },
            host_netns: HOST_NETNS,
            ..Charging::default()
        }
    }

    fn charged(netns: Inode, entry: &Entry) -> (u32, Direction, bool) {
        let charge = charging().charge(netns, entry);
        (
            charge.party.slot(),
            charge.party.direction(),
            charge.untagged.is_some(),
        )
    }

    #[test]
    fn by_source_then_by_server() {
        use Direction::{Egress, Ingress};
        let cases = [
            ("10.0.0.2", "9.9.9.9", "9.9.9.9", (2, Egress, false)),
            // Both are known: who opened it is charged.
            ("10.0.0.2", "10.96.0.1", "10.0.0.3", (2, Egress, false)),
            // After DNAT.
            ("9.9.9.9", "10.0.0.1", "10.0.0.3", (3, Ingress, false)),
            ("9.9.9.9", "10.0.0.1", "10.0.0.1", (HOST, Ingress, false)),
            ("9.9.9.9", "8.8.8.8", "8.8.8.8", (UNKNOWN, Egress, false)),
            // Without a tag: whoever had the address before.
            ("10.0.0.4", "9.9.9.9", "9.9.9.9", (3, Egress, true)),
            ("10.0.0.5", "9.9.9.9", "9.9.9.9", (UNKNOWN, Egress, true)),
            ("10.0.0.5", "10.0.0.3", "10.0.0.3", (3, Ingress, true)),
            ("9.9.9.9", "10.0.0.4", "10.0.0.4", (3, Ingress, true)),
            ("10.0.0.1", "9.9.9.9", "9.9.9.9", (HOST, Egress, true)),
        ];
        for (from, to, server, expected) in cases {
            let entry = entry(from, to, server);
            assert_eq!(
                charged(HOST_NETNS, &entry),
                expected,
                "{from} > {to} ({server})"
            );
        }
    }

    #[test]
    fn the_own_table_of_a_pod_is_the_pods() {
        use Direction::{Egress, Ingress};
        for (from, server, direction) in [
            ("10.0.0.2", "9.9.9.9", Egress),
            ("10.0.0.3", "10.0.0.2", Ingress),
            ("127.0.0.1", "127.0.0.1", Egress),
        ] {
            let entry = entry(from, server, server);
            assert_eq!(charged(POD_NETNS, &entry), (2, direction, false));
        }
    }

    #[test]
    fn a_tag_decides() {
        let mut charging = charging();
        let entry = entry("10.0.0.4", "9.9.9.9", "9.9.9.9");
        let party = Party::new(4, Direction::Egress);
        charging.tags.insert(tag_key(HOST_NETNS, &entry), party);
        let charge = charging.charge(HOST_NETNS, &entry);
        assert_eq!((charge.party, charge.untagged), (party, None));
    }

    #[test]
    fn pods_of_one_workload_go_by_one_slot() {
        let name = |text: &str| text.to_owned();
        let charging = Charging {
            names: [(2, name("shop/db-0")), (5, name("shop/cart-2"))].into(),
            workloads: [
                (7, name("Deployment shop/cart")),
                (5, name("Deployment shop/cart")),
                (6, name("Deployment other/cart")),
            ]
            .into_iter()
            .collect(),
            ..Charging::default()
        };
        assert_eq!(
            [5, 6, 7, 2].map(|slot| charging.workload(slot)),
            [5, 6, 5, 2]
        );
        assert_eq!(charging.workload_name(5), "Deployment shop/cart");
        assert_eq!(charging.workload_name(2), "shop/db-0", "it has none");
        assert_eq!(charging.workload_name(HOST), "host");
    }
}
