//! Ring buffer records: fixed layout, versioned, one type for each event.
//!
//! Every record starts with a [`Header`]; [`Header::kind`] says which type follows. Integers are
//! in host order except where a field says otherwise. [`View::parse`] reads them back safely.

use core::mem::size_of;

/// Layout version, in every record. Raised with any change of size, order or meaning.
pub const VERSION: u8 = 2;

/// What a record tells of, as in [`Header::kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// An entry entered a table: [`InsertRecord`].
    Insert = 1,
    /// A packet was lost: [`DropRecord`].
    Drop = 2,
    /// An entry was removed to make room: [`EvictionRecord`].
    Eviction = 3,
}

/// Why a packet was dropped; [`Header::reason`] of a [`DropRecord`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum DropReason {
    /// The table was full and `early_drop` found nothing to evict.
    TableFull = 1,
    /// Another entry holds the tuple, or NAT found no free port, and the kernel can't merge them.
    Clash = 2,
    /// The hash chain was too long.
    ChainTooLong = 3,
    /// The entry was removed while its first packet was still under way.
    Dying = 4,
    /// As [`DropReason::TableFull`], for an entry that ctnetlink or BPF wanted to create: no packet lost.
    TableFullRequest = 5,
}

/// Set in [`Header::flags`]: [`DropRecord::original`] or [`EvictionRecord::cause`] is filled in.
pub const FLAG_CAUSE_KNOWN: u8 = 1;
/// Set in [`Header::flags`]: the socket was looked at, so a cgroup id of 0 means "no socket".
pub const FLAG_SOCKET_SEEN: u8 = 2;
/// Set in [`Header::flags`]: for [`Origin::owner`] the connection is ingress.
pub const FLAG_INGRESS: u8 = 4;
/// Set in [`Header::flags`]: for [`EvictionRecord::victim_owner`] the victim was ingress.
pub const FLAG_VICTIM_INGRESS: u8 = 8;

/// `struct nf_conntrack_tuple` (`include/net/netfilter/nf_conntrack_tuple.h`), the same on every
/// kernel from 5.4 to 7.3: one direction of a connection.
///
/// Aligned to 8, other than in the kernel, so that it is copied by words.
#[cfg_attr(not(target_arch = "bpf"), derive(zerocopy::FromBytes))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C, align(8))]
pub struct Tuple {
    /// Source address, network order; IPv4 uses the first word.
    pub src: [u32; 4],
    /// Source port, ICMP id or GRE key, network order.
    pub src_port: u16,
    /// Address family: 2 (IPv4) or 10 (IPv6).
    pub l3num: u16,
    /// Destination address, network order.
    pub dst: [u32; 4],
    /// Destination port, ICMP type and code, or GRE key, network order.
    pub dst_port: u16,
    /// Protocol number (6 TCP, 17 UDP, ...).
    pub protonum: u8,
    /// 0 original, 1 reply.
    pub dir: u8,
}

/// The start of every record.
#[cfg_attr(not(target_arch = "bpf"), derive(zerocopy::FromBytes))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Header {
    /// [`VERSION`] of the program that wrote it.
    pub version: u8,
    /// A [`Kind`], as its number.
    pub kind: u8,
    /// [`DropReason`] of a drop, else 0.
    pub reason: u8,
    /// The sum of `FLAG_*` that apply.
    pub flags: u8,
    /// The network namespace's inode number.
    pub netns: u32,
    /// `CLOCK_MONOTONIC` when it happened, in nanoseconds.
    pub time_ns: u64,
    /// How many events of this kind on this CPU the record stands for: 1, or more when sampled.
    pub weight: u32,
    /// CPU on which it happened.
    pub cpu: u32,
}

/// Where a packet came from, as far as it could be told.
#[cfg_attr(not(target_arch = "bpf"), derive(zerocopy::FromBytes))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Origin {
    /// cgroup v2 id of the sending socket; 0: no socket, or unknown.
    pub cgroup: u64,
    /// Interface by which the packet came in; 0: sent from this host, or unknown.
    pub ifindex: u32,
    /// The conntrack zone's id, 0 by default.
    pub zone: u16,
    /// Slot of the owner that the event is charged to (see [`crate::owner`]); of an eviction, that
    /// of its cause.
    pub owner: u16,
}

/// An entry was confirmed.
#[cfg_attr(not(target_arch = "bpf"), derive(zerocopy::FromBytes))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct InsertRecord {
    /// Its `kind` is the one of this record.
    pub header: Header,
    /// As the opener sent it.
    pub original: Tuple,
    /// As answers come: after NAT, its source is the real server.
    pub reply: Tuple,
    /// Where the packet came from.
    pub origin: Origin,
}

/// A packet was lost.
#[cfg_attr(not(target_arch = "bpf"), derive(zerocopy::FromBytes))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct DropRecord {
    /// Its `kind` is the one of this record.
    pub header: Header,
    /// As the opener sent it; valid with [`FLAG_CAUSE_KNOWN`].
    pub original: Tuple,
    /// All zero for a table-full drop: there was no entry yet.
    pub reply: Tuple,
    /// Where the packet came from.
    pub origin: Origin,
}

/// A live entry was removed to make room for a new one.
#[cfg_attr(not(target_arch = "bpf"), derive(zerocopy::FromBytes))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct EvictionRecord {
    /// Its `kind` is the one of this record.
    pub header: Header,
    /// Original direction of the removed entry.
    pub victim: Tuple,
    /// The victim's reply direction, after NAT.
    pub victim_reply: Tuple,
    /// The new flow that needed room; valid with [`FLAG_CAUSE_KNOWN`].
    pub cause: Tuple,
    /// Origin of the new flow's packet (zone: the victim's).
    pub origin: Origin,
    /// `ct->status` of the victim (`IPS_*`, `include/uapi/linux/netfilter/nf_conntrack_common.h`).
    pub victim_status: u64,
    /// Slot of the owner that the victim was charged to.
    pub victim_owner: u16,
    /// Always 0, so that no byte is undefined.
    pub reserved: [u16; 3],
}

const _: () = {
    assert!(size_of::<Tuple>() == 40 && align_of::<Tuple>() == 8);
    assert!(size_of::<Header>() == 24 && align_of::<Header>() == 8);
    assert!(size_of::<Origin>() == 16 && align_of::<Origin>() == 8);
    assert!(size_of::<InsertRecord>() == 120 && align_of::<InsertRecord>() == 8);
    assert!(size_of::<DropRecord>() == 120 && align_of::<DropRecord>() == 8);
    assert!(size_of::<EvictionRecord>() == 176 && align_of::<EvictionRecord>() == 8);
};

impl DropReason {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 5] = [
        Self::TableFull,
        Self::Clash,
        Self::ChainTooLong,
        Self::Dying,
        Self::TableFullRequest,
    ];

    /// The reason with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| *reason as u8 == number)
    }

    /// Whether a packet is lost: a request of ctnetlink or BPF that is refused loses none.
    pub const fn loses_packet(self) -> bool {
        !matches!(self, Self::TableFullRequest)
    }

    /// The name used in metrics and output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TableFull => "table_full",
            Self::Clash => "clash",
            Self::ChainTooLong => "chain_too_long",
            Self::Dying => "dying",
            Self::TableFullRequest => "table_full_request",
        }
    }
}

#[cfg(not(target_arch = "bpf"))]
pub use view::{Malformed, View};

#[cfg(not(target_arch = "bpf"))]
mod view;

#[cfg(test)]
mod tests;
