//! How far the limit may be raised: what the node can afford. Pure.

use ctpressure_model::{
    cost::{EntryCost, Sharing},
    pressure::{as_count, as_f64},
};
use serde::{Deserialize, Serialize};

use crate::kernel::memory::NodeMemory;

/// Share of the memory that is free now that more entries may take.
const OF_FREE: f64 = 0.5;

/// How far the limit may be raised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ceiling {
    pub limit: u64,
    pub by: CeilingBy,
}

/// What makes a ceiling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CeilingBy {
    Setting,
    /// `--max-memory-share` of the node's memory.
    Share,
    /// Half of the memory that is free now.
    Free,
}

/// The highest limit that the node can afford: full tables and their buckets, each entry with its extension, take at
/// most `share` of its memory, what they take beyond now at most half of what is free now, and it is at most
/// `most`.
pub(crate) fn ceiling(
    cost: &EntryCost,
    memory: NodeMemory,
    sharing: &Sharing,
    buckets: u64,
    share: f64,
    most: u64,
) -> Ceiling {
    let of_node = as_f64(memory.total) * share;
    let now = as_f64(cost.bytes(sharing.now, buckets).most);
    let of_free = now + as_f64(memory.available) * OF_FREE;
    let affordable = |budget: f64| {
        let entries = cost.entries_within(budget, buckets);
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
    use ctpressure_model::cost::{LONGEST_CHAIN, WhenFull};

    const GIB: u64 = 1 << 30;

    /// Of 256 bytes, or 384.
    fn new() -> EntryCost {
        EntryCost::of(None, Some((6, 12)), |_| None)
    }

    fn node(gib: u64) -> NodeMemory {
        NodeMemory {
            total: gib * GIB,
            available: gib * GIB / 2,
        }
    }

    #[test]
    fn a_small_node_is_bound_by_its_memory_and_a_large_one_by_the_setting() {
        let one = Sharing::of([50_000].into_iter(), 65_536);
        let small = ceiling(&new(), node(2), &one, 65_536, 0.05, 2_097_152);
        assert_eq!(small.by, CeilingBy::Share);
        assert!((270_000..280_000).contains(&small.limit), "{small:?}");
        let large = ceiling(&new(), node(512), &one, 262_144, 0.05, 2_097_152);
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
            ceiling(&new(), short, &one, 65_536, 0.05, 2_097_152).by,
            CeilingBy::Free
        );
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
            let ceiling = ceiling(&new(), memory, &sharing, buckets, share, 1 << 31);
            // Nothing is afforded: then there is nothing to check, the limit stays.
            prop_assume!(ceiling.limit > 0);
            let full = WhenFull::with_buckets_for(&new(), ceiling.limit, buckets, &sharing).expect("a limit");
            // They hold more than that already: no raise.
            prop_assume!(full.entries > sharing.now);
            // A page of buckets more by rounding.
            let taken = full.bytes.most.saturating_sub(4096 + 1024);
            prop_assert!(as_f64(taken) <= as_f64(memory.total) * share, "{ceiling:?}");
            prop_assert!(full.chain <= LONGEST_CHAIN);
        }
    }
}
