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
    emit, insert,
    maps::{CLASHED, count_atomic, state},
    owner,
    read::{self, ByHelper},
};

/// `NF_DROP`
const DROP: u32 = 0;
/// `IPS_NAT_CLASH`: the loser was inserted in the reply direction only.
const NAT_CLASH: u64 = 1 << 12;

/// The packet of an open call, by task (a call can't be interrupted: softirqs are off).
#[map]
static RESOLVING: HashMap<u64, u64> = HashMap::with_max_entries(1024, 0);

#[inline(always)]
fn resolved(skb: u64, verdict: u32) {
    let Some(state) = state() else { return };
    let ct = read::skb_ct::<ByHelper>(skb).map_or(0, |(ct, _)| ct);
    if verdict == DROP {
        count_atomic(state, Counter::DropClash, 1);
        let _: Result<(), i32> = CLASHED.insert(skb, 1, 0);
        emit::drop_of_entry(state, DropReason::Clash, ct, skb);
    } else if read::ct_status(ct).is_some_and(|status| status & NAT_CLASH != 0) {
        count_atomic(state, Counter::ClashInserts, 1);
        let entering = owner::of_entry::<ByHelper>(ct);
        insert::entered::<ByHelper>(state, entering, ct, skb, None);
    } else {
        count_atomic(state, Counter::ClashMerges, 1);
    }
}

/// match: v5.10..v7.3 net/netfilter/nf_conntrack_core.c: int nf_ct_resolve_clash(skb, h, reply_hash)
#[fexit]
fn clash_fexit(ctx: FExitContext) -> u32 {
    let skb: *const u8 = ctx.arg(0);
    resolved(skb as u64, ctx.arg(3));
    0
}

/// match: as above
#[kprobe]
fn clash_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(skb) = ctx.arg::<u64>(0) {
        let _: Result<(), i32> = RESOLVING.insert(read::task_key(), skb, 0);
    }
    0
}

/// match: as above
#[kretprobe]
fn clash_kretprobe(ctx: RetProbeContext) -> u32 {
    let key = read::task_key();
    // SAFETY: only this task, with softirqs off, uses this element.
    if let Some(skb) = unsafe { RESOLVING.get(key) } {
        let skb = *skb;
        let _: Result<(), i32> = RESOLVING.remove(key);
        resolved(skb, ctx.ret());
    }
    0
}
