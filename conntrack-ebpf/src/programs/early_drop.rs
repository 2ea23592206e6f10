//! The table is full: `early_drop` looks for something to evict, for the sake of one new flow.
//!
//! Never called below the limit, so none of this costs anything in a table with room.

use aya_ebpf::{
    EbpfContext,
    macros::{fentry, fexit, kprobe, kretprobe},
    programs::{FEntryContext, FExitContext, ProbeContext, RetProbeContext},
};
use aya_log_ebpf::debug;
use conntrack_ebpf::{
    counter::Counter,
    frame::{Frame, Frames},
    owner::Party,
    record::DropReason,
    state::PerCpuState,
};

use super::{
    emit,
    maps::{FRAMES, count_atomic, early_drops_changed, is_armed, state},
    memory, owner, read,
    sender::{self, At},
};

/// What a task's element begins with.
static EMPTY: Frames = Frames::EMPTY;

/// What the new flow is, as far as this CPU's last allocation fits the call.
#[inline(always)]
fn describe(frame: &mut Frame, state: *mut PerCpuState, net: u64, hash: u32, id: u64) {
    frame.id = id;
    frame.net = net;
    frame.tick = read::tick();
    frame.evicted = 0;
    frame.known = 0;
    frame.tainted = 0;
    // ctnetlink and BPF allocate with hash 0 (nf_conntrack_alloc).
    frame.request = u8::from(hash == 0);
    frame.flags = 0;
    frame.party = Party::NOBODY;
    // SAFETY: `state` is a live map value of this CPU.
    let flow = unsafe { &mut (*state).new_flow };
    let skb = if flow.skb_tuple == flow.tuple {
        flow.skb
    } else {
        0
    };
    // The place on the stack is the next flow's too, whose packet may be missed.
    flow.skb_tuple = 0;
    if flow.net != net || (flow.hash != hash && flow.hash_alt != hash) {
        if !is_armed(state) {
            count_atomic(state, Counter::Unarmed, 1);
        }
        return;
    }
    // SAFETY: the frame is a live map value.
    unsafe { memory::copy_tuple_at(flow.tuple, &raw mut frame.cause) };
    frame.known = u8::from(frame.cause.l3num != 0);
    (frame.origin, frame.flags) = emit::origin(skb, 0, At::Begin);
    // What is made by request has no sender.
    let sender = if frame.request == 0 {
        sender::cgroup(At::Begin)
    } else {
        None
    };
    let cgroup = sender.unwrap_or(frame.origin.cgroup);
    frame.party = owner::of_packet(state, &frame.cause, net, cgroup);
}

#[inline(always)]
fn begin(ctx: &impl EbpfContext, net: u64, hash: u32, id: u64) {
    let Some(state) = state() else { return };
    let key = read::task_key();
    let mut frames = FRAMES.get_ptr_mut(key);
    if frames.is_none() {
        let _: Result<(), i32> = FRAMES.insert(key, &EMPTY, 0);
        frames = FRAMES.get_ptr_mut(key);
    }
    let Some(frames) = frames else {
        count_atomic(state, Counter::FramesLost, 1);
        debug!(ctx, "early_drop: no place to keep its context");
        return;
    };
    // SAFETY: a live map value that only this task, and softirqs on top of it, use.
    let frames = unsafe { &mut *frames };
    let open = frames.depth();
    describe(
        frames.vacant(read::tick(), read::stale_ticks()),
        state,
        net,
        hash,
        id,
    );
    // Last: until now a softirq on top of this finds no context that is not its own.
    frames.open();
    early_drops_changed(frames.depth().wrapping_sub(open));
}

#[inline(always)]
fn end(ctx: &impl EbpfContext, id: u64, evicted: bool) {
    let Some(state) = state() else { return };
    let key = read::task_key();
    let Some(frames) = FRAMES.get_ptr_mut(key) else {
        debug!(ctx, "early_drop: its begin was not seen");
        refused(state, evicted, None);
        return;
    };
    // SAFETY: a live map value that only this task, and softirqs on top of it, use.
    let frames = unsafe { &mut *frames };
    let open = frames.depth();
    refused(state, evicted, frames.pop(id));
    let closed = open.wrapping_sub(frames.depth());
    early_drops_changed(closed.wrapping_neg());
    // Not when its begin was missed: then this task may be about to open the element's first.
    if closed > 0 && frames.depth() == 0 {
        let _: Result<(), i32> = FRAMES.remove(key);
    }
}

