//! What there is at one time, as the policy is told of it.

use std::time::Duration;

use ctpressure_model::cost::{EntryCost, Sharing};

use crate::{
    agent::Table,
    kernel::{memory::NodeMemory, stats::KernelStats, tables::HOST_NAME},
    limit::{change::Size, settings::Settings},
    owners::OwnerKind,
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
    /// What its network namespace is kept as, if it goes by another name.
    pub kept_as: Option<String>,
    /// It goes by the name of a pod.
    pub of_pod: bool,
    pub entries: u64,
    pub seconds_to_full: Option<f64>,
    /// `None`: the kernel's statistics of this table can't be read.
    pub losses: Option<TableLosses>,
}

impl TableSeen {
    /// The name by which the limit may be raised for it: one that only root can give. Whoever has a control group of his own may call it
    /// anything.
    pub(crate) fn raised_as(&self) -> &str {
        match &self.kept_as {
            Some(kept_as) if !self.of_pod => kept_as,
            _ => &self.name,
        }
    }

    /// Whether `--raise-netns` means it: by that name, by what its namespace is kept as, or by its inode number.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        self.raised_as() == name
            || self.kept_as.as_deref() == Some(name)
            || self.netns.to_string() == name
    }

    /// Whether the limit is raised for it. Every table but the host's belongs to whoever made its network namespace, which takes
    /// no right but to make one: the limit would be anybody's to raise, for all.
    pub(crate) fn raises(&self, settings: &Settings) -> bool {
        self.raised_as() == HOST_NAME
            || settings.raise_netns.iter().any(|name| self.is_called(name))
    }
}

impl From<&Table> for TableSeen {
    fn from(table: &Table) -> Self {
        let kind = table.owner.as_ref().map(|owner| owner.kind);
        Self {
            netns: table.netns,
            name: table.name.clone(),
            kept_as: table.kept_as.clone(),
            of_pod: kind == Some(OwnerKind::Pod),
            entries: table.entries,
            seconds_to_full: table.seconds_to_full,
            losses: table.stats.as_ref().map(TableLosses::from),
        }
    }
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
            .filter(|table| table.raises(settings))
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
