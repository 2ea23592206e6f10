//! The map of [groups of tags](conntrack_ebpf::tag_groups). Its memory is taken in advance, and never more: what finds no place there goes into
//! the hash maps, which grow with the limit.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::atomic::{Ordering, fence},
};

use aya::maps::MapData;
use aya_obj::generated::{BPF_F_MMAPABLE, bpf_insn, bpf_map_type::BPF_MAP_TYPE_ARRAY};
use conntrack_ebpf::{
    global::{HAS_TAG_PLACES, TAG_GROUPS_MAP, TAG_GROUPS_SHIFT},
    owner::TagKey,
    tag_groups::{PLACES, Said, TagGroup, TagPlace, group},
};

use super::{code::EXCHANGE, map_error::error};
use crate::sys::{bpf, mapping::MappedArray};

/// Groups at least and at most: 64 KiB to 32 MiB.
const LEAST_BITS: u32 = 10;
const MOST_BITS: u32 = 19;
/// Groups at most where they only count: 2 MiB.
const COUNTING_BITS: u32 = 15;

/// How many groups there are to be, and whether anything is put into them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GroupRoom {
    /// There are `1 << bits`.
    bits: u32,
    has_places: bool,
}

impl GroupRoom {
    /// For programs that tag nothing.
    pub(super) const LEAST: Self = Self {
        bits: 1,
        has_places: false,
    };

    /// For a table of so many entries: half as many groups, or a few more. With all entries tagged 11 % find no place in a full table, and 2 % in one
    /// that is half full.
    pub(super) fn for_entries(entries: u64, has_places: bool) -> Self {
        let bits = (entries / 2)
            .clamp(1, 1 << MOST_BITS)
            .next_power_of_two()
            .ilog2();
        let most = if has_places { MOST_BITS } else { COUNTING_BITS };
        Self {
            bits: bits.clamp(LEAST_BITS, most),
            has_places,
        }
    }

    /// Half of it, if that can be.
    fn smaller(self) -> Option<Self> {
        let bits = self.bits - 1;
        (bits >= LEAST_BITS).then_some(Self { bits, ..self })
    }

    const fn shift(self) -> u32 {
        u32::BITS - self.bits
    }
}

/// Whether programs of this kernel can compare and exchange a word: one that does is loaded, and compiled, as all are that matter. On `x86_64` they can
/// from 5.12 on, on arm64 from 5.18.
pub(super) fn can_exchange() -> bool {
    const STORE_NUMBER: u8 = 0x7a;
    const SET_NUMBER: u8 = 0xb7;
    const EXIT: u8 = 0x95;
    let step = |code, to, from, off, imm| bpf_insn {
        code,
        _bitfield_align_1: [],
        _bitfield_1: bpf_insn::new_bitfield_1(to, from),
        off,
        imm,
    };
    let program = [
        step(STORE_NUMBER, 10, 0, -8, 0),
        step(SET_NUMBER, 0, 0, 0, 0),
        step(SET_NUMBER, 1, 0, 0, 0),
        step(EXCHANGE.0, 10, 1, -8, EXCHANGE.1),
        step(EXIT, 0, 0, 0, 0),
    ];
    let loaded = bpf::load_program("exchange", bpf::ProgramKind::SocketFilter, &program, c"GPL");
    loaded
        .is_ok_and(|program| bpf::program_info(program.as_fd()).is_ok_and(|info| info.is_compiled))
}

/// The map of groups.
pub(super) struct TagGroups {
    fd: OwnedFd,
    /// Its number in the kernel.
    id: u32,
    room: GroupRoom,
}

impl TagGroups {
    /// The map, and the same for the programs.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub(super) fn new(mut room: GroupRoom) -> io::Result<(Self, MapData)> {
        let map = loop {
            match create(room) {
                // Some kernels have no element that is larger than 4 MiB.
                Err(error) if error.raw_os_error() == Some(libc::E2BIG) => {
                    room = room.smaller().ok_or(error)?;
                }
                other => break other?,
            }
        };
        let groups = Self {
            fd: map.fd().as_fd().try_clone_to_owned()?,
            id: map.info().map_err(error)?.id(),
            room,
        };
        Ok((groups, map))
    }

    /// What the programs have to know.
    pub(super) fn globals(&self) -> [(&'static str, u32); 2] {
        [
            (TAG_GROUPS_SHIFT, self.room.shift()),
            (HAS_TAG_PLACES, u32::from(self.room.has_places)),
        ]
    }

    /// Whether the programs put anything into the places.
    pub(super) const fn has_places(&self) -> bool {
        self.room.has_places
    }

    pub(super) const fn id(&self) -> u32 {
        self.id
    }

    /// To be read. All of it counts as this process's memory meanwhile.
    ///
    /// # Errors
    /// If it can't be mapped.
    pub(super) fn mapped(&self) -> io::Result<MappedGroups> {
        let groups = MappedArray::new(self.fd.as_fd(), 1 << self.room.bits)?;
        Ok(MappedGroups { groups })
    }
}

