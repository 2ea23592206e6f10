//! Charges entries to owners as the programs in the kernel do ([`conntrack_ebpf::charge`]), from what
//! these were told.

use std::{
    cell::Cell,
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use conntrack_ebpf::{
    charge::{Flow, Table},
    owner::{Address, HOST, Party, TagKey, UNKNOWN},
    record,
};

use super::vacant::{Vacant, VacantAddresses};
use crate::{
    kernel::{
        Root,
        entries::{EntryTuple, Layer4, TableEntry},
    },
    owners::{Owner, Scanner, Sighting, SlotLimits, SlotMaps, Slots, TableOwners},
    sys::netns::Inode,
};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// Who is charged for an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Charge {
    pub party: Party,
    pub tag: TagSeen,
}

/// What the tag of an entry said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TagSeen {
    /// It was not looked for: the entry tells by itself whose it is.
    NotAsked,
    /// It should be there and is not: the entry is the party's unless it has just come or gone.
    Missing,
    /// Nobody.
    Nobody,
    /// Somebody.
    Somebody,
}

impl Charge {
    /// It was looked for a tag, and there is none or one that says nobody.
    pub(crate) fn is_unsettled(self) -> bool {
        matches!(self.tag, TagSeen::Missing | TagSeen::Nobody)
    }
}

/// What the kernel was told, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Charging {
    /// Claims, cgroups and network namespaces.
    pub maps: Arc<SlotMaps>,
    /// Addresses that nobody on this node has.
    pub vacant: VacantAddresses,
    /// Inode number of the host's network namespace.
    pub host_netns: Inode,
    pub names: BTreeMap<u32, String>,
    /// Who has which table.
    pub tables: TableOwners,
    /// Which slots are of one workload.
    pub workloads: Workloads,
}

/// Workloads by slot; each goes by its lowest one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Workloads {
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
    /// Whose an entry is, by a look around of the caller's own. Sockets of the host are the host's, and what was an
    /// address's before it changed hands is whose that is now: only the running agent saw more.
    pub(crate) fn look_around(root: &Root) -> Self {
        let mut slots = Slots::new(SlotLimits::default());
        let found = Scanner::new(root.clone()).scan();
        slots.apply(&found, |_| true, |_| false);
        let maps = Arc::clone(slots.maps());
        let owners = slots.occupants();
        Self {
            tables: slots.table_owners(),
            ..Self::new(
                maps,
                found.host_netns.unwrap_or_default(),
                owners.map(|(slot, occupant)| (slot, &occupant.owner)),
            )
        }
    }

    /// By these maps, in which slots are these owners'.
    pub(crate) fn new<'a>(
        maps: Arc<SlotMaps>,
        host_netns: Inode,
        owners: impl Iterator<Item = (u32, &'a Owner)>,
    ) -> Self {
        let owners: Vec<_> = owners.collect();
        let workload = |(slot, owner): &(u32, &Owner)| Some((*slot, workload_of(owner)?));
        let name = |(slot, owner): &(u32, &Owner)| (*slot, owner.name());
        Self {
            maps,
            host_netns,
            names: owners.iter().map(name).collect(),
            workloads: owners.iter().filter_map(workload).collect(),
            ..Self::default()
        }
    }

    /// Who is charged for this entry of the table of `netns`; `tag_of` gives the tag of an entry, if it has one.
    pub(crate) fn charge(
        &self,
        netns: Inode,
        entry: &TableEntry,
        tag_of: impl Fn(&TagKey) -> Option<Party>,
    ) -> Charge {
        let (source, server) = (entry.original.source, entry.reply.source);
        let claim = |address| self.maps.addresses.get(&Address::of(address));
        let owned = &self.maps.netns;
        let flow = Flow {
            source: claim(source),
            table: Table::of(netns, self.host_netns, |netns| owned.get(&netns)),
            server: || claim(server),
        };
        let looked_for = Cell::new(None);
        let party = flow.leaving(|_| {
            let tag = tag_of(&tag_key(netns, entry));
            looked_for.set(Some(tag));
            tag
        });
        let tag = match looked_for.get() {
            None => TagSeen::NotAsked,
            Some(None) => TagSeen::Missing,
            Some(Some(party)) if party.slot() == UNKNOWN => TagSeen::Nobody,
            Some(Some(_)) => TagSeen::Somebody,
        };
        Charge { party, tag }
    }

    /// Whether an address is somebody's.
    pub(crate) fn claims(&self, address: IpAddr) -> bool {
        self.maps.addresses.contains_key(&Address::of(address))
    }

    /// What is known of an address that nobody on this node has any more, though it was one of this node's or would be; `None`:
    /// somebody has it, or it can't be told.
    pub(crate) fn vacant(&self, address: IpAddr) -> Option<Vacant> {
        self.vacant.get(address, || self.claims(address))
    }

    /// The name of a slot, such as `default/web-0`.
    pub(crate) fn name(&self, slot: u32) -> String {
        match (self.names.get(&slot), slot) {
            (Some(name), _) => name.clone(),
            (None, UNKNOWN) => "unknown".to_owned(),
            (None, HOST) => "host".to_owned(),
            (None, slot) => format!("slot {slot}"),
        }
    }

    /// The slot that stands for all owners of the same workload; one without a workload stands for itself.
    pub(crate) fn workload(&self, slot: u32) -> u32 {
        self.workloads.slots.get(&slot).copied().unwrap_or(slot)
    }

    /// The name of the workload that a slot stands for, such as `Deployment default/web`.
    pub(crate) fn workload_name(&self, slot: u32) -> String {
        let name = self.workloads.names.get(&slot).cloned();
        name.unwrap_or_else(|| self.name(slot))
    }
}

