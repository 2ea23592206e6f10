//! Tags of entries: who an entry is charged to when its addresses do not tell.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::{bpf_map_delete_elem, bpf_map_lookup_elem, bpf_map_update_elem},
    macros::map,
    maps::Array,
};
use conntrack_ebpf::owner::{NEWER_TAGS, OLDER_TAGS, Party, TAG_MAPS, Tag, TagKey};

use super::{
    maps::add,
    read::{self, Entry, Memory},
};

/// Maps `TagKey -> Tag`: user space makes this an array of maps (`conntrack-user/src/probes/tags.rs`), since aya's section of
/// maps can't say so.
#[map]
static TAGS: Array<c_void> = Array::with_max_entries(TAG_MAPS, 0);

/// Tags in the maps, by a digest of their entries: where there are none, no entry has one. So an entry of the host
/// costs no look at the maps. What user space removes is not taken off: that only costs a look.
#[map]
static TAGGED: Array<TaggedCounts> = Array::with_max_entries(1, 0);

const TAGGED_COUNTS: usize = 1 << TAGGED_BITS;
const TAGGED_BITS: u32 = 15;
type TaggedCounts = [u64; TAGGED_COUNTS];

/// How many have a tag of the entries that share a count with this one.
#[inline(always)]
fn tagged(entry: &impl Entry) -> Option<*mut u64> {
    let counts = TAGGED.get_ptr_mut(0)?;
    let index = (entry.digest() >> (u32::BITS - TAGGED_BITS)) as usize & (TAGGED_COUNTS - 1);
    // SAFETY: the mask keeps the index below the number of counts.
    Some(unsafe { counts.cast::<u64>().add(index) })
}

/// One of the maps; it stays for as long as the program runs.
#[inline(always)]
fn of_number(number: u32) -> Option<*mut c_void> {
    TAGS.get_ptr_mut(number)
}

/// Tags an entry with who is charged for it, if there is room; `clash`: it lost one, see [`TagKey::CLASH`].
#[inline(always)]
pub(super) fn put<M: Memory>(entry: &impl Entry, clash: bool, party: Party) -> bool {
    let Some(tagged) = tagged(entry) else {
        return false;
    };
    // Before it can be found: a count that is 0 is sure.
    // SAFETY: a live, aligned word of a map value.
    unsafe { add(tagged, 1) };
    let is_put = put_in::<M>(entry.address(), clash, party);
    if !is_put {
        // SAFETY: as above.
        unsafe { add(tagged, u64::MAX) };
    }
    is_put
}

/// A call, as is [`take_out`]: most entries have no tag, and what is on the stack for one would cost them too.
#[inline(never)]
fn put_in<M: Memory>(ct: u64, clash: bool, party: Party) -> bool {
    let key = key::<M>(ct, clash);
    let tag = Tag {
        entry: ct,
        party,
        reserved: 0,
    };
    let Some(newer) = of_number(NEWER_TAGS) else {
        return false;
    };
    // Not over another's: of two entries with one key one has left the table, and it must not take the other's place.
    // SAFETY: a map of this key and this value; both are on the stack.
    let put = unsafe {
        bpf_map_update_elem(
            newer,
            (&raw const key).cast(),
            (&raw const tag).cast(),
            BPF_NOEXIST.into(),
        )
    };
    put == 0
}

/// The tag of an entry, removed. The insert and the delete of an entry may both want it: only one of them gets it.
#[inline(always)]
pub(super) fn take<M: Memory>(entry: &impl Entry, clash: impl Fn() -> bool) -> Option<Party> {
    let tagged = tagged(entry)?;
    // SAFETY: a live, aligned word of a map value.
    if unsafe { tagged.read_volatile() } == 0 {
        return None;
    }
    let party = take_out::<M>(entry.address(), clash())?;
    // SAFETY: as above.
    unsafe { add(tagged, u64::MAX) };
    Some(party)
}

#[inline(never)]
fn take_out<M: Memory>(ct: u64, clash: bool) -> Option<Party> {
    let key = key::<M>(ct, clash);
    let (newer, older) = (of_number(NEWER_TAGS)?, of_number(OLDER_TAGS)?);
    let found = take_from(newer, &key, ct);
    // Most entries of the host have no tag: while nothing is moved one look tells it.
    if found.is_some() || newer == older {
        return found;
    }
    // What is not found in the older map may have been moved since the look at the newer one.
    take_from(older, &key, ct).or_else(
        #[inline(always)]
        || take_from(newer, &key, ct),
    )
}

#[inline(always)]
fn take_from(map: *mut c_void, key: &TagKey, ct: u64) -> Option<Party> {
    let key: *const TagKey = key;
    // SAFETY: a map of this key, which is on the stack.
    let tag: *const Tag = unsafe { bpf_map_lookup_elem(map, key.cast()) }.cast();
    // SAFETY: null, or a live element of the map; it is written once, before anybody can find it.
    let tag = unsafe { tag.as_ref() }.copied()?;
    if tag.entry != ct {
        return None;
    }
    // SAFETY: as for the look-up.
    (unsafe { bpf_map_delete_elem(map, key.cast()) } == 0).then_some(tag.party)
}

#[inline(always)]
fn key<M: Memory>(ct: u64, clash: bool) -> TagKey {
    let mut key = TagKey::default();
    key.netns = read::netns::<M>(read::ct_net::<M>(ct));
    key.zone = u32::from(read::ct_zone::<M>(ct));
    if clash {
        key.zone |= TagKey::CLASH;
        // SAFETY: a local of the right type.
        unsafe { read::copy_ct_tuple::<M, 1>(ct, &raw mut key.tuple) };
    } else {
        // SAFETY: as above.
        unsafe { read::copy_ct_tuple::<M, 0>(ct, &raw mut key.tuple) };
    }
    key
}
