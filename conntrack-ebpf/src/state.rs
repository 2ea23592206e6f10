//! What each CPU keeps: one look-up gives a program all that it needs.

use core::mem::size_of;

use crate::{
    budget::{Budget, Sampler},
    counter::{COUNTERS, Counters},
    record::InsertRecord,
};

/// The last new flow that this CPU saw being allocated; `early_drop`, deep inside the allocation,
/// has only its hash.
///
/// Another context may overwrite it in between, so whoever reads it compares what it knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NewFlow {
    /// `struct net *` of the namespace that the entry is in.
    pub net: u64,
    /// `const struct nf_conntrack_tuple *`, on the stack of the allocating context.
    pub tuple: u64,
    /// `struct sk_buff *`; 0 where the probed function does not have it.
    pub skb: u64,
    /// `tuple` of the flow that `skb` is of: another program may have seen the packet than the rest.
    pub skb_tuple: u64,
    /// The flow's full hash, by which `early_drop` knows it.
    pub hash: u32,
    /// The hash as well, in the register that it has when the compiler dropped an argument.
    pub hash_alt: u32,
}

/// An insert that waits for the end of its confirmation, where its packet is at hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Pending {
    /// `struct nf_conn *`; 0: the place is free.
    pub ct: u64,
    /// What is due: `DUE_*`; 0 in a taken place: it is just being done.
    pub due: u32,
    /// How often the place was taken: another insert has another number.
    pub turn: u32,
    /// With [`DUE_RECORD`]: its record as far as the entry tells it.
    pub record: InsertRecord,
}

/// The insert has a record.
pub const DUE_RECORD: u32 = 1;
/// The insert has not been charged to anybody yet: its socket decides.
pub const DUE_SOCKET: u32 = 2;

/// Contexts of one CPU that can have an insert waiting: process context and the softirq inside.
const PENDING: usize = 2;

/// What one CPU keeps: element of the map of CPUs, by the CPU's number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PerCpuState {
    /// Exact counts, by [`crate::counter::Counter`].
    pub counters: Counters,
    /// See [`NewFlow`]: who a new connection is of.
    pub new_flow: NewFlow,
    /// Which inserts have a record.
    pub inserts: Sampler,
    /// Budget of drop records.
    pub drops: Budget,
    /// Budget of eviction records.
    pub evictions: Budget,
    /// Inserts that wait. What is left here by a call whose end was missed makes room for others.
    pub pending: [Pending; PENDING],
    /// When a drop or an eviction on this CPU last woke the reader, in nanoseconds of the records' clock.
    pub woken_ns: u64,
    /// Written by user space: which of the two tables of owners is read, 0 or 1; see [`crate::place`].
    pub tables: u64,
    /// Written by user space: not 0 while the programs that are attached on demand are.
    pub armed: u64,
    /// Written by user space, and moved on by a program that wakes it: as soon as [`crate::counter::Counter::HashInserts`] is this, user space is to look
    /// whether a table fills. See [`WAKE_AGAIN`].
    pub wake_at: u64,
    /// Inserts below this number need nothing but to be counted: the least of `wake_at` and the next one that has a record. User space makes
    /// it 0 when `wake_at` has changed or a new window begins ([`crate::budget::WINDOW_NS`]).
    pub due: u64,
    /// Always 0: CPUs share no cache line.
    pub reserved: [u64; 2],
}

/// Inserts on a CPU after which it wakes user space once more.
pub const WAKE_AGAIN: u64 = 1024;

/// A record of a drop or an eviction wakes the reader, unless another one of its CPU did so in the last so many nanoseconds: the reader
/// looks once more when it has rested for longer than that.
pub const WAKE_EVERY_NS: u64 = 2_000_000;

const _: () = {
    assert!(size_of::<NewFlow>() == 40);
    assert!(size_of::<Budget>() == 24);
    assert!(size_of::<Sampler>() == 32);
    assert!(size_of::<Pending>() == 136);
    assert!(size_of::<PerCpuState>() == 8 * COUNTERS + 40 + 32 + 2 * 24 + PENDING * 136 + 7 * 8);
    assert!(size_of::<PerCpuState>().is_multiple_of(64));
    assert!(align_of::<PerCpuState>() == 8);
};
