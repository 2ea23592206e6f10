//! Records into the ring buffer, within their budgets.

use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use conntrack_ebpf::{
    counter::Counter,
    frame::Frame,
    owner::{Direction, Party},
    record::{
        DropReason, DropRecord, EvictionRecord, FLAG_CAUSE_KNOWN, FLAG_VICTIM_INGRESS, Header,
        InsertRecord, Kind, Origin, Tuple, VERSION,
    },
    state::{PerCpuState, WAKE_EVERY_NS},
};

use super::{
    globals,
    maps::{EVENTS, count_atomic},
    memory::{ByHelper, Memory},
    owner, read,
    sender::{self, At},
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
        cpu: read::cpu(),
    }
}

/// How a record of an insert wakes the reader: not at all while there is room. The reader looks
/// by itself a few times a second. Whether there is room is asked for one record in
/// [`ROOM_EVERY`].
#[inline(always)]
fn lazy_wake(state: *mut PerCpuState) -> u64 {
    // SAFETY: `state` is a live map value of this CPU.
    let records = unsafe { &mut (*state).counters[Counter::Records as usize] };
    *records += 1;
    if *records % ROOM_EVERY == 0
        && EVENTS.query(u64::from(BPF_RB_AVAIL_DATA)) >= u64::from(globals::WAKE_AT_BYTES.load())
    {
        u64::from(BPF_RB_FORCE_WAKEUP)
    } else {
        u64::from(BPF_RB_NO_WAKEUP)
    }
}

/// See [`lazy_wake`]: 32 records are 4 KiB of the ring.
const ROOM_EVERY: u64 = 32;

/// How a record of a drop or an eviction wakes the reader: see [`WAKE_EVERY_NS`]. Left to itself the kernel would wake it only if all
/// before was read (`ringbuf.c`, `bpf_ringbuf_commit`), and records of inserts that woke nobody lie there.
#[inline(always)]
fn prompt_wake(state: *mut PerCpuState, time_ns: u64) -> u64 {
    // SAFETY: `state` is a live map value of this CPU. A softirq in between can at most wake the reader once more.
    let woken_ns = unsafe { &mut (*state).woken_ns };
    if time_ns.wrapping_sub(*woken_ns) < WAKE_EVERY_NS {
        return u64::from(BPF_RB_NO_WAKEUP);
    }
    *woken_ns = time_ns;
    u64::from(BPF_RB_FORCE_WAKEUP)
}

/// Where a packet came from, and the `FLAG_*` that go with it. Of one with a socket the task is told that sends it, if one does: what is
/// forwarded has no socket, and may pass while any task runs.
#[inline(always)]
pub(super) fn origin(skb: u64, zone: u16, at: At) -> (Origin, u8) {
    let (mut origin, flags) = read::origin::<ByHelper>(skb, zone);
    if origin.cgroup != 0
        && let Some(cgroup) = sender::cgroup(at)
    {
        origin.cgroup = cgroup;
    }
    (origin, flags)
}

/// The record of an insert, made at once. `skb` 0: not at hand.
#[inline(always)]
pub(super) fn insert<M: Memory>(
    state: *mut PerCpuState,
    ct: u64,
    skb: u64,
    weight: u32,
    party: Party,
    at: At,
) {
    let Some(mut record) = EVENTS.reserve::<InsertRecord>(0) else {
        insert_lost(state, weight);
        return;
    };
    let place = record.as_mut_ptr();
    let (mut origin, flags) = origin(skb, read::ct_zone::<M>(ct), at);
    origin.owner = party.slot() as u16;
    let flags = flags | owner::flags(party);
    let netns = read::netns::<M>(read::ct_net::<M>(ct));
    // SAFETY: the reserved place is as large as the record; all of its bytes are written.
    unsafe {
        (*place).header = header(Kind::Insert, 0, flags, netns, weight);
        read::copy_ct_tuple::<M, 0>(ct, &raw mut (*place).original);
        read::copy_ct_tuple::<M, 1>(ct, &raw mut (*place).reply);
        (*place).origin = origin;
    }
    record.submit(lazy_wake(state));
}

/// An insert whose record was due but is not delivered.
#[inline(always)]
pub(super) fn insert_lost(state: *mut PerCpuState, weight: u32) {
    count_atomic(state, Counter::LostInsertRecords, 1);
    count_atomic(state, Counter::LostInsertWeight, u64::from(weight));
}

/// What the entry says of an insert, kept until its packet is at hand too.
#[inline(always)]
pub(super) fn prepare_insert<M: Memory>(
    pending: *mut InsertRecord,
    ct: u64,
    weight: u32,
    party: Party,
) {
    // SAFETY: `pending` is in this CPU's state, and softirqs are off.
    unsafe {
        (*pending).header.weight = weight;
        (*pending).header.netns = read::netns::<M>(read::ct_net::<M>(ct));
        (*pending).header.flags = owner::flags(party);
        read::copy_ct_tuple::<M, 0>(ct, &raw mut (*pending).original);
        read::copy_ct_tuple::<M, 1>(ct, &raw mut (*pending).reply);
        (*pending).origin.zone = read::ct_zone::<M>(ct);
        (*pending).origin.owner = party.slot() as u16;
    }
}

