//! Which slot each owner has, and what the kernel's maps should say.
//!
//! A slot is where the kernel counts for one owner. An entry that is charged to a slot when it enters the
//! table has to be charged to the same one when it leaves, whatever happened to its address meanwhile:
//! that is what most of this is about.
//!
//! * A slot goes to another owner only when its owner is gone, nothing is charged to it, and a grace
//!   time has passed, so that late events and unread counts find their name. It stays empty for one turn
//!   in between.
//! * An address stays its owner's after that one is gone, until somebody else has it or there is nothing left to charge.
//! * Where an address changes hands and the one before has entries, new entries are tagged
//!   ([`FLAG_TAGGED`](conntrack_ebpf::owner::FLAG_TAGGED)) until those are gone.
//! * An address that two owners have is nobody's, and that is said.
//!
//! Pure: no clock, no map, no kernel.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use conntrack_ebpf::owner::{Address, Claim, DEFAULT_SLOTS, FIRST, HOST, MAX_SLOTS, UNKNOWN};
use serde::Serialize;

use super::{Details, Discovery, Key, Owner};

mod changes;
mod holding;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

pub use changes::{Changes, MapChanges, Maps};
use holding::{Holding, Released};

/// The host's loopback addresses that are claimed; `127.0.0.0/8` has more, which nobody counts.
const LOOPBACK: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

/// How many addresses that the host had are kept: entries with them may be there for days.
const MOST_FORMER_HOST: usize = 1024;

/// How many problems are remembered as said.
const MOST_SAID: usize = 1000;

/// How much there may be of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Slots, with those of the host and of nobody.
    pub slots: u32,
    /// Entries of the address map.
    pub addresses: usize,
    /// Entries of the map of control groups.
    pub cgroups: usize,
    /// Entries of the map of network namespaces.
    pub netns: usize,
    /// How long a slot is kept for an owner that is gone.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            slots: DEFAULT_SLOTS,
            addresses: 1 << 14,
            cgroups: 1 << 14,
            netns: 1 << 12,
            grace: Duration::from_mins(1),
        }
    }
}

/// Whether the owner of a slot is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is.
    Present,
    /// It was not found since then, but may have entries.
    Gone(Instant),
}

/// The owner of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occupant {
    /// Who.
    pub owner: Owner,
    /// Whether it is there.
    pub state: State,
    cgroups: Vec<u64>,
    netns: Option<u32>,
    /// When that network namespace was last found to be its.
    turn: u64,
}

/// A slot that nobody has.
#[derive(Clone, Copy, Debug)]
struct Vacant {
    /// Since when.
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

/// How many there are, for the agent's own metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Occupancy {
    /// Slots of owners that are there.
    pub present: usize,
    /// Slots of owners that are gone.
    pub gone: usize,
    /// Owners for which there was no slot; what is theirs is charged to nobody.
    pub without: usize,
}

/// Which slot each owner has.
#[derive(Debug)]
pub struct Slots {
    limits: Limits,
    turn: u64,
    /// A whole discovery was seen.
    complete: bool,
    occupants: BTreeMap<u32, Occupant>,
    by_key: HashMap<Key, u32>,
    vacant: Vec<Vacant>,
    /// The lowest slot that was never given.
    untouched: u32,
    held: HashMap<IpAddr, Held>,
    maps: Maps,
    /// Those whose tags have no use any more; not yet told.
    sweep: BTreeSet<u32>,
    without: usize,
    said: HashSet<String>,
    host: Owner,
    unknown: Owner,
}

impl Slots {
    /// Nobody has a slot yet.
    pub fn new(limits: Limits) -> Self {
        let limits = Limits {
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
            maps: Maps::default(),
            sweep: BTreeSet::new(),
            without: 0,
            said: HashSet::new(),
            host: Owner::host(),
            unknown: Owner::unknown(),
        }
    }

