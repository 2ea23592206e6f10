//! Which slot each owner has, and what the kernel's maps should say.
//!
//! A slot is where the kernel counts for one owner. An entry that is charged to a slot when it
//! enters the table has to be charged to the same one when it leaves, whatever happened to its
//! address meanwhile: that is what most of this is about.
//!
//! * A slot goes to another owner only when its owner is gone, nothing is charged to it, and a
//!   grace time has passed, so that late events and unread counts find their name. It stays empty
//!   for one turn in between.
//! * An address is nobody's as soon as its owner is found gone. What is in the table stays that
//!   one's.
//! * Where an address changes hands and the one before has entries, new entries are tagged
//!   ([`FLAG_TAGGED`](conntrack_ebpf::owner::FLAG_TAGGED)) until those are gone.
//! * An address that another owner gets too stays with who has it, and that is said; of two that were found to have it at
//!   once it is nobody's.
//! * The table of a network namespace is held as an address is, but it stays with an owner that is gone for as
//!   long as something is charged to that.
//!
//! Pure: no clock, no map, no kernel.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use conntrack_ebpf::owner::{Address, FIRST, HOST, MAX_SLOTS, UNKNOWN};

use super::{Details, Discovery, Key, Owner};
use crate::kernel::{Problem, Said};

mod addresses;
mod changes;
mod former;
mod holding;
mod tables;
#[cfg(test)]
mod tests;
mod types;

pub(crate) use changes::{Changes, SlotMaps};
use former::FormerAddresses;
pub(crate) use former::FormerHolder;
use holding::{Holding, Released};
pub(crate) use types::Place;
pub use types::SlotLimits;
pub(crate) use types::{Occupancy, Occupant, OccupantState};

/// A slot that nobody has.
#[derive(Clone, Copy, Debug)]
struct Vacant {
    turn: u64,
    slot: u32,
}

/// An address and who holds it.
#[derive(Clone, Debug)]
struct Held {
    holding: Holding,
    /// Nobody was found to have it since then.
    lost: Option<Instant>,
}

/// Which slot each owner has.
#[derive(Debug)]
pub struct Slots {
    limits: SlotLimits,
    turn: u64,
    /// A whole discovery was seen.
    complete: bool,
    occupants: BTreeMap<u32, Occupant>,
    by_key: HashMap<Key, u32>,
    vacant: Vec<Vacant>,
    /// The lowest slot that was never given.
    untouched: u32,
    held: HashMap<IpAddr, Held>,
    former: FormerAddresses,
    /// Tables of network namespaces other than the host's, by inode number.
    tables: HashMap<u32, Holding>,
    maps: Arc<SlotMaps>,
    /// Those whose tags have no use any more; not yet told.
    sweep: BTreeSet<u32>,
    without: usize,
    said: Said,
    host: Owner,
    unknown: Owner,
}

impl Slots {
    /// Nobody has a slot yet.
    pub fn new(limits: SlotLimits) -> Self {
        let limits = SlotLimits {
            slots: limits.slots.clamp(FIRST, MAX_SLOTS),
            ..limits
        };
        Self {
            limits,
            turn: 0,
            complete: false,
            occupants: BTreeMap::new(),
            by_key: HashMap::new(),
            vacant: Vec::new(),
            untouched: FIRST,
            held: HashMap::new(),
            former: FormerAddresses::default(),
            tables: HashMap::new(),
            maps: Arc::default(),
            sweep: BTreeSet::new(),
            without: 0,
            said: Said::default(),
            host: Owner::host(),
            unknown: Owner::unknown(),
        }
    }

    /// Takes over what was found, and says what to change in the kernel's maps.
    ///
    /// Every change has to be made, in the order of `Changes`, before the next call.
    ///
    /// * `idle`: whether nothing is charged to this slot (inserts less deletes, from when it was
    ///   given). To be read, once for all slots, after the changes of the call before were made.
    /// * `has_entries`: whether there is any entry in this place. Asked only for one
    ///   that nobody had, after the first whole discovery. `true` is always a safe answer, and the
    ///   only exact one: what enters the table between the answer and the changes is charged to
    ///   nobody at first.
    pub fn apply(
        &mut self,
        found: &Discovery,
        idle: impl Fn(u32) -> bool,
        mut has_entries: impl FnMut(Place) -> bool,
    ) -> Changes {
        self.turn += 1;
        let mut changes = Changes::default();
        self.settle(&idle);
        self.mark_gone(found);
        self.free(found.at, &idle, &mut changes);
        self.lose(found, &idle);
        let slots = self.place(found, &mut changes);
        self.claim(found, &slots, &mut has_entries, &mut changes);
        self.hold_tables(&idle, &mut has_entries, &mut changes);
        let wished = self.wished(&mut changes);
        changes.maps = *self.maps != wished;
        if changes.maps {
            self.maps = Arc::new(wished);
        }
        changes.sweep_tags = std::mem::take(&mut self.sweep)
            .into_iter()
            .filter(|slot| !self.holdings().any(|holding| holding.may_tag(*slot)))
            .collect();
        self.complete |= found.whole;
        self.said.leave_new(&mut changes.problems);
        changes
    }

