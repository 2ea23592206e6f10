//! Whether the probes saw everything that the kernel itself counted, and what it counted where no probe does.
//!
//! The kernel's `drop` statistic should equal the drops that the probes explained (table full and
//! clash), its `early_drop` the evictions. Where probes count both sides, a difference that stays is something that
//! no probe saw. Where one of them has no probe, the difference is all that is known of it: it is given for the node as a
//! whole. Both sides are read at slightly different times, so a difference counts only when it is there
//! in two samples one after another; and what was said is never taken back, also when a namespace goes.

use std::collections::HashMap;

use crate::{
    kernel::{stats::KernelStats, tables::TableSample},
    probes::Totals,
};

/// Samples without any change on either side after which both are complete: statistics of many
/// namespaces are read in turn, and a new namespace is found some seconds after it was made.
const REST: u32 = 60;
/// Samples after which a namespace that was not seen any more is forgotten.
const FORGET: u32 = 60;

/// What was lost and only the kernel counted, though probes count such losses; such as a drop for a failed
/// allocation. It never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct LossCounts {
    /// Packets dropped for a full table or an unresolved clash.
    pub drops: u64,
    /// Entries evicted to make room.
    pub evictions: u64,
}

/// What the kernel counted since the agent began, over all network namespaces, of what no probe counts on this kernel.
/// It never goes back; `None`: probes count it, or the kernel does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct NodeLosses {
    /// Of the statistic `drop` (full tables, unresolved clashes, no memory) what no probe told.
    pub drops: Option<u64>,
    /// The statistic `early_drop`: live entries evicted to make room.
    pub evictions: Option<u64>,
    /// The statistic `chain_too_long`: packets lost, and entries that ctnetlink was refused.
    pub chain_too_long: Option<u64>,
}

/// What only the kernel counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Uncharged {
    /// Of what probes count.
    pub(crate) unexplained: LossCounts,
    /// Of what they do not.
    pub(crate) node: NodeLosses,
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

/// The statistics that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
enum Compared {
    Drop = 0,
    EarlyDrop = 1,
    ChainTooLong = 2,
}

const COMPARED: usize = 3;

/// What one table's statistics say, by [`Compared`].
fn compared(stats: &KernelStats) -> [u64; COMPARED] {
    [
        stats.drop,
        stats.early_drop,
        stats.chain_too_long.unwrap_or(0),
    ]
}

/// The same as the probes count it, and whether they do.
fn counted(ours: &Totals) -> [(u64, bool); COMPARED] {
    let drops = [ours.drops.table_full, ours.drops.clash];
    [
        (
            drops.iter().flatten().sum(),
            drops.iter().all(Option::is_some),
        ),
        (ours.evictions.unwrap_or(0), ours.evictions.is_some()),
        // The kernel's number of chains is more than packets, so it is no measure for what probes count.
        (0, false),
    ]
}

/// What is kept of a namespace.
#[derive(Clone, Copy, Debug, Default)]
struct KnownTable {
    /// As last seen; `None`: it was there before attaching, and its statistics were not read yet.
    stats: Option<[u64; COMPARED]>,
    /// Samples since it was seen.
    unseen: u32,
}

/// One statistic: which ledger it is in depends on whether probes count the same.
#[derive(Clone, Debug, Default)]
struct Statistic {
    kernel: u64,
    unexplained: LossLedger,
    node: LossLedger,
}

impl Statistic {
    /// Gives what no probe explained, and, if there is none, what the node lost.
    fn add(&mut self, ours: u64, counted: bool) -> (u64, Option<u64>) {
        if counted {
            (self.unexplained.add(self.kernel, ours), None)
        } else {
            let node = self.node.add(self.kernel, ours);
            (self.unexplained.told, Some(node))
        }
    }

    fn restart(&mut self) {
        self.kernel = 0;
        self.unexplained.restart();
        self.node.restart();
    }
}

/// Compares the two sides, sample by sample.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reconciler {
    /// By inode number; `None` before the first sample.
    known: Option<HashMap<u32, KnownTable>>,
    statistics: [Statistic; COMPARED],
}