    /// Takes over what was found, and says what to change in the kernel's maps.
    ///
    /// Every change has to be made, in the order of [`Changes`], before the next call.
    ///
    /// * `idle`: whether nothing is charged to this slot (inserts less deletes, from when it was
    ///   given). To be read after the changes of the call before were made.
    /// * `has_entries`: whether any table has an entry with this address. Asked only for an address that
    ///   nobody had, after the first whole discovery. `true` is always a safe answer, and the only exact
    ///   one: what enters the table between the answer and the changes is charged to nobody at first.
    pub fn apply(
        &mut self,
        found: &Discovery,
        idle: impl Fn(u32) -> bool,
        mut has_entries: impl FnMut(IpAddr) -> bool,
    ) -> Changes {
        self.turn += 1;
        let mut changes = Changes::default();
        self.settle(&idle);
        self.mark_gone(found);
        self.free(found.at, &idle, &mut changes);
        self.lose(found, &idle);
        let slots = self.place(found, &mut changes);
        self.claim(found, &slots, &mut has_entries, &mut changes);
        let wished = self.wished(&idle, &mut changes);
        changes.take_over(&mut self.maps, wished);
        changes.sweep_tags = std::mem::take(&mut self.sweep)
            .into_iter()
            .filter(|slot| !self.held.values().any(|held| held.holding.may_tag(*slot)))
            .collect();
        self.complete |= found.whole;
        if self.said.len() > MOST_SAID {
            self.said.clear();
        }
        let said = &mut self.said;
        changes
            .problems
            .retain(|problem| said.insert(problem.clone()));
        changes
    }

    /// A census found no entry with `address` that is without a tag and not of the one who has the address
    /// now. To be asked where a claim has the base [`UNKNOWN`]. Takes effect with the next [`Slots::apply`].
    pub fn confirm_untagged_gone(&mut self, address: IpAddr) {
        let Some(held) = self.held.get_mut(&address) else {
            return;
        };
        let before = held.holding.is_plain();
        held.holding.untagged_gone();
        if !before && held.holding.is_plain() {
            self.sweep.insert(held.holding.holder());
        }
    }

    /// The addresses whose claim has the base [`UNKNOWN`]: found after something may have used them.
    pub fn unconfirmed(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.held.iter().filter_map(|(address, held)| {
            let claim = held.holding.claim();
            (claim.base == UNKNOWN && claim.slot != UNKNOWN).then_some(*address)
        })
    }

    /// The maps and the tables are empty: conntrack was loaded anew. Owners keep their slots.
    pub fn restart(&mut self) {
        self.maps = Maps::default();
        self.held.clear();
        self.sweep.clear();
        self.complete = false;
    }

    /// What the kernel's maps say when the last changes were made.
    pub const fn maps(&self) -> &Maps {
        &self.maps
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
        let present = |occupant: &&Occupant| occupant.state == State::Present;
        let present = self.occupants.values().filter(present).count();
        Occupancy {
            present,
            gone: self.occupants.len() - present,
            without: self.without,
        }
    }

    /// Forgets earlier holders that have no entries any more.
    fn settle(&mut self, idle: impl Fn(u32) -> bool) {
        for held in self.held.values_mut() {
            let holding = &mut held.holding;
            let before = holding.is_plain();
            holding.settle(self.turn, &idle);
            if !before && holding.is_plain() {
                self.sweep.insert(holding.holder());
            }
        }
    }

    fn mark_gone(&mut self, found: &Discovery) {
        if !found.whole {
            return;
        }
        let present: HashSet<Key> = found.owners.iter().map(|one| one.owner.key()).collect();
        for occupant in self.occupants.values_mut() {
            if occupant.state == State::Present && !present.contains(&occupant.owner.key()) {
                occupant.state = State::Gone(found.at);
            }
        }
    }

