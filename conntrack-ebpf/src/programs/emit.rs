//! Records into the ring buffer, within their budgets.

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::bpf_get_smp_processor_id,
};
use conntrack_ebpf::{
    counter::Counter,
    frame::Frame,
    record::{
        DropReason, DropRecord, EvictionRecord, FLAG_CAUSE_KNOWN, Header, InsertRecord, Kind, Tuple,
        VERSION,
    },
    state::PerCpuState,
};

use super::{
    globals,
    maps::{EVENTS, count_atomic},
    read,
};

#[inline(always)]
fn header(kind: Kind, reason: u8, flags: u8, netns: u32, weight: u32) -> Header {
    Header {
        version: VERSION,
        kind: kind as u8,
        reason,
        flags,
        netns,
        time_ns: read::now_ns(),
        weight,
        // SAFETY: the helper has no arguments and no preconditions.
        cpu: unsafe { bpf_get_smp_processor_id() },
    }
}

/// How a record of an insert wakes the reader: not at all while there is room. The reader looks
/// by itself a few times a second.
#[inline(always)]
fn lazy_wake() -> u64 {
    if EVENTS.query(u64::from(BPF_RB_AVAIL_DATA)) >= u64::from(globals::WAKE_AT_BYTES.load()) {
        u64::from(BPF_RB_FORCE_WAKEUP)
    } else {
        u64::from(BPF_RB_NO_WAKEUP)
    }
}

/// The record of an insert. `skb` 0: not at hand.
#[inline(always)]
pub(super) fn insert(state: *mut PerCpuState, ct: u64, skb: u64, weight: u32) {
    let Some(mut record) = EVENTS.reserve::<InsertRecord>(0) else {
        count_atomic(state, Counter::LostInsertRecords, 1);
        count_atomic(state, Counter::LostInsertWeight, u64::from(weight));
        return;
    };
    let (origin, flags) = read::origin(skb, read::ct_zone(ct));
    record.write(InsertRecord {
        header: header(Kind::Insert, 0, flags, read::netns(read::ct_net(ct)), weight),
        original: read::ct_tuple(ct, 0),
        reply: read::ct_tuple(ct, 1),
        origin,
    });
    record.submit(lazy_wake());
    count_atomic(state, Counter::Records, 1);
}

/// Whether a drop may have a record; if not, it is counted as not detailed.
#[inline(always)]
fn drop_has_budget(state: *mut PerCpuState) -> bool {
    // SAFETY: `state` is a live map value. A softirq in between can at most make the budget off
    // by one record.
    let drops = unsafe { &mut (*state).drops };
    let granted = drops.take(globals::DROP_BUDGET.load(), read::tick(), read::now_ns);
    if !granted {
        count_atomic(state, Counter::DropsNotDetailed, 1);
    }
    granted
}

/// The record of a packet dropped at its confirmation, when there is an entry.
#[inline(always)]
pub(super) fn drop_of_entry(state: *mut PerCpuState, reason: DropReason, ct: u64, skb: u64) {
    if !drop_has_budget(state) {
        return;
    }
    let Some(mut record) = EVENTS.reserve::<DropRecord>(0) else {
        count_atomic(state, Counter::LostDropRecords, 1);
        return;
    };
    let (origin, flags) = read::origin(skb, read::ct_zone(ct));
    let netns = read::netns(read::ct_net(ct));
    record.write(DropRecord {
        header: header(Kind::Drop, reason as u8, flags | FLAG_CAUSE_KNOWN, netns, 1),
        original: read::ct_tuple(ct, 0),
        reply: read::ct_tuple(ct, 1),
        origin,
    });
    record.submit(0);
    count_atomic(state, Counter::Records, 1);
}

/// The record of a new flow that a full table refused.
#[inline(always)]
pub(super) fn drop_of_flow(state: *mut PerCpuState, reason: DropReason, frame: &Frame) {
    if !drop_has_budget(state) {
        return;
    }
    let Some(mut record) = EVENTS.reserve::<DropRecord>(0) else {
        count_atomic(state, Counter::LostDropRecords, 1);
        return;
    };
    let known = if frame.known != 0 { FLAG_CAUSE_KNOWN } else { 0 };
    record.write(DropRecord {
        header: header(Kind::Drop, reason as u8, frame.flags | known, read::netns(frame.net), 1),
        original: frame.cause,
        reply: Tuple::default(),
        origin: frame.origin,
    });
    record.submit(0);
    count_atomic(state, Counter::Records, 1);
}

/// The record of an eviction. `frame` `None`: the cause could not be told.
#[inline(always)]
pub(super) fn eviction(state: *mut PerCpuState, ct: u64, status: u64, frame: &Frame) {
    // SAFETY: as in `drop_has_budget`.
    let evictions = unsafe { &mut (*state).evictions };
    if !evictions.take(globals::EVICTION_BUDGET.load(), read::tick(), read::now_ns) {
        count_atomic(state, Counter::EvictionsNotDetailed, 1);
        return;
    }
    let Some(mut record) = EVENTS.reserve::<EvictionRecord>(0) else {
        count_atomic(state, Counter::LostEvictionRecords, 1);
        return;
    };
    let known = frame.known != 0 && frame.tainted == 0;
    let (cause, mut origin, flags) = if known {
        (frame.cause, frame.origin, frame.flags | FLAG_CAUSE_KNOWN)
    } else {
        (Tuple::default(), Default::default(), 0)
    };
    origin.zone = read::ct_zone(ct);
    record.write(EvictionRecord {
        header: header(Kind::Eviction, 0, flags, read::netns(read::ct_net(ct)), 1),
        victim: read::ct_tuple(ct, 0),
        victim_reply: read::ct_tuple(ct, 1),
        cause,
        origin,
        victim_status: status,
    });
    record.submit(0);
    count_atomic(state, Counter::Records, 1);
}
