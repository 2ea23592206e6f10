//! The maps by which the programs charge owners, and what they counted for each.

use std::{collections::HashMap as StdHashMap, io, os::fd::OwnedFd};

use aya::maps::{Array, HashMap, Map, MapData, MapError};
use conntrack_ebpf::{
    owner::{Claim, FLAG_SOCKET, FLAG_TAGGED, OwnerState, Party, Service, TagKey},
    place::{self, Addresses, Cgroups, Table},
};
use zerocopy::FromZeros;

use crate::owners::SlotMaps;
use crate::sys::mapping::MappedArray;

/// Steps of one walk over the tags: so many times as many as there can be.
const TAGS_WALKED: usize = 8;

/// The maps of owners; see [`conntrack_ebpf::owner`]. There is one writer.
pub struct OwnerMaps {
    pub(super) addresses: MappedArray<Addresses>,
    pub(super) cgroups: MappedArray<Cgroups>,
    pub(super) active: Array<MapData, u32>,
    pub(super) namespaces: HashMap<MapData, u32, Claim>,
    pub(super) tags: HashMap<MapData, TagKey, Party>,
    /// The same map, for [`OwnerMaps::tag_reader`].
    pub(super) tags_fd: OwnedFd,
    /// Tags that there can be.
    pub(super) most_tags: u32,
    /// Those of the first CPU, then those of the next.
    pub(super) counts: MappedArray<OwnerState>,
    pub(super) services: HashMap<MapData, Service, u32>,
    /// What that map says.
    pub(super) services_told: StdHashMap<Service, u32>,
    pub(super) slots: u32,
    /// Numbers that a CPU can have.
    pub(super) cpus: usize,
    /// There was an owner that only its sockets tell.
    pub(super) asks_sockets: bool,
}

/// Reads tags beside the programs and [`OwnerMaps`].
pub(crate) struct TagReader(HashMap<MapData, TagKey, Party>);

impl TagReader {
    /// The tag of an entry; `None`: it has none, or it can't be read.
    pub(crate) fn tag(&self, key: &TagKey) -> Option<Party> {
        self.0.get(key, 0).ok()
    }
}

/// As an `io::Error`, with the kernel's own where there is one.
fn error(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(error) => error.io_error,
        other => io::Error::other(other),
    }
}

fn absent_is_fine(result: Result<(), MapError>) -> io::Result<()> {
    match result {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(failed))
            if failed.io_error.kind() == io::ErrorKind::NotFound =>
        {
            Ok(())
        }
        Err(other) => Err(error(other)),
    }
}

/// A table with these entries, and how many found no room.
fn filled<K: place::Key + Default + FromZeros, V: Copy + Default + FromZeros>(
    entries: &[(K, V)],
) -> io::Result<(Box<Table<K, V>>, usize)> {
    let mut table = Table::new_box_zeroed().map_err(|_| io::ErrorKind::OutOfMemory)?;
    let left_out = place::fill(&mut table, entries);
    Ok((table, left_out))
}

impl OwnerMaps {
    /// Numbers that a CPU can have.
    pub(crate) const fn cpus(&self) -> usize {
        self.cpus
    }

    /// Slots that have counters.
    pub const fn slots(&self) -> u32 {
        self.slots
    }

    /// Tells the programs who is charged from now on. Gives how many addresses and cgroups found no
    /// room (see [`conntrack_ebpf::place`]): they are charged as if nobody had them.
    ///
    /// The tables that were read before the last change are written over: a program that runs has
    /// left them long ago, as long as changes are some milliseconds apart.
    ///
    /// # Errors
    /// If a map can't be written.
    pub fn charge(&mut self, maps: &SlotMaps) -> io::Result<usize> {
        let next = 1 - self.active.get(&0, 0).map_err(error)?.min(1);
        self.asks_sockets |= !maps.cgroups.is_empty();
        let asks_sockets = self.asks_sockets;
        let addresses: Vec<_> = maps
            .addresses
            .iter()
            .map(|(address, claim)| {
                let mut claim = *claim;
                if !asks_sockets && claim.flags & FLAG_SOCKET != 0 {
                    // No cgroup was ever anybody's: asking would cost, and tell nothing.
                    claim.flags = 0;
                }
                (*address, claim)
            })
            .collect();
        let (table, mut left_out) = filled(&addresses)?;
        self.addresses.write(next as usize, &table);
        drop(table);

        let cgroups: Vec<_> = maps
            .cgroups
            .iter()
            .map(|(id, slot)| (*id, u64::from(*slot)))
            .collect();
        let (table, more) = filled(&cgroups)?;
        left_out += more;
        self.cgroups.write(next as usize, &table);

        self.charge_namespaces(&maps.netns)?;
        self.active.set(0, next, 0).map_err(error)?;
        Ok(left_out)
    }