/// Nothing was evicted: the new flow is refused.
#[inline(always)]
fn refused(state: *mut PerCpuState, evicted: bool, frame: Option<&Frame>) {
    if evicted {
        return;
    }
    let Some(frame) = frame else {
        // The begin was missed: a drop all the same, of which nothing more is known.
        count_atomic(state, Counter::DropTableFull, 1);
        count_atomic(state, Counter::DropsNotDetailed, 1);
        owner::count_drop(Party::NOBODY, DropReason::TableFull);
        return;
    };
    let (counter, reason) = if frame.request != 0 {
        (Counter::RefusedTableFull, DropReason::TableFullRequest)
    } else {
        (Counter::DropTableFull, DropReason::TableFull)
    };
    count_atomic(state, counter, 1);
    owner::count_drop(frame.party, reason);
    emit::drop_of_flow(state, reason, frame);
}

/// Names a call by the flow's hash: two calls for the same flow can't be open in one task.
///
/// Not by `net` as well: the verifier refuses arithmetic with it.
#[inline(always)]
fn id_of_flow(hash: u32) -> u64 {
    u64::from(hash) | (1 << 63)
}

/// match: v5.4..v7.3 net/netfilter/nf_conntrack_core.c: unsigned int early_drop(net, hash)
#[fentry]
fn early_drop_fentry(ctx: FEntryContext) -> u32 {
    let net: *const u8 = ctx.arg(0);
    let hash: u32 = ctx.arg(1);
    begin(&ctx, net as u64, hash, id_of_flow(hash));
    0
}

/// match: as above
#[fexit]
fn early_drop_fexit(ctx: FExitContext) -> u32 {
    let hash: u32 = ctx.arg(1);
    let evicted: u32 = ctx.arg(2);
    end(&ctx, id_of_flow(hash), evicted & 0xff != 0);
    0
}

/// The stack pointer at the call's begin names the call: contexts have different stacks, and calls
/// in one context different depths.
#[kprobe]
fn early_drop_kprobe(ctx: ProbeContext) -> u32 {
    let (Some(net), Some(hash)) = (ctx.arg::<u64>(0), ctx.arg::<u32>(1)) else {
        return 0;
    };
    // SAFETY: the context of a kprobe is a `struct pt_regs`.
    let id = unsafe { stack_pointer(&raw const *ctx.regs) };
    begin(&ctx, net, hash, id);
    0
}

/// match: as above
#[kretprobe]
fn early_drop_kretprobe(ctx: RetProbeContext) -> u32 {
    let evicted: u32 = ctx.ret();
    // SAFETY: the context of a kretprobe is a `struct pt_regs`.
    let pointer = unsafe { stack_pointer(&raw const *ctx.regs) };
    end(&ctx, pointer.wrapping_sub(RETURN_POPS), evicted & 0xff != 0);
    0
}

/// What the return of a function takes off the stack.
#[cfg(bpf_target_arch = "x86_64")]
const RETURN_POPS: u64 = 8;
#[cfg(not(bpf_target_arch = "x86_64"))]
const RETURN_POPS: u64 = 0;

/// # Safety
///
/// `regs` is the context of a kprobe or kretprobe.
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
unsafe fn stack_pointer(regs: *const aya_ebpf::bindings::pt_regs) -> u64 {
    // SAFETY: see above; the verifier checks the access.
    unsafe { (*regs).rsp }
}

/// # Safety
///
/// `regs` is the context of a kprobe or kretprobe.
#[cfg(bpf_target_arch = "aarch64")]
#[inline(always)]
unsafe fn stack_pointer(regs: *const aya_ebpf::bindings::user_pt_regs) -> u64 {
    // SAFETY: see above; the verifier checks the access.
    unsafe { (*regs).sp }
}
