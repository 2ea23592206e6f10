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
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LossCounts {
    /// Packets dropped for a full table or an unresolved clash.
    pub drops: u64,
    /// Entries evicted to make room.
    pub evictions: u64,
}

/// What the kernel counted since the agent began, over all network namespaces, of what no probe counts on this kernel.
/// It never goes back; `None`: probes count it, or the kernel does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NodeLosses {
    /// Of the statistic `drop` (full tables, unresolved clashes, no memory) what no probe told.
    pub drops: Option<u64>,
    /// The statistic `early_drop`: live entries evicted to make room.
    pub evictions: Option<u64>,
    /// Of the statistic `chain_too_long` (packets lost, and entries that ctnetlink was refused) what no probe told.
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
        // The kernel's number of chains is more than packets, and the probe at the confirmation may not be attached: what the kernel
        // has more of is never unexplained.
        (ours.drops.chain_too_long.unwrap_or(0), false),
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
                chain_too_long: node_chains.filter(|more| {
                    has_chains && (ours.drops.chain_too_long.is_none() || *more > 0)
                }),
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
mod tests;
