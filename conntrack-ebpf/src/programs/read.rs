//! Reads of kernel memory by offsets from BTF. All of them are on rare paths, so all go through
//! the helper, which takes any address and fails on a bad one.

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_probe_read_kernel, generated,
};
use conntrack_ebpf::{
    global::MISSING,
    record::{FLAG_SOCKET_SEEN, Origin, Tuple},
};

use super::globals;

/// `skb->_nfct` is a pointer to the entry with `enum ip_conntrack_info` in its low bits.
const NFCT_INFO_MASK: u64 = 7;
/// `enum ip_conntrack_info`: from here on the packet goes in the reply direction.
const CTINFO_FIRST_REPLY: u64 = 3;
/// `struct nf_conntrack_tuple_hash`: 16 bytes of list node, then the tuple (5.4 to 7.3).
const TUPLE_IN_HASH: u64 = 16;
const TUPLE_HASH_SIZE: u64 = 56;
/// `TCP_TIME_WAIT`, `TCP_NEW_SYN_RECV` (include/net/tcp_states.h).
const TIME_WAIT: u8 = 6;
const NEW_SYN_RECV: u8 = 12;

/// Reads a `T` at `base + offset`; `None` if the kernel has no such member or it can't be read.
#[inline(always)]
pub(super) fn member<T>(base: u64, offset: u32) -> Option<T> {
    if offset == MISSING || base == 0 {
        return None;
    }
    let address = base.wrapping_add(u64::from(offset)) as *const T;
    // SAFETY: the helper checks the address and fails where it can't be read; `T` is only ever an
    // integer or a struct of integers.
    unsafe { bpf_probe_read_kernel(address) }.ok()
}

/// Jiffies. The verifier turns the call into one load.
#[inline(always)]
pub(super) fn tick() -> u64 {
    // SAFETY: the helper has no arguments and no preconditions.
    unsafe { generated::bpf_jiffies64() }
}

/// `CLOCK_MONOTONIC`, nanoseconds.
#[inline(always)]
pub(super) fn now_ns() -> u64 {
    // SAFETY: the helper has no arguments and no preconditions.
    unsafe { generated::bpf_ktime_get_ns() }
}

/// Names the task that runs here, or the CPU if it is idle: one stack of nested contexts.
#[inline(always)]
pub(super) fn task_key() -> u64 {
    let thread = bpf_get_current_pid_tgid() & 0xffff_ffff;
    if thread != 0 {
        return thread;
    }
    // SAFETY: the helper has no arguments and no preconditions.
    (1 << 63) | u64::from(unsafe { bpf_get_smp_processor_id() })
}

/// Inode number of a `struct net`; 0 if unknown.
#[inline(always)]
pub(super) fn netns(net: u64) -> u32 {
    member(net, globals::NET_INUM.load()).unwrap_or(0)
}

/// `ct->ct_net`
#[inline(always)]
pub(super) fn ct_net(ct: u64) -> u64 {
    member(ct, globals::CT_NET.load()).unwrap_or(0)
}

/// `ct->status`
#[inline(always)]
pub(super) fn ct_status(ct: u64) -> Option<u64> {
    member(ct, globals::CT_STATUS.load())
}

/// `ct->zone.id`; 0 where the kernel is built without zones.
#[inline(always)]
pub(super) fn ct_zone(ct: u64) -> u16 {
    member(ct, globals::CT_ZONE.load()).unwrap_or(0)
}

/// One tuple of an entry: `reply` 0 original, 1 reply.
#[inline(always)]
pub(super) fn ct_tuple(ct: u64, reply: u64) -> Tuple {
    let place = ct.wrapping_add(reply * TUPLE_HASH_SIZE + TUPLE_IN_HASH);
    member(place, globals::CT_TUPLEHASH.load()).unwrap_or_default()
}

/// The entry of a packet, and whether the packet goes in the reply direction.
#[inline(always)]
pub(super) fn skb_ct(skb: u64) -> Option<(u64, bool)> {
    let nfct: u64 = member(skb, globals::SKB_NFCT.load())?;
    Some((nfct & !NFCT_INFO_MASK, nfct & NFCT_INFO_MASK >= CTINFO_FIRST_REPLY))
}

/// Where a packet came from, and the `FLAG_*` that go with it.
#[inline(always)]
pub(super) fn origin(skb: u64, zone: u16) -> (Origin, u8) {
    let mut origin = Origin { zone, ..Origin::default() };
    if skb == 0 {
        return (origin, 0);
    }
    origin.ifindex = member(skb, globals::SKB_IIF.load()).unwrap_or(0);
    let Some(socket) = member::<u64>(skb, globals::SKB_SK.load()) else {
        return (origin, 0);
    };
    origin.cgroup = socket_cgroup(socket).unwrap_or(0);
    (origin, FLAG_SOCKET_SEEN)
}

/// The cgroup v2 id of a socket. An answered SYN has a request_sock, which points to its
/// listener; a TIME_WAIT socket has no cgroup.
#[inline(always)]
fn socket_cgroup(socket: u64) -> Option<u64> {
    let mut socket = socket;
    match member::<u8>(socket, globals::SK_STATE.load())? {
        TIME_WAIT => return None,
        NEW_SYN_RECV => socket = member(socket, globals::SK_LISTENER.load())?,
        _ => {}
    }
    let cgroup: u64 = member(socket, globals::SK_CGROUP.load())?;
    let node: u64 = member(cgroup, globals::CGROUP_KN.load())?;
    member(node, globals::KERNFS_ID.load())
}
