//! A new flow is being allocated: remembered for `early_drop`, which may be called inside.
//!
//! This runs for each new flow, so it stores five words and nothing else.

use aya_ebpf::{
    macros::{fentry, kprobe, map},
    maps::LruHashMap,
    programs::{FEntryContext, ProbeContext},
};
use conntrack_ebpf::{
    record::Tuple,
    state::{NewFlow, PerCpuState},
};

use super::{
    maps::{is_armed, state},
    memory::{self, ByHelper},
    owner, read,
    sender::{self, At},
};

/// cgroup ids of the sockets of new flows, until they are in the table, where only the entry is at
/// hand. Flows that never get there make room for others.
#[map]
static SOCKETS: LruHashMap<Socket, u64> = LruHashMap::with_max_entries(4096, 0);

/// A flow that has no entry yet: its original tuple is unique in its table.
#[derive(Clone, Copy)]
#[repr(C)]
struct Socket {
    tuple: Tuple,
    /// `struct net *`
    net: u64,
}

/// Keeps the cgroup of the socket that sends a flow's first packet, 0 if there is none, if it is going to be
/// asked: a flow of a pod costs the look at its address, not the place in the map, and what a task sends is told without it.
#[inline(always)]
fn remember_socket(net: u64, tuple: u64, skb: u64) {
    let Some(state) = state() else { return };
    if sender::cgroup(At::Begin).is_some() || !owner::asks_socket(state, tuple, net) {
        return;
    }
    let cgroup = read::sender_cgroup(skb).unwrap_or(0);
    let mut key = Socket {
        tuple: Tuple::default(),
        net,
    };
    // SAFETY: a local of the right type.
    unsafe { memory::copy_tuple_at(tuple, &raw mut key.tuple) };
    key.tuple.dir = 0;
    let _: Result<(), i32> = SOCKETS.insert(key, cgroup, 0);
}

/// What [`remember_socket`] kept for this entry; `None`: its packet was not seen, or another one took it.
#[inline(never)]
pub(super) fn take_socket(state: *mut PerCpuState, ct: u64) -> Option<u64> {
    if !is_armed(state) {
        return None;
    }
    let key = Socket {
        tuple: read::ct_tuple::<0>(ct),
        net: read::ct_net::<ByHelper>(ct),
    };
    // SAFETY: only the insert of this entry reads the element.
    let cgroup = (unsafe { SOCKETS.get(key) }).copied()?;
    let _: Result<(), i32> = SOCKETS.remove(key);
    Some(cgroup)
}

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
    // SAFETY: as in `remember`. What is not written is zero, or of `new_flow_packet_kprobe`: no other
    // program writes it while this one is attached.
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
        skb_tuple: 0,
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
    remember_socket(net, tuple, skb);
    remember(NewFlow {
        net,
        tuple,
        skb,
        skb_tuple: tuple,
        hash,
        hash_alt,
    });
    0
}

/// match: as above. Attached beside [`new_flow_alloc_fentry`] while a table is nearly full: whose packet is
/// lost at an address of the host, only its socket tells.
#[kprobe]
fn new_flow_packet_kprobe(ctx: ProbeContext) -> u32 {
    let (tuple, skb) = (ctx.arg(2), ctx.arg(3));
    let (Some(tuple), Some(skb)) = (tuple, skb) else {
        return 0;
    };
    let Some(state) = state() else { return 0 };
    // SAFETY: as in `remember`; the reader compares the tuple.
    unsafe {
        let flow = &raw mut (*state).new_flow;
        (*flow).skb = skb;
        (*flow).skb_tuple = tuple;
    }
    0
}
