//! The values of the programs' read-only globals: offsets of the running kernel, and settings.

use conntrack_ebpf::{
    budget::WINDOW_NS,
    global::{self, FIELDS, MISSING},
};

use super::{Options, status::FieldStatus};
use crate::kernel::btf::{Btf, BtfKind};

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

/// How the kernel tells for which task a program runs, and whether for one at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TaskFields {
    preempt_count: PreemptCount,
    /// Offset of `task_struct.flags`.
    flags: u32,
}

/// Where the preempt count is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PreemptCount {
    /// In this variable of each CPU (its BTF id), at this offset: x86.
    OfCpu { variable: u32, offset: u32 },
    /// In `struct task_struct`, at this offset: arm64.
    OfTask { offset: u32 },
}

impl TaskFields {
    /// As the running kernel's BTF has them; `None`: it does not tell.
    pub(super) fn find(vmlinux: &Btf<'_>) -> Option<Self> {
        let variable = |name| vmlinux.find(&[BtfKind::Var], name).map(|found| found.id());
        let member = |structure, members: &[&str]| {
            let found = vmlinux.member(structure, members).ok()?;
            (found.size == 4).then_some(found.offset_bytes)
        };
        let of_cpu = |variable, offset| PreemptCount::OfCpu { variable, offset };
        let hot = || {
            Some((
                variable("pcpu_hot")?,
                member("pcpu_hot", &["preempt_count"])?,
            ))
        };
        let preempt_count = if let Some(variable) = variable("__preempt_count") {
            of_cpu(variable, 0)
        } else if let Some((variable, offset)) = hot() {
            of_cpu(variable, offset)
        } else {
            let offset = member("task_struct", &["thread_info", "preempt", "count"])?;
            PreemptCount::OfTask { offset }
        };
        let flags = member("task_struct", &["flags"])?;
        Some(Self {
            preempt_count,
            flags,
        })
    }

    /// See [`conntrack_ebpf::global::PREEMPT_VARIABLE`].
    pub(super) const fn preempt_variable(self) -> Option<u32> {
        match self.preempt_count {
            PreemptCount::OfCpu { variable, .. } => Some(variable),
            PreemptCount::OfTask { .. } => None,
        }
    }

    /// For the programs.
    fn globals(task: Option<Self>) -> [(&'static str, u32); 3] {
        let (of_cpu, of_task) = match task.map(|task| task.preempt_count) {
            Some(PreemptCount::OfCpu { offset, .. }) => (offset, MISSING),
            Some(PreemptCount::OfTask { offset }) => (MISSING, offset),
            None => (MISSING, MISSING),
        };
        [
            (global::TASK_FLAGS, task.map_or(MISSING, |task| task.flags)),
            (global::PREEMPT_OF_CPU, of_cpu),
            (global::PREEMPT_OF_TASK, of_task),
        ]
    }
}

/// Whether the begin of an entry is as the programs read it in one piece: its tuples, its status, its namespace.
fn is_in_one_piece(offsets: &[(&'static str, u32)]) -> bool {
    /// `struct nf_conntrack_tuple_hash`, of which there are two.
    const TUPLES: u32 = 2 * 56;
    /// What comes before them: the reference count, a lock, the timeout, the zone.
    const BEFORE: u32 = 16;
    let offset = |global| {
        let mut all = offsets.iter();
        all.find(|(name, _)| *name == global)
            .map(|(_, offset)| *offset)
    };
    match (
        offset("CT_TUPLEHASH"),
        offset("CT_STATUS"),
        offset("CT_NET"),
    ) {
        (Some(tuples), Some(status), Some(net)) => {
            (tuples, status, net) == (BEFORE, BEFORE + TUPLES, BEFORE + TUPLES + 8)
        }
        _ => false,
    }
}

/// The globals that are not offsets of [`FIELDS`].
pub(super) fn settings(
    options: &Options,
    at_confirm: AtConfirm,
    host_netns: u32,
    owner_slots: u32,
    is_real_time: bool,
    task: Option<TaskFields>,
    offsets: &[(&'static str, u32)],
) -> impl Iterator<Item = (&'static str, u32)> {
    [
        (global::INSERT_ONE_IN, options.insert_one_in),
        (global::DROP_BUDGET, per_window(options.drop_budget)),
        (global::EVICTION_BUDGET, per_window(options.eviction_budget)),
        (global::RECORD_AT_CONFIRM, u32::from(at_confirm.records)),
        (global::COUNTS_AT_CONFIRM, u32::from(at_confirm.counts)),
        (global::WAKE_AT_BYTES, ring_size(options.ring_bytes) / 4),
        (global::STALE_TICKS, STALE_TICKS),
        (global::HOST_NETNS, host_netns),
        (global::OWNER_COUNTS, 2 * owner_slots),
        (global::IS_REAL_TIME, u32::from(is_real_time)),
        (global::CT_IN_ONE_PIECE, u32::from(is_in_one_piece(offsets))),
    ]
    .into_iter()
    .chain(TaskFields::globals(task))
}

/// What a budget of so many records a second has for one window.
pub(super) fn per_window(per_second: u32) -> u32 {
    per_second.div_ceil(u32::try_from(1_000_000_000 / WINDOW_NS).unwrap_or(1))
}

/// A size that the kernel takes: a power of two, at least a page of any architecture.
pub(super) fn ring_size(bytes: u32) -> u32 {
    bytes.clamp(1 << 16, 1 << 30).next_power_of_two()
}
