//! Two packets raced for the same tuple, or NAT found no free port: `nf_ct_resolve_clash`.
//!
//! Called with softirqs off, and only when there is a clash.

use aya_ebpf::{
    macros::{fexit, kprobe, kretprobe, map},
    maps::HashMap,
    programs::{FExitContext, ProbeContext, RetProbeContext},
};
use conntrack_ebpf::{counter::Counter, record::DropReason};

use super::{
    emit, globals, insert,
    maps::{CLASHED, count_atomic, settle, state},
    memory::ByHelper,
    read,
    sender::At,
};

/// `NF_DROP`
const DROP: u32 = 0;

/// The arguments of an open call.
#[derive(Clone, Copy)]
#[repr(C)]
struct Call {
    skb: u64,
    /// `struct nf_conntrack_tuple_hash *` of the entry that has the tuple.
    winner: u64,
}

/// Open calls, by task (a call can't be interrupted: softirqs are off).
#[map]
static RESOLVING: HashMap<u64, Call> = HashMap::with_max_entries(1024, 0);

/// A packet that was merged has the winner for its entry now; one whose own entry was inserted all the same has kept it.
#[inline(always)]
fn resolved(call: Call, verdict: u32) {
    let Some(state) = state() else { return };
    let skb = call.skb;
    let ct = read::skb_ct::<ByHelper>(skb).map_or(0, |(ct, _)| ct);
    if verdict == DROP {
        count_atomic(state, Counter::DropClash, 1);
        let _: Result<(), i32> = CLASHED.insert(skb, 1, 0);
        emit::drop_of_entry(state, DropReason::Clash, ct, skb, At::Confirmation);
        return;
    }
    if globals::COUNTS_AT_CONFIRM.load() != 0 {
        settle(skb);
    }
    let lost = read::ct_status(ct).is_some_and(|status| status & read::NAT_CLASH != 0);
    if lost && ct != read::entry_of_hash(call.winner) {
        count_atomic(state, Counter::ClashInserts, 1);
        insert::entered::<ByHelper>(state, ct, skb, At::Confirmation);
    } else {
        count_atomic(state, Counter::ClashMerges, 1);
    }
}

/// match: v5.10..v7.3 net/netfilter/nf_conntrack_core.c: int nf_ct_resolve_clash(skb, h, reply_hash)
#[fexit]
fn clash_fexit(ctx: FExitContext) -> u32 {
    let (skb, winner): (*const u8, *const u8) = (ctx.arg(0), ctx.arg(1));
    let call = Call {
        skb: skb as u64,
        winner: winner as u64,
    };
    resolved(call, ctx.arg(3));
    0
}

/// match: as above
#[kprobe]
fn clash_kprobe(ctx: ProbeContext) -> u32 {
    if let (Some(skb), Some(winner)) = (ctx.arg::<u64>(0), ctx.arg::<u64>(1)) {
        let _: Result<(), i32> = RESOLVING.insert(read::task_key(), Call { skb, winner }, 0);
    }
    0
}

/// match: as above
#[kretprobe]
fn clash_kretprobe(ctx: RetProbeContext) -> u32 {
    let key = read::task_key();
    // SAFETY: only this task, with softirqs off, uses this element.
    if let Some(call) = unsafe { RESOLVING.get(key) } {
        let call = *call;
        let _: Result<(), i32> = RESOLVING.remove(key);
        resolved(call, ctx.ret());
    }
    0
}
