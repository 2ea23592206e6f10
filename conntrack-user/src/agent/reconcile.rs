//! Whether the probes saw everything that the kernel itself counted.
//!
//! The kernel's `drop` statistic should equal the drops that the probes explained (table full and
//! clash), its `early_drop` the evictions. A difference that stays is something that no probe saw.
//! Both sides are read at slightly different times, so a difference counts only when it is there
//! in two samples one after another; and what was said is never taken back.

use std::collections::HashMap;

use crate::kernel::tables::TableSample;

/// Samples without any change on either side after which both are complete: statistics of many
/// namespaces are read in turn, and a new namespace is found some seconds after it was made.
const REST: u32 = 60;
/// Samples after which a namespace that was not seen any more is forgotten.
const FORGET: u32 = 60;

/// What was lost: as one side counted it since the probes were attached, or (this never goes back)
/// what only the kernel counted, such as a drop for a failed allocation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct LossCounts {
    /// Packets dropped for a full table or an unresolved clash.
    pub drops: u64,
    /// Entries evicted to make room.
    pub evictions: u64,
}

/// One statistic against one count of the probes.
#[derive(Clone, Debug, Default)]
struct LossLedger {
    /// Kernel's minus ours as of the sample before, after `offset`.
    before: Option<i128>,
    sides: (u64, u64),
    /// Samples since one of the sides changed.
    rested: u32,
    /// Taken off the kernel's side: what was seen by us but vanished with its namespace.
    offset: i128,
    told: u64,
}

impl LossLedger {
    fn add(&mut self, kernel: u64, ours: u64) -> u64 {
        let difference = i128::from(kernel) - i128::from(ours) - self.offset;
        if let Some(before) = self.before {
            let both = difference.min(before);
            self.told = self.told.max(u64::try_from(both).unwrap_or(0));
        }
        self.before = Some(difference);
        self.rested = if self.sides == (kernel, ours) {
            self.rested + 1
        } else {
            0
        };
        self.sides = (kernel, ours);
        // At rest the two sides can be compared exactly. If the kernel's lacks something then (a
        // namespace ended between two samples), later differences must not hide in the gap.
        let told = i128::from(self.told);
        if self.rested >= REST && difference < told {
            self.offset += difference - told;
            self.before = Some(told);
        }
        self.told
    }

    /// Both sides begin at 0 again.
    fn restart(&mut self) {
        *self = Self {
            told: self.told,
            offset: -i128::from(self.told),
            ..Self::default()
        };
    }
}

/// What is kept of a namespace.
#[derive(Clone, Copy, Debug, Default)]
struct KnownTable {
    /// As last seen; `None`: it was there before attaching, and its statistics were not read yet.
    stats: Option<LossCounts>,
    /// Samples since it was seen.
    unseen: u32,
}

/// Compares the two sides, sample by sample.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reconciler {
    /// By inode number; `None` before the first sample.
    known: Option<HashMap<u32, KnownTable>>,
    kernel: LossCounts,
    drops: LossLedger,
    evictions: LossLedger,
}

impl Reconciler {
    /// The probes were attached anew: both sides begin at 0.
    pub(crate) fn restart(&mut self) {
        self.known = None;
        self.kernel = LossCounts::default();
        self.drops.restart();
        self.evictions.restart();
    }

