//! How far the limit may be raised: what the node can afford. Pure.
//!
//! The limit is one number for the table of every network namespace, and no entry is charged to anybody: the slab cache of entries is
//! not accounted to control groups (`nf_conntrack_init_start` makes it without `SLAB_ACCOUNT`), so a pod's memory limit does not bound
//! its table. Two budgets follow from that:
//!
//! * tables in use, that is those that have held an entry while they were watched, may all fill up: together they stay within
//!   `--max-memory-share`, and within half of what is free;
//! * all tables, also those that never held an entry (in most pods nothing tracks connections, but a process with
//!   `CAP_NET_ADMIN` there can begin at any time), stay within `--max-memory-share-all`.
//!
//! Were all tables held to the first budget, a node with many pods could never raise anything. Namespaces that are made later lower the
//! ceiling, not the limit.

use std::fmt;

use super::settings::{MOST, Settings};
use crate::kernel::memory::NodeMemory;
use ctpressure_model::{
    cost::{EntryCost, Sharing},
    pressure::{as_count, as_f64},
    words::{grouped, share_f64},
};

/// Share of the memory that is free now that more entries may take.
const OF_FREE: f64 = 0.5;

/// The tables that share the limit, each of them full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FullTables {
    /// Those that have held an entry.
    pub in_use: Sharing,
    /// All of them.
    pub all: Sharing,
}

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
    /// `--max-memory-share` of the node's memory, for so many tables in use.
    Share(f64, u64),
    /// Half of the memory that is free now, for so many tables in use.
    Free(u64),
    /// `--max-memory-share-all` of the node's memory, for all of so many tables.
    All(f64, u64),
}

impl fmt::Display for CeilingBy {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let in_use = |tables: u64| match tables {
            1 => String::new(),
            tables => format!(", with all {} tables in use full", grouped(tables)),
        };
        match *self {
            Self::Setting(most) => write!(to, "--max-limit {most}"),
            Self::Share(share, tables) => {
                let share = share_f64(share);
                write!(
                    to,
                    "--max-memory-share: {share} of the node's memory{}",
                    in_use(tables)
                )
            }
            Self::Free(tables) => {
                write!(to, "half of the memory that is free now{}", in_use(tables))
            }
            Self::All(share, tables) => {
                let (share, tables) = (share_f64(share), grouped(tables));
                write!(
                    to,
                    "--max-memory-share-all: {share} of the node's memory, if the tables of all {tables} network namespaces were \
                     filled"
                )
            }
        }
    }
}

/// The highest limit that the node can afford: full tables and their buckets, each entry with its extension, take at
/// most `--max-memory-share` of its memory, what they take beyond now at most half of what is free now, those of all network
/// namespaces at most `--max-memory-share-all`, and it is at most `--max-limit`.
pub(crate) fn ceiling(
    cost: &EntryCost,
    memory: NodeMemory,
    tables: &FullTables,
    buckets: u64,
    settings: &Settings,
) -> Ceiling {
    let FullTables { in_use, all } = tables;
    let (share, share_all) = (settings.max_memory_share, settings.max_memory_share_all);
    let of_node = |share: f64| as_f64(memory.total) * share;
    let now = as_f64(cost.bytes(in_use.now, buckets).most);
    let of_free = now + as_f64(memory.available) * OF_FREE;
    let affordable = |budget: f64, tables: &Sharing| {
        let entries = cost.entries_within(budget, buckets);
        as_count((entries / as_f64(tables.busy.max(1))).floor())
    };
    let most = Ceiling {
        limit: settings.max_limit.min(MOST),
        by: CeilingBy::Setting(settings.max_limit),
    };
    let of_memory = [
        (
            affordable(of_node(share), in_use),
            CeilingBy::Share(share, in_use.busy),
        ),
        (affordable(of_free, in_use), CeilingBy::Free(in_use.busy)),
        (
            affordable(of_node(share_all), all),
            CeilingBy::All(share_all, all.busy),
        ),
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

    fn tables(in_use: &[u64], empty: usize) -> FullTables {
        let all = in_use.iter().copied().chain(std::iter::repeat_n(0, empty));
        FullTables {
            in_use: Sharing::at_most(in_use.iter().copied()),
            all: Sharing::at_most(all),
        }
    }

    #[test]
    fn a_small_node_is_bound_by_its_memory_and_a_large_one_by_the_setting() {
        let one = tables(&[50_000], 0);
        let settings = settings(0.05, 2_097_152);
        let small = ceiling(&new(), node(2), &one, 65_536, &settings);
        assert_eq!(small.by, CeilingBy::Share(0.05, 1));
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
            CeilingBy::Free(1)
        );
    }

    #[test]
    fn each_table_in_use_may_fill_up_and_in_the_end_all_of_them() {
        let settings = settings(0.05, 2_097_152);
        let of = |tables: &FullTables| ceiling(&new(), node(64), tables, 262_144, &settings);
        let one = of(&tables(&[50_000], 0));
        assert_eq!(one.by, CeilingBy::Setting(2_097_152));
        // A handful of entries is enough to say that connections are tracked there.
        let eleven = of(&tables(&[50_000, 9, 9, 9, 9, 9, 9, 9, 9, 9, 1], 0));
        assert_eq!(eleven.by, CeilingBy::Share(0.05, 11));
        assert!((780_000..810_000).contains(&eleven.limit), "{eleven:?}");
        // The pods of a large node have empty tables: it can still be raised, but not without end.
        let many = of(&tables(&[50_000], 250));
        assert_eq!(many.by, CeilingBy::All(0.5, 251));
        assert!((340_000..350_000).contains(&many.limit), "{many:?}");
        assert!(many.by.to_string().contains("all 251 network namespaces"));
        let more = Settings {
            max_memory_share_all: 2.0,
            ..settings.clone()
        };
        let more = ceiling(&new(), node(64), &tables(&[50_000], 250), 262_144, &more);
        assert!(more.limit > many.limit * 3, "{more:?}");
    }

    proptest! {
        #[test]
        fn full_tables_at_the_ceiling_stay_within_the_budget(
            gib in 1_u64..600,
            free_share in 0.01_f64..0.9,
            share in 0.001_f64..0.5,
            share_all in 0.01_f64..2.0,
            in_use in proptest::collection::vec(0_u64..300_000, 1..20),
            empty in 0_usize..300,
            page in 1_u64..2048,
        ) {
            let memory = NodeMemory {
                total: gib * GIB,
                available: as_count(as_f64(gib * GIB) * free_share),
            };
            let buckets = page * 512;
            let tables = tables(&in_use, empty);
            let settings = Settings {
                max_memory_share_all: share_all,
                ..settings(share, MOST)
            };
            let ceiling = ceiling(&new(), memory, &tables, buckets, &settings);
            // Nothing is afforded: then there is nothing to check, the limit stays.
            prop_assume!(ceiling.limit > 0);
            for (tables, share) in [(tables.in_use, share), (tables.all, share_all)] {
                let full = WhenFull::with_buckets_for(&new(), ceiling.limit, buckets, &tables).expect("a limit");
                // They hold more than that already: no raise.
                prop_assume!(full.entries > tables.now);
                // A page of buckets more by rounding.
                let taken = full.bytes.most.saturating_sub(4096 + 1024);
                prop_assert!(as_f64(taken) <= as_f64(memory.total) * share, "{ceiling:?}");
                prop_assert!(full.chain <= LONGEST_CHAIN);
            }
        }
    }
}
