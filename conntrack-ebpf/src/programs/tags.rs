//! Tags of entries: who an entry is charged to when its addresses do not tell.

use core::{arch::asm, ffi::c_void, hint, mem::offset_of, ptr};

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_NOEXIST},
    helpers::{bpf_map_delete_elem, bpf_map_lookup_elem, bpf_map_update_elem},
    macros::map,
    maps::Array,
};
use conntrack_ebpf::{
    global::TAG_GROUPS_VALUE,
    owner::{NEWER_TAGS, OLDER_TAGS, Party, TAG_MAPS, Tag, TagKey},
    tag_groups::{self, PLACES, TagGroup, TagPlace, WRITING},
};

use super::{
    globals,
    maps::add,
    memory::{Entry, Memory},
    read,
};

/// Maps `TagKey -> Tag`: user space makes this an array of maps (`conntrack-user/src/probes/tags.rs`), since aya's section of
/// maps can't say so.
#[map]
static TAGS: Array<c_void> = Array::with_max_entries(TAG_MAPS, 0);

/// Where most tags are, see [`conntrack_ebpf::tag_groups`]. One element, whose size is set when it is loaded, and whose address the
/// code has by [`TAG_GROUPS_VALUE`].
#[map]
static TAG_GROUPS: Array<TagGroup> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The group of entries with this digest.
#[inline(always)]
fn group(digest: u32) -> *mut TagGroup {
    let first: *mut TagGroup;
    // SAFETY: it puts a number into a register, which user space has made the address of the map's element.
    unsafe {
        asm!("{first} = {value} ll", first = out(reg) first, value = const TAG_GROUPS_VALUE,
            options(pure, nomem, nostack, preserves_flags));
    }
    let shift = globals::TAG_GROUPS_SHIFT.load();
    // SAFETY: there are two groups at least.
    unsafe { hint::assert_unchecked(shift < u32::BITS) };
    let number = tag_groups::group(digest, shift);
    // SAFETY: user space has made the map as large as the shift demands.
    unsafe { first.add(number as usize) }
}

/// One of the maps; it stays for as long as the program runs.
#[inline(always)]
fn of_number(number: u32) -> Option<*mut c_void> {
    TAGS.get_ptr_mut(number)
}

/// Tags an entry with who is charged for it, if there is room; `clash`: it lost one, see [`TagKey::CLASH`].
#[inline(always)]
pub(super) fn put<M: Memory>(entry: &impl Entry, clash: bool, party: Party) -> bool {
    let ct = entry.address();
    let digest = entry.digest();
    let group = group(digest);
    if globals::HAS_TAG_PLACES.load() != 0 && !clash {
        let check = tag_groups::check(digest, read::lower_half(ct));
        // SAFETY: a live map value.
        if unsafe { put_in_place(group, ct, tag_groups::mark(check, party)) } {
            return true;
        }
    }
    // SAFETY: as above.
    let elsewhere = unsafe { &raw mut (*group).elsewhere };
    // Before it can be found: a count that is 0 is sure.
    // SAFETY: a live, aligned word of a map value.
    unsafe { add(elsewhere, 1) };
    let is_put = put_in::<M>(ct, clash, party);
    if !is_put {
        // SAFETY: as above.
        unsafe { add(elsewhere, u64::MAX) };
    }
    is_put
}

/// Changes a place's mark in one step if it is as it was read; whether it was. A full barrier. Kernels before 5.12 have no such instruction:
/// this is only ever reached where [`HAS_TAG_PLACES`](conntrack_ebpf::global::HAS_TAG_PLACES) says so, and user space takes it out elsewhere.
///
/// # Safety
///
/// `place` is in a live map value.
#[inline(always)]
unsafe fn exchange_mark(place: *mut TagPlace, was: u64, becomes: u64) -> bool {
    let found: u64;
    // SAFETY: an aligned word of a map value. By hand: what the compiler makes of it says in a further register whether it was, and compares
    // that.
    unsafe {
        asm!("r0 = cmpxchg_64({place} + {mark}, r0, {becomes})",
            place = in(reg) place, mark = const offset_of!(TagPlace, mark), becomes = in(reg) becomes,
            inout("r0") was => found, options(nostack, preserves_flags));
    }
    found == was
}