    /// Takes one more sample. `tables` has to be read before `ours`: then what happens in between
    /// is at most missing on the kernel's side.
    pub(crate) fn add(&mut self, tables: &[TableSample], ours: LossCounts) -> LossCounts {
        let first = self.known.is_none();
        let known = self.known.get_or_insert_default();
        for table in tables {
            let now = table.stats.map(|stats| LossCounts {
                drops: stats.drop,
                evictions: stats.early_drop,
            });
            let before = match known.get_mut(&table.netns) {
                // A namespace that was made after attaching began at 0.
                None if !first => Some(LossCounts::default()),
                None => None,
                Some(known) => known.stats,
            };
            let entry = known.entry(table.netns).or_insert(KnownTable {
                stats: before,
                unseen: 0,
            });
            entry.unseen = 0;
            let Some(now) = now else { continue };
            entry.stats = Some(now);
            // One that counts less than before has an inode number that was used before.
            let before = match before {
                None => now,
                Some(before) if before.drops > now.drops || before.evictions > now.evictions => {
                    LossCounts::default()
                }
                Some(before) => before,
            };
            self.kernel.drops += now.drops - before.drops;
            self.kernel.evictions += now.evictions - before.evictions;
        }
        known.retain(|netns, known| {
            if !tables.iter().any(|table| table.netns == *netns) {
                known.unseen += 1;
            }
            known.unseen < FORGET
        });
        if first {
            // What the probes saw before the first reading is not in the kernel's side.
            self.kernel = ours;
        }
        LossCounts {
            drops: self.drops.add(self.kernel.drops, ours.drops),
            evictions: self.evictions.add(self.kernel.evictions, ours.evictions),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::stats::KernelStats;

    fn table(netns: u32, drop: u64, early_drop: u64) -> TableSample {
        TableSample {
            netns,
            name: netns.to_string(),
            entries: 0,
            stats: Some(KernelStats {
                drop,
                early_drop,
                ..KernelStats::default()
            }),
        }
    }

    const fn ours(drops: u64, evictions: u64) -> LossCounts {
        LossCounts { drops, evictions }
    }

    #[test]
    fn what_was_counted_before_attaching_is_no_difference() {
        let mut reconciler = Reconciler::default();
        for _ in 0..3 {
            let found = reconciler.add(&[table(1, 500, 70)], ours(0, 0));
            assert_eq!(found, LossCounts::default());
        }
        let found = reconciler.add(&[table(1, 510, 75)], ours(10, 5));
        assert_eq!(found, LossCounts::default());
    }

    #[test]
    fn a_difference_that_stays_is_told_and_not_taken_back() {
        let mut reconciler = Reconciler::default();
        reconciler.add(&[table(1, 0, 0)], ours(0, 0));
        assert_eq!(
            reconciler.add(&[table(1, 9, 4)], ours(5, 4)).drops,
            0,
            "once is no proof"
        );
        assert_eq!(reconciler.add(&[table(1, 9, 4)], ours(5, 4)).drops, 4);
        assert_eq!(reconciler.add(&[table(1, 9, 4)], ours(5, 4)).drops, 4);
        let late = reconciler.add(&[table(1, 9, 4)], ours(9, 4));
        assert_eq!(
            late,
            LossCounts {
                drops: 4,
                evictions: 0
            }
        );
    }

    #[test]
    fn reading_at_different_times_is_no_difference() {
        let mut reconciler = Reconciler::default();
        reconciler.add(&[table(1, 0, 0)], ours(0, 0));
        // The kernel's side was read a little earlier: 20 drops behind, all through the storm.
        for second in 1..=30 {
            let found = reconciler.add(&[table(1, second * 1000 - 20, 0)], ours(second * 1000, 0));
            assert_eq!(found, LossCounts::default());
        }
        for _ in 0..3 {
            let found = reconciler.add(&[table(1, 30_000, 0)], ours(30_000, 0));
            assert_eq!(found, LossCounts::default());
        }
    }

    #[test]
    fn a_namespace_that_ended_leaves_no_gap_to_hide_in() {
        let mut reconciler = Reconciler::default();
        reconciler.add(&[table(1, 0, 0)], ours(0, 0));
        // Namespace 2 came and went between two samples; the probes saw its 50 drops.
        for _ in 0..=REST {
            assert_eq!(reconciler.add(&[table(1, 0, 0)], ours(50, 0)).drops, 0);
        }
        for _ in 0..2 {
            reconciler.add(&[table(1, 7, 0)], ours(50, 0));
        }
        assert_eq!(reconciler.add(&[table(1, 7, 0)], ours(50, 0)).drops, 7);
    }

    #[test]
    fn a_new_namespace_counts_from_zero_and_an_ended_one_is_kept() {
        let mut reconciler = Reconciler::default();
        reconciler.add(&[table(1, 0, 0)], ours(0, 0));
        for _ in 0..3 {
            let found = reconciler.add(&[table(1, 0, 0), table(2, 30, 3)], ours(30, 3));
            assert_eq!(found, LossCounts::default());
        }
        for _ in 0..3 {
            assert_eq!(
                reconciler.add(&[table(1, 5, 0)], ours(35, 3)),
                LossCounts::default()
            );
        }
        // Its inode number is used again.
        for _ in 0..3 {
            let found = reconciler.add(&[table(1, 5, 0), table(2, 4, 0)], ours(37, 3));
            assert_eq!(found.evictions, 0);
        }
        let found = reconciler.add(&[table(1, 5, 0), table(2, 4, 0)], ours(37, 3));
        assert_eq!(found.drops, 2);
    }

    #[test]
    fn statistics_that_come_late_are_no_difference() {
        let mut reconciler = Reconciler::default();
        let unread = TableSample {
            stats: None,
            ..table(2, 0, 0)
        };
        reconciler.add(&[table(1, 0, 0), unread.clone()], ours(0, 0));
        reconciler.add(&[table(1, 0, 0), unread], ours(50, 0));
        // Its turn: 400 from before attaching, and some of the 50 since.
        for _ in 0..3 {
            let found = reconciler.add(&[table(1, 0, 0), table(2, 450, 0)], ours(50, 0));
            assert_eq!(found.drops, 0);
        }
        // Not read in one sample, then again.
        reconciler.add(&[table(1, 0, 0)], ours(50, 0));
        for _ in 0..3 {
            let found = reconciler.add(&[table(1, 0, 0), table(2, 451, 0)], ours(51, 0));
            assert_eq!(found.drops, 0);
        }
    }

    #[test]
    fn attached_anew_both_begin_at_zero_and_what_was_told_stays() {
        let mut reconciler = Reconciler::default();
        reconciler.add(&[table(1, 0, 0)], ours(0, 0));
        for _ in 0..2 {
            reconciler.add(&[table(1, 3, 0)], ours(0, 0));
        }
        reconciler.restart();
        for _ in 0..3 {
            assert_eq!(reconciler.add(&[table(1, 0, 0)], ours(0, 0)).drops, 3);
        }
        for _ in 0..2 {
            reconciler.add(&[table(1, 2, 0)], ours(0, 0));
        }
        assert_eq!(reconciler.add(&[table(1, 2, 0)], ours(0, 0)).drops, 5);
    }
}
