//! The end of `__nf_conntrack_confirm`: packets lost there, and the packet behind an insert.

use core::mem::MaybeUninit;

use aya_ebpf::{macros::fexit, programs::FExitContext};
use conntrack_ebpf::{
    counter::Counter,
    record::DropReason,
    state::{DUE_RECORD, DUE_SOCKET, Pending, PerCpuState},
};

use super::{
    emit, insert,
    maps::{CLASHED, count_atomic, state, take_settled},
    memory::{ByHelper, Memory as _, Typed},
    owner, read,
    sender::{self, At},
};

/// `NF_DROP`
const DROP: u32 = 0;

/// match: v5.4..v7.3 net/netfilter/nf_conntrack_core.c: int __nf_conntrack_confirm(skb)
///
/// Beside `__nf_conntrack_hash_insert`, which counts.
#[fexit]
fn confirm_fexit(ctx: FExitContext) -> u32 {
    let Some(state) = state() else { return 0 };
    let verdict: u32 = ctx.arg(1);
    // SAFETY: `state` is a live map value of this CPU.
    let (first, second) = unsafe { (&raw mut (*state).pending[0], &raw mut (*state).pending[1]) };
    // SAFETY: as above.
    let waiting = unsafe { ((*first).ct, (*second).ct) };
    if verdict != DROP && waiting == (0, 0) {
        return 0;
    }
    let skb = ctx.arg::<*const u8>(0) as u64;
    let ct = read::skb_ct::<Typed>(skb).map_or(0, |(ct, _)| ct);
    if ct != 0 && ct == waiting.0 {
        arrived(state, first, skb, verdict);
    } else if ct != 0 && ct == waiting.1 {
        arrived(state, second, skb, verdict);
    }
    if verdict == DROP {
        lost(state, skb);
    }
    0
}

/// The packet of an insert that waits is here.
#[inline(always)]
fn arrived(state: *mut PerCpuState, pending: *mut Pending, skb: u64, verdict: u32) {
    if verdict == DROP {
        // In the table all the same, for a moment.
        insert::given_up(state, pending);
        return;
    }
    // SAFETY: a live map value of this CPU. An insert of a softirq that comes in between does not take
    // a place of which nothing is due, until it is free.
    let (due, ct, record) = unsafe {
        (
            insert::take_due(pending),
            (*pending).ct,
            &raw mut (*pending).record,
        )
    };
    let (mut origin, flags) = read::origin::<Typed>(skb, 0);
    if origin.cgroup != 0
        && let Some(cgroup) = sender::cgroup(At::Begin)
    {
        origin.cgroup = cgroup;
    }
    // SAFETY: as above.
    let record = unsafe { &mut *record };
    if due & DUE_SOCKET != 0 {
        // No task sends it: see `insert.rs`.
        let mut head = MaybeUninit::uninit();
        let entry = <ByHelper>::entry(ct, &mut head);
        let party = owner::entered_by_socket::<ByHelper>(state, origin.cgroup, &entry, false);
        record.origin.owner = party.slot() as u16;
        record.header.flags = owner::flags(party);
    }
    if due & DUE_RECORD != 0 {
        emit::insert_prepared(state, record, origin, flags);
    }
    // SAFETY: as above.
    unsafe { (*pending).ct = 0 }
}

/// match: as above
///
/// Where `__nf_conntrack_hash_insert` is inlined: counts what was confirmed. A packet in the reply
/// direction is accepted without any insert; a resolved clash was counted where it was resolved.
#[fexit]
fn confirm_counting_fexit(ctx: FExitContext) -> u32 {
    let Some(state) = state() else { return 0 };
    let verdict: u32 = ctx.arg(1);
    let skb = ctx.arg::<*const u8>(0) as u64;
    if verdict == DROP {
        lost(state, skb);
        return 0;
    }
    if take_settled(skb) {
        return 0;
    }
    let Some((ct, false)) = read::skb_ct::<Typed>(skb) else {
        return 0;
    };
    count_atomic(state, Counter::Confirmed, 1);
    // SAFETY: `state` is a live map value of this CPU.
    let number = unsafe { (*state).counters[Counter::Confirmed as usize] };
    let weight = insert::sampled(state, number);
    let party = insert::entered::<ByHelper>(state, ct, skb, At::Begin);
    if let Some(weight) = weight {
        emit::insert::<ByHelper>(state, ct, skb, weight, party, At::Begin);
    }
    0
}

/// The packet is dropped: by a clash (counted where it happened), or one of the other reasons.
#[inline(always)]
fn lost(state: *mut PerCpuState, skb: u64) {
    if CLASHED.remove(skb).is_ok() {
        return;
    }
    let Some((ct, _)) = read::skb_ct::<ByHelper>(skb) else {
        return;
    };
    let Some(status) = read::ct_status(ct) else {
        return;
    };
    let (counter, reason) = if status & read::DYING != 0 {
        (Counter::DropDying, DropReason::Dying)
    } else if status & read::CONFIRMED != 0 {
        // A copy of a packet whose entry is already in the table (WARN_ON in the kernel).
        return;
    } else {
        (Counter::DropChainTooLong, DropReason::ChainTooLong)
    };
    count_atomic(state, counter, 1);
    emit::drop_of_entry(state, reason, ct, skb, At::Begin);
}
