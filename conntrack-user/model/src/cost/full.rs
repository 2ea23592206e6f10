//! What the tables take when they are full, and how many buckets they need.

use serde::Serialize;

use super::{EntryCost, GOOD_CHAIN, LONGEST_CHAIN, MemoryRange};
use crate::pressure::{as_count, as_f64};

/// Buckets come in pages of pointers; the kernel rounds up.
const BUCKETS_OF_A_PAGE: u64 = 512;
/// A table that holds this part of the limit may fill up.
const BUSY: u64 = 10;

/// The tables that share a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sharing {
    /// Tables that may fill up; at least the fullest.
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
        let mut fullest = 0;
        for entries in entries {
            fullest = fullest.max(entries);
            sharing.now = sharing.now.saturating_add(entries);
            if entries.saturating_mul(BUSY) >= limit {
                sharing.busy += 1;
            } else {
                sharing.quiet = sharing.quiet.saturating_add(entries.saturating_mul(2));
            }
        }
        if sharing.busy == 0 {
            sharing.busy = 1;
            sharing.quiet = sharing.quiet.saturating_sub(fullest.saturating_mul(2));
        }
        sharing
    }

    /// Of these tables if each of them fills up, whatever it holds now; at least one.
    pub fn at_most(entries: impl Iterator<Item = u64>) -> Self {
        let mut sharing = Self::default();
        for entries in entries {
            sharing.busy += 1;
            sharing.now = sharing.now.saturating_add(entries);
        }
        sharing.busy = sharing.busy.max(1);
        sharing
    }

    /// Entries of all tables when those that may fill up have: no fewer than there are, since a limit may be
    /// lower than what a table holds.
    pub fn when_full(&self, limit: u64) -> u64 {
        let full = limit.saturating_mul(self.busy).saturating_add(self.quiet);
        full.max(self.now)
    }
}

/// The tables when those that may fill up are full.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
pub struct WhenFull {
    /// Entries of all tables.
    pub entries: u64,
    /// Buckets that they share.
    pub buckets: u64,
    /// Nodes in a bucket on average: each entry has two.
    pub chain: f64,
    /// Kernel memory of entries and buckets.
    pub bytes: MemoryRange,
}

impl WhenFull {
    /// With this limit and as many buckets; `None` without a limit (0), since then no table is ever full.
    pub fn of(cost: &EntryCost, limit: u64, buckets: u64, sharing: &Sharing) -> Option<Self> {
        let entries = sharing.when_full(limit);
        (limit > 0).then(|| Self {
            entries,
            buckets,
            chain: chain(entries, buckets),
            bytes: cost.bytes(entries, buckets),
        })
    }

    /// The same with the buckets that this limit asks for, if those are more.
    pub fn with_buckets_for(
        cost: &EntryCost,
        limit: u64,
        buckets: u64,
        sharing: &Sharing,
    ) -> Option<Self> {
        let buckets = buckets_for(sharing.when_full(limit), buckets);
        Self::of(cost, limit, buckets, sharing)
    }
}

/// Nodes in a chain on average, with this many entries of all network namespaces together.
pub fn chain(entries: u64, buckets: u64) -> f64 {
    2.0 * as_f64(entries) / as_f64(buckets.max(1))
}

/// The buckets that as many entries need: those that there are, as long as chains stay within
/// [`LONGEST_CHAIN`]; else enough for chains of `GOOD_CHAIN`.
pub fn buckets_for(entries: u64, buckets: u64) -> u64 {
    if chain(entries, buckets) <= LONGEST_CHAIN && buckets > 0 {
        return buckets;
    }
    let wanted = as_count((as_f64(entries) * 2.0 / GOOD_CHAIN).ceil());
    wanted.max(1).next_multiple_of(BUCKETS_OF_A_PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost() -> EntryCost {
        EntryCost::of(None, Some((6, 12)), |_| None)
    }

    #[test]
    fn full_tables_of_the_kernels_default() {
        let sharing = Sharing::of([50_000, 7].into_iter(), 262_144);
        let full = WhenFull::of(&cost(), 262_144, 262_144, &sharing).expect("a limit");
        assert_eq!((full.entries, full.buckets), (262_158, 262_144));
        assert_eq!(full.bytes, cost().bytes(262_158, 262_144));
        assert_eq!(full.bytes.in_words(), "66 to 98 MiB");
        assert_eq!(
            full.bytes.of_memory(Some(8 << 30)),
            "66 to 98 MiB (0.8 to 1.1 %)"
        );
        assert_eq!(full.bytes.of_memory(None), "66 to 98 MiB");
        assert_eq!(
            WhenFull::of(&cost(), 0, 262_144, &sharing),
            None,
            "unlimited"
        );
    }

    #[test]
    fn quiet_tables_count_with_what_they_hold_and_busy_ones_as_if_full() {
        let sharing = Sharing::of([900, 100, 99, 1].into_iter(), 1000);
        let expected = Sharing {
            busy: 2,
            quiet: 200,
            now: 1100,
        };
        assert_eq!(sharing, expected);
        assert_eq!(sharing.when_full(1000), 2200);
        assert_eq!(Sharing::of([].into_iter(), 1000).when_full(1000), 1000);
        // The fullest one, if none is busy.
        assert_eq!(Sharing::of([70, 3].into_iter(), 1000).when_full(1000), 1006);
        assert_eq!(Sharing::of([1_900].into_iter(), 1000).when_full(1000), 1900);
    }

    #[test]
    fn at_most_each_table_holds_the_limit_whatever_it_holds_now() {
        let sharing = Sharing::at_most([900, 0, 1].into_iter());
        assert_eq!((sharing.busy, sharing.now), (3, 901));
        assert_eq!(sharing.when_full(1000), 3000);
        assert_eq!(Sharing::at_most([].into_iter()).when_full(1000), 1000);
        assert_eq!(Sharing::at_most([5000].into_iter()).when_full(1000), 5000);
    }

    #[test]
    fn more_buckets_only_when_chains_would_be_too_long_and_then_for_raises_to_come_too() {
        assert_eq!(buckets_for(262_144, 65_536), 65_536, "chains of 8");
        assert_eq!(buckets_for(262_145, 65_536), 262_656, "chains of 2");
        assert_eq!(buckets_for(4 * 262_656, 262_656), 262_656);
        assert_eq!(buckets_for(0, 0), 512);
        assert_eq!(buckets_for(1_000_000, 0), 1_000_448);
    }
}
