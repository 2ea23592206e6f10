//! An entry leaves the hash table; under `early_drop` a live one is an eviction.

use core::mem::MaybeUninit;

use aya_ebpf::{
    macros::{fentry, kprobe},
    programs::{FEntryContext, ProbeContext},
};
use conntrack_ebpf::{counter::Counter, frame::Frame, owner::Party, state::PerCpuState};

use super::{
    emit, globals,
    maps::{FRAMES, count, count_atomic, early_drop_is_open, state},
    memory::{self, ByHelper, Entry as _, Memory, Typed},
    owner, read,
};

/// `IPS_ASSURED`: `early_drop` spares these; one that goes inside it was expired.
const ASSURED: u64 = 1 << 2;

/// The table's, and that of whoever removes the entry. Any more are those of packets (or of a flow table, or of connections that belong
/// to it), which keep it counted for as long as they are there.
const OWN_REFERENCES: u32 = 2;

#[inline(always)]
fn left_the_table<M: Memory>(ct: u64) {
    let Some(state) = state() else { return };
    count(state, Counter::Deletes);
    let mut head = MaybeUninit::uninit();
    let entry = M::entry(ct, &mut head);
    let party = owner::of_leaving::<M>(state, &entry);
    owner::count_delete(party, entry.references() > OWN_REFERENCES);
    if early_drop_is_open() {
        evicted(state, ct, party);
    }
}

/// Counts and records an eviction if this task is inside `early_drop` and the entry was live.
///
/// `early_drop` also reaps expired entries that it meets; the kernel doesn't count those either.
#[inline(never)]
fn evicted(state: *mut PerCpuState, ct: u64, party: Party) {
    let Some(frames) = FRAMES.get_ptr_mut(read::task_key()) else {
        return;
    };
    let tick = read::tick();
    // SAFETY: a live map value that only this task, and softirqs on top of it, use.
    let frames = unsafe { &mut *frames };
    let Some(frame) = frames.top(tick, u64::from(globals::STALE_TICKS.load())) else {
        return;
    };
    let (Some(status), Some(timeout)) = (
        read::ct_status(ct),
        read::member::<u32>(ct, globals::CT_TIMEOUT.load()),
    ) else {
        return;
    };
    // As nf_ct_is_expired(): both are 32-bit jiffies that wrap.
    let expired = timeout.wrapping_sub(tick as u32) as i32 <= 0;
    if status & ASSURED != 0 || expired {
        return;
    }
    // It evicts from its own table only: of another one this is the context of a call whose end was
    // missed, inside one whose begin was.
    if frame.net != read::ct_net::<ByHelper>(ct) {
        frame.tainted = 1;
    }
    frame.evicted += 1;
    count_atomic(state, Counter::Evictions, 1);
    let cause = if frame.known == 0 || frame.tainted != 0 {
        count_atomic(state, Counter::EvictionsCauseUnknown, 1);
        Party::NOBODY
    } else {
        frame.party
    };
    owner::count_eviction(party, cause);
    let frame: &Frame = frame;
    emit::eviction(state, ct, status, frame, party);
}

/// match: v6.1..v7.3 net/netfilter/nf_conntrack_core.c: void __nf_ct_delete_from_lists(ct)
/// match: v5.4..v6.0 net/netfilter/nf_conntrack_core.c: void nf_ct_delete_from_lists(ct)
///
/// Called once for each entry that leaves, with softirqs off (6.1 and later).
#[fentry]
fn delete_fentry(ctx: FEntryContext) -> u32 {
    left_the_table::<Typed>(ctx.arg::<*const u8>(0) as u64);
    0
}

/// match: as above
#[kprobe]
fn delete_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(ct) = ctx.arg(0) {
        if memory::is_entry_in_one_piece() {
            left_the_table::<ByHelper<true>>(ct);
        } else {
            left_the_table::<ByHelper>(ct);
        }
    }
    0
}

/// `IPS_DYING`: set before an entry leaves the table.
const DYING: u64 = 1 << 9;

/// `nf_ct_remove_expectations` is called twice for an entry: with softirqs off when it leaves the table, and when its
/// last reference is gone (with softirqs on in some kernels after 5.18). Also when ctnetlink takes the helper off an
/// entry, which stays.
#[inline(always)]
fn expectations_removed<M: Memory>(ct: u64) {
    let leaves = read::ct_status(ct).is_none_or(|status| status & DYING != 0);
    if leaves && read::references(ct) != 0 {
        left_the_table::<M>(ct);
    }
}

/// match: v5.4..v7.3 net/netfilter/nf_conntrack_expect.c: void nf_ct_remove_expectations(ct)
///
/// For kernels before 6.1, and those whose compiler inlined `__nf_ct_delete_from_lists`.
#[fentry]
fn delete_expectations_fentry(ctx: FEntryContext) -> u32 {
    expectations_removed::<Typed>(ctx.arg::<*const u8>(0) as u64);
    0
}

/// match: as above
#[kprobe]
fn delete_expectations_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(ct) = ctx.arg(0) {
        expectations_removed::<ByHelper>(ct);
    }
    0
}
