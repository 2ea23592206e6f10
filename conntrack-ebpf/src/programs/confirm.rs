//! The end of `__nf_conntrack_confirm`: packets lost there, and the packet behind an insert.

use aya_ebpf::{macros::fexit, programs::FExitContext};
use conntrack_ebpf::{counter::Counter, record::DropReason, state::PerCpuState};

use super::{
    emit, insert,
    maps::{CLASHED, count_atomic, state},
    read::{self, ByHelper, Typed},
};

/// `NF_DROP`
const DROP: u32 = 0;
/// `IPS_DYING`
const DYING: u64 = 1 << 9;
/// `IPS_CONFIRMED`
const CONFIRMED: u64 = 1 << 3;

/// match: v5.4..v7.3 net/netfilter/nf_conntrack_core.c: int __nf_conntrack_confirm(skb)
///
/// Beside `__nf_conntrack_hash_insert`, which counts.
#[fexit]
fn confirm_fexit(ctx: FExitContext) -> u32 {
    let Some(state) = state() else { return 0 };
    let verdict: u32 = ctx.arg(1);
    // SAFETY: `state` is a live map value of this CPU.
    let pending = unsafe { (*state).pending_ct };
    if verdict != DROP && pending == 0 {
        return 0;
    }
    let skb = ctx.arg::<*const u8>(0) as u64;
    if verdict == DROP {
        lost(state, skb);
    } else if read::skb_ct::<Typed>(skb).is_some_and(|(ct, _)| ct == pending) {
        // SAFETY: as above.
        let prepared = unsafe {
            (*state).pending_ct = 0;
            &raw const (*state).pending
        };
        emit::insert_prepared::<Typed>(state, prepared, skb);
    }
    0
}

/// match: as above
///
/// Where `__nf_conntrack_hash_insert` is inlined: counts what was confirmed. A packet in the reply
/// direction is accepted without any insert; a merged clash is subtracted by user space.
#[fexit]
fn confirm_counting_fexit(ctx: FExitContext) -> u32 {
    let Some(state) = state() else { return 0 };
    let verdict: u32 = ctx.arg(1);
    let skb = ctx.arg::<*const u8>(0) as u64;
    if verdict == DROP {
        lost(state, skb);
        return 0;
    }
    let Some((ct, false)) = read::skb_ct::<Typed>(skb) else {
        return 0;
    };
    count_atomic(state, Counter::Confirmed, 1);
    if let Some(weight) = insert::sampled(state) {
        emit::insert::<ByHelper>(state, ct, skb, weight);
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
    let (counter, reason) = if status & DYING != 0 {
        (Counter::DropDying, DropReason::Dying)
    } else if status & CONFIRMED != 0 {
        // A copy of a packet whose entry is already in the table (WARN_ON in the kernel).
        return;
    } else {
        (Counter::DropChainTooLong, DropReason::ChainTooLong)
    };
    count_atomic(state, counter, 1);
    emit::drop_of_entry(state, reason, ct, skb);
}
