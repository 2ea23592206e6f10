//! The values of the programs' read-only globals: offsets of the running kernel, and settings.

use conntrack_ebpf::{
    budget::WINDOW_NS,
    global::{self, FIELDS, MISSING},
};

use super::{Options, status::FieldStatus};
use crate::kernel::btf::Btf;

/// How long `early_drop` can take, interrupted by softirqs (2 ms at a time) or preempted, in jiffies:
/// 50 ms at HZ 1000, 200 ms at 250.
const STALE_TICKS: u32 = 50;

/// Offsets of every field that the programs read.
pub(super) fn find_fields(vmlinux: &Btf<'_>) -> (Vec<(&'static str, u32)>, Vec<FieldStatus>) {
    FIELDS
        .iter()
        .map(|field| {
            let name = format!("{}.{}", field.structure, field.members.join("."));
            let found = match vmlinux.member(field.structure, field.members) {
                Ok(member) if field.size == 0 || member.size == field.size => {
                    Ok(member.offset_bytes)
                }
                Ok(member) => Err(format!("has {} bytes, not {}", member.size, field.size)),
                Err(error) => Err(match vmlinux.gap() {
                    Some(gap) => format!("{error}, as far as it can be read: {gap}"),
                    None => error.to_string(),
                }),
            };
            let offset = found.as_ref().copied().unwrap_or(MISSING);
            let status = FieldStatus {
                field: name,
                offset: found.as_ref().ok().copied(),
                purpose: field.purpose,
                reason: found.err(),
            };
            ((field.global, offset), status)
        })
        .unzip()
}

/// What is done when `__nf_conntrack_confirm` returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct AtConfirm {
    /// The record of an insert is completed.
    pub(super) records: bool,
    /// Inserts are counted.
    pub(super) counts: bool,
}

/// The globals that are not offsets.
pub(super) fn settings(
    options: &Options,
    at_confirm: AtConfirm,
    host_netns: u32,
    owner_slots: u32,
    is_real_time: bool,
) -> [(&'static str, u32); 10] {
    [
        (global::INSERT_ONE_IN, options.insert_one_in),
        (global::DROP_BUDGET, per_window(options.drop_budget)),
        (global::EVICTION_BUDGET, per_window(options.eviction_budget)),
        (global::RECORD_AT_CONFIRM, u32::from(at_confirm.records)),
        (global::COUNTS_AT_CONFIRM, u32::from(at_confirm.counts)),
        (global::WAKE_AT_BYTES, ring_size(options.ring_bytes) / 4),
        (global::STALE_TICKS, STALE_TICKS),
        (global::HOST_NETNS, host_netns),
        (global::OWNER_SLOTS, owner_slots),
        (global::IS_REAL_TIME, u32::from(is_real_time)),
    ]
}

/// What a budget of so many records a second has for one window.
pub(super) fn per_window(per_second: u32) -> u32 {
    per_second.div_ceil(u32::try_from(1_000_000_000 / WINDOW_NS).unwrap_or(1))
}

/// A size that the kernel takes: a power of two, at least a page of any architecture.
pub(super) fn ring_size(bytes: u32) -> u32 {
    bytes.clamp(1 << 16, 1 << 30).next_power_of_two()
}
