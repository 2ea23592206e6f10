//! The maps by which the programs charge owners, and what they counted for each.

use std::{collections::HashMap as StdHashMap, io, mem::offset_of, sync::Arc};

use aya::maps::{HashMap, MapData};
use conntrack_ebpf::{
    owner::{Claim, FLAG_SOCKET, FLAG_TAGGED, OwnerState, Service, TagKey, UNKNOWN},
    place::{self, Addresses, Cgroups},
    state::PerCpuState,
};
use zerocopy::FromZeros;

use super::{
    map_error::{error, removed},
    tags::{TagMapIds, TagReader, Tags},
};
use crate::kernel::tables::InsertMark;
use crate::owners::SlotMaps;
use crate::sys::mapping::MappedArray;

/// The maps of owners; see [`conntrack_ebpf::owner`]. There is one writer.
pub struct OwnerMaps {
    /// One element, of which each half is written by itself.
    pub(super) addresses: MappedArray<[Addresses; 2]>,
    pub(super) cgroups: MappedArray<Cgroups>,
    /// Whose [`PerCpuState::tables`] says which of the two tables is read.
    pub(super) state: Arc<MappedArray<PerCpuState>>,
    /// Which one that is.
    pub(super) tables: usize,
    pub(super) namespaces: HashMap<MapData, u32, Claim>,
    /// What that map says.
    pub(super) namespaces_told: StdHashMap<u32, Claim>,
    pub(super) tags: Tags,
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

/// Inserts of the owner to whom all entries of a table are charged, by the rules of [`conntrack_ebpf::charge`]: they change with
/// every insert into that table.
#[derive(Debug)]
pub(crate) struct InsertMarks {
    /// By network namespace; `None`: without room for a tag it would be charged to somebody else.
    slots: StdHashMap<u32, Option<u32>>,
    /// By slot.
    inserts: Vec<u64>,
}

impl InsertMarks {
    /// The mark of a table, other than the host's.
    pub(crate) fn of(&self, netns: u32) -> Option<InsertMark> {
        let slot = self.slots.get(&netns).copied().unwrap_or(Some(UNKNOWN))?;
        let inserts = *self.inserts.get(slot as usize)?;
        Some(InsertMark { slot, inserts })
    }
}

/// An empty table, which is too large for the stack.
fn empty<T: FromZeros>() -> io::Result<Box<T>> {
    Ok(T::new_box_zeroed().map_err(|_| io::ErrorKind::OutOfMemory)?)
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
        let next = 1 - self.tables;
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
        let mut table = empty::<Addresses>()?;
        let mut left_out = table.fill(&addresses);
        self.addresses.write_part(0, next, &*table);
        drop(table);

        let cgroups = maps
            .cgroups
            .iter()
            .map(|(id, slot)| (*id, u64::from(*slot)));
        let mut table = empty::<Cgroups>()?;
        left_out += place::fill(&mut table, cgroups);
        self.cgroups.write(next, &table);

        self.charge_namespaces(&maps.netns)?;
        for cpu in 0..self.state.len() {
            self.state
                .write_word(cpu, offset_of!(PerCpuState, tables), next as u64);
        }
        self.tables = next;
        Ok(left_out)
    }

    fn charge_namespaces(&mut self, wanted: &StdHashMap<u32, Claim>) -> io::Result<()> {
        let over: Vec<u32> = self
            .namespaces_told
            .keys()
            .filter(|netns| !wanted.contains_key(*netns))
            .copied()
            .collect();
        for netns in over {
            removed(self.namespaces.remove(&netns))?;
            self.namespaces_told.remove(&netns);
        }
        for (netns, claim) in wanted {
            if self.namespaces_told.get(netns) != Some(claim) {
                self.namespaces.insert(netns, claim, 0).map_err(error)?;
                self.namespaces_told.insert(*netns, *claim);
            }
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
            removed(self.services.remove(&service))?;
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

    /// What tells whether anything was inserted into a table, whose owners have slots below `slots`.
    pub(crate) fn insert_marks(&self, slots: u32) -> InsertMarks {
        let slot_of = |claim: &Claim| (claim.flags & FLAG_TAGGED == 0).then_some(claim.slot);
        let told = self.namespaces_told.iter();
        let inserts = |counts: &OwnerState| counts.iter().map(|counts| counts.inserts).sum();
        InsertMarks {
            slots: told
                .map(|(netns, claim)| (*netns, slot_of(claim)))
                .collect(),
            inserts: self.counts(slots).iter().map(inserts).collect(),
        }
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
    /// If there can be no further file descriptor of a map.
    pub(crate) fn tag_reader(&self) -> io::Result<TagReader> {
        self.tags.reader()
    }

    /// For another process that reads tags by itself.
    pub(crate) fn tag_map_ids(&self) -> TagMapIds {
        self.tags.ids()
    }

    /// Keeps room for as many tags as a table with this limit can have entries. Nobody may hold a [`TagReader`].
    ///
    /// # Errors
    /// If the kernel refuses a larger map (before 5.10 it always does), or a map can't be written.
    pub(crate) fn keep_room_for_tags(&mut self, limit: u64) -> io::Result<()> {
        self.tags.keep_room(limit)
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
        // In places nothing tells the source. A tag there that has no use does no harm while its owner is there: if its entry is still in
        // the table, it says who was charged, and if not, another one's check does not fit (see `conntrack_ebpf::tag_groups`).
        self.tags.take_out(freed)?;
        for (key, party) in self.tags.parties()? {
            let slot = party.slot();
            if freed.contains(&slot) || (swept.contains(&slot) && !used(&key)) {
                self.tags.remove(&key)?;
            }
        }
        Ok(())
    }
}