fn create(room: GroupRoom) -> io::Result<MapData> {
    let definition = aya_obj::Map::new_from_params(
        BPF_MAP_TYPE_ARRAY as u32,
        4,
        u32::try_from(size_of::<TagGroup>() << room.bits).map_err(io::Error::other)?,
        1,
        BPF_F_MMAPABLE,
    );
    MapData::create(definition, TAG_GROUPS_MAP, None).map_err(error)
}

/// The groups in this process's memory.
#[derive(Debug)]
pub(super) struct MappedGroups {
    groups: MappedArray<TagGroup>,
}

impl MappedGroups {
    /// Those of another process, by the kernel's number of their map.
    ///
    /// # Errors
    /// If the kernel refuses it, or it is another kind of map.
    pub(super) fn open(id: u32) -> io::Result<Self> {
        let map = MapData::from_id(id).map_err(error)?;
        let bytes = map.info().map_err(error)?.value_size() as usize;
        let groups = bytes / size_of::<TagGroup>();
        if !groups.is_power_of_two() || groups < 2 {
            return Err(io::Error::other("no groups of tags"));
        }
        let groups = MappedArray::new(map.fd().as_fd(), groups)?;
        Ok(Self { groups })
    }

    /// The group of entries with this digest, without what changes just now.
    fn group(&self, digest: u32) -> TagGroup {
        let shift = u32::BITS - self.groups.len().ilog2();
        let number = group(digest, shift) as usize;
        let before = self.groups.read(number);
        fence(Ordering::Acquire);
        let later = self.groups.read(number);
        TagGroup {
            elsewhere: later.elsewhere,
            ..later.still_in(&before)
        }
    }

    /// What is known of the entry with this tuple, and whether there are tags of its group in the hash maps.
    pub(super) fn of_tuple(&self, key: &TagKey) -> (Said, bool) {
        let digest = key.tuple.digest();
        let group = self.group(digest);
        (group.of_tuple(digest), group.elsewhere != 0)
    }

    /// Takes out all tags of these owners, each in one step, so that a program takes none of them at the same time.
    pub(super) fn take_out(&self, slots: &[u32]) {
        for (number, group) in self.groups.iter().enumerate() {
            for place in 0..PLACES {
                let TagPlace { mark, .. } = group.places[place];
                let party = group.places[place].tag();
                if party.is_some_and(|party| slots.contains(&party.slot())) {
                    self.groups
                        .exchange_word(number, mark_offset(place), mark, 0);
                }
            }
        }
    }
}

/// Where the mark of a place is in its group.
const fn mark_offset(place: usize) -> usize {
    std::mem::offset_of!(TagGroup, places)
        + place * size_of::<TagPlace>()
        + std::mem::offset_of!(TagPlace, mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_for_all_entries_twice_over() {
        // With the place that the counts take: four to a group.
        let places = |entries| 4_u64 << GroupRoom::for_entries(entries, true).bits;
        assert_eq!(places(262_144), 2 * 262_144);
        assert_eq!(places(200_000), 2 * 262_144);
        assert_eq!(places(1), 1 << 12);
        assert_eq!(places(0), 1 << 12);
        assert_eq!(places(u64::MAX), 1 << 21);
        assert_eq!(GroupRoom::for_entries(u64::MAX, false).bits, COUNTING_BITS);
    }

    #[test]
    fn room_is_halved_down_to_the_least() {
        let mut room = GroupRoom::for_entries(u64::MAX, true);
        while let Some(smaller) = room.smaller() {
            assert_eq!(smaller.shift(), room.shift() + 1);
            room = smaller;
        }
        assert_eq!(room, GroupRoom::for_entries(0, true));
        assert_eq!(GroupRoom::LEAST.shift(), 31, "a shift that a register has");
    }

    #[test]
    fn marks_are_where_they_are_written() {
        let mut group = TagGroup::default();
        for (number, place) in group.places.iter_mut().enumerate() {
            place.mark = 100 + number as u64;
        }
        let words: Vec<u64> = [group.elsewhere, group.reserved]
            .into_iter()
            .chain(
                group
                    .places
                    .iter()
                    .flat_map(|place| [place.entry, place.mark]),
            )
            .collect();
        for number in 0..PLACES {
            assert_eq!(words[mark_offset(number) / 8], 100 + number as u64);
        }
    }
}
