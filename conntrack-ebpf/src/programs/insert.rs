//! An entry enters the hash table.

use core::mem::MaybeUninit;

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
    maps::{count, count_atomic, insert_budget, is_armed, state, wake_if_due},
    memory::{ByHelper, Entry as _, Memory, Typed},
    new_flow, owner, read,
    sender::{self, At},
};

/// The insert of this number: the weight of its record, if it has one.
///
/// Softirqs are off here in both callers, so nothing else changes the budget meanwhile.
#[inline(always)]
pub(super) fn sampled(state: *mut PerCpuState, number: u64) -> Option<u32> {
    // SAFETY: `state` is a live map value of this CPU.
    let inserts = unsafe { &mut (*state).inserts };
    inserts.sample(
        number,
        insert_budget,
        globals::INSERT_ONE_IN.load(),
        read::tick(),
        read::now_ns,
    )
}

/// `__nf_conntrack_hash_insert`: all checks are passed, softirqs are off, the bucket locks held.
/// So no program can be running here already on this CPU, and none of these calls is missed.
///
/// What all new connections pay for is in here; the rest is in functions of their own, which cost what is on their stack only where
/// they are called.
#[inline(always)]
fn hash_insert<M: Memory>(ct: u64) {
    let Some(state) = state() else { return };
    let number = count(state, Counter::HashInserts);
    let mut head = MaybeUninit::uninit();
    let entry = M::entry(ct, &mut head);
    let entering = owner::of_entry::<M>(state, &entry);
    let mut party = entering.party;
    let mut waits = false;
    if !entering.asks_socket() {
        party = owner::entered::<M>(state, entering, &entry);
    } else if entry.is_request() {
        party = owner::entered_without_socket(state);
    } else if let Some(cgroup) = sender::cgroup(At::Confirmation) {
        party = owner::entered_by_cgroup::<M>(state, cgroup, &entry);
    } else if packets_are_seen(state) {
        waits = true;
    } else {
        party = match new_flow::take_socket(state, ct) {
            Some(cgroup) => owner::entered_by_cgroup::<M>(state, cgroup, &entry),
            None => owner::entered_without_socket(state),
        };
    }
    // SAFETY: `state` is a live map value of this CPU.
    if waits || number >= unsafe { (*state).due } {
        more_is_due::<M>(state, ct, number, party, waits);
    }
}

/// Whether the packet of an insert is seen when it was confirmed, which is soon: see `confirm.rs`.
#[inline(always)]
fn packets_are_seen(state: *mut PerCpuState) -> bool {
    globals::RECORD_AT_CONFIRM.load() != 0 && is_armed(state)
}

/// What few inserts need: a wake-up, a record, or to wait for their packet. `waits`: its socket is to be asked.
#[inline(never)]
fn more_is_due<M: Memory>(
    state: *mut PerCpuState,
    ct: u64,
    number: u64,
    party: Party,
    waits: bool,
) {
    wake_if_due(state, number);
    let weight = sampled(state, number);
    // SAFETY: `state` is a live map value of this CPU.
    unsafe {
        let next = (*state).inserts.next(number, globals::INSERT_ONE_IN.load());
        (*state).due = next.min((*state).wake_at);
    }
    // Not asked once more of one that waits: it may have changed since, and nobody else would charge it.
    if !waits && !packets_are_seen(state) {
        if let Some(weight) = weight {
            let skb = origin_skb(state, ct);
            emit::insert::<M>(state, ct, skb, weight, party, At::Confirmation);
        }
        return;
    }
    let mut due = 0;
    if waits {
        due |= DUE_SOCKET;
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

/// Charges an entry whose packet is at hand (0: it has none). It lost a clash if that is where this is called.
#[inline(always)]
pub(super) fn entered<M: Memory>(state: *mut PerCpuState, ct: u64, skb: u64, at: At) -> Party {
    // A clash is resolved within the confirmation.
    let clash = matches!(at, At::Confirmation);
    let mut head = MaybeUninit::uninit();
    let entry = M::entry(ct, &mut head);
    let entering = owner::of_entry::<M>(state, &entry);
    if entering.asks_socket() {
        owner::entered_by_socket::<M>(state, sender::cgroup_of(skb, at), &entry, clash)
    } else {
        owner::entered_interruptible::<M>(state, entering, &entry, clash)
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

/// The packet that allocated this entry, if it was seen and this CPU has seen no other new flow since; else 0.
#[inline(always)]
fn origin_skb(state: *mut PerCpuState, ct: u64) -> u64 {
    if !is_armed(state) {
        return 0;
    }
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
        entered::<Typed>(state, ct, 0, At::Begin);
    }
    0
}
