//! The walk over the kernel's hash table of entries: what user space and its program (`src/bin/walk.rs`) tell each other.
//!
//! The program copies entries as they lie in memory, some buckets a run; what they mean, and whose they are, user space tells.

use core::mem::size_of;

/// Name of the program.
pub const PROGRAM: &str = "walk";
/// Map of one [`Walk`].
pub const WALK_MAP: &str = "WALK";
/// Map of [`ENTRIES`] times [`CopiedEntry`].
pub const ENTRIES_MAP: &str = "ENTRIES";
/// Map of the program itself, by which it goes on in a chain that is longer than [`STEPS`].
pub const AGAIN_MAP: &str = "AGAIN";

/// Room for the entries of one run.
pub const ENTRIES: u32 = 1 << 10;
/// Nodes of chains, and ends of chains, that a run can go over before it has to call itself.
pub const STEPS: u32 = 1 << 10;
/// Bytes of `struct nf_conn` that are copied: what is behind them is of no use here.
pub const ENTRY_BYTES: usize = 240;

/// Where things are in `struct nf_conn` on every kernel from 5.4 to 7.3; user space compares it with BTF.
pub const TUPLES: u32 = 16;
/// Where `status` is in `struct nf_conn`, right behind the two tuples; user space compares it with BTF.
pub const STATUS: u32 = 128;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum RunEnd {
    /// All entries of the buckets before [`Walk::bucket`] are there.
    Copied = 0,
    /// The walk began: the table is known now.
    Begun = 1,
    /// The kernel makes another table, or has made one: nothing of this run counts.
    Changed = 2,
    /// Memory could not be read where the table should be.
    Unreadable = 3,
    /// There is no room for the entries of one bucket.
    TooLong = 4,
    /// One bucket has more nodes than a run can go over.
    GoesOn = 5,
    /// The program did not run.
    NotRun = 6,
}

impl RunEnd {
    /// The end that [`Walk::end`] or [`Walk::failed`] holds as a number.
    pub const fn of(number: u64) -> Self {
        match number {
            0 => Self::Copied,
            1 => Self::Begun,
            2 => Self::Changed,
            3 => Self::Unreadable,
            4 => Self::TooLong,
            5 => Self::GoesOn,
            _ => Self::NotRun,
        }
    }
}

/// Where a walk is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Walk {
    /// Set by user space: address of the kernel's variable `nf_conntrack_hash`, a pointer to the first bucket.
    pub hash_at: u64,
    /// Set by user space: address of `nf_conntrack_htable_size`, the number of buckets in 32 bits.
    pub size_at: u64,
    /// Set by user space: address of `nf_conntrack_generation`, in 32 bits. It is odd while the kernel makes another table, and another number afterwards.
    pub generation_at: u64,
    /// Set by user space: offset of `ct_net` in `struct nf_conn`, among the bytes that are copied.
    pub net_at: u64,
    /// Set by user space: offset of `ns.inum` in `struct net`.
    pub inum_at: u64,
    /// Address of the first bucket; 0: the walk is to begin.
    pub table: u64,
    /// Buckets of the table, as the kernel had them when the walk began.
    pub buckets: u64,
    /// What `nf_conntrack_generation` was when the walk began.
    pub generation: u64,
    /// Set by user space: after so many steps a run ends, at the next end of a chain.
    pub steps: u64,
    /// Set by user space: only entries of the network namespace with this inode number are copied; 0: all.
    pub only: u64,
    /// The first bucket of the next run.
    pub bucket: u64,
    /// Entries that were copied, of whole buckets only.
    pub copied: u64,
    /// Entries of other namespaces than [`Self::only`], so far.
    pub others: u64,
    /// Buckets that were gone over again, since a chain had led into another one, so far.
    pub torn: u64,
    /// Jiffies when the run began.
    pub jiffies: u64,
    /// `CLOCK_MONOTONIC` when the run began, nanoseconds.
    pub began_ns: u64,
    /// `CLOCK_MONOTONIC` when the run ended, nanoseconds: that long it held its CPU.
    pub ended_ns: u64,
    /// For the program; user space sets 0 before each run. The node that comes next, and what was found so far in its chain.
    pub node: u64,
    /// See [`Self::node`]: entries that were copied, those of the chain included.
    pub found: u64,
    /// See [`Self::node`]: entries of other namespaces.
    pub found_others: u64,
    /// See [`Self::node`]: nodes and ends of chains so far in this run.
    pub stepped: u64,
    /// See [`Self::node`]: a [`RunEnd`], if a step failed.
    pub failed: u64,
    /// How the run ended: a [`RunEnd`] as a number; user space sets [`RunEnd::NotRun`] before.
    pub end: u64,
    /// For the program: the first bucket of this run.
    pub first: u64,
    /// For the program: `struct net *` of the last entry.
    pub net: u64,
    /// For the program: the inode number of the namespace that [`Self::net`] points to.
    pub netns: u64,
    /// For the program: the lowest six bits of the address of the last node of an original direction. Entries are aligned, so one like it is
    /// most likely another one, and is read at once as an entry.
    pub original_bits: u64,
}

/// An entry as it lies in the kernel's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct CopiedEntry {
    /// Its address in the kernel (`struct nf_conn *`), which no other entry has while it is in the table.
    pub address: u64,
    /// Inode number of its network namespace; 0: it can't be read.
    pub netns: u32,
    /// The bucket that it was found in.
    pub bucket: u32,
    /// The first bytes of `struct nf_conn`.
    pub bytes: [u8; ENTRY_BYTES],
}

const _: () = assert!(size_of::<CopiedEntry>() == 256);
const _: () = assert!(size_of::<Walk>() == 27 * 8);
