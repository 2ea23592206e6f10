//! An entry enters the hash table.

use aya_ebpf::{
    macros::{fentry, fexit, kprobe},
    programs::{FEntryContext, FExitContext, ProbeContext},
};
use conntrack_ebpf::{
    counter::Counter,
    owner::Party,
    state::{DUE_RECORD, DUE_SOCKET, Pending, PerCpuState},
};

use super::{
    emit, globals,
    maps::{count, count_atomic, insert_budget, state},
    new_flow, owner,
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
        insert_budget,
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
    let entering = owner::of_entry::<M>(ct);
    let weight = sampled(state);
    if globals::RECORD_AT_CONFIRM.load() == 0 {
        let party = if entering.asks_socket() {
            match new_flow::take_socket(ct) {
                Some(cgroup) => owner::entered_by_socket(state, cgroup, ct, false),
                None => owner::entered_without_socket(state),
            }
        } else {
            owner::entered::<M>(state, entering, ct)
        };
        if let Some(weight) = weight {
            emit::insert::<ByHelper>(state, ct, origin_skb(state, ct), weight, party);
        }
        return;
    }
    // The packet is only known to `__nf_conntrack_confirm`, whose end is near: see `confirm.rs`.
    let mut due = 0;
    let mut party = entering.party;
    if entering.asks_socket() {
        due |= DUE_SOCKET;
    } else {
        party = owner::entered::<M>(state, entering, ct);
    }
    if weight.is_some() {
        due |= DUE_RECORD;
    }
    if due == 0 {
        return;
    }
    let place = vacant(state, ct);
    // SAFETY: a live map value of this CPU, and softirqs are off.
    unsafe {
        (*place).turn = (*place).turn.wrapping_add(1);
        (*place).ct = ct;
        (*place).due = due;
        if let Some(weight) = weight {
            emit::prepare_insert::<M>(&raw mut (*place).record, ct, weight, party);
        }
    }
}

/// Charges an entry whose packet is at hand (0: it has none that could be found). `clash`: it lost one.
#[inline(always)]
pub(super) fn entered<M: Memory>(state: *mut PerCpuState, ct: u64, skb: u64, clash: bool) -> Party {
    let entering = owner::of_entry::<M>(ct);
    if entering.asks_socket() {
        owner::entered_by_socket(state, read::packet_cgroup(skb), ct, clash)
    } else {
        owner::entered_interruptible::<M>(state, entering, ct, clash)
    }
}

/// Where an insert can wait. If both places are taken, the ends of their calls were missed, or
/// this CPU was left in between: the later one makes room, since it may be the softirq's. If its
/// packet is just being looked at (nothing is due of it any more), the other one does: the kernel
/// runs that program on a CPU for one packet at a time. One that waits with the address of the new entry was left: its entry is gone
/// since, and the packet of this one must not be taken for its.
#[inline(always)]
fn vacant(state: *mut PerCpuState, ct: u64) -> *mut Pending {
    // SAFETY: `state` is a live map value of this CPU.
    unsafe {
        let first = &raw mut (*state).pending[0];
        if (*first).ct == ct {
            given_up(state, first);
        }
        if (*first).ct == 0 {
            return first;
        }
        let mut place = &raw mut (*state).pending[1];
        if (*place).ct != 0 {
            if (*place).due == 0 {
                place = &raw mut (*state).pending[0];
            }
            given_up(state, place);
        }
        place
    }
}

/// What is due of an insert that waits: from here on the caller does it, and nobody who interrupts.
///
/// # Safety
///
/// `pending` is a live map value of this CPU.
#[inline(always)]
pub(super) unsafe fn take_due(pending: *mut Pending) -> u32 {
    // SAFETY: see above. Volatile, because it has to be written before anything of it is done.
    unsafe {
        let due = (&raw const (*pending).due).read_volatile();
        (&raw mut (*pending).due).write_volatile(0);
        due
    }
}

/// An insert whose packet is not going to be seen.
#[inline(always)]
pub(super) fn given_up(state: *mut PerCpuState, pending: *mut Pending) {
    // SAFETY: `pending` is a live map value of this CPU.
    unsafe {
        let due = take_due(pending);
        if due & DUE_SOCKET != 0 {
            owner::entered_without_socket(state);
        }
        if due & DUE_RECORD != 0 {
            emit::insert_lost(state, (*pending).record.header.weight);
        }
        (*pending).ct = 0;
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
        let ct = ctx.arg::<*const u8>(0) as u64;
        entered::<Typed>(state, ct, 0, false);
    }
    0
}
