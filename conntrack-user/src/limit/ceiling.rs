//! How far the limit may be raised: what the node can afford. Pure.

use std::fmt;

use super::settings::{MOST, Settings};
use crate::kernel::memory::NodeMemory;
use ctpressure_model::{
    cost::{EntryCost, Sharing},
    pressure::{as_count, as_f64},
    words::share_f64,
};

/// Share of the memory that is free now that more entries may take.
const OF_FREE: f64 = 0.5;

/// How far the limit may be raised.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ceiling {
    pub limit: u64,
    pub by: CeilingBy,
}

/// What makes a ceiling.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum CeilingBy {
    /// `--max-limit`.
    Setting(u64),
    /// `--max-memory-share` of the node's memory.
    Share(f64),
    /// Half of the memory that is free now.
    Free,
}

impl fmt::Display for CeilingBy {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setting(most) => write!(to, "--max-limit {most}"),
            Self::Share(share) => {
                let share = share_f64(*share);
                write!(to, "--max-memory-share: {share} of the node's memory")
            }
            Self::Free => to.write_str("half of the memory that is free now"),
        }
    }
}

/// The highest limit that the node can afford: full tables and their buckets, each entry with its extension, take at
/// most `--max-memory-share` of its memory, what they take beyond now at most half of what is free now, and it is at most
/// `--max-limit`.
pub(crate) fn ceiling(
    cost: &EntryCost,
    memory: NodeMemory,
    sharing: &Sharing,
    buckets: u64,
    settings: &Settings,
) -> Ceiling {
    let share = settings.max_memory_share;
    let of_node = as_f64(memory.total) * share;
    let now = as_f64(cost.bytes(sharing.now, buckets).most);
    let of_free = now + as_f64(memory.available) * OF_FREE;
    let affordable = |budget: f64| {
        let entries = cost.entries_within(budget, buckets);
        let busy = (entries - as_f64(sharing.quiet)).max(0.0) / as_f64(sharing.busy);
        as_count(busy.floor())
    };
    let most = Ceiling {
        limit: settings.max_limit.min(MOST),
        by: CeilingBy::Setting(settings.max_limit),
    };
    let of_memory = [
        (affordable(of_node), CeilingBy::Share(share)),
        (affordable(of_free), CeilingBy::Free),
    ];
    of_memory.into_iter().fold(most, |lowest, (limit, by)| {
        if limit < lowest.limit {
            Ceiling { limit, by }
        } else {
            lowest
        }
    })
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

    fn settings(max_memory_share: f64, max_limit: u64) -> Settings {
        Settings {
            max_limit,
            max_memory_share,
            ..Settings::default()
        }
    }

    #[test]
    fn a_small_node_is_bound_by_its_memory_and_a_large_one_by_the_setting() {
        let one = Sharing::of([50_000].into_iter(), 65_536);
        let settings = settings(0.05, 2_097_152);
        let small = ceiling(&new(), node(2), &one, 65_536, &settings);
        assert_eq!(small.by, CeilingBy::Share(0.05));
        let reason = "--max-memory-share: 5 % of the node's memory";
        assert_eq!(small.by.to_string(), reason);
        assert!((270_000..280_000).contains(&small.limit), "{small:?}");
        let large = ceiling(&new(), node(512), &one, 262_144, &settings);
        assert_eq!(
            large,
            Ceiling {
                limit: 2_097_152,
                by: CeilingBy::Setting(2_097_152)
            }
        );
        let short = NodeMemory {
            total: 64 * GIB,
            available: 64 << 20,
        };
        assert_eq!(
            ceiling(&new(), short, &one, 65_536, &settings).by,
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
            let ceiling = ceiling(&new(), memory, &sharing, buckets, &settings(share, MOST));
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
