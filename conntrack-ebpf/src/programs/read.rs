//! Reads of kernel memory by offsets from BTF.

use core::{arch::asm, ffi::c_void, mem::MaybeUninit};

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_probe_read_kernel, generated,
};
use conntrack_ebpf::{
    global::MISSING,
    owner::{Address, Claim, IPV4},
    place::Addresses,
    record::{FLAG_SOCKET_SEEN, Origin, Tuple},
    tag_groups,
};

use super::globals;

/// `skb->_nfct` is a pointer to the entry with `enum ip_conntrack_info` in its low bits.
const NFCT_INFO_MASK: u64 = 7;
/// `enum ip_conntrack_info`: from here on the packet goes in the reply direction.
const CTINFO_FIRST_REPLY: u64 = 3;
/// `struct nf_conntrack_tuple_hash`: 16 bytes of list node, then the tuple (5.4 to 7.3).
const TUPLE_IN_HASH: u32 = 16;
const TUPLE_HASH_SIZE: u32 = 56;
/// `struct hlist_nulls_node`: where `pprev` is.
const NODE_PPREV: u32 = 8;
/// `IPS_CONFIRMED`, `IPS_DYING` and `IPS_NAT_CLASH` of `ct->status`; the last one: it lost a clash and was inserted in the
/// reply direction only.
pub(super) const CONFIRMED: u64 = 1 << 3;
pub(super) const DYING: u64 = 1 << 9;
pub(super) const NAT_CLASH: u64 = 1 << 12;
/// `ct->ct_general.use`: a reference count at offset 0 of `struct nf_conn` on every kernel.
const CT_USE: u32 = 0;
/// Where in a tuple its direction is.
const TUPLE_DIR: u32 = 39;
/// `TCP_TIME_WAIT`, `TCP_NEW_SYN_RECV` (include/net/tcp_states.h).
const TIME_WAIT: u8 = 6;
const NEW_SYN_RECV: u8 = 12;

/// How kernel memory is read. A kprobe has addresses, which only the helper may follow. fentry and
/// fexit have typed pointers, which the verifier lets the program follow by itself, as long as it
/// knows the type: from an argument, by pointer members, with offsets that are constants. That
/// costs a few instructions instead of a call.
pub(super) trait Memory {
    /// Reads an integer at `base + offset`; `None` if the kernel has no such member or it can't be
    /// read.
    fn load<T: Copy>(base: u64, offset: u32) -> Option<T>;

    /// Copies the tuple at `base + offset` to `place`; zero if it can't be read.
    ///
    /// # Safety
    ///
    /// `place` can be written.
    unsafe fn copy_tuple(base: u64, offset: u32, place: *mut Tuple);

    /// What is read of an entry in advance.
    type Head;

    /// The entry at this address. `head` is room for what is read of it: a value that is moved would be copied byte by byte.
    fn entry(ct: u64, head: &mut MaybeUninit<Self::Head>) -> impl Entry;
}

/// What the rules of owners read of an entry.
pub(super) trait Entry {
    /// Its address: `struct nf_conn *`.
    fn address(&self) -> u64;

    /// See [`tag_groups::digest`].
    fn digest(&self) -> u32;

    /// `ct->ct_general.use`: how many hold it; 0 if it can't be read.
    fn references(&self) -> u32;

    /// Whether ctnetlink or a BPF program made it, of an entry that is just entering the table: the kernel keeps a packet's hash in the
    /// node of the replies until then (`__nf_conntrack_alloc`), and that of a request is 0.
    fn is_request(&self) -> bool;

    /// `ct->ct_net`; 0 if it can't be read.
    fn net(&self) -> u64;

    /// Who has the source address of the original direction (`REPLY` 0) or of the replies (1).
    fn claim<'a, const REPLY: u32>(&self, addresses: &'a Addresses) -> Option<&'a Claim>;
}

/// `struct nf_conn` as far as it is needed, in one read: a helper's call costs more than what it copies. User space has compared it with the
/// kernel's ([`conntrack_ebpf::global::CT_IN_ONE_PIECE`]); where it is another one, the tuples alone are put into it.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct EntryHead {
    references: u32,
    before: [u32; 3],
    original_node: [u64; 2],
    original: Tuple,
    reply_node: [u64; 2],
    reply: Tuple,
    status: u64,
    net: u64,
}

/// See [`EntryHead`]. `KNOWN`: that it is as the kernel's has been looked at already.
struct CopiedEntry<'a, const KNOWN: bool> {
    ct: u64,
    head: &'a EntryHead,
}

impl<const KNOWN: bool> CopiedEntry<'_, KNOWN> {
    #[inline(always)]
    fn in_one_piece() -> bool {
        KNOWN || is_entry_in_one_piece()
    }
}