    fn holdings(&self) -> impl Iterator<Item = &Holding> {
        let addresses = self.held.values().map(|held| &held.holding);
        addresses.chain(self.tables.values())
    }

    /// A census found no entry with `address` that is without a tag, or tagged as nobody's, and not of
    /// the one who has the address now. To be asked where a claim has the base [`UNKNOWN`]. Takes effect with the next
    /// [`Slots::apply`].
    pub fn confirm_untagged_gone(&mut self, address: IpAddr) {
        let Some(held) = self.held.get_mut(&address) else {
            return;
        };
        held.holding.learn(&mut self.sweep, Holding::untagged_gone);
    }

    /// The addresses whose claim has the base [`UNKNOWN`]: found after something may have used
    /// them.
    pub fn unconfirmed(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.held.iter().filter_map(|(address, held)| {
            let claim = held.holding.claim();
            (claim.base == UNKNOWN && claim.slot != UNKNOWN).then_some(*address)
        })
    }

    /// The maps and the tables are empty: conntrack was loaded anew. Owners keep their slots.
    pub fn restart(&mut self) {
        self.maps = Arc::default();
        self.held.clear();
        self.tables.clear();
        self.sweep.clear();
        self.complete = false;
    }

    /// What the kernel's maps say when the last changes were made.
    pub const fn maps(&self) -> &Arc<SlotMaps> {
        &self.maps
    }

    /// Who had the addresses that nobody has any more.
    pub(crate) const fn former(&self) -> &Arc<HashMap<IpAddr, FormerHolder>> {
        self.former.all()
    }

    /// Whose a slot is; `None`: nobody's, or not any more.
    pub fn owner(&self, slot: u32) -> Option<&Owner> {
        match slot {
            UNKNOWN => Some(&self.unknown),
            HOST => Some(&self.host),
            slot => self.occupants.get(&slot).map(|occupant| &occupant.owner),
        }
    }

    /// The slots that were given, in order; without those of the host and of nobody.
    pub fn occupants(&self) -> impl Iterator<Item = (u32, &Occupant)> {
        self.occupants
            .iter()
            .map(|(slot, occupant)| (*slot, occupant))
    }

    /// The slot of an owner.
    pub fn slot_of(&self, key: &Key) -> Option<u32> {
        self.by_key.get(key).copied()
    }

    /// Changes what is known about an owner, such as its workload; `false` if it has no slot.
    /// What it is told apart by (`kind`, `uid`) has to stay.
    pub fn describe(&mut self, key: &Key, change: impl FnOnce(&mut Details)) -> bool {
        let slot = self.slot_of(key);
        let Some(occupant) = slot.and_then(|slot| self.occupants.get_mut(&slot)) else {
            return false;
        };
        occupant.owner = occupant.owner.with(change);
        true
    }

    /// How many there are.
    pub fn occupancy(&self) -> Occupancy {
        let present = |occupant: &&Occupant| occupant.state == OccupantState::Present;
        let present = self.occupants.values().filter(present).count();
        Occupancy {
            present,
            gone: self.occupants.len() - present,
            without: self.without,
        }
    }

    fn mark_gone(&mut self, found: &Discovery) {
        if !found.whole {
            return;
        }
        let present: HashSet<Key> = found.owners.iter().map(|one| one.owner.key()).collect();
        for occupant in self.occupants.values_mut() {
            if occupant.state == OccupantState::Present && !present.contains(&occupant.owner.key())
            {
                occupant.state = OccupantState::Gone(found.at);
            }
        }
    }