    /// Takes back the slots of which nothing is left.
    fn free(&mut self, now: Instant, idle: impl Fn(u32) -> bool, changes: &mut Changes) {
        let grace = self.limits.grace;
        let over = |occupant: &Occupant| match occupant.state {
            State::Present => false,
            State::Gone(since) => now.saturating_duration_since(since) >= grace,
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
        // Handed over in the turn before, so that it is not yet sure that nothing is left.
        for held in self.held.values() {
            for slot in held.holding.former() {
                candidates.remove(&slot);
            }
        }
        self.release(|holder, _| candidates.contains(&holder));
        for slot in candidates {
            if let Some(occupant) = self.occupants.remove(&slot) {
                self.by_key.remove(&occupant.owner.key());
                let turn = self.turn;
                self.vacant.push(Vacant { turn, slot });
                changes.freed.push(slot);
            }
        }
    }

    /// Gives up the addresses that nobody has, as far as nothing is left of their holders.
    fn lose(&mut self, found: &Discovery, idle: impl Fn(u32) -> bool) {
        if !found.whole {
            return;
        }
        let claimed: HashSet<IpAddr> = claimed_by_host(found)
            .chain(
                found
                    .owners
                    .iter()
                    .flat_map(|one| one.addresses.iter().copied()),
            )
            .collect();
        let mut former_host = Vec::new();
        for (address, held) in &mut self.held {
            if claimed.contains(address) {
                held.lost = None;
            } else {
                let lost = *held.lost.get_or_insert(found.at);
                if held.holding.holder() == HOST {
                    former_host.push((lost, *address));
                }
            }
        }
        let surplus = former_host.len().saturating_sub(MOST_FORMER_HOST);
        if surplus > 0 {
            former_host.sort_unstable();
        }
        let surplus: HashSet<IpAddr> = former_host
            .drain(..surplus)
            .map(|(_, address)| address)
            .collect();
        let (grace, now) = (self.limits.grace, found.at);
        let gone: HashSet<u32> = self
            .occupants
            .iter()
            .filter(|(_, occupant)| occupant.state != State::Present)
            .map(|(slot, _)| *slot)
            .collect();
        let lost: HashSet<IpAddr> = self
            .held
            .iter()
            .filter(|(address, held)| {
                let Some(lost) = held.lost else { return false };
                let over = now.saturating_duration_since(lost) >= grace;
                match held.holding.holder() {
                    UNKNOWN => true,
                    HOST => surplus.contains(*address),
                    slot => over && idle(slot) && !gone.contains(&slot),
                }
            })
            .map(|(address, _)| *address)
            .collect();
        self.release(|_, address| lost.contains(address));
    }

    /// Lets go of the addresses that `which` says.
    fn release(&mut self, which: impl Fn(u32, &IpAddr) -> bool) {
        let (turn, sweep) = (self.turn, &mut self.sweep);
        self.held.retain(|address, held| {
            let holding = &mut held.holding;
            if !which(holding.holder(), address) {
                return true;
            }
            let returned = holding.release(turn) == Released::Returned;
            if returned && holding.is_plain() {
                sweep.insert(holding.holder());
            }
            returned
        });
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
                state: State::Present,
                cgroups: Vec::new(),
                netns: None,
                turn: 0,
            });
            occupant.owner = occupant.owner.updated(&one.owner);
            occupant.state = State::Present;
            occupant.cgroups.clone_from(&one.cgroups);
            // Without a process that could be asked it may still have the one that it had.
            if one.netns.is_some() {
                occupant.netns = one.netns;
                occupant.turn = self.turn;
            }
        }
        if self.without > 0 {
            changes.problems.push(format!(
                "all {} slots for owners are taken: what belongs to new ones is counted as unknown \
                 until others are gone (help: give the agent more slots)",
                self.limits.slots - FIRST
            ));
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

    /// Hands the addresses to those who have them.
    fn claim(
        &mut self,
        found: &Discovery,
        slots: &[u32],
        has_entries: &mut impl FnMut(IpAddr) -> bool,
        changes: &mut Changes,
    ) {
        let mut left_out = 0_usize;
        for (address, slot) in claimants(found, slots, changes) {
            if let Some(held) = self.held.get_mut(&address) {
                held.holding.hand_over(slot, self.turn);
                held.lost = None;
                continue;
            }
            if self.held.len() >= self.limits.addresses {
                left_out += 1;
                continue;
            }
            let holding = if !self.complete || slot == UNKNOWN || !has_entries(address) {
                Holding::new(slot)
            } else {
                Holding::late(slot, self.turn)
            };
            let lost = None;
            self.held.insert(address, Held { holding, lost });
        }
        if left_out > 0 {
            changes.problems.push(format!(
                "there are more than {} addresses: what belongs to the rest is counted as unknown",
                self.limits.addresses
            ));
        }
    }

    /// What the maps should say.
    fn wished(&self, idle: impl Fn(u32) -> bool, changes: &mut Changes) -> Maps {
        let addresses = self
            .held
            .iter()
            .map(|(address, held)| (Address::of(*address), held.holding.claim()))
            .collect();
        let mut cgroups = HashMap::new();
        let mut netns = HashMap::new();
        let mut left_out = false;
        // The network namespaces that were found just now come first: a number may be used again as
        // soon as its namespace, and with it the table, is gone.
        let (found, others): (Vec<_>, Vec<_>) = self
            .occupants
            .iter()
            .partition(|(_, occupant)| occupant.turn == self.turn);
        for (slot, occupant) in found.into_iter().chain(others) {
            for id in &occupant.cgroups {
                left_out |= cgroups.len() >= self.limits.cgroups;
                if cgroups.len() < self.limits.cgroups {
                    cgroups.entry(*id).or_insert(*slot);
                }
            }
            let over = self.turn > occupant.turn + 1 && idle(*slot);
            if let Some(inode) = occupant.netns.filter(|_| !over) {
                left_out |= netns.len() >= self.limits.netns;
                if netns.len() < self.limits.netns {
                    netns.entry(inode).or_insert(*slot);
                }
            }
        }
        if left_out {
            changes.problems.push(format!(
                "there are more than {} control groups or {} network namespaces of owners: what only \
                 these tell is counted as the host's or unknown for the rest",
                self.limits.cgroups, self.limits.netns
            ));
        }
        Maps {
            addresses,
            cgroups,
            netns,
        }
    }
}

