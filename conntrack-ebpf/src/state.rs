//! The value of the per-CPU map: one look-up gives a program all that it needs.

use core::mem::size_of;

use crate::{
    budget::Budget,
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
    /// `struct net *`
    pub net: u64,
    /// `const struct nf_conntrack_tuple *`, on the stack of the allocating context.
    pub tuple: u64,
    /// `struct sk_buff *`; 0 where the probed function does not have it.
    pub skb: u64,
    /// The flow's full hash, by which `early_drop` knows it.
    pub hash: u32,
    /// The hash as well, in the register that it has when the compiler dropped an argument.
    pub hash_alt: u32,
}

/// What one CPU keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PerCpuState {
    /// Exact counts, by [`crate::counter::Counter`].
    pub counters: Counters,
    /// See [`NewFlow`].
    pub new_flow: NewFlow,
    /// Budget of insert records.
    pub inserts: Budget,
    /// Budget of drop records.
    pub drops: Budget,
    /// Budget of eviction records.
    pub evictions: Budget,
    /// `struct nf_conn *` of an insert whose record waits for the end of its confirmation.
    pub pending_ct: u64,
    /// That record as far as the entry tells it.
    pub pending: InsertRecord,
}

const _: () = {
    assert!(size_of::<NewFlow>() == 32);
    assert!(size_of::<Budget>() == 24);
    assert!(size_of::<PerCpuState>() == 8 * COUNTERS + 32 + 3 * 24 + 8 + 120);
    assert!(align_of::<PerCpuState>() == 8);
};