/// Puts a tag into a free place of its group, or that which has the address: a tag that was left there is another time's. Whoever is not first takes
/// it for full. How this is safe: see [`conntrack_ebpf::tag_groups`].
///
/// # Safety
///
/// `group` is a live map value.
#[inline(always)]
unsafe fn put_in_place(group: *mut TagGroup, ct: u64, mark: u64) -> bool {
    let mut chosen: *mut TagPlace = ptr::null_mut();
    let mut was = 0;
    // The last that is free is the first one, where `take_from_places` looks first.
    for number in (0..PLACES).rev() {
        let place = place(group, number);
        // SAFETY: aligned words of a map value; BPF loads of them don't tear.
        let (entry, now) = unsafe {
            (
                (&raw const (*place).entry).read_volatile(),
                (&raw const (*place).mark).read_volatile(),
            )
        };
        if entry == ct && now != WRITING {
            chosen = place;
            was = now;
            break;
        }
        if now == 0 {
            chosen = place;
        }
    }
    if chosen.is_null() {
        return false;
    }
    // SAFETY: as above; from the first exchange to the second one the place is this CPU's.
    unsafe {
        if !exchange_mark(chosen, was, WRITING) {
            return false;
        }
        (&raw mut (*chosen).entry).write_volatile(ct);
        exchange_mark(chosen, WRITING, mark)
    }
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
    let ct = entry.address();
    let digest = entry.digest();
    let group = group(digest);
    // Not asked whether there are places: where there are none they are all free.
    // SAFETY: a live map value.
    let party = unsafe { take_from_places(group, ct, digest) };
    if party.is_some() {
        return party;
    }
    // SAFETY: as above.
    let elsewhere = unsafe { &raw mut (*group).elsewhere };
    // SAFETY: a live, aligned word of a map value.
    if unsafe { elsewhere.read_volatile() } == 0 {
        return None;
    }
    let party = take_out::<M>(ct, clash())?;
    // SAFETY: as above.
    unsafe { add(elsewhere, u64::MAX) };
    Some(party)
}

/// The first place is where a tag mostly is.
///
/// # Safety
///
/// `group` is a live map value.
#[inline(always)]
unsafe fn take_from_places(group: *mut TagGroup, ct: u64, digest: u32) -> Option<Party> {
    // SAFETY: aligned words of a map value; BPF loads of them don't tear.
    let entry =
        |number: usize| unsafe { (&raw const (*place(group, number)).entry).read_volatile() };
    let check = tag_groups::check(digest, read::lower_half(ct));
    if entry(0) == ct {
        // SAFETY: within the group.
        return unsafe { take_from_place(place(group, 0), check) };
    }
    if entry(1) == ct {
        return take_from_other(group, 1, check);
    }
    if entry(2) == ct {
        return take_from_other(group, 2, check);
    }
    None
}

/// A place of a group.
#[inline(always)]
const fn place(group: *mut TagGroup, number: usize) -> *mut TagPlace {
    // SAFETY: `number` is below `PLACES`.
    unsafe { (&raw mut (*group).places).cast::<TagPlace>().add(number) }
}

/// # Safety
///
/// `place` is in a live map value.
#[inline(always)]
unsafe fn take_from_place(place: *mut TagPlace, check: u32) -> Option<Party> {
    // SAFETY: an aligned word of a map value.
    let mark = unsafe { (&raw const (*place).mark).read_volatile() };
    // SAFETY: as above.
    let taken = tag_groups::fits(mark, check) && unsafe { exchange_mark(place, mark, 0) };
    taken.then_some(tag_groups::party(mark))
}

/// A call, so that it costs others nothing.
#[inline(never)]
fn take_from_other(group: *mut TagGroup, number: usize, check: u32) -> Option<Party> {
    let number = if number == 1 { 1 } else { 2 };
    // SAFETY: the group is a live map value.
    unsafe { take_from_place(place(group, number), check) }
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