impl<const KNOWN: bool> Entry for CopiedEntry<'_, KNOWN> {
    #[inline(always)]
    fn address(&self) -> u64 {
        self.ct
    }

    #[inline(always)]
    fn digest(&self) -> u32 {
        let tuple: *const Tuple = &raw const self.head.original;
        // SAFETY: the first three words of an aligned copy. Volatile, since the compiler would load those of IPv6 for all.
        unsafe {
            tag_groups::digest(
                (*tuple).l3num,
                #[inline(always)]
                |word| {
                    (
                        (&raw const (*tuple).src[word]).read_volatile(),
                        (&raw const (*tuple).dst[word]).read_volatile(),
                    )
                },
                // A port and what follows it, in one load.
                (
                    (&raw const (*tuple).src_port).cast::<u32>().read(),
                    (&raw const (*tuple).dst_port).cast::<u32>().read(),
                ),
            )
        }
    }

    #[inline(always)]
    fn references(&self) -> u32 {
        if Self::in_one_piece() {
            self.head.references
        } else {
            references(self.ct)
        }
    }

    #[inline(always)]
    fn is_request(&self) -> bool {
        self.head.reply_node[1] == 0
    }

    #[inline(always)]
    fn net(&self) -> u64 {
        if Self::in_one_piece() {
            self.head.net
        } else {
            ct_net::<ByHelper>(self.ct)
        }
    }

    #[inline(always)]
    fn claim<'a, const REPLY: u32>(&self, addresses: &'a Addresses) -> Option<&'a Claim> {
        let tuple = if REPLY == 0 {
            &self.head.original
        } else {
            &self.head.reply
        };
        addresses.find_in_family(tuple.src, tuple.l3num)
    }
}

/// The address of an entry whose members are read one by one.
struct TypedEntry(u64);

impl Entry for TypedEntry {
    #[inline(always)]
    fn address(&self) -> u64 {
        self.0
    }

    #[inline(always)]
    fn digest(&self) -> u32 {
        let hashes = globals::CT_TUPLEHASH.load();
        if hashes == MISSING {
            return 0;
        }
        let from = (self.0 + u64::from(hashes) + u64::from(TUPLE_IN_HASH)) as *const Tuple;
        // SAFETY: as in `Typed::copy_tuple`.
        unsafe {
            let family = (&raw const (*from).l3num).read_volatile();
            tag_groups::digest(
                family,
                #[inline(always)]
                |word| {
                    (
                        (&raw const (*from).src[word]).read_volatile(),
                        (&raw const (*from).dst[word]).read_volatile(),
                    )
                },
                (
                    tag_groups::behind((&raw const (*from).src_port).read_volatile(), family),
                    tag_groups::behind(
                        (&raw const (*from).dst_port).read_volatile(),
                        u16::from((&raw const (*from).protonum).read_volatile()),
                    ),
                ),
            )
        }
    }

    #[inline(always)]
    fn references(&self) -> u32 {
        Typed::load(self.0, CT_USE).unwrap_or(0)
    }

    #[inline(always)]
    fn is_request(&self) -> bool {
        let hashes = globals::CT_TUPLEHASH.load();
        let pprev = u64::from(hashes) + u64::from(TUPLE_HASH_SIZE + NODE_PPREV);
        // SAFETY: as in `Typed::copy_tuple`.
        hashes != MISSING && unsafe { ((self.0 + pprev) as *const u64).read_volatile() } == 0
    }

    #[inline(always)]
    fn net(&self) -> u64 {
        ct_net::<Typed>(self.0)
    }

    #[inline(always)]
    fn claim<'a, const REPLY: u32>(&self, addresses: &'a Addresses) -> Option<&'a Claim> {
        let hashes = globals::CT_TUPLEHASH.load();
        if hashes == MISSING {
            return None;
        }
        // In 64 bits: a sum of 32 has to be cut, which costs two instructions.
        let offset = u64::from(hashes) + u64::from(REPLY * TUPLE_HASH_SIZE + TUPLE_IN_HASH);
        let from = self.0.wrapping_add(offset) as *const Tuple;
        // SAFETY: as in `Typed::copy_tuple`.
        unsafe {
            let first = (&raw const (*from).src[0]).read_volatile();
            if (&raw const (*from).l3num).read_volatile() == IPV4 {
                return addresses.find_v4(first);
            }
            addresses.find_v6(Address {
                words: [
                    first,
                    (&raw const (*from).src[1]).read_volatile(),
                    (&raw const (*from).src[2]).read_volatile(),
                    (&raw const (*from).src[3]).read_volatile(),
                ],
            })
        }
    }
}

/// Through `bpf_probe_read_kernel`.
pub(super) struct ByHelper;

/// As [`ByHelper`], where [`is_entry_in_one_piece`]: asked once, it costs less than at each member.
pub(super) struct ByOneRead;

/// By the program itself; `base` is an argument of the probed function, or was loaded from one.
pub(super) struct Typed;

impl Memory for ByHelper {
    #[inline(always)]
    fn load<T: Copy>(base: u64, offset: u32) -> Option<T> {
        if offset == MISSING || base == 0 {
            return None;
        }
        let address = base.wrapping_add(u64::from(offset)) as *const T;
        // SAFETY: the helper checks the address and fails where it can't be read; `T` is only
        // ever an integer or a struct of integers.
        unsafe { bpf_probe_read_kernel(address) }.ok()
    }

