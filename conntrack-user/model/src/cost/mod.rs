//! What an entry costs: the one model of conntrack's kernel memory and of the hash table's chains. Pure:
//! whoever uses it says what was measured. Doctor, limit controller, `limit`, report and documents all have
//! their figures from here.
//!
//! # The policy
//!
//! **Measured**: the shape of the slab cache `nf_conntrack` ([`Slab`]: bytes of a slab, objects in it), which all
//! network namespaces share. An entry costs its part of a slab, the unused end included, so 341 bytes where
//! 12 objects of 320 bytes are on a page. A journal keeps the shape as facts; where it has only the bytes of
//! an object (older agents), slabs of a page of 4 KiB are assumed.
//!
//! **Assumed** where nothing was measured, by the kernel's version: see `ENTRIES_OF_KERNELS` in [`entry`]. Where the version
//! isn't known either, anything from the smallest to the largest that is known.
//!
//! **Extensions** (`nf_ct_ext_add`, `nf_conntrack_extend.c`) take [`EXTENSION_BYTES`] more. *Each entry has one* if
//! `nf_conntrack_acct` or `nf_conntrack_timestamp` is on or `nf_conntrack_events` is 1 (the default up to 5.18, so on all such kernels
//! where the switches aren't known). *Otherwise an entry may have one*: behind NAT, with labels, with a helper, while somebody listens for
//! events. What a full table will be full of can't be known, so then the cost is a range: from no entry has one to each has.
//! The controller budgets with the upper end. More than one such area (192 or 256 bytes) takes a helper with
//! NAT and accounting together, and isn't counted.
//!
//! **Buckets** are one pointer each. None of all this can be swapped out or reclaimed, and no cgroup is charged for it.
//!
//! **When full** ([`WhenFull`]): the limit is one number for all namespaces, and each may fill its own table up to it. A table
//! that holds a tenth of the limit (or the fullest, if none does) counts as if it were full, the others with twice of what they
//! hold ([`Sharing`]).
//! Without a limit there is nothing that a full table takes.
//!
//! **Chains**: each entry is in two chains of the one hash, so a chain has `2 * entries / buckets` nodes on average. A limit asks for
//! more buckets if full tables would have chains of more than [`LONGEST_CHAIN`], and then for as many as make chains
//! of `GOOD_CHAIN` ([`buckets_for`]). How likely the kernel fails at a length: [`chance`].

pub mod chance;
pub mod entry;
mod full;
mod range;

pub use entry::{EXTENSION_BYTES, EntryCost, Slab};
pub use full::{Sharing, WhenFull, buckets_for, chain};
pub use range::MemoryRange;

/// `sizeof(struct hlist_nulls_head)`: one pointer for each bucket.
pub const BUCKET_BYTES: u64 = 8;
/// Nodes in a chain of full tables from which on there have to be more buckets: what kube-proxy allows, too
/// (`hashsize` is a quarter of its limit). The kernel refuses an insert that walks past 50 to 79 of them (5.15 and later), which at this
/// average happens to fewer than one in 10^20.
pub const LONGEST_CHAIN: f64 = 8.0;
/// Nodes in a chain that more buckets are made for: one bucket an entry, as the kernel itself does since 5.15. The limit
/// may then be raised fourfold before the table has to be rebuilt again.
const GOOD_CHAIN: f64 = 2.0;
