//! How kernel memory is read, and an entry of it.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::helpers::{bpf_probe_read_kernel, generated};
use conntrack_ebpf::{
    global::MISSING,
    owner::{Address, Claim, IPV4},
    place::Addresses,
    record::Tuple,
    tag_groups,
};

use super::globals;

/// `struct nf_conntrack_tuple_hash`: 16 bytes of list node, then the tuple (5.4 to 7.3).
pub(super) const TUPLE_IN_HASH: u32 = 16;
pub(super) const TUPLE_HASH_SIZE: u32 = 56;
/// `struct hlist_nulls_node`: where `pprev` is.
const NODE_PPREV: u32 = 8;
/// `ct->ct_general.use`: a reference count at offset 0 of `struct nf_conn` on every kernel.
pub(super) const CT_USE: u32 = 0;

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

/// See [`EntryHead`] and [`ByHelper`].
struct CopiedEntry<'a, const ONE_READ: bool> {
    ct: u64,
    head: &'a EntryHead,
}

impl<const ONE_READ: bool> Entry for CopiedEntry<'_, ONE_READ> {
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
        if ONE_READ || is_entry_in_one_piece() {
            self.head.references
        } else {
            <ByHelper>::load(self.ct, CT_USE).unwrap_or(0)
        }
    }

    #[inline(always)]
    fn is_request(&self) -> bool {
        self.head.reply_node[1] == 0
    }

    #[inline(always)]
    fn net(&self) -> u64 {
        if ONE_READ || is_entry_in_one_piece() {
            self.head.net
        } else {
            <ByHelper>::load(self.ct, globals::CT_NET.load()).unwrap_or(0)
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
        Typed::load(self.0, globals::CT_NET.load()).unwrap_or(0)
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

/// Through `bpf_probe_read_kernel`. `ONE_READ`: where [`is_entry_in_one_piece`]. Asked once, that costs less than at each member.
pub(super) struct ByHelper<const ONE_READ: bool = false>;

/// By the program itself; `base` is an argument of the probed function, or was loaded from one.
pub(super) struct Typed;

impl<const ONE_READ: bool> Memory for ByHelper<ONE_READ> {
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
            if ONE_READ || is_entry_in_one_piece() {
                generated::bpf_probe_read_kernel(
                    place.cast(),
                    size_of::<EntryHead>() as u32,
                    ct as *const c_void,
                );
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
        CopiedEntry::<ONE_READ> { ct, head }
    }
}

/// Whether `struct nf_conn` begins as [`EntryHead`] says.
#[inline(always)]
pub(super) fn is_entry_in_one_piece() -> bool {
    globals::CT_IN_ONE_PIECE.load() != 0
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
