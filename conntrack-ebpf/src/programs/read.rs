//! Reads of kernel memory by offsets from BTF.

use core::arch::asm;

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_smp_processor_id, generated};
use conntrack_ebpf::{
    global::MISSING,
    owner::Claim,
    place::Addresses,
    record::{FLAG_SOCKET_SEEN, Origin, Tuple},
};

use super::{
    globals,
    memory::{ByHelper, CT_USE, Memory, TUPLE_HASH_SIZE, TUPLE_IN_HASH, copy_tuple_at},
};

/// `skb->_nfct` is a pointer to the entry with `enum ip_conntrack_info` in its low bits.
const NFCT_INFO_MASK: u64 = 7;
/// `enum ip_conntrack_info`: from here on the packet goes in the reply direction.
const CTINFO_FIRST_REPLY: u64 = 3;
/// `IPS_CONFIRMED`, `IPS_DYING` and `IPS_NAT_CLASH` of `ct->status`; the last one: it lost a clash and was inserted in the
/// reply direction only.
pub(super) const CONFIRMED: u64 = 1 << 3;
pub(super) const DYING: u64 = 1 << 9;
pub(super) const NAT_CLASH: u64 = 1 << 12;
/// Where in a tuple its direction is.
const TUPLE_DIR: u32 = 39;
/// `TCP_TIME_WAIT`, `TCP_NEW_SYN_RECV` (include/net/tcp_states.h).
const TIME_WAIT: u8 = 6;
const NEW_SYN_RECV: u8 = 12;

/// [`ByHelper`], for rare paths.
#[inline(always)]
pub(super) fn member<T: Copy>(base: u64, offset: u32) -> Option<T> {
    <ByHelper>::load(base, offset)
}

/// The lower half of an address. By hand: of a typed pointer the verifier allows this copy, but no arithmetic, with which the compiler would begin.
#[inline(always)]
pub(super) fn lower_half(address: u64) -> u32 {
    let half: u32;
    // SAFETY: it copies from one register to another.
    unsafe {
        asm!("{half} = {address}", half = out(wreg) half, address = in(wreg) address as u32,
            options(pure, nomem, nostack, preserves_flags));
    }
    half
}

/// Jiffies. The verifier turns the call into one load.
#[inline(always)]
pub(super) fn tick() -> u64 {
    // SAFETY: the helper has no arguments and no preconditions.
    unsafe { generated::bpf_jiffies64() }
}

/// Ticks after which an open `early_drop` is taken for one whose end was missed.
#[inline(always)]
pub(super) fn stale_ticks() -> u64 {
    u64::from(globals::STALE_TICKS.load())
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
    (1 << 63) | u64::from(cpu())
}

/// The CPU that this runs on; a program stays on the one where it began.
#[inline(always)]
pub(super) fn cpu() -> u32 {
    // SAFETY: the helper has no arguments and no preconditions.
    unsafe { bpf_get_smp_processor_id() }
}

/// Inode number of a `struct net`; 0 if unknown.
#[inline(always)]
pub(super) fn netns<M: Memory>(net: u64) -> u32 {
    M::load(net, globals::NET_INUM.load()).unwrap_or(0)
}

/// `ct->ct_net`
#[inline(always)]
pub(super) fn ct_net<M: Memory>(ct: u64) -> u64 {
    M::load(ct, globals::CT_NET.load()).unwrap_or(0)
}

/// `ct->ct_general.use`; 0 if it can't be read.
#[inline(always)]
pub(super) fn references(ct: u64) -> u32 {
    member(ct, CT_USE).unwrap_or(0)
}

/// `ct->status`
#[inline(always)]
pub(super) fn ct_status(ct: u64) -> Option<u64> {
    member(ct, globals::CT_STATUS.load())
}

/// `ct->zone.id`; 0 where the kernel is built without zones.
#[inline(always)]
pub(super) fn ct_zone<M: Memory>(ct: u64) -> u16 {
    M::load(ct, globals::CT_ZONE.load()).unwrap_or(0)
}

/// One tuple of an entry: `REPLY` 0 original, 1 reply.
///
/// # Safety
///
/// `place` can be written.
#[inline(always)]
pub(super) unsafe fn copy_ct_tuple<M: Memory, const REPLY: u32>(ct: u64, place: *mut Tuple) {
    let hashes = globals::CT_TUPLEHASH.load();
    // SAFETY: see the contract.
    unsafe {
        if hashes == MISSING {
            *place = Tuple::default();
        } else {
            M::copy_tuple(ct, hashes + REPLY * TUPLE_HASH_SIZE + TUPLE_IN_HASH, place);
        }
        (*place).dir = REPLY as u8;
    }
}

