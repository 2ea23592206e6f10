//! What is counted exactly, for each CPU, in the kernel.

/// Index into [`Counters`]; user space sums each over the CPUs.
///
/// Append only: the number is ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Counter {
    /// Entries that entered the hash table by `__nf_conntrack_hash_insert`.
    HashInserts = 0,
    /// Entries that `nf_ct_resolve_clash_harder` inserted in the reply direction only.
    ClashInserts = 1,
    /// `__nf_conntrack_confirm` accepted a packet of the original direction without a clash (used where
    /// `__nf_conntrack_hash_insert` is inlined).
    Confirmed = 2,
    /// `nf_conntrack_hash_check_insert` (ctnetlink, BPF) inserted an entry (same use).
    CheckInserts = 3,
    /// A clash was resolved by merging the packet into the winner: nothing was inserted.
    ClashMerges = 4,
    /// Entries that left the hash table.
    Deletes = 5,
    /// Live entries that `early_drop` removed to make room.
    Evictions = 6,
    /// Of [`Counter::Evictions`]: those whose cause could not be told.
    EvictionsCauseUnknown = 7,
    /// Packets dropped because the table was full and nothing could be evicted.
    DropTableFull = 8,
    /// Entries that ctnetlink or BPF could not create because the table was full: no packet lost.
    RefusedTableFull = 9,
    /// Packets dropped because their tuple was taken (unresolved clash).
    DropClash = 10,
    /// Packets dropped because a hash chain was too long.
    DropChainTooLong = 11,
    /// Packets dropped because their entry was dying when it was to be confirmed.
    DropDying = 12,
    /// Insert records that were due but not delivered: the ring was full.
    LostInsertRecords = 13,
    /// Inserts that the insert records lost as above stood for.
    LostInsertWeight = 14,
    /// Drop records not delivered: the ring was full.
    LostDropRecords = 15,
    /// Eviction records not delivered: the ring was full.
    LostEvictionRecords = 16,
    /// Drops beyond the budget: counted, no record made.
    DropsNotDetailed = 17,
    /// Evictions beyond the budget: counted, no record made.
    EvictionsNotDetailed = 18,
    /// Contexts of `early_drop` that could not be kept (map full or nesting too deep).
    FramesLost = 19,
    /// Records delivered to the ring.
    Records = 20,
    /// Inserts at an address of the host whose socket could not be asked: charged to the host.
    SocketsMissed = 21,
    /// Inserts that should have been tagged with their owner but were not: the map was full.
    TagsLost = 22,
    /// Calls of `early_drop` before what tells the new flow was attached: neither drop nor eviction is charged to who caused it.
    Unarmed = 23,
}

/// How many [`Counter`]s there are.
pub const COUNTERS: usize = Counter::Unarmed as usize + 1;

/// One value for each [`Counter`].
pub type Counters = [u64; COUNTERS];
