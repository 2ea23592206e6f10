//! Where most tags are: groups of places, of which an entry has one by the digest of its original tuple.
//!
//! A BPF hash map costs an entry with a tag some hundred instructions when it enters and as many when it leaves; a place costs some dozens.
//! What finds no free place in its group goes into the hash maps ([`TAG_MAPS`](crate::owner::TAG_MAPS)), as do entries that lost a clash
//! ([`TagKey::CLASH`](crate::owner::TagKey::CLASH)): by its original tuple another entry is meant. The group counts what is there, so that
//! whoever finds nothing here knows whether to look.
//!
//! Nothing is locked. A place has two words, and the [`mark`](TagPlace::mark) decides: it only ever changes by compare and exchange, each of which
//! is a full barrier.
//!
//! * **To put a tag** the mark of a free place is changed from 0 to [`WRITING`]. Of two CPUs that try, one succeeds, and the place is that one's
//!   until it changes the mark once more, to the tag's. In between it writes the address: whoever sees the tag's mark sees the address that
//!   belongs to it.
//! * **To take one** the mark is changed from what was read back to 0, if the address was the entry's and the [check] fits. Only one gets it
//!   of several that try. A mark that belongs to another address than the one that was read (the place changed hands between the two reads) does not
//!   fit, since the check is made of the address too.
//! * **User space** takes out tags of owners that are gone in the same single step.
//! * An address stays in a place that is free again. There it says nothing: the mark does not fit.
//! * A tag may be left behind: a kprobe can miss a delete, and an entry that leaves while its addresses tell its owner does not ask for its tag. The
//!   memory of the entry is used for another one then. If that one has another tuple, the check does not fit, and it mostly looks into another
//!   group. If it comes into the same group with a tag, it writes over what is left: an address is in the table once, so there is nobody else to
//!   whom that place could belong. So an address is never in two places of a group whose marks could fit. What is left elsewhere goes
//!   with its owner.
//! * A mark that is read, changes, and becomes the same again is the same tag of the same tuple, or one with the same digest for the same owner: it
//!   says the same.

use core::mem::size_of;

use crate::owner::{IPV4, Party};

/// Places of a group: with what is counted it is a line of the cache.
pub const PLACES: usize = 3;

/// A mark of a place that a CPU is writing. It is not any tag's: a check is never 0.
pub const WRITING: u64 = 1;

/// A place for a tag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TagPlace {
    /// The entry's address in the kernel: `struct nf_conn *`.
    pub entry: u64,
    /// 0: free; [`WRITING`]; else see [`mark`].
    pub mark: u64,
}

/// Places for the tags of entries whose digests begin alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TagGroup {
    /// Tags in the hash maps of entries that belong here. What user space removes there is not taken off: that only costs a look.
    pub elsewhere: u64,
    /// Always 0, so that a group is a line of the cache.
    pub reserved: u64,
    /// Where a tag of this group can be: in any of these, if not in the hash maps.
    pub places: [TagPlace; PLACES],
}

const _: () = assert!(size_of::<TagGroup>() == 64);

/// A number that two tuples seldom have in common. `words` gives a word of the source and one of the destination, `behind` what follows either in
/// memory: its port and the family, its port and the protocol (of the original direction, which is 0).
#[inline(always)]
pub fn digest(l3num: u16, words: impl Fn(usize) -> (u32, u32), behind: (u32, u32)) -> u32 {
    /// The golden ratio, of 64 bits.
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let both = |word| {
        let (source, destination) = words(word);
        u64::from(source) << 32 | u64::from(destination)
    };
    let mut digest = both(0).wrapping_mul(FACTOR);
    if l3num != IPV4 {
        for word in 1..4 {
            // What is high in a number is only ever high in a product.
            digest = (both(word) ^ digest ^ digest >> 32).wrapping_mul(FACTOR);
        }
    }
    let behind = u64::from(behind.0) << 32 | u64::from(behind.1);
    ((behind ^ digest).wrapping_mul(FACTOR) >> 32) as u32
}

/// A port and what follows it in memory.
#[inline(always)]
pub const fn behind(port: u16, next: u16) -> u32 {
    (next as u32) << 16 | port as u32
}

/// The number of the group of an entry, of `1 << (32 - shift)`.
#[inline(always)]
pub const fn group(digest: u32, shift: u32) -> u32 {
    digest >> shift
}

/// What tells the tag of this entry from those of others; never 0. `address`: the lower half of its address, which is even.
#[inline(always)]
pub const fn check(digest: u32, address: u32) -> u32 {
    (digest ^ address) | 1
}

/// The mark of a tag.
#[inline(always)]
pub const fn mark(check: u32, party: Party) -> u64 {
    (check as u64) << 32 | party.index() as u64
}

/// Whether a mark is that of a tag with this check.
#[inline(always)]
pub const fn fits(mark: u64, check: u32) -> bool {
    (mark >> 32) as u32 == check
}

/// Who is charged, of a tag's mark.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
pub const fn party(mark: u64) -> Party {
    Party::of_index(mark as u32)
}

#[cfg(not(target_arch = "bpf"))]
mod user {
    use super::{PLACES, Party, TagGroup, TagPlace, WRITING, behind, check, digest, fits, party};
    use crate::record::Tuple;

    impl Tuple {
        /// The number by which the tag of an entry with this original tuple is found: see [`digest`].
        pub fn digest(&self) -> u32 {
            let words = |word| (self.src[word], self.dst[word]);
            let source = behind(self.src_port, self.l3num);
            let destination = behind(self.dst_port, u16::from(self.protonum));
            digest(self.l3num, words, (source, destination))
        }
    }

