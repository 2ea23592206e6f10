//! What there is at one time, as the policy is told of it.

use std::time::Duration;

use ctpressure_model::cost::{EntryCost, Sharing};

use crate::{
    kernel::{memory::NodeMemory, stats::KernelStats},
    limit::{change::Size, settings::Settings},
};

/// What the kernel has counted of one table, so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TableLosses {
    /// Packets lost: table full, or an unresolved clash.
    pub drop: u64,
    /// Entries that were not inserted: clash, chain too long, dying.
    pub insert_failed: u64,
    /// Entries evicted to make room.
    pub early_drop: u64,
}

impl From<&KernelStats> for TableLosses {
    fn from(stats: &KernelStats) -> Self {
        Self {
            drop: stats.drop,
            insert_failed: stats.insert_failed,
            early_drop: stats.early_drop,
        }
    }
}

impl TableLosses {
    /// Packets lost since `before` because the table was full: at least so many, since a clash is in both counts.
    pub(super) const fn full_since(&self, before: &Self) -> u64 {
        let drop = self.drop.saturating_sub(before.drop);
        drop.saturating_sub(self.insert_failed.saturating_sub(before.insert_failed))
    }

    /// Entries evicted since `before`.
    pub(super) const fn evicted_since(&self, before: &Self) -> u64 {
        self.early_drop.saturating_sub(before.early_drop)
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct TableSeen {
    /// Inode number of its network namespace.
    pub netns: u32,
    pub name: String,
    pub entries: u64,
    pub seconds_to_full: Option<f64>,
    /// `None`: the kernel's statistics of this table can't be read.
    pub losses: Option<TableLosses>,
}

/// What there is at one time.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Observation {
    pub at: Duration,
    /// The numbers that the controller writes.
    pub size: Size,
    pub tables: Vec<TableSeen>,
    /// Inserts and deletes of all tables, so far.
    pub flow: Option<(u64, u64)>,
    pub memory: NodeMemory,
    /// What an entry costs.
    pub cost: EntryCost,
}

impl Observation {
    /// The table with the most entries.
    pub(crate) fn fullest(&self) -> Option<&TableSeen> {
        self.tables.iter().max_by_key(|table| table.entries)
    }

    /// The table with the most entries of those for which the limit is raised.
    pub(crate) fn fullest_of(&self, settings: &Settings) -> Option<&TableSeen> {
        let theirs = self.tables.iter();
        theirs
            .filter(|table| settings.raises_for(&table.name))
            .max_by_key(|table| table.entries)
    }

    /// How the tables share the limit.
    pub(crate) fn sharing(&self) -> Sharing {
        Sharing::of(
            self.tables.iter().map(|table| table.entries),
            self.size.limit,
        )
    }
}
