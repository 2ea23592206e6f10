//! Owners in the kernel's maps. Who is charged for what: see [`charge`](crate::charge).
//!
//! User space gives each owner of the node a slot, and keeps what leads there from an address, a
//! cgroup and a network namespace. The programs look an entry up once when it enters the table
//! and once when it leaves, and count by slot, for each CPU and direction.

use core::mem::size_of;

use crate::record::{DropReason, Tuple};

/// `l3num` of a tuple of IPv4 (`AF_INET`).
pub const IPV4: u16 = 2;

/// The slot of what belongs to nobody that is known.
pub const UNKNOWN: u32 = 0;
/// The slot of the host itself: its addresses, and sockets of no known cgroup.
pub const HOST: u32 = 1;
/// The first slot that is given to an owner.
pub const FIRST: u32 = 2;
/// Slots unless told otherwise; the counters of one take 160 bytes for each possible CPU.
pub const DEFAULT_SLOTS: u32 = 1024;
/// Services whose server is told to the programs at most.
pub const MOST_SERVICES: u32 = 2048;
/// Slots at most: a record has 16 bits for one.
pub const MAX_SLOTS: u32 = 1 << 16;

/// Key of the address map: an IPv6 address, or an IPv4 one as `::ffff:a.b.c.d`, network order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(not(target_arch = "bpf"), derive(zerocopy::FromZeros))]
#[repr(C)]
pub struct Address {
    /// Four words as in memory.
    pub words: [u32; 4],
}

/// Who has an address, or the table of a network namespace: value of the address map and of that of namespaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(not(target_arch = "bpf"), derive(zerocopy::FromZeros))]
#[repr(C)]
pub struct Claim {
    /// Who has it now: charged for what enters.
    pub slot: u32,
    /// With [`FLAG_TAGGED`]: charged for what leaves without a tag.
    pub base: u32,
    /// `FLAG_*` of this module.
    pub flags: u32,
}

/// Set in [`Claim::flags`]: entries with this address, or in this table, may belong to others than [`Claim::slot`].
/// Those that enter are tagged with their owner; those that leave without a tag are `base`'s.
pub const FLAG_TAGGED: u32 = 1;
/// Set in [`Claim::flags`], with [`FLAG_TAGGED`]: an address of the host, so the sending socket's
/// cgroup is asked. `slot` and `base` are [`HOST`].
pub const FLAG_SOCKET: u32 = 2;

/// Maps of tags: at most there are two while tags are moved to a larger one, else both numbers are the same map's.
pub const TAG_MAPS: u32 = 2;
/// Number of the map that tags are put into.
pub const NEWER_TAGS: u32 = 0;
/// Number of the map that tags are moved out of.
pub const OLDER_TAGS: u32 = 1;

/// Key of a map of tags: one entry. Its original tuple is unique in its table and zone, but for
/// [the losers of a clash](TagKey::CLASH).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct TagKey {
    /// The entry's original direction, before NAT.
    pub tuple: Tuple,
    /// Inode number of the entry's network namespace.
    pub netns: u32,
    /// The entry's conntrack zone, 0 by default, and [`TagKey::CLASH`].
    pub zone: u32,
}

impl TagKey {
    /// Set in [`TagKey::zone`] for an entry that lost a clash and was inserted in the reply direction only
    /// (`IPS_NAT_CLASH`): it has its original tuple in common with the winner, so its `tuple` is that of the replies.
    pub const CLASH: u32 = 1 << 31;
}

/// Key of the map of Services: an address that packets from outside ask for, and for which a NAT
/// rule puts that of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Service {
    /// The address asked for.
    pub address: Address,
    /// Inode number of the network namespace, which has rules of its own.
    netns: u32,
    /// The port asked for, network order.
    pub port: u16,
    /// The protocol's number, as in the IP header.
    protocol: u8,
    /// Always 0, so that no byte is undefined.
    reserved: u8,
}

impl Service {
    /// What the packet with this original tuple asks for.
    #[inline(always)]
    pub const fn asked(original: &Tuple, netns: u32) -> Self {
        Self {
            address: Address::of_family(original.dst, original.l3num),
            netns,
            port: original.dst_port,
            protocol: original.protonum,
            reserved: 0,
        }
    }
}

/// Which way a connection goes, seen from its owner; index into [`OwnerState`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Direction {
    /// The owner opened it.
    Egress = 0,
    /// The owner is its real server, after DNAT.
    Ingress = 1,
}

/// Value of a map of tags: who an entry is charged to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Tag {
    /// Its address in the kernel. Two that follow each other within a moment, as the twins of a clash in a full table, have the
    /// same key.
    pub entry: u64,
    /// Charged for the insert and for the delete.
    pub party: Party,
    /// Always 0, so that no byte is undefined.
    pub reserved: u32,
}

/// A slot and a direction in one word: the slot below, the direction in the highest bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Party(u32);

impl Party {
    /// Nobody that is known.
    pub const NOBODY: Self = Self::new(UNKNOWN, Direction::Egress);

    /// The owner in this slot, in this direction.
    #[inline(always)]
    pub const fn new(slot: u32, direction: Direction) -> Self {
        Self(slot << 1 | direction as u32)
    }

    /// The slot of the owner.
    #[inline(always)]
    pub const fn slot(self) -> u32 {
        self.0 >> 1
    }

