//! The maps that say who an entry is charged to when its addresses do not tell. There is room for as many as a table may have
//! entries; when the limit is raised beyond that, new tags go into a larger map, and those of the old one are moved to it bit by bit.

use std::{
    collections::HashMap as StdHashMap,
    io, mem,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::maps::{ArrayOfMaps, HashMap, Map, MapData};
use aya_obj::generated::{BPF_F_NO_PREALLOC, BPF_NOEXIST, bpf_map_type::BPF_MAP_TYPE_HASH};
use conntrack_ebpf::{
    global::{TAG_GROUPS_MAP, TAGS_MAP},
    owner::{NEWER_TAGS, OLDER_TAGS, Party, TAG_MAPS, Tag, TagKey},
    tag_groups::Said,
};

use super::{
    map_error::{error, into_kind, removed},
    tag_groups::{GroupRoom, MappedGroups, TagGroups},
};
use crate::sys::bpf;

/// Tags that there is room for at least, and at most.
const LEAST: u64 = 1 << 16;
const MOST: u64 = 1 << 21;
/// Steps of one walk over a map: so many times as many as there can be tags.
const WALKED: usize = 8;
/// Tags that are moved at once.
const MOVED: usize = 1 << 14;

/// Room for tags of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TagRoom {
    /// How many there can be.
    most: u32,
    /// Memory is taken as they come, else in advance.
    as_needed: bool,
    /// Where most of them are.
    groups: GroupRoom,
}

impl TagRoom {
    /// For programs that tag nothing.
    pub(super) const LEAST: Self = Self {
        most: 1,
        as_needed: false,
        groups: GroupRoom::LEAST,
    };

    /// For a table with this limit (0: unknown): as many as it can have entries, twice over where that costs little, since the
    /// limit may be raised, and tables of other network namespaces have tags too.
    pub(super) fn for_limit(limit: u64, as_needed: bool, has_places: bool) -> Self {
        let wanted = match limit {
            0 => MOST,
            limit if as_needed => limit.saturating_mul(2),
            limit => limit,
        };
        Self {
            most: u32::try_from(wanted.clamp(LEAST, MOST)).unwrap_or(u32::MAX),
            as_needed,
            groups: GroupRoom::for_entries(if limit == 0 { MOST } else { limit }, has_places),
        }
    }

    /// What there should be instead, now that the limit is this; `None`: it does.
    fn outgrown(self, limit: u64) -> Option<Self> {
        let most = Self::for_limit(limit, self.as_needed, true).most;
        (limit > 0 && most > self.most).then_some(Self { most, ..self })
    }
}

/// One of the maps.
struct TagMap {
    map: HashMap<MapData, TagKey, Tag>,
    /// The same map, for [`Tags::reader`].
    fd: OwnedFd,
    /// Its number in the kernel.
    id: u32,
}

fn typed(map: MapData) -> io::Result<HashMap<MapData, TagKey, Tag>> {
    let map = Map::from_map_data(map).map_err(error)?;
    map.try_into().map_err(error)
}

/// The kernel's numbers of the maps of tags: the newer one, and the older one; twice the same while nothing is moved; and that of the groups.
pub(crate) type TagMapIds = [u32; TAG_MAPS as usize + 1];

impl TagMap {
    fn new(room: TagRoom) -> io::Result<Self> {
        let flags = if room.as_needed { BPF_F_NO_PREALLOC } else { 0 };
        let sizes = (size_of::<TagKey>(), size_of::<Tag>());
        let definition = aya_obj::Map::new_from_params(
            BPF_MAP_TYPE_HASH as u32,
            u32::try_from(sizes.0).map_err(io::Error::other)?,
            u32::try_from(sizes.1).map_err(io::Error::other)?,
            room.most,
            flags,
        );
        let map = MapData::create(definition, TAGS_MAP, None).map_err(error)?;
        let fd = map.fd().as_fd().try_clone_to_owned()?;
        let id = map.info().map_err(error)?.id();
        Ok(Self {
            map: typed(map)?,
            fd,
            id,
        })
    }

    fn reader(&self) -> io::Result<HashMap<MapData, TagKey, Tag>> {
        typed(MapData::from_fd(self.fd.try_clone()?).map_err(error)?)
    }
}