fn claimed_by_host(found: &Discovery) -> impl Iterator<Item = IpAddr> + '_ {
    LOOPBACK
        .into_iter()
        .chain(found.host_addresses.iter().copied())
}

/// Who has which address: the host before everybody, nobody if two have it. In the order of the
/// addresses.
fn claimants(found: &Discovery, slots: &[u32], changes: &mut Changes) -> BTreeMap<IpAddr, u32> {
    let mut claimants: BTreeMap<IpAddr, (u32, Option<&Owner>)> = claimed_by_host(found)
        .map(|address| (address, (HOST, None)))
        .collect();
    for (one, slot) in found.owners.iter().zip(slots) {
        for address in &one.addresses {
            let (claimant, other) = claimants
                .entry(*address)
                .or_insert((*slot, Some(&one.owner)));
            match other {
                Some(other) if **other == one.owner => {}
                Some(other) => {
                    changes.problems.push(format!(
                        "{address} is an address of both {other} and {}: what it sends and receives \
                         is counted as unknown while that is so",
                        one.owner
                    ));
                    *claimant = UNKNOWN;
                }
                None => changes.problems.push(format!(
                    "{address} is an address of both the host and {}: it is taken for the host's",
                    one.owner
                )),
            }
        }
    }
    claimants
        .into_iter()
        .map(|(address, (claimant, _))| (address, claimant))
        .collect()
}

impl Maps {
    /// The claim of an address.
    pub fn claim(&self, address: IpAddr) -> Option<Claim> {
        self.addresses.get(&Address::of(address)).copied()
    }
}