/// The record of an insert that was prepared, with what its packet says.
#[inline(always)]
pub(super) fn insert_prepared(
    state: *mut PerCpuState,
    prepared: &InsertRecord,
    origin: Origin,
    flags: u8,
) {
    let weight = prepared.header.weight;
    let Some(mut record) = EVENTS.reserve::<InsertRecord>(0) else {
        insert_lost(state, weight);
        return;
    };
    let place = record.as_mut_ptr();
    let flags = flags | prepared.header.flags;
    // SAFETY: the reserved place is as large as the record; all of its bytes are written.
    unsafe {
        (*place).header = header(Kind::Insert, 0, flags, prepared.header.netns, weight);
        copy_words(&raw const prepared.original, &raw mut (*place).original);
        copy_words(&raw const prepared.reply, &raw mut (*place).reply);
        (*place).origin.cgroup = origin.cgroup;
        (*place).origin.ifindex = origin.ifindex;
        (*place).origin.zone = prepared.origin.zone;
        (*place).origin.owner = prepared.origin.owner;
    }
    record.submit(lazy_wake(state));
}

/// Copies a tuple by words; left alone the compiler calls a function that copies by bytes.
///
/// # Safety
///
/// `from` can be read and `to` be written.
#[inline(always)]
unsafe fn copy_words(from: *const Tuple, to: *mut Tuple) {
    const WORDS: usize = size_of::<Tuple>() / size_of::<u64>();
    for word in 0..WORDS {
        // SAFETY: see the contract; a tuple is aligned for words.
        unsafe {
            to.cast::<u64>()
                .add(word)
                .write(from.cast::<u64>().add(word).read_volatile())
        }
    }
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

/// A packet dropped at its confirmation, when there is an entry: charged, and its record.
#[inline(always)]
pub(super) fn drop_of_entry(
    state: *mut PerCpuState,
    reason: DropReason,
    ct: u64,
    skb: u64,
    at: At,
) {
    let (mut origin, flags) = origin(skb, read::ct_zone::<ByHelper>(ct), at);
    let netns = read::netns::<ByHelper>(read::ct_net::<ByHelper>(ct));
    let party = owner::of_lost_entry(state, ct, sender::cgroup_of(skb, at));
    owner::count_drop(party, reason);
    if !drop_has_budget(state) {
        return;
    }
    let Some(mut record) = EVENTS.reserve::<DropRecord>(0) else {
        count_atomic(state, Counter::LostDropRecords, 1);
        return;
    };
    origin.owner = party.slot() as u16;
    let flags = flags | owner::flags(party) | FLAG_CAUSE_KNOWN;
    let header = header(Kind::Drop, reason as u8, flags, netns, 1);
    let place = record.as_mut_ptr();
    // SAFETY: the reserved place is as large as the record; all of its bytes are written.
    unsafe {
        (*place).header = header;
        read::copy_ct_tuple::<ByHelper, 0>(ct, &raw mut (*place).original);
        read::copy_ct_tuple::<ByHelper, 1>(ct, &raw mut (*place).reply);
        (*place).origin = origin;
    }
    record.submit(prompt_wake(state, header.time_ns));
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
    let known = if frame.known != 0 {
        FLAG_CAUSE_KNOWN
    } else {
        0
    };
    let netns = read::netns::<ByHelper>(frame.net);
    let flags = frame.flags | known | owner::flags(frame.party);
    let header = header(Kind::Drop, reason as u8, flags, netns, 1);
    record.write(DropRecord {
        header,
        original: frame.cause,
        reply: Tuple::default(),
        origin: Origin {
            owner: frame.party.slot() as u16,
            ..frame.origin
        },
    });
    record.submit(prompt_wake(state, header.time_ns));
    count_atomic(state, Counter::Records, 1);
}

/// The record of an eviction; `frame` says for which new flow.
#[inline(always)]
pub(super) fn eviction(
    state: *mut PerCpuState,
    ct: u64,
    status: u64,
    frame: &Frame,
    victim: Party,
) {
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
    let mut flags = if known {
        frame.flags | FLAG_CAUSE_KNOWN | owner::flags(frame.party)
    } else {
        0
    };
    if victim.direction() == Direction::Ingress {
        flags |= FLAG_VICTIM_INGRESS;
    }
    let netns = read::netns::<ByHelper>(read::ct_net::<ByHelper>(ct));
    let header = header(Kind::Eviction, 0, flags, netns, 1);
    let place = record.as_mut_ptr();
    // In place: a record takes nearly half of a program's stack.
    // SAFETY: the reserved place is as large as the record; all of its bytes are written.
    unsafe {
        (*place).header = header;
        read::copy_ct_tuple::<ByHelper, 0>(ct, &raw mut (*place).victim);
        read::copy_ct_tuple::<ByHelper, 1>(ct, &raw mut (*place).victim_reply);
        if known {
            copy_words(&raw const frame.cause, &raw mut (*place).cause);
            (*place).origin = frame.origin;
            (*place).origin.owner = frame.party.slot() as u16;
        } else {
            (*place).cause = Tuple::default();
            (*place).origin = Origin::default();
        }
        (*place).origin.zone = read::ct_zone::<ByHelper>(ct);
        (*place).victim_status = status;
        (*place).victim_owner = victim.slot() as u16;
        (*place).reserved = [0; 3];
    }
    record.submit(prompt_wake(state, header.time_ns));
    count_atomic(state, Counter::Records, 1);
}
