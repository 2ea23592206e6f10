//! A new flow is being allocated: remembered for `early_drop`, which may be called inside.
//!
//! This runs for each new flow, so it stores five words and nothing else.

use aya_ebpf::{
    macros::{fentry, kprobe},
    programs::{FEntryContext, ProbeContext},
};
use conntrack_ebpf::state::NewFlow;

use super::maps::state;

#[inline(always)]
fn remember(flow: NewFlow) {
    if let Some(state) = state() {
        // SAFETY: a live map value. A context that interrupts this one may mix both flows; the
        // reader compares net and hash and reads the tuple anew.
        unsafe { (*state).new_flow = flow }
    }
}

/// match: v5.4..v7.3 net/netfilter/nf_conntrack_core.c: struct nf_conn *__nf_conntrack_alloc(net, zone, orig, repl, gfp, hash)
#[fentry]
fn new_flow_alloc_fentry(ctx: FEntryContext) -> u32 {
    let (net, tuple): (*const u8, *const u8) = (ctx.arg(0), ctx.arg(2));
    let Some(state) = state() else { return 0 };
    // SAFETY: as in `remember`. What is not written stays zero: no other program writes it while
    // this one is attached.
    unsafe {
        let flow = &raw mut (*state).new_flow;
        (*flow).net = net as u64;
        (*flow).tuple = tuple as u64;
        (*flow).hash = ctx.arg(5);
    }
    0
}

/// match: as above
#[kprobe]
fn new_flow_alloc_kprobe(ctx: ProbeContext) -> u32 {
    let (net, tuple, hash) = (ctx.arg(0), ctx.arg(2), ctx.arg(5));
    let (Some(net), Some(tuple), Some(hash)) = (net, tuple, hash) else {
        return 0;
    };
    remember(NewFlow {
        net,
        tuple,
        skb: 0,
        hash,
        hash_alt: hash,
    });
    0
}

/// match: v5.4..v7.3 net/netfilter/nf_conntrack_core.c: struct nf_conntrack_tuple_hash *init_conntrack(net, tmpl, tuple, skb, dataoff, hash)
///
/// Compilers drop the unused `dataoff`, with or without a suffix to the name: the hash is then
/// the fifth argument, else the sixth. `early_drop` tells which of the two is right.
#[kprobe]
fn new_flow_init_kprobe(ctx: ProbeContext) -> u32 {
    let (net, tuple, skb) = (ctx.arg(0), ctx.arg(2), ctx.arg(3));
    let (hash, hash_alt) = (ctx.arg::<u32>(4), ctx.arg::<u32>(5));
    let (Some(net), Some(tuple), Some(skb)) = (net, tuple, skb) else {
        return 0;
    };
    let (hash, hash_alt) = (hash.unwrap_or(0), hash_alt.unwrap_or(0));
    remember(NewFlow {
        net,
        tuple,
        skb,
        hash,
        hash_alt,
    });
    0
}