/// What made a pod, such as `Deployment default/web`.
fn workload_of(owner: &Owner) -> Option<String> {
    let workload = owner.workload.as_ref()?;
    let namespace = &owner.namespace;
    Some(format!("{} {namespace}/{}", workload.kind, workload.name))
}

/// What an entry that was charged to `party` tells of the Service that it asked for.
pub(crate) fn sighting(netns: Inode, entry: &TableEntry, party: Party) -> Option<Sighting> {
    let (original, reply) = (kernel_tuple(&entry.original), kernel_tuple(&entry.reply));
    Sighting::of(&original, &reply, netns, party)
}

pub(super) fn tag_key(netns: Inode, entry: &TableEntry) -> TagKey {
    TagKey {
        tuple: kernel_tuple(&entry.original),
        netns,
        zone: u32::from(entry.zone),
    }
}

/// The tuple as the kernel has it in memory.
fn kernel_tuple(tuple: &EntryTuple) -> record::Tuple {
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
    use conntrack_ebpf::owner::{Claim, Direction, FLAG_TAGGED};

    use super::*;
    use crate::kernel::entries::{EntryState, EntryStatus};

    fn entry(from: &str, to: &str, server: &str) -> TableEntry {
        let tuple = |source: &str, destination: &str, ports: (u16, u16)| EntryTuple {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            protocol: 17,
            layer4: Layer4::Ports {
                source: ports.0,
                destination: ports.1,
            },
        };
        TableEntry {
            original: tuple(from, to, (1000, 53)),
            reply: tuple(server, from, (53, 1000)),
            zone: 0,
            status: EntryStatus::default(),
            state: EntryState::of(EntryStatus::default()),
            timeout: Some(30),
            mark: 0,
            id: 0,
            start: None,
        }
    }

    #[test]
    fn entries_of_a_listing_are_charged_by_their_addresses_namespace_and_tag() {
        use Direction::{Egress, Ingress};
        const HOST_NETNS: Inode = 1;
        const POD_NETNS: Inode = 7;
        let address = |text: &str| -> IpAddr { text.parse().unwrap() };
        let claims = [("10.0.0.2", 2, 0), ("fd00::4", 4, FLAG_TAGGED)];
        let charging = Charging {
            maps: Arc::new(SlotMaps {
                addresses: claims
                    .into_iter()
                    .map(|(of, slot, flags)| {
                        let claim = Claim {
                            slot,
                            base: 3,
                            flags,
                        };
                        (Address::of(address(of)), claim)
                    })
                    .collect(),
                netns: [(
                    POD_NETNS,
                    Claim {
                        slot: 5,
                        base: 5,
                        ..Claim::default()
                    },
                )]
                .into(),
                ..SlotMaps::default()
            }),
            host_netns: HOST_NETNS,
            ..Charging::default()
        };
        let mut tags: HashMap<TagKey, Party> = HashMap::new();
        let charged = |slot, direction, tag| Charge {
            party: Party::new(slot, direction),
            tag,
        };
        let tagless = |slot, direction| charged(slot, direction, TagSeen::NotAsked);
        // After DNAT.
        let comes_in = entry("9.9.9.9", "10.96.0.1", "10.0.0.2");
        let charge = |netns, entry: &TableEntry, tags: &HashMap<TagKey, Party>| {
            charging.charge(netns, entry, |key| tags.get(key).copied())
        };
        assert_eq!(charge(HOST_NETNS, &comes_in, &tags), tagless(2, Ingress));
        assert_eq!(charge(POD_NETNS, &comes_in, &tags), tagless(5, Egress));
        // In a namespace without an owner the address means nothing.
        assert_eq!(charge(8, &comes_in, &tags), tagless(UNKNOWN, Egress));

        let opened = [
            (entry("fd00::4", "fd00::9", "fd00::9"), Egress),
            (entry("fd00::9", "fd00::4", "fd00::4"), Ingress),
        ];
        for (opened, direction) in &opened {
            let direction = *direction;
            let untagged = charged(3, direction, TagSeen::Missing);
            assert_eq!(charge(HOST_NETNS, opened, &tags), untagged);
            let key = tag_key(HOST_NETNS, opened);
            tags.insert(key, Party::new(4, direction));
            let found = charge(HOST_NETNS, opened, &tags);
            assert_eq!(found, charged(4, direction, TagSeen::Somebody));
            tags.insert(key, Party::NOBODY);
            let found = charge(HOST_NETNS, opened, &tags);
            assert_eq!(found.tag, TagSeen::Nobody);
        }
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