impl Reconciler {
    /// The probes were attached anew, or are no longer: both sides begin at 0.
    pub(crate) fn restart(&mut self) {
        self.known = None;
        for statistic in &mut self.statistics {
            statistic.restart();
        }
    }

    /// Whether the next sample is the first one.
    pub(crate) const fn is_new(&self) -> bool {
        self.known.is_none()
    }

    /// Takes one more sample. `tables` has to be read before `ours`, and `ours_before` before them: then what happens in between
    /// is at most missing on the kernel's side. `ours_before` is for the first sample only.
    pub(crate) fn add(
        &mut self,
        tables: &[TableSample],
        ours_before: &Totals,
        ours: &Totals,
    ) -> Uncharged {
        let counts = counted(ours);
        let first = self.known.is_none();
        self.take(tables);
        if first {
            // What the probes saw before the first reading is not in the kernel's side.
            for (statistic, (ours, _)) in self.statistics.iter_mut().zip(counted(ours_before)) {
                statistic.kernel = ours;
            }
        }
        let mut of = |which: Compared| {
            let (ours, counted) = counts[which as usize];
            self.statistics[which as usize].add(ours, counted)
        };
        let (drops, node_drops) = of(Compared::Drop);
        let (evictions, node_evictions) = of(Compared::EarlyDrop);
        let (_, node_chains) = of(Compared::ChainTooLong);
        let has_chains = tables.iter().any(|table| {
            table
                .stats
                .is_some_and(|stats| stats.chain_too_long.is_some())
        });
        Uncharged {
            unexplained: LossCounts { drops, evictions },
            node: NodeLosses {
                drops: node_drops,
                evictions: node_evictions,
                chain_too_long: node_chains
                    .filter(|_| has_chains && ours.drops.chain_too_long.is_none()),
            },
        }
    }