    /// Whether the owner opened it, or it came in to it.
    #[inline(always)]
    pub const fn direction(self) -> Direction {
        if self.0 & 1 == 0 {
            Direction::Egress
        } else {
            Direction::Ingress
        }
    }

    /// The one with this [`Self::index`].
    #[inline(always)]
    pub const fn of_index(index: u32) -> Self {
        Self(index)
    }

    /// Where its counts are among those of one CPU: the two of a slot follow each other.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self.0
    }
}

/// What is counted for one owner in one direction, on one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct OwnerCounts {
    /// Entries that entered the table.
    pub inserts: u64,
    /// Entries that left it.
    pub deletes: u64,
    /// Of those: the ones that packets still held, so that they stay in the kernel's count.
    pub held: u64,
    /// Live entries of this owner that `early_drop` removed; part of `deletes`.
    pub victims: u64,
    /// Live entries that were removed to make room for a connection of this owner.
    pub causes: u64,
    /// Packets lost, by [`DropReason`] less 1.
    pub drops: [u64; DropReason::ALL.len()],
}

/// Value of the map of slots, for each CPU: by [`Direction`].
pub type OwnerState = [OwnerCounts; 2];

const _: () = {
    assert!(size_of::<Address>() == 16);
    assert!(size_of::<Claim>() == 12);
    assert!(size_of::<TagKey>() == 48);
    assert!(size_of::<Service>() == 24);
    assert!(size_of::<OwnerCounts>() == 80);
    assert!(size_of::<OwnerState>() == 160);
};

#[cfg(not(target_arch = "bpf"))]
impl TagKey {
    /// The source of the original direction.
    pub const fn source(&self) -> Address {
        Address::of_family(self.tuple.src, self.tuple.l3num)
    }
}

#[cfg(not(target_arch = "bpf"))]
impl OwnerCounts {
    /// What `of` makes of each two counts.
    #[must_use]
    pub fn with(&self, other: &Self, of: impl Fn(u64, u64) -> u64) -> Self {
        let mut drops = self.drops;
        for (drop, other) in drops.iter_mut().zip(other.drops) {
            *drop = of(*drop, other);
        }
        Self {
            inserts: of(self.inserts, other.inserts),
            deletes: of(self.deletes, other.deletes),
            held: of(self.held, other.held),
            victims: of(self.victims, other.victims),
            causes: of(self.causes, other.causes),
            drops,
        }
    }
}

impl Address {
    /// `::ffff:0:0/96` as the third word is in memory.
    const MAPPED: u32 = 0xffff_u32.to_be();

    /// Whether it is an IPv4 address.
    #[cfg(not(target_arch = "bpf"))]
    pub const fn is_v4(&self) -> bool {
        matches!(self.words, [0, 0, Self::MAPPED, _])
    }

    /// An IPv4 address, network order.
    #[inline(always)]
    pub const fn v4(address: u32) -> Self {
        Self {
            words: [0, 0, Self::MAPPED, address],
        }
    }

    /// An address as in a [`Tuple`] of this family.
    #[inline(always)]
    pub const fn of_family(words: [u32; 4], l3num: u16) -> Self {
        if l3num == IPV4 {
            Self::v4(words[0])
        } else {
            Self { words }
        }
    }

    /// The address that has this key.
    #[cfg(not(target_arch = "bpf"))]
    pub fn ip(&self) -> core::net::IpAddr {
        let mut octets = [0; 16];
        for (four, word) in octets.chunks_exact_mut(4).zip(self.words) {
            four.copy_from_slice(&word.to_ne_bytes());
        }
        core::net::Ipv6Addr::from(octets).to_canonical()
    }

    /// The key of an address.
    #[cfg(not(target_arch = "bpf"))]
    pub fn of(address: core::net::IpAddr) -> Self {
        let octets = match address {
            core::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            core::net::IpAddr::V6(v6) => v6.octets(),
        };
        let mut words = [0; 4];
        for (word, four) in words.iter_mut().zip(octets.chunks_exact(4)) {
            *word = u32::from_ne_bytes([four[0], four[1], four[2], four[3]]);
        }
        Self { words }
    }
}

#[cfg(test)]
mod tests {
    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn keys_are_those_that_the_kernel_side_makes() {
        let v4 = Ipv4Addr::new(10, 42, 0, 7);
        assert_eq!(
            Address::of(IpAddr::V4(v4)),
            Address::v4(u32::from_ne_bytes(v4.octets()))
        );
        let v6: Ipv6Addr = "fd00:42::7".parse().unwrap();
        let words = Address::of(IpAddr::V6(v6)).words;
        assert_eq!(words[0], u32::from_ne_bytes([0xfd, 0, 0, 0x42]));
        assert_eq!(words[3], u32::from_ne_bytes([0, 0, 0, 7]));
        assert_eq!(Address::of(IpAddr::V4(v4)).ip(), IpAddr::V4(v4));
        assert_eq!(Address::of(IpAddr::V6(v6)).ip(), IpAddr::V6(v6));
    }

    #[test]
    fn a_party_is_a_slot_and_a_direction() {
        for direction in [Direction::Egress, Direction::Ingress] {
            for slot in [0, 1, 2, MAX_SLOTS - 1] {
                let party = Party::new(slot, direction);
                assert_eq!((party.slot(), party.direction()), (slot, direction));
                assert_eq!(party.index(), 2 * slot + direction as u32);
            }
        }
    }
}