/// Who has the source address of the tuple at this address.
#[inline(always)]
pub(super) fn source_claim(tuple: u64, addresses: &Addresses) -> Option<&Claim> {
    /// The first half of a tuple.
    #[derive(Clone, Copy)]
    #[repr(C)]
    struct Source {
        address: [u32; 4],
        port: u16,
        l3num: u16,
    }
    let source: Source = member(tuple, 0)?;
    addresses.find_in_family(source.address, source.l3num)
}

/// As [`copy_ct_tuple`] by helper, for rare paths.
#[inline(always)]
pub(super) fn ct_tuple<const REPLY: u32>(ct: u64) -> Tuple {
    let mut tuple = Tuple::default();
    // SAFETY: a local of the right type.
    unsafe { copy_ct_tuple::<ByHelper, REPLY>(ct, &raw mut tuple) };
    tuple
}

/// The entry that a `struct nf_conntrack_tuple_hash` is in (`nf_ct_tuplehash_to_ctrack`); 0 if it can't be told.
#[inline(always)]
pub(super) fn entry_of_hash(hash: u64) -> u64 {
    let hashes = globals::CT_TUPLEHASH.load();
    if hashes == MISSING {
        return 0;
    }
    let before = match member::<u8>(hash, TUPLE_IN_HASH + TUPLE_DIR) {
        Some(0) => hashes,
        Some(_) => hashes + TUPLE_HASH_SIZE,
        None => return 0,
    };
    hash.wrapping_sub(u64::from(before))
}

/// The entry of a packet, and whether the packet goes in the reply direction.
#[inline(always)]
pub(super) fn skb_ct<M: Memory>(skb: u64) -> Option<(u64, bool)> {
    let nfct: u64 = M::load(skb, globals::SKB_NFCT.load())?;
    Some((
        nfct & !NFCT_INFO_MASK,
        nfct & NFCT_INFO_MASK >= CTINFO_FIRST_REPLY,
    ))
}

/// Where a packet came from, and the `FLAG_*` that go with it.
#[inline(always)]
pub(super) fn origin<M: Memory>(skb: u64, zone: u16) -> (Origin, u8) {
    let mut origin = Origin {
        zone,
        ..Origin::default()
    };
    if skb == 0 {
        return (origin, 0);
    }
    origin.ifindex = M::load(skb, globals::SKB_IIF.load()).unwrap_or(0);
    let Some(socket) = M::load::<u64>(skb, globals::SKB_SK.load()) else {
        return (origin, 0);
    };
    if socket != 0 {
        origin.cgroup = socket_cgroup::<M>(socket).unwrap_or(0);
    }
    (origin, FLAG_SOCKET_SEEN)
}

/// The cgroup v2 id of the socket that sends a packet; `None` if it has none.
#[inline(always)]
pub(super) fn sender_cgroup(skb: u64) -> Option<u64> {
    let socket: u64 = member(skb, globals::SKB_SK.load())?;
    if socket == 0 {
        return None;
    }
    socket_cgroup::<ByHelper>(socket)
}

/// The cgroup v2 id of a packet's socket; 0 if it has none, or there is no packet.
#[inline(always)]
pub(super) fn packet_cgroup(skb: u64) -> u64 {
    origin::<ByHelper>(skb, 0).0.cgroup
}

/// The cgroup v2 id of a socket. An answered SYN has a request_sock, which points to its
/// listener; a TIME_WAIT socket has no cgroup.
#[inline(always)]
fn socket_cgroup<M: Memory>(socket: u64) -> Option<u64> {
    match M::load::<u8>(socket, globals::SK_STATE.load())? {
        TIME_WAIT => None,
        // In a union, so that the verifier takes it for a number: by helper from here on.
        NEW_SYN_RECV => {
            let listener: u64 = M::load(socket, globals::SK_LISTENER.load())?;
            full_socket_cgroup::<ByHelper>(listener)
        }
        _ => full_socket_cgroup::<M>(socket),
    }
}

#[inline(always)]
fn full_socket_cgroup<M: Memory>(socket: u64) -> Option<u64> {
    let cgroup: u64 = M::load(socket, globals::SK_CGROUP.load())?;
    let node: u64 = M::load(cgroup, globals::CGROUP_KN.load())?;
    M::load(node, globals::KERNFS_ID.load())
}