    /// Adds to the kernel's side what each table's statistics grew by.
    fn take(&mut self, tables: &[TableSample]) {
        let first = self.known.is_none();
        let known = self.known.get_or_insert_default();
        for table in tables {
            let before = match known.get_mut(&table.netns) {
                // A namespace that was made after attaching began at 0.
                None if !first => Some([0; COMPARED]),
                None => None,
                Some(known) => known.stats,
            };
            let entry = known.entry(table.netns).or_insert(KnownTable {
                stats: before,
                unseen: 0,
            });
            entry.unseen = 0;
            let Some(now) = table.stats.as_ref().map(compared) else {
                continue;
            };
            entry.stats = Some(now);
            let before = match before {
                None => now,
                // One that counts less than before has an inode number that was used before.
                Some(before) if before.iter().zip(&now).any(|(before, now)| before > now) => {
                    [0; COMPARED]
                }
                Some(before) => before,
            };
            for (statistic, (now, before)) in
                self.statistics.iter_mut().zip(now.iter().zip(&before))
            {
                statistic.kernel += now - before;
            }
        }
        known.retain(|netns, known| {
            if !tables.iter().any(|table| table.netns == *netns) {
                known.unseen += 1;
            }
            known.unseen < FORGET
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probes::DropTotals;

    fn table(netns: u32, drop: u64, early_drop: u64) -> TableSample {
        TableSample {
            netns,
            name: netns.to_string(),
            entries: 0,
            stats: Some(KernelStats {
                drop,
                early_drop,
                chain_too_long: Some(drop / 2),
                ..KernelStats::default()
            }),
        }
    }

    /// What the probes counted, where they count everything.
    fn ours(drops: u64, evictions: u64) -> Totals {
        Totals {
            evictions: Some(evictions),
            drops: DropTotals {
                table_full: Some(drops),
                clash: Some(0),
                chain_too_long: Some(0),
                dying: Some(0),
            },
            ..Totals::default()
        }
    }

    /// What no probe explained, where probes count everything.
    fn add(reconciler: &mut Reconciler, tables: &[TableSample], ours: Totals) -> LossCounts {
        let found = reconciler.add(tables, &ours, &ours);
        assert_eq!(found.node, NodeLosses::default());
        found.unexplained
    }

    #[test]
    fn what_was_counted_before_attaching_is_no_difference() {
        let mut reconciler = Reconciler::default();
        for _ in 0..3 {
            let found = add(&mut reconciler, &[table(1, 500, 70)], ours(0, 0));
            assert_eq!(found, LossCounts::default());
        }
        let found = add(&mut reconciler, &[table(1, 510, 75)], ours(10, 5));
        assert_eq!(found, LossCounts::default());
    }

    #[test]
    fn what_comes_while_the_first_sample_is_read_is_no_difference() {
        let mut reconciler = Reconciler::default();
        reconciler.add(&[table(1, 500, 70)], &ours(2, 1), &ours(20, 7));
        for _ in 0..3 {
            let found = add(&mut reconciler, &[table(1, 530, 80)], ours(32, 11));
            assert_eq!(found, LossCounts::default());
        }
    }

    #[test]
    fn a_difference_that_stays_is_told_and_not_taken_back() {
        let mut reconciler = Reconciler::default();
        add(&mut reconciler, &[table(1, 0, 0)], ours(0, 0));
        assert_eq!(
            add(&mut reconciler, &[table(1, 9, 4)], ours(5, 4)).drops,
            0,
            "once is no proof"
        );
        assert_eq!(add(&mut reconciler, &[table(1, 9, 4)], ours(5, 4)).drops, 4);
        assert_eq!(add(&mut reconciler, &[table(1, 9, 4)], ours(5, 4)).drops, 4);
        let late = add(&mut reconciler, &[table(1, 9, 4)], ours(9, 4));
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
        add(&mut reconciler, &[table(1, 0, 0)], ours(0, 0));
        // The kernel's side was read a little earlier: 20 drops behind, all through the storm.
        for second in 1..=30 {
            let found = add(
                &mut reconciler,
                &[table(1, second * 1000 - 20, 0)],
                ours(second * 1000, 0),
            );
            assert_eq!(found, LossCounts::default());
        }
        for _ in 0..3 {
            let found = add(&mut reconciler, &[table(1, 30_000, 0)], ours(30_000, 0));
            assert_eq!(found, LossCounts::default());
        }
    }

    #[test]
    fn a_namespace_that_ended_leaves_no_gap_to_hide_in() {
        let mut reconciler = Reconciler::default();
        add(&mut reconciler, &[table(1, 0, 0)], ours(0, 0));
        // Namespace 2 came and went between two samples; the probes saw its 50 drops.
        for _ in 0..=REST {
            assert_eq!(
                add(&mut reconciler, &[table(1, 0, 0)], ours(50, 0)).drops,
                0
            );
        }
        for _ in 0..2 {
            add(&mut reconciler, &[table(1, 7, 0)], ours(50, 0));
        }
        assert_eq!(
            add(&mut reconciler, &[table(1, 7, 0)], ours(50, 0)).drops,
            7
        );
    }

    #[test]
    fn a_new_namespace_counts_from_zero_and_an_ended_one_is_kept() {
        let mut reconciler = Reconciler::default();
        add(&mut reconciler, &[table(1, 0, 0)], ours(0, 0));
        for _ in 0..3 {
            let found = add(
                &mut reconciler,
                &[table(1, 0, 0), table(2, 30, 3)],
                ours(30, 3),
            );
            assert_eq!(found, LossCounts::default());
        }
        for _ in 0..3 {
            assert_eq!(
                add(&mut reconciler, &[table(1, 5, 0)], ours(35, 3)),
                LossCounts::default()
            );
        }
        // Its inode number is used again.
        for _ in 0..3 {
            let found = add(
                &mut reconciler,
                &[table(1, 5, 0), table(2, 4, 0)],
                ours(37, 3),
            );
            assert_eq!(found.evictions, 0);
        }
        let found = add(
            &mut reconciler,
            &[table(1, 5, 0), table(2, 4, 0)],
            ours(37, 3),
        );
        assert_eq!(found.drops, 2);
    }

    #[test]
    fn statistics_that_come_late_are_no_difference() {
        let mut reconciler = Reconciler::default();
        let unread = TableSample {
            stats: None,
            ..table(2, 0, 0)
        };
        add(
            &mut reconciler,
            &[table(1, 0, 0), unread.clone()],
            ours(0, 0),
        );
        add(&mut reconciler, &[table(1, 0, 0), unread], ours(50, 0));
        // Its turn: 400 from before attaching, and some of the 50 since.
        for _ in 0..3 {
            let found = add(
                &mut reconciler,
                &[table(1, 0, 0), table(2, 450, 0)],
                ours(50, 0),
            );
            assert_eq!(found.drops, 0);
        }
        // Not read in one sample, then again.
        add(&mut reconciler, &[table(1, 0, 0)], ours(50, 0));
        for _ in 0..3 {
            let found = add(
                &mut reconciler,
                &[table(1, 0, 0), table(2, 451, 0)],
                ours(51, 0),
            );
            assert_eq!(found.drops, 0);
        }
    }

    #[test]
    fn attached_anew_both_begin_at_zero_and_what_was_told_stays() {
        let mut reconciler = Reconciler::default();
        add(&mut reconciler, &[table(1, 0, 0)], ours(0, 0));
        for _ in 0..2 {
            add(&mut reconciler, &[table(1, 3, 0)], ours(0, 0));
        }
        reconciler.restart();
        for _ in 0..3 {
            assert_eq!(add(&mut reconciler, &[table(1, 0, 0)], ours(0, 0)).drops, 3);
        }
        for _ in 0..2 {
            add(&mut reconciler, &[table(1, 2, 0)], ours(0, 0));
        }
        assert_eq!(add(&mut reconciler, &[table(1, 2, 0)], ours(0, 0)).drops, 5);
    }

    #[test]
    fn what_no_probe_counts_is_the_nodes_and_goes_on_when_its_namespace_ends() {
        let mut reconciler = Reconciler::default();
        let clashes = |clash| Totals {
            drops: DropTotals {
                clash: Some(clash),
                ..DropTotals::default()
            },
            ..Totals::default()
        };
        let mut began = false;
        let mut node = |tables: &[TableSample]| {
            let clash = if std::mem::replace(&mut began, true) {
                2
            } else {
                0
            };
            let found = reconciler.add(tables, &clashes(clash), &clashes(clash));
            assert_eq!(found.unexplained, LossCounts::default());
            let NodeLosses {
                drops,
                evictions,
                chain_too_long,
            } = found.node;
            [drops, evictions, chain_too_long].map(|number| number.expect("nothing counts it"))
        };
        // What was there before the agent was is not in it.
        assert_eq!(node(&[table(1, 100, 9)]), [0, 0, 0]);
        let both = [table(1, 102, 9), table(2, 30, 3)];
        node(&both);
        assert_eq!(
            node(&both),
            [30, 3, 16],
            "less the clashes that are charged"
        );
        for _ in 0..=FORGET {
            assert_eq!(node(&[table(1, 102, 9)]), [30, 3, 16]);
        }
        let again = [table(1, 104, 9), table(2, 10, 0)];
        node(&again);
        assert_eq!(node(&again), [42, 3, 22]);
    }

    #[test]
    fn each_loss_has_one_home_when_what_is_counted_changes() {
        let mut reconciler = Reconciler::default();
        let nothing = Totals::default();
        for drops in [0, 7, 7] {
            reconciler.add(&[table(1, drops, 0)], &nothing, &nothing);
        }
        assert_eq!(
            reconciler
                .add(&[table(1, 7, 0)], &nothing, &nothing)
                .node
                .drops,
            Some(7)
        );
        reconciler.restart();
        for _ in 0..3 {
            let found = reconciler.add(&[table(1, 7, 0)], &ours(0, 0), &ours(0, 0));
            assert_eq!(
                found,
                Uncharged::default(),
                "the node's is not unexplained too"
            );
        }
        reconciler.restart();
        for _ in 0..3 {
            reconciler.add(&[table(1, 9, 0)], &nothing, &nothing);
        }
        reconciler.add(&[table(1, 12, 0)], &nothing, &nothing);
        let found = reconciler.add(&[table(1, 12, 0)], &nothing, &nothing);
        assert_eq!(found.node.drops, Some(10), "it goes on from 7");
    }
}