    #[inline(always)]
    unsafe fn copy_tuple(base: u64, offset: u32, place: *mut Tuple) {
        // SAFETY: see the contract.
        unsafe { copy_tuple_at(base.wrapping_add(u64::from(offset)), place) }
    }

    type Head = EntryHead;

    #[inline(always)]
    fn entry(ct: u64, head: &mut MaybeUninit<EntryHead>) -> impl Entry {
        let place: *mut EntryHead = head.as_mut_ptr();
        // SAFETY: the helper checks the address, and fills the place with zeroes if it fails. Where it gets the tuples alone, the
        // rest is not read, but has to be written.
        let head = unsafe {
            if is_entry_in_one_piece() {
                read_head(ct, place);
            } else {
                let tuples = globals::CT_TUPLEHASH.load();
                generated::bpf_probe_read_kernel(
                    (&raw mut (*place).original_node).cast(),
                    2 * TUPLE_HASH_SIZE,
                    ct.wrapping_add(u64::from(tuples)) as *const c_void,
                );
            }
            &*place
        };
        CopiedEntry::<false> { ct, head }
    }
}

/// Whether `struct nf_conn` begins as [`EntryHead`] says.
#[inline(always)]
pub(super) fn is_entry_in_one_piece() -> bool {
    globals::CT_IN_ONE_PIECE.load() != 0
}

/// # Safety
///
/// `place` can be written.
#[inline(always)]
unsafe fn read_head(ct: u64, place: *mut EntryHead) {
    // SAFETY: the helper checks the address, and fills the place with zeroes if it fails.
    unsafe {
        generated::bpf_probe_read_kernel(
            place.cast(),
            size_of::<EntryHead>() as u32,
            ct as *const c_void,
        );
    }
}

impl Memory for ByOneRead {
    #[inline(always)]
    fn load<T: Copy>(base: u64, offset: u32) -> Option<T> {
        ByHelper::load(base, offset)
    }

    #[inline(always)]
    unsafe fn copy_tuple(base: u64, offset: u32, place: *mut Tuple) {
        // SAFETY: see the contract.
        unsafe { ByHelper::copy_tuple(base, offset, place) }
    }

    type Head = EntryHead;

    #[inline(always)]
    fn entry(ct: u64, head: &mut MaybeUninit<EntryHead>) -> impl Entry {
        let place: *mut EntryHead = head.as_mut_ptr();
        // SAFETY: it is filled by this.
        let head = unsafe {
            read_head(ct, place);
            &*place
        };
        CopiedEntry::<true> { ct, head }
    }
}

impl Memory for Typed {
    #[inline(always)]
    fn load<T: Copy>(base: u64, offset: u32) -> Option<T> {
        if offset == MISSING {
            return None;
        }
        let address = base.wrapping_add(u64::from(offset)) as *const T;
        // SAFETY: the verifier refuses the program unless this is a member of the structure that
        // `base` points to; a bad pointer reads as 0. Volatile, because loads that the compiler
        // joins across members are refused.
        Some(unsafe { address.read_volatile() })
    }

    #[inline(always)]
    unsafe fn copy_tuple(base: u64, offset: u32, place: *mut Tuple) {
        let from = base.wrapping_add(u64::from(offset)) as *const Tuple;
        // SAFETY: for `from` as in `load`, for `place` see the contract. Word by word, since the
        // verifier knows the members and no larger unit. (`dir` is left out: it is known.)
        unsafe {
            let family = (&raw const (*from).l3num).read_volatile();
            (*place).l3num = family;
            (*place).src = [(&raw const (*from).src[0]).read_volatile(), 0, 0, 0];
            (*place).dst = [(&raw const (*from).dst[0]).read_volatile(), 0, 0, 0];
            if family != IPV4 {
                for word in 1..4 {
                    (*place).src[word] = (&raw const (*from).src[word]).read_volatile();
                    (*place).dst[word] = (&raw const (*from).dst[word]).read_volatile();
                }
            }
            (*place).src_port = (&raw const (*from).src_port).read_volatile();
            (*place).dst_port = (&raw const (*from).dst_port).read_volatile();
            (*place).protonum = (&raw const (*from).protonum).read_volatile();
        }
    }

    type Head = ();

    #[inline(always)]
    fn entry(ct: u64, _: &mut MaybeUninit<()>) -> impl Entry {
        TypedEntry(ct)
    }
}

/// Copies a tuple from an address by helper, in place; zero if it can't be read.
///
/// # Safety
///
/// `place` can be written.
#[inline(always)]
pub(super) unsafe fn copy_tuple_at(address: u64, place: *mut Tuple) {
    // SAFETY: the helper checks the address, and fills the place with zeroes if it fails.
    unsafe {
        generated::bpf_probe_read_kernel(
            place.cast(),
            size_of::<Tuple>() as u32,
            address as *const c_void,
        );
    }
}

/// [`ByHelper`], for rare paths.
#[inline(always)]
pub(super) fn member<T: Copy>(base: u64, offset: u32) -> Option<T> {
    ByHelper::load(base, offset)
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