    /// Takes back the slots of which nothing is left.
    fn free(&mut self, now: Instant, idle: impl Fn(u32) -> bool, changes: &mut Changes) {
        let grace = self.limits.grace;
        let over = |occupant: &Occupant| match occupant.state {
            OccupantState::Present => false,
            OccupantState::Gone(since) => now.saturating_duration_since(since) >= grace,
        };
        let mut candidates: BTreeSet<u32> = self
            .occupants
            .iter()
            .filter(|(slot, occupant)| over(occupant) && idle(**slot))
            .map(|(slot, _)| *slot)
            .collect();
        if candidates.is_empty() {
            return;
        }
        // Of one that was busy a moment ago claims may still speak.
        for holding in self.holdings() {
            for slot in holding.former() {
                candidates.remove(&slot);
            }
        }
        self.release(|holder, _| candidates.contains(&holder));
        self.tables.retain(|_, holding| {
            !candidates.contains(&holding.holder()) || holding.release() == Released::Returned
        });
        for slot in candidates {
            if let Some(occupant) = self.occupants.remove(&slot) {
                self.by_key.remove(&occupant.owner.key());
                let turn = self.turn;
                self.vacant.push(Vacant { turn, slot });
                changes.freed.push(slot);
            }
        }
    }

    /// Gives a slot to each owner that was found, in the same order; [`UNKNOWN`]: there is none.
    fn place(&mut self, found: &Discovery, changes: &mut Changes) -> Vec<u32> {
        self.without = 0;
        let mut slots = Vec::with_capacity(found.owners.len());
        for one in &found.owners {
            let key = one.owner.key();
            let slot = self.by_key.get(&key).copied().or_else(|| {
                let slot = self.next_slot()?;
                self.by_key.insert(key, slot);
                changes.given.push((slot, one.owner.clone()));
                Some(slot)
            });
            let Some(slot) = slot else {
                self.without += 1;
                slots.push(UNKNOWN);
                continue;
            };
            slots.push(slot);
            let occupant = self.occupants.entry(slot).or_insert_with(|| Occupant {
                owner: one.owner.clone(),
                state: OccupantState::Present,
                cgroups: Vec::new(),
                netns: None,
                turn: 0,
            });
            occupant.owner = occupant.owner.updated(&one.owner);
            occupant.state = OccupantState::Present;
            occupant.cgroups.clone_from(&one.cgroups);
            // Without a process that could be asked it may still have the one that it had.
            if one.netns.is_some() {
                occupant.netns = one.netns;
                occupant.turn = self.turn;
            }
        }
        if self.without > 0 {
            let problem = format!(
                "all {} slots for owners are taken: what belongs to new ones is counted as unknown until others are gone",
                self.limits.slots - FIRST
            );
            changes
                .problems
                .push(Problem::new(problem).help("give the agent more slots"));
        }
        slots
    }

    /// A slot that was empty for a whole turn: the one that is so for the longest time.
    fn next_slot(&mut self) -> Option<u32> {
        if self.untouched < self.limits.slots {
            self.untouched += 1;
            return Some(self.untouched - 1);
        }
        let turn = self.turn;
        let oldest = self
            .vacant
            .iter()
            .enumerate()
            .filter(|(_, vacant)| vacant.turn < turn)
            .min_by_key(|(_, vacant)| (vacant.turn, vacant.slot))
            .map(|(at, _)| at)?;
        Some(self.vacant.swap_remove(oldest).slot)
    }

    /// What the maps should say.
    fn wished(&self, changes: &mut Changes) -> SlotMaps {
        let addresses = self
            .held
            .iter()
            .map(|(address, held)| (Address::of(*address), held.holding.claim()))
            .collect();
        let mut cgroups = HashMap::new();
        let mut left_out = false;
        for (slot, occupant) in self.latest_first() {
            for id in &occupant.cgroups {
                left_out |= cgroups.len() >= self.limits.cgroups;
                if cgroups.len() < self.limits.cgroups {
                    cgroups.entry(*id).or_insert(slot);
                }
            }
        }
        if left_out {
            let problem = format!(
                "there are more than {} control groups of owners: what only these tell is counted as the \
                 host's for the rest",
                self.limits.cgroups
            );
            changes.problems.push(problem.into());
        }
        SlotMaps {
            addresses,
            cgroups,
            netns: self
                .tables
                .iter()
                .map(|(netns, holding)| (*netns, holding.claim()))
                .collect(),
        }
    }

    /// Occupants, those whose network namespace was found just now first: a number may be used again as soon as
    /// its namespace, and with it the table, is gone.
    fn latest_first(&self) -> impl Iterator<Item = (u32, &Occupant)> {
        let (found, others): (Vec<_>, Vec<_>) = self
            .occupants()
            .partition(|(_, occupant)| occupant.turn == self.turn);
        found.into_iter().chain(others)
    }
}
