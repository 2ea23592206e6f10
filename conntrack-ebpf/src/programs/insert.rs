//! An entry enters the hash table.

use aya_ebpf::{
    macros::{fentry, fexit, kprobe},
    programs::{FEntryContext, FExitContext, ProbeContext},
};
use conntrack_ebpf::{counter::Counter, state::PerCpuState};

use super::{
    emit, globals,
    maps::{count, count_atomic, state},
    read::{self, ByHelper, Memory, Typed},
};

/// An insert was counted: a record if the budget has one.
///
/// Softirqs are off here in both callers, so nothing else changes the budget meanwhile.
#[inline(always)]
pub(super) fn sampled(state: *mut PerCpuState) -> Option<u32> {
    // SAFETY: `state` is a live map value of this CPU.
    let inserts = unsafe { &mut (*state).inserts };
    inserts.sample(
        || globals::INSERT_BUDGET.load(),
        || globals::INSERT_ONE_IN.load(),
        read::tick,
        read::now_ns,
    )
}

/// `__nf_conntrack_hash_insert`: all checks are passed, softirqs are off, the bucket locks held.
/// So no program can be running here already on this CPU, and none of these calls is missed.
#[inline(always)]
fn hash_insert<M: Memory>(ct: u64) {
    let Some(state) = state() else { return };
    count(state, Counter::HashInserts);
    let Some(weight) = sampled(state) else { return };
    if globals::RECORD_AT_CONFIRM.load() == 0 {
        emit::insert::<ByHelper>(state, ct, origin_skb(state, ct), weight);
        return;
    }
    // The packet is only known to `__nf_conntrack_confirm`, whose end is near: see `confirm.rs`.
    // SAFETY: `state` is a live map value of this CPU.
    unsafe {
        if (*state).pending_ct != 0 {
            emit::insert_lost(state, (*state).pending.header.weight);
        }
        (*state).pending_ct = ct;
        emit::prepare_insert::<M>(&raw mut (*state).pending, ct, weight);
    }
}

/// The packet that allocated this entry, if this CPU has seen no other new flow since; else 0.
#[inline(always)]
fn origin_skb(state: *mut PerCpuState, ct: u64) -> u64 {
    // SAFETY: `state` is a live map value of this CPU.
    let skb = unsafe { (*state).new_flow.skb };
    match read::skb_ct::<ByHelper>(skb) {
        Some((entry, _)) if entry == ct => skb,
        _ => 0,
    }
}

/// match: v5.4..v7.3 net/netfilter/nf_conntrack_core.c: void __nf_conntrack_hash_insert(ct, hash, reply_hash)
#[fentry]
fn insert_fentry(ctx: FEntryContext) -> u32 {
    hash_insert::<Typed>(ctx.arg::<*const u8>(0) as u64);
    0
}

/// match: as above
#[kprobe]
fn insert_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(ct) = ctx.arg(0) {
        hash_insert::<ByHelper>(ct);
    }
    0
}

/// match: v5.4..v7.3 net/netfilter/nf_conntrack_core.c: int nf_conntrack_hash_check_insert(ct)
///
/// Used where `__nf_conntrack_hash_insert` is inlined: entries made by ctnetlink and BPF.
#[fexit]
fn check_insert_fexit(ctx: FExitContext) -> u32 {
    let ret: i32 = ctx.arg(1);
    if let (0, Some(state)) = (ret, state()) {
        count_atomic(state, Counter::CheckInserts, 1);
    }
    0
}