    fn charge_namespaces(&mut self, wanted: &StdHashMap<u32, Claim>) -> io::Result<()> {
        let there: Vec<u32> = self
            .namespaces
            .keys()
            .collect::<Result<_, _>>()
            .map_err(error)?;
        for netns in there {
            if !wanted.contains_key(&netns) {
                absent_is_fine(self.namespaces.remove(&netns))?;
            }
        }
        for (netns, claim) in wanted {
            self.namespaces.insert(netns, claim, 0).map_err(error)?;
        }
        Ok(())
    }

    /// Tells the programs who is behind Service addresses. To be done before [`Self::charge`] gives a
    /// slot to another owner.
    ///
    /// # Errors
    /// If the map can't be written.
    pub(crate) fn charge_services(&mut self, wanted: &StdHashMap<Service, u32>) -> io::Result<()> {
        let over: Vec<Service> = self
            .services_told
            .keys()
            .filter(|service| !wanted.contains_key(*service))
            .copied()
            .collect();
        for service in over {
            absent_is_fine(self.services.remove(&service))?;
            self.services_told.remove(&service);
        }
        for (service, slot) in wanted {
            if self.services_told.get(service) != Some(slot) {
                self.services.insert(service, slot, 0).map_err(error)?;
                self.services_told.insert(*service, *slot);
            }
        }
        Ok(())
    }

    /// What has been counted for each slot below `slots`, over all CPUs.
    pub fn counts(&self, slots: u32) -> Vec<OwnerState> {
        let slots = slots.min(self.slots) as usize;
        let mut sums = vec![OwnerState::default(); slots];
        for cpu in 0..self.cpus {
            let first = cpu * self.slots as usize;
            for (slot, sum) in sums.iter_mut().enumerate() {
                for (sum, counts) in sum.iter_mut().zip(self.counts.read(first + slot)) {
                    *sum = sum.with(&counts, |sum, count| sum + count);
                }
            }
        }
        sums
    }

    /// For a thread that reads tags by itself.
    ///
    /// # Errors
    /// If there can be no further file descriptor of the map.
    pub(crate) fn tag_reader(&self) -> io::Result<TagReader> {
        let map = MapData::from_fd(self.tags_fd.try_clone()?).map_err(error)?;
        let map = Map::from_map_data(map).map_err(error)?;
        map.try_into().map(TagReader).map_err(error)
    }

    /// All tags: entries whose owner their addresses do not tell.
    ///
    /// Key by key, though the kernel could give thousands at once: while it walks the buckets of a
    /// batch it keeps every kprobe program of that CPU from running (`bpf_disable_instrumentation`
    /// in `__htab_map_lookup_and_delete_batch`), even those of others while this thread is
    /// preempted, and inserts would be missed.
    ///
    /// # Errors
    /// If the map can't be read, or loses the key it stands at again and again.
    fn tags(&self) -> io::Result<StdHashMap<TagKey, Party>> {
        let mut tags = StdHashMap::new();
        // A key that goes while the walk stands at it sends the walk back to the first one.
        for (walked, tag) in self.tags.iter().enumerate() {
            if walked > TAGS_WALKED * self.most_tags as usize {
                return Err(io::Error::other(
                    "the tags of entries change too fast to be read",
                ));
            }
            let (key, party) = tag.map_err(error)?;
            tags.insert(key, party);
        }
        Ok(tags)
    }

    /// Removes the tags of slots that nobody has any more, and those that have no use of slots that
    /// somebody has.
    ///
    /// # Errors
    /// If the map can't be read or written.
    pub fn sweep_tags(&mut self, freed: &[u32], swept: &[u32], maps: &SlotMaps) -> io::Result<()> {
        // Sockets of the host left tags too: those whose source, or table, is claimed with the flag are used.
        let used = |key: &TagKey| {
            let address = maps.addresses.get(&key.source());
            let claim = maps.netns.get(&key.netns).or(address);
            claim.is_some_and(|claim| claim.flags & FLAG_TAGGED != 0)
        };
        if freed.is_empty() && swept.is_empty() {
            return Ok(());
        }
        for (key, party) in self.tags()? {
            let slot = party.slot();
            if freed.contains(&slot) || (swept.contains(&slot) && !used(&key)) {
                absent_is_fine(self.tags.remove(&key))?;
            }
        }
        Ok(())
    }
}
