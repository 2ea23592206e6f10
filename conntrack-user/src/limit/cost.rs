//! What a limit costs, and how far it may be raised: pure computations.
//!
//! # Memory
//!
//! An entry is an object of the slab cache `nf_conntrack` (all network namespaces share it), most often
//! with an extension area of 128 bytes (`nf_ct_ext_add`, `nf_conntrack_extend.c`): always up to 5.15,
//! later with NAT, accounting, timestamps, labels or a ctnetlink listener. A bucket is one pointer.
//! None of it can be swapped out, and no cgroup is charged for it.
//!
//! The limit is one number for all namespaces, and each may fill its own table up to it. A table that
//! holds a tenth of the limit counts as if it were full; the others count with twice of what they hold.
//!
//! # Chains
//!
//! Each entry is in two chains of the one hash, so a chain has `2 * entries / buckets` entries on
//! average. From 5.15 on an insert fails that walks past more than 50 to 79 of them
//! (`MIN_CHAINLEN`, `nf_conntrack_core.c`). By the Poisson distribution that happens to fewer than one in 10^13
//! inserts at an average of 16, and to one in 10^4 at 32.

use serde::{Deserialize, Serialize};

use crate::pressure::{as_count, as_f64};

/// `sizeof(struct hlist_nulls_head)`.
const BUCKET_BYTES: u64 = 8;
/// The average length of chains in full tables from which on there have to be more buckets: what
/// kube-proxy allows, too (a quarter of the limit).
pub const LONGEST_CHAIN: f64 = 8.0;
/// The average length of chains in full tables that more buckets are made for.
const GOOD_CHAIN: f64 = 4.0;
/// Buckets come in pages of pointers; the kernel rounds up.
const BUCKETS_OF_A_PAGE: u64 = 512;
/// Share of the memory that is free now that more entries may take.
const OF_FREE: f64 = 0.5;
/// A table that holds this part of the limit may fill up.
const BUSY: u64 = 10;

/// Bytes of one entry on this kernel.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EntryCost {
    /// Of the slab cache, the unused ends of its pages included.
    pub slab: f64,
    /// Of the extension area.
    pub extension: f64,
    /// The numbers are of this kernel; else the largest that are known.
    pub measured: bool,
}

impl EntryCost {
    /// The largest entry of any known kernel: 12 objects of 320 bytes on a page of 4 KiB
    /// (5.4 to 5.15), and an extension area.
    pub const LARGEST: Self = Self {
        slab: 4096.0 / 12.0,
        extension: 128.0,
        measured: false,
    };

    const fn bytes(&self) -> f64 {
        self.slab + self.extension
    }
}

/// The node's memory, in bytes (`/proc/meminfo`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeMemory {
    /// `MemTotal`.
    pub total: u64,
    /// `MemAvailable`.
    pub available: u64,
}

/// The tables that share a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sharing {
    /// Tables that may fill up; at least one.
    pub busy: u64,
    /// Entries that the others are counted with.
    pub quiet: u64,
    /// Entries of all tables now.
    pub now: u64,
}

impl Sharing {
    /// Of these tables, by their entries.
    pub fn of(entries: impl Iterator<Item = u64>, limit: u64) -> Self {
        let mut sharing = Self::default();
        for entries in entries {
            sharing.now += entries;
            if entries.saturating_mul(BUSY) >= limit {
                sharing.busy += 1;
            } else {
                sharing.quiet += entries.saturating_mul(2);
            }
        }
        sharing.busy = sharing.busy.max(1);
        sharing
    }

    /// Entries of all tables when those that may fill up have.
    pub const fn when_full(&self, limit: u64) -> u64 {
        limit.saturating_mul(self.busy).saturating_add(self.quiet)
    }
}

/// Kernel memory of that many entries and buckets, extensions included.
pub fn bytes(cost: &EntryCost, entries: u64, buckets: u64) -> u64 {
    as_count(as_f64(entries) * cost.bytes()).saturating_add(buckets.saturating_mul(BUCKET_BYTES))
}

/// The part of [`bytes()`] that the slab cache and the buckets take: what `table_bytes` measures.
pub fn slab_bytes(cost: &EntryCost, entries: u64, buckets: u64) -> u64 {
    as_count(as_f64(entries) * cost.slab).saturating_add(buckets.saturating_mul(BUCKET_BYTES))
}

/// The average length of chains.
pub fn chain(entries: u64, buckets: u64) -> f64 {
    2.0 * as_f64(entries) / as_f64(buckets.max(1))
}

/// The buckets that full tables of this limit need: those that there are, as long as chains stay
/// within [`LONGEST_CHAIN`]; else enough for twice the limit (or the ceiling), so that the next raise
/// needs no other resize.
pub fn buckets_for(limit: u64, ceiling: u64, buckets: u64, sharing: &Sharing) -> u64 {
    if chain(sharing.when_full(limit), buckets) <= LONGEST_CHAIN {
        return buckets;
    }
    let entries = sharing.when_full(limit.saturating_mul(2).min(ceiling.max(limit)));
    let wanted = as_count((as_f64(entries) * 2.0 / GOOD_CHAIN).ceil());
    wanted.next_multiple_of(BUCKETS_OF_A_PAGE).max(buckets)
}

/// How far the limit may be raised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ceiling {
    /// The highest limit.
    pub limit: u64,
    /// What makes it.
    pub by: CeilingBy,
}

/// What makes a ceiling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CeilingBy {
    /// `--max-limit`.
    Setting,
    /// `--max-memory-share` of the node's memory.
    Share,
    /// Half of the memory that is free now.
    Free,
}

