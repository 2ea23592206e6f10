//! What the probes have counted since they were attached: sums over the CPUs.

use conntrack_ebpf::record::DropReason;
use serde::Serialize;

/// Exact counts. They never go back while the probes are attached. `None`: nothing that is attached counts it
/// ([`super::counted`]), so how many there were is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Totals {
    /// Entries that entered the table.
    pub inserts: Option<u64>,
    /// Of those: the ones that lost a clash and were inserted all the same, for a second, in the reply direction only.
    pub clash_inserts: u64,
    /// Entries that left it.
    pub deletes: Option<u64>,
    /// Live entries removed by `early_drop`; part of `deletes`.
    pub evictions: Option<u64>,
    /// Of those, the ones whose cause could not be told.
    pub evictions_cause_unknown: Option<u64>,
    /// Packets lost, by reason.
    pub drops: DropTotals,
    /// Entries that ctnetlink or BPF could not create in a full table; no packet was lost.
    pub refused_table_full: Option<u64>,
    /// What was not seen or not delivered.
    pub lost: Lost,
}

/// Packets lost because of conntrack, by reason; `None` as in [`Totals`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DropTotals {
    /// Table full, nothing could be evicted.
    pub table_full: Option<u64>,
    /// The tuple was taken and the clash could not be resolved.
    pub clash: Option<u64>,
    /// A hash chain was too long.
    pub chain_too_long: Option<u64>,
    /// The entry was dying when it was to be confirmed.
    pub dying: Option<u64>,
}

/// Detail that did not reach user space, by kind. The counts above are exact all the same, but
/// for `missed_runs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
    /// Calls of `early_drop` before what tells the new flow was attached: their drops and evictions have no cause.
    pub unarmed: u64,
    /// Times that the kernel skipped one of our programs because it was already running on that
    /// CPU (recursion guard): what those runs would have counted is missing.
    pub missed_runs: u64,
    /// Of these: the ones of programs that count what enters or leaves a table. The others tell more of what was counted, such as the
    /// socket of an insert.
    pub missed_counts: u64,
}

impl Lost {
    fn and(&self, more: &Self) -> Self {
        Self {
            insert_records: self.insert_records + more.insert_records,
            insert_weight: self.insert_weight + more.insert_weight,
            drop_records: self.drop_records + more.drop_records,
            eviction_records: self.eviction_records + more.eviction_records,
            drops_not_detailed: self.drops_not_detailed + more.drops_not_detailed,
            evictions_not_detailed: self.evictions_not_detailed + more.evictions_not_detailed,
            frames: self.frames + more.frames,
            sockets_missed: self.sockets_missed + more.sockets_missed,
            tags: self.tags + more.tags,
            unarmed: self.unarmed + more.unarmed,
            missed_runs: self.missed_runs + more.missed_runs,
            missed_counts: self.missed_counts + more.missed_counts,
        }
    }
}

impl Totals {
    /// Packets lost for this reason ([`DropReason::TableFullRequest`]: entries refused); `None`: not counted.
    pub const fn dropped(&self, reason: DropReason) -> Option<u64> {
        match reason {
            DropReason::TableFull => self.drops.table_full,
            DropReason::Clash => self.drops.clash,
            DropReason::ChainTooLong => self.drops.chain_too_long,
            DropReason::Dying => self.drops.dying,
            DropReason::TableFullRequest => self.refused_table_full,
        }
    }

    /// Inserts and deletes, where both are counted: only then is it known how many entries there are.
    pub fn flow(&self) -> Option<(u64, u64)> {
        self.inserts.zip(self.deletes)
    }

    /// What probes have counted that are attached now, where `earlier` ones counted before them: a count goes on
    /// where it was, and one that is not counted now is not known, whatever was counted earlier.
    #[must_use]
    pub fn after(&self, earlier: &Self) -> Self {
        self.with(earlier, |now, earlier| {
            now.map(|now| now + earlier.unwrap_or(0))
        })
    }

    /// What is kept of the counts of `self` and of probes after them, when there are none any more.
    #[must_use]
    pub fn and(&self, later: &Self) -> Self {
        self.with(later, |earlier, later| match (earlier, later) {
            (None, None) => None,
            (earlier, later) => Some(earlier.unwrap_or(0) + later.unwrap_or(0)),
        })
    }

    /// Nothing is counted; what was lost stays lost.
    #[must_use]
    pub fn not_counted(&self) -> Self {
        Self {
            lost: self.lost,
            ..Self::default()
        }
    }

    fn with(&self, other: &Self, join: fn(Option<u64>, Option<u64>) -> Option<u64>) -> Self {
        let of = |count: fn(&Self) -> Option<u64>| join(count(self), count(other));
        Self {
            inserts: of(|totals| totals.inserts),
            clash_inserts: self.clash_inserts + other.clash_inserts,
            deletes: of(|totals| totals.deletes),
            evictions: of(|totals| totals.evictions),
            evictions_cause_unknown: of(|totals| totals.evictions_cause_unknown),
            drops: DropTotals {
                table_full: of(|totals| totals.drops.table_full),
                clash: of(|totals| totals.drops.clash),
                chain_too_long: of(|totals| totals.drops.chain_too_long),
                dying: of(|totals| totals.drops.dying),
            },
            refused_table_full: of(|totals| totals.refused_table_full),
            lost: self.lost.and(&other.lost),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_counted_any_more_is_not_known() {
        let counted = |inserts, deletes| Totals {
            inserts,
            deletes,
            ..Totals::default()
        };
        let (before, now) = (counted(Some(7), Some(5)), counted(Some(2), None));
        assert_eq!(now.after(&before), counted(Some(9), None));
        assert_eq!(now.after(&before).flow(), None);
        // Nothing is attached: what was counted stays, and goes on when it is counted again.
        assert_eq!(before.and(&now), counted(Some(9), Some(5)));
        let again = counted(Some(1), Some(1)).after(&before.and(&now));
        assert_eq!(again.flow(), Some((10, 6)));
        assert_eq!(again.not_counted(), Totals::default());
    }
}