    /// What the places of a group say of a tuple.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Said {
        /// No place has a tag that fits: it may be in the hash maps.
        Nothing,
        /// Its entry is charged to this one.
        Party(Party),
        /// There are two that it could be, charged to different ones.
        Several,
    }

    impl TagPlace {
        /// The tag in it, if there is one.
        pub fn tag(&self) -> Option<Party> {
            (self.mark > WRITING).then(|| party(self.mark))
        }

        #[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
        fn fits(&self, digest: u32) -> bool {
            // Both halves are told apart: see `check`.
            fits(self.mark, check(digest, self.entry as u32))
        }
    }

    impl TagGroup {
        /// What is the same in a `later` look at this group: the kernel writes meanwhile, and of a place that it is writing the two words
        /// may not belong together.
        #[must_use]
        pub fn still_in(&self, later: &Self) -> Self {
            let mut settled = *self;
            for number in 0..PLACES {
                if self.places[number] != later.places[number] {
                    settled.places[number] = TagPlace::default();
                }
            }
            settled
        }

        /// What is known of the entry whose original tuple has this digest.
        pub fn of_tuple(&self, digest: u32) -> Said {
            let mut said = Said::Nothing;
            for place in &self.places {
                if !place.fits(digest) {
                    continue;
                }
                let party = party(place.mark);
                said = match said {
                    Said::Nothing => Said::Party(party),
                    Said::Party(other) if other == party => said,
                    _ => Said::Several,
                };
            }
            said
        }
    }
}
#[cfg(not(target_arch = "bpf"))]
pub use user::Said;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::{owner::Direction, record::Tuple};

    const OWNER: Party = Party::new(7, Direction::Ingress);
    const OTHER: Party = Party::new(9, Direction::Egress);

    #[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
    fn place(entry: u64, digest: u32, party: Party) -> TagPlace {
        TagPlace {
            entry,
            mark: mark(check(digest, entry as u32), party),
        }
    }

    fn group_of(places: [TagPlace; PLACES]) -> TagGroup {
        TagGroup {
            places,
            ..TagGroup::default()
        }
    }

    fn tuple(number: u32) -> Tuple {
        Tuple {
            src: [u32::from_ne_bytes([10, 0, 0, 1]), 0, 0, 0],
            src_port: (number % 50_000) as u16,
            l3num: IPV4,
            dst: [(number / 50_000).to_be(), 0, 0, 0],
            dst_port: 53_u16.to_be(),
            protonum: 17,
            dir: 0,
        }
    }

    #[test]
    fn every_part_of_a_tuple_counts() {
        for l3num in [IPV4, 10] {
            let plain = Tuple { l3num, ..tuple(7) };
            let mut digests = HashSet::from([plain.digest()]);
            let mut other = |change: &dyn Fn(&mut Tuple)| {
                let mut changed = plain;
                change(&mut changed);
                assert!(digests.insert(changed.digest()), "{changed:?}");
            };
            let words = if l3num == IPV4 { 1 } else { 4 };
            for word in 0..words {
                other(&|tuple| tuple.src[word] ^= 1);
                other(&|tuple| tuple.src[word] ^= 1 << 31);
                other(&|tuple| tuple.dst[word] ^= 1);
                other(&|tuple| tuple.dst[word] ^= 1 << 31);
            }
            other(&|tuple| tuple.src_port ^= 1);
            other(&|tuple| tuple.dst_port ^= 1);
            other(&|tuple| tuple.protonum = 6);
            other(&|tuple| std::mem::swap(&mut tuple.src, &mut tuple.dst));
        }
    }

    #[test]
    fn entries_spread_over_the_groups() {
        // As many as there are groups: of a good hash 2 to 3 % find no place (a Poisson distribution's tail).
        const BITS: u32 = 16;
        let mut groups = vec![0_usize; 1 << BITS];
        for number in 0..1 << BITS {
            groups[group(tuple(number).digest(), 32 - BITS) as usize] += 1;
        }
        let without: usize = groups.iter().map(|tags| tags.saturating_sub(PLACES)).sum();
        assert!(without < groups.len() / 30, "{without} without a place");
    }

    #[test]
    fn a_tag_is_found_by_its_tuple() {
        let entry = 0xffff_8881_0000_0140;
        let group = group_of([
            TagPlace::default(),
            place(entry, 5, OWNER),
            TagPlace {
                entry,
                mark: WRITING,
            },
        ]);
        assert_eq!(group.of_tuple(5), Said::Party(OWNER));
        assert_eq!(group.of_tuple(8), Said::Nothing);
        // The address that belongs to it is not written yet.
        let half = TagPlace {
            entry: entry + 0x140,
            ..group.places[1]
        };
        assert_eq!(group_of([half; PLACES]).of_tuple(5), Said::Nothing);
        let tags = group.places.map(|place| place.tag());
        assert_eq!(tags, [None, Some(OWNER), None]);
    }

    #[test]
    fn a_tuple_of_two_entries_tells_nobody() {
        let (first, second) = (0x100, 0x200);
        let of = |party| {
            group_of([
                place(first, 5, OWNER),
                place(second, 5, party),
                TagPlace::default(),
            ])
        };
        assert_eq!(of(OWNER).of_tuple(5), Said::Party(OWNER));
        assert_eq!(of(OTHER).of_tuple(5), Said::Several);
    }

    #[test]
    fn what_changes_between_two_looks_is_left_out() {
        let before = group_of([place(0x100, 5, OWNER); PLACES]);
        let mut later = before;
        later.places[1].entry = 0x200;
        let settled = before.still_in(&later);
        assert_eq!(settled.places[1], TagPlace::default());
        assert_eq!(settled.places[0], before.places[0]);
    }
}