/// The highest limit that the node can afford: full tables and their buckets take at most `share` of
/// its memory, what they take beyond now at most half of what is free now, and it is at most
/// `most`.
pub fn ceiling(
    cost: &EntryCost,
    memory: NodeMemory,
    sharing: &Sharing,
    buckets: u64,
    share: f64,
    most: u64,
) -> Ceiling {
    let of_node = as_f64(memory.total) * share;
    let now = as_f64(bytes(cost, sharing.now, buckets));
    let of_free = now + as_f64(memory.available) * OF_FREE;
    // Buckets for chains of GOOD_CHAIN come on top of each entry, or are there already.
    let each = cost.bytes() + as_f64(BUCKET_BYTES) * 2.0 / GOOD_CHAIN;
    let affordable = |budget: f64| {
        let there = as_f64(buckets.saturating_mul(BUCKET_BYTES));
        let entries = (budget / each).min((budget - there).max(0.0) / cost.bytes());
        let busy = (entries - as_f64(sharing.quiet)).max(0.0) / as_f64(sharing.busy);
        as_count(busy.floor())
    };
    let (limit, by) = [
        (most, CeilingBy::Setting),
        (affordable(of_node), CeilingBy::Share),
        (affordable(of_free), CeilingBy::Free),
    ]
    .into_iter()
    .min_by_key(|(limit, _)| *limit)
    .unwrap_or((most, CeilingBy::Setting));
    Ceiling { limit, by }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NEW: EntryCost = EntryCost {
        slab: 256.0,
        extension: 128.0,
        measured: true,
    };
    const GIB: u64 = 1 << 30;

    fn node(gib: u64) -> NodeMemory {
        NodeMemory {
            total: gib * GIB,
            available: gib * GIB / 2,
        }
    }

    #[test]
    fn what_full_tables_cost() {
        // 262,144 entries of 384 bytes, and as many buckets.
        assert_eq!(bytes(&NEW, 262_144, 262_144), 96 * 1024 * 1024 + (2 << 20));
        assert_eq!(
            slab_bytes(&NEW, 262_144, 262_144),
            64 * 1024 * 1024 + (2 << 20)
        );
    }

    #[test]
    fn quiet_tables_count_with_what_they_hold_and_busy_ones_as_if_full() {
        let sharing = Sharing::of([900, 100, 99, 1].into_iter(), 1000);
        assert_eq!(
            sharing,
            Sharing {
                busy: 2,
                quiet: 200,
                now: 1100
            }
        );
        assert_eq!(sharing.when_full(1000), 2200);
        assert_eq!(Sharing::of([].into_iter(), 1000).when_full(1000), 1000);
    }

    #[test]
    fn a_small_node_is_bound_by_its_memory_and_a_large_one_by_the_setting() {
        let one = Sharing::of([50_000].into_iter(), 65_536);
        let small = ceiling(&NEW, node(2), &one, 65_536, 0.05, 2_097_152);
        assert_eq!(small.by, CeilingBy::Share);
        assert!((270_000..280_000).contains(&small.limit), "{small:?}");
        let large = ceiling(&NEW, node(512), &one, 262_144, 0.05, 2_097_152);
        assert_eq!(
            large,
            Ceiling {
                limit: 2_097_152,
                by: CeilingBy::Setting
            }
        );
        let short = NodeMemory {
            total: 64 * GIB,
            available: 64 << 20,
        };
        assert_eq!(
            ceiling(&NEW, short, &one, 65_536, 0.05, 2_097_152).by,
            CeilingBy::Free
        );
    }

    #[test]
    fn buckets_grow_only_when_chains_would_be_too_long_and_then_for_the_next_raise_too() {
        let one = Sharing::of([60_000].into_iter(), 65_536);
        assert_eq!(buckets_for(131_072, 1 << 21, 65_536, &one), 65_536);
        let more = buckets_for(524_288, 1 << 21, 65_536, &one);
        assert_eq!(more, 524_288);
        assert_eq!(buckets_for(1_048_576, 1 << 21, more, &one), more);
        // No further than the ceiling.
        assert_eq!(buckets_for(524_288, 524_288, 65_536, &one), 262_144);
    }

    proptest! {
        #[test]
        fn full_tables_at_the_ceiling_stay_within_the_budget(
            gib in 1_u64..600,
            free_share in 0.01_f64..0.9,
            share in 0.001_f64..0.5,
            tables in proptest::collection::vec(0_u64..300_000, 1..20),
            page in 1_u64..2048,
        ) {
            let memory = NodeMemory {
                total: gib * GIB,
                available: as_count(as_f64(gib * GIB) * free_share),
            };
            let buckets = page * 512;
            let sharing = Sharing::of(tables.iter().copied(), 300_000);
            let ceiling = ceiling(&NEW, memory, &sharing, buckets, share, 1 << 31);
            // Nothing is afforded: then there is nothing to check, the limit stays.
            prop_assume!(ceiling.limit > 0);
            let buckets = buckets_for(ceiling.limit, ceiling.limit, buckets, &sharing);
            let full = sharing.when_full(ceiling.limit);
            // A page of buckets more by rounding.
            let taken = bytes(&NEW, full, buckets).saturating_sub(4096 + 1024);
            prop_assert!(as_f64(taken) <= as_f64(memory.total) * share, "{ceiling:?}");
            prop_assert!(chain(full, buckets) <= LONGEST_CHAIN);
        }
    }
}
