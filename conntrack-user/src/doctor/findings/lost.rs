//! What the kernel's statistics say of lost packets.
//!
//! `drop` has packets lost to a full table and those lost by an unresolved clash; the latter are in
//! `insert_failed` too, which also has chains that were too long and entries that died on the way.

use crate::{
    doctor::{Facts, facts::TableFacts},
    kernel::stats::KernelStats,
};

/// Packets lost to a full table: at least this many.
pub(super) fn by_full_table(stats: &KernelStats) -> u64 {
    stats.drop.saturating_sub(by_clash(stats))
}

/// Packets lost by a clash: at most this many.
pub(super) fn by_clash(stats: &KernelStats) -> u64 {
    stats
        .insert_failed
        .saturating_sub(stats.chain_too_long.unwrap_or_default())
        .min(stats.drop)
}

/// The table with the most of something.
pub(super) fn worst(
    facts: &Facts,
    count: impl Fn(&TableFacts) -> Option<u64>,
) -> Option<(&TableFacts, u64)> {
    facts
        .counts
        .tables
        .iter()
        .filter_map(|table| Some((table, count(table)?)))
        .max_by_key(|(_, count)| *count)
}