/// Reads tags beside the programs and [`Tags`].
pub(crate) struct TagReader {
    newer: HashMap<MapData, TagKey, Tag>,
    older: Option<HashMap<MapData, TagKey, Tag>>,
    groups: MappedGroups,
}

impl TagReader {
    /// The tags of another process, which is the agent.
    ///
    /// # Errors
    /// If the kernel refuses its maps, as it does without `CAP_SYS_ADMIN`, or they are not there any more.
    pub(crate) fn open([newer, older, groups]: TagMapIds) -> io::Result<Self> {
        let open = |id| typed(MapData::from_id(id).map_err(error)?);
        Ok(Self {
            newer: open(newer)?,
            older: (older != newer).then(|| open(older)).transpose()?,
            groups: MappedGroups::open(groups)?,
        })
    }

    /// The tag of the entry with this key; `None`: it has none, or it can't be told.
    pub(crate) fn tag(&self, key: &TagKey) -> Option<Party> {
        let (said, is_elsewhere) = self.groups.of_tuple(key);
        match said {
            Said::Party(party) => Some(party),
            Said::Several => None,
            Said::Nothing => is_elsewhere.then(|| self.in_hash_maps(key))?,
        }
    }

    fn in_hash_maps(&self, key: &TagKey) -> Option<Party> {
        let newer = || self.newer.get(key, 0).ok();
        let older = || {
            let tag = self.older.as_ref()?.get(key, 0).ok();
            // It may have been moved since the look at the newer one.
            tag.or_else(newer)
        };
        newer().or_else(older).map(|tag| tag.party)
    }
}

/// The maps of tags. There is one writer beside the programs.
pub(super) struct Tags {
    maps: ArrayOfMaps<MapData, HashMap<MapData, TagKey, Tag>>,
    newer: TagMap,
    /// Its tags are being moved to the newer one.
    older: Option<TagMap>,
    groups: TagGroups,
    room: TagRoom,
}

