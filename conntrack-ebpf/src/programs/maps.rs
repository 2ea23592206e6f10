//! The maps, and the counters in them.

use core::{
    intrinsics::{AtomicOrdering, atomic_xadd},
    sync::atomic::AtomicU64,
};

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_RB_FORCE_WAKEUP},
    macros::map,
    maps::{Array, HashMap, RingBuf},
};
use conntrack_ebpf::{
    counter::Counter,
    frame::Frames,
    state::{PerCpuState, WAKE_AGAIN},
};

use super::{globals, read};

/// See [`PerCpuState`]; an element for each CPU, whose number is set when it is loaded.
///
/// Not a per-CPU map: that can only be read by bpf(2), which keeps every kprobe program of its CPU
/// from running meanwhile (`bpf_disable_instrumentation`), for as long as the reader is preempted.
#[map]
static STATE: Array<PerCpuState> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Records of inserts for each window and CPU; written by user space.
#[map]
static INSERT_BUDGET: Array<u32> = Array::with_max_entries(1, 0);

/// Records of inserts that a window may have that begins now.
#[inline(always)]
pub(super) fn insert_budget() -> u32 {
    INSERT_BUDGET.get(0).copied().unwrap_or(0)
}

/// Records for user space; the size is set when it is loaded.
#[map]
pub(super) static EVENTS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// Wakes user space; see [`PerCpuState::wake_at`].
#[map]
static WAKES: RingBuf = RingBuf::with_byte_size(4096, 0);

/// Open calls of `early_drop`, by task. An element lives as long as a call is open, so the number
/// is bounded by the tasks that are inside at once: two for each CPU at the most, but for
/// preempted ones.
#[map]
pub(super) static FRAMES: HashMap<u64, Frames> = HashMap::with_max_entries(4096, 0);

/// Packets that `nf_ct_resolve_clash` refused, by `struct sk_buff *`, until
/// `__nf_conntrack_confirm` returns: so that the drop isn't counted twice.
#[map]
pub(super) static CLASHED: HashMap<u64, u8> = HashMap::with_max_entries(1024, 0);

/// Packets whose clash was resolved, by `struct sk_buff *`, until `__nf_conntrack_confirm` returns, where that is what counts
/// inserts: what was inserted of them, if anything, is counted.
#[map]
static SETTLED: HashMap<u64, u8> = HashMap::with_max_entries(1024, 0);

/// Packets in [`SETTLED`]. While it is 0 a confirmation needs no look-up.
static SETTLED_PACKETS: AtomicU64 = AtomicU64::new(0);

/// Contexts in [`FRAMES`]. While it is 0 a delete needs no look-up.
static EARLY_DROPS: AtomicU64 = AtomicU64::new(0);

/// This CPU's state. It can't be missing: there is an element for each CPU that can be.
#[inline(always)]
pub(super) fn state() -> Option<*mut PerCpuState> {
    STATE.get_ptr_mut(read::cpu())
}

/// Wakes user space if so many were inserted on this CPU that a table may fill. Softirqs are off.
#[inline(always)]
pub(super) fn wake_if_due(state: *mut PerCpuState, inserts: u64) {
    // SAFETY: `state` is a live map value.
    unsafe {
        if inserts < (*state).wake_at {
            return;
        }
        (*state).wake_at = inserts + WAKE_AGAIN;
    }
    // When the ring is full, there is a wake-up in it.
    if let Some(mut place) = WAKES.reserve::<u64>(0) {
        place.write(read::now_ns());
        place.submit(u64::from(BPF_RB_FORCE_WAKEUP));
    }
}

/// Which of the two tables of owners is read.
#[inline(always)]
pub(super) fn tables(state: *mut PerCpuState) -> u32 {
    // SAFETY: `state` is a live map value.
    unsafe { (*state).tables as u32 }
}

/// Whether the programs are attached that tell more of a new flow than its entry does.
#[inline(always)]
pub(super) fn is_armed(state: *mut PerCpuState) -> bool {
    // SAFETY: `state` is a live map value.
    unsafe { (*state).armed != 0 }
}

/// Counts where softirqs are off; gives the count.
#[inline(always)]
pub(super) fn count(state: *mut PerCpuState, counter: Counter) -> u64 {
    // SAFETY: `state` is a live map value; the index is a constant below its length.
    unsafe {
        let count = &raw mut (*state).counters[counter as usize];
        add_one(count);
        *count
    }
}

/// Adds one to a word of this CPU where softirqs are off, so that nothing else can run between load and store. On a kernel that is
/// all preemptible a task with softirqs off may be put aside for another one, unless they lock each other out (`local_bh_disable`:
/// always before 6.18, then with `PREEMPT_RT_NEEDS_BH_LOCK`).
///
/// # Safety
///
/// `word` is a live, 8-byte aligned word of a map value.
#[inline(always)]
pub(super) unsafe fn add_one(word: *mut u64) {
    // SAFETY: see the contract.
    unsafe {
        if globals::IS_REAL_TIME.load() != 0 {
            add(word, 1);
        } else {
            *word += 1;
        }
    }
}

/// Counts where a softirq may interrupt (or for what is rare).
#[inline(always)]
pub(super) fn count_atomic(state: *mut PerCpuState, counter: Counter, by: u64) {
    // SAFETY: a live, 8-byte aligned word of a map value.
    unsafe { add(&raw mut (*state).counters[counter as usize], by) }
}

/// Adds in one instruction. (The target has no `fetch_add`, since it has no compare-and-swap.)
///
/// # Safety
///
/// `word` is a live, 8-byte aligned word of a map value.
#[inline(always)]
pub(super) unsafe fn add(word: *mut u64, by: u64) {
    // SAFETY: see the contract.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(word, by) };
}

/// So many contexts more, or fewer (as a negative number), are in [`FRAMES`].
#[inline(always)]
pub(super) fn early_drops_changed(contexts: u32) {
    let contexts = i64::from(contexts.cast_signed()).cast_unsigned();
    // SAFETY: a live, aligned word of the data section.
    unsafe { add(EARLY_DROPS.as_ptr(), contexts) };
}

#[inline(always)]
pub(super) fn early_drop_is_open() -> bool {
    is_above_zero(&EARLY_DROPS)
}

#[inline(always)]
fn is_above_zero(word: &AtomicU64) -> bool {
    // SAFETY: an aligned word that lives as long as the program; BPF loads of it don't tear. (The
    // target's code generator has no atomic load.)
    unsafe { word.as_ptr().read_volatile() != 0 }
}

/// The clash of this packet was resolved.
#[inline(always)]
pub(super) fn settle(skb: u64) {
    if SETTLED.insert(skb, 1, 0).is_ok() {
        // SAFETY: a live, aligned word of the data section.
        unsafe { add(SETTLED_PACKETS.as_ptr(), 1) }
    }
}

/// Whether the clash of this packet was resolved; asked once.
#[inline(always)]
pub(super) fn take_settled(skb: u64) -> bool {
    let settled = is_above_zero(&SETTLED_PACKETS) && SETTLED.remove(skb).is_ok();
    if settled {
        // SAFETY: as above.
        unsafe { add(SETTLED_PACKETS.as_ptr(), u64::MAX) }
    }
    settled
}
