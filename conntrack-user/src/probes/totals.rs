//! What the probes have counted since they were attached: sums over the CPUs.

use std::ops::Add;

use serde::Serialize;

/// Exact counts. They never go back while the probes are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Entries that entered the table.
    pub inserts: u64,
    /// Of those: the ones that lost a clash and were inserted all the same, for a second, in the reply direction only.
    pub clash_inserts: u64,
    /// Entries that left it.
    pub deletes: u64,
    /// Live entries removed by `early_drop`; part of `deletes`.
    pub evictions: u64,
    /// Of those, the ones whose cause could not be told.
    pub evictions_cause_unknown: u64,
    /// Packets lost, by reason.
    pub drops: DropTotals,
    /// Entries that ctnetlink or BPF could not create in a full table; no packet was lost.
    pub refused_table_full: u64,
    /// What was not seen or not delivered.
    pub lost: Lost,
}

/// Packets lost because of conntrack, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DropTotals {
    /// Table full, nothing could be evicted.
    pub table_full: u64,
    /// The tuple was taken and the clash could not be resolved.
    pub clash: u64,
    /// A hash chain was too long; `None`: no probe can tell on this kernel.
    pub chain_too_long: Option<u64>,
    /// The entry was dying when it was to be confirmed; `None` as above.
    pub dying: Option<u64>,
}

/// Detail that did not reach user space, by kind. The counts above are exact all the same, but
/// for `missed_runs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// Insert records that did not fit the ring.
    pub insert_records: u64,
    /// Inserts that those records stood for.
    pub insert_weight: u64,
    /// Drop records that did not fit the ring.
    pub drop_records: u64,
    /// Eviction records that did not fit the ring.
    pub eviction_records: u64,
    /// Drops beyond the budget of records.
    pub drops_not_detailed: u64,
    /// Evictions beyond the budget of records.
    pub evictions_not_detailed: u64,
    /// Contexts of `early_drop` that could not be kept: their evictions have no cause.
    pub frames: u64,
    /// Inserts at an address of the host whose socket could not be asked: charged to the host.
    pub sockets_missed: u64,
    /// Entries that could not be tagged with their owner: they are charged to whom they are without a tag.
    pub tags: u64,
    /// Times that the kernel skipped one of our programs because it was already running on that
    /// CPU (recursion guard): what those runs would have counted is missing.
    pub missed_runs: u64,
}

impl Add for Totals {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let either = |a: Option<u64>, b: Option<u64>| match (a, b) {
            (None, None) => None,
            (a, b) => Some(a.unwrap_or(0) + b.unwrap_or(0)),
        };
        Self {
            inserts: self.inserts + other.inserts,
            clash_inserts: self.clash_inserts + other.clash_inserts,
            deletes: self.deletes + other.deletes,
            evictions: self.evictions + other.evictions,
            evictions_cause_unknown: self.evictions_cause_unknown + other.evictions_cause_unknown,
            drops: DropTotals {
                table_full: self.drops.table_full + other.drops.table_full,
                clash: self.drops.clash + other.drops.clash,
                chain_too_long: either(self.drops.chain_too_long, other.drops.chain_too_long),
                dying: either(self.drops.dying, other.drops.dying),
            },
            refused_table_full: self.refused_table_full + other.refused_table_full,
            lost: Lost {
                insert_records: self.lost.insert_records + other.lost.insert_records,
                insert_weight: self.lost.insert_weight + other.lost.insert_weight,
                drop_records: self.lost.drop_records + other.lost.drop_records,
                eviction_records: self.lost.eviction_records + other.lost.eviction_records,
                drops_not_detailed: self.lost.drops_not_detailed + other.lost.drops_not_detailed,
                evictions_not_detailed: self.lost.evictions_not_detailed
                    + other.lost.evictions_not_detailed,
                frames: self.lost.frames + other.lost.frames,
                sockets_missed: self.lost.sockets_missed + other.lost.sockets_missed,
                tags: self.lost.tags + other.lost.tags,
                missed_runs: self.lost.missed_runs + other.lost.missed_runs,
            },
        }
    }
}