impl Tags {
    /// The maps, and those for the programs by their names.
    ///
    /// # Errors
    /// If the kernel refuses one.
    pub(super) fn new(room: TagRoom) -> io::Result<(Self, [(&'static str, MapData); 2])> {
        let (groups, groups_of_programs) = TagGroups::new(room.groups)?;
        let newer = TagMap::new(room)?;
        let array = bpf::create_array_of_maps(TAGS_MAP, TAG_MAPS, newer.fd.as_fd())?;
        let of_programs = MapData::from_fd(array.try_clone()?).map_err(error)?;
        let array = MapData::from_fd(array).map_err(error)?;
        let mut maps = ArrayOfMaps::try_from(Map::ArrayOfMaps(array)).map_err(error)?;
        for number in [NEWER_TAGS, OLDER_TAGS] {
            maps.set(number, &newer.map, 0).map_err(error)?;
        }
        let tags = Self {
            maps,
            newer,
            older: None,
            groups,
            room,
        };
        let for_programs = [
            (TAGS_MAP, of_programs),
            (TAG_GROUPS_MAP, groups_of_programs),
        ];
        Ok((tags, for_programs))
    }

    /// What the programs have to know.
    pub(super) fn globals(&self) -> [(&'static str, u32); 2] {
        self.groups.globals()
    }

    /// Whether the programs put anything into the groups.
    pub(super) const fn has_places(&self) -> bool {
        self.groups.has_places()
    }

    /// Makes more room if a table with this limit needs it; or goes on with that. Nobody may hold a [`TagReader`].
    ///
    /// # Errors
    /// If the kernel refuses a larger map (before 5.10 it always does), or a map can't be written.
    pub(super) fn keep_room(&mut self, limit: u64) -> io::Result<()> {
        if self.older.is_some() {
            return self.move_some();
        }
        let Some(room) = self.room.outgrown(limit) else {
            return Ok(());
        };
        let newer = TagMap::new(room)?;
        // When this returns no program puts anything into the older one any more: the kernel has waited for those that were running
        // (`maybe_wait_bpf_programs`).
        self.maps.set(NEWER_TAGS, &newer.map, 0).map_err(error)?;
        self.older = Some(mem::replace(&mut self.newer, newer));
        self.room = room;
        self.move_some()
    }

    /// Moves tags to the newer map. A program may take out each of them meanwhile; it looks into the newer map first.
    fn move_some(&mut self) -> io::Result<()> {
        let Some(older) = &mut self.older else {
            return Ok(());
        };
        let keys = older.map.keys().take(MOVED);
        let keys: Vec<TagKey> = keys.collect::<Result<_, _>>().map_err(error)?;
        if keys.is_empty() {
            self.maps
                .set(OLDER_TAGS, &self.newer.map, 0)
                .map_err(error)?;
            self.older = None;
            return Ok(());
        }
        for key in keys {
            let tag = match older.map.get(&key, 0).map_err(into_kind) {
                Ok(tag) => tag,
                Err(None) => continue,
                Err(Some(error)) => return Err(error),
            };
            let put = self.newer.map.insert(key, tag, BPF_NOEXIST.into());
            match put.map_err(error) {
                Ok(()) => {}
                // Of an entry that took the place of this one's, which is about to go.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            }
            if !removed(older.map.remove(&key))? {
                removed(self.newer.map.remove(&key))?;
            }
        }
        Ok(())
    }

    /// For a thread that reads tags by itself.
    ///
    /// # Errors
    /// If there can be no further file descriptor of a map.
    pub(super) fn reader(&self) -> io::Result<TagReader> {
        Ok(TagReader {
            newer: self.newer.reader()?,
            older: self.older.as_ref().map(TagMap::reader).transpose()?,
            groups: self.groups.mapped()?,
        })
    }

    /// For another process that reads tags: see [`TagReader::open`].
    pub(super) fn ids(&self) -> TagMapIds {
        let newer = self.newer.id;
        let older = self.older.as_ref().map_or(newer, |older| older.id);
        [newer, older, self.groups.id()]
    }

    fn all(&self) -> impl Iterator<Item = &TagMap> {
        self.older.iter().chain([&self.newer])
    }

    /// All tags in the hash maps: of entries whose owner their addresses do not tell, and that found no place.
    ///
    /// Key by key, though the kernel could give thousands at once: while it walks the buckets of a
    /// batch it keeps every kprobe program of that CPU from running (`bpf_disable_instrumentation`
    /// in `__htab_map_lookup_and_delete_batch`), even those of others while this thread is
    /// preempted, and inserts would be missed.
    ///
    /// # Errors
    /// If a map can't be read, or loses the key it stands at again and again.
    pub(super) fn parties(&self) -> io::Result<StdHashMap<TagKey, Party>> {
        let mut tags = StdHashMap::new();
        for one in self.all() {
            // A key that goes while the walk stands at it sends the walk back to the first one.
            for (walked, tag) in one.map.iter().enumerate() {
                if walked > WALKED * self.room.most as usize {
                    return Err(io::Error::other(
                        "the tags of entries change too fast to be read",
                    ));
                }
                let (key, tag) = tag.map_err(error)?;
                tags.insert(key, tag.party);
            }
        }
        Ok(tags)
    }

    /// Takes out the tags in places of these slots, which nobody has any more.
    ///
    /// # Errors
    /// If the groups can't be mapped.
    pub(super) fn take_out(&mut self, slots: &[u32]) -> io::Result<()> {
        if self.groups.has_places() && !slots.is_empty() {
            self.groups.mapped()?.take_out(slots);
        }
        Ok(())
    }

    /// Removes a tag from the hash maps, if it is there.
    ///
    /// # Errors
    /// If a map can't be written.
    pub(super) fn remove(&mut self, key: &TagKey) -> io::Result<()> {
        for one in self.older.iter_mut().chain([&mut self.newer]) {
            removed(one.map.remove(key))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_grows_with_the_limit() {
        let room = TagRoom::for_limit(20_000, true, true);
        assert_eq!(u64::from(room.most), LEAST);
        assert_eq!(room.outgrown(32_768), None);
        let more = room.outgrown(100_000).expect("it needs more");
        assert_eq!(more.most, 200_000);
        assert_eq!(more.outgrown(100_000), None);
        assert_eq!(more.outgrown(20_000), None, "it does not shrink");
        let most = more.outgrown(u64::MAX).expect("it needs more");
        assert_eq!(u64::from(most.most), MOST);
        assert_eq!(most.outgrown(u64::MAX), None);
        assert_eq!(more.outgrown(0), None, "the limit is not known");
    }

    #[test]
    fn room_in_advance_is_not_doubled() {
        assert_eq!(TagRoom::for_limit(100_000, false, true).most, 100_000);
        assert_eq!(u64::from(TagRoom::for_limit(0, false, true).most), MOST);
    }
}
