//! Who has which address.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use conntrack_ebpf::owner::{HOST, UNKNOWN};

use super::holding::{Holding, Released};
use super::{Changes, Held, OccupantState, Place, Slots};
use crate::kernel::Problem;
use crate::owners::{Discovery, Owner};

/// The host's loopback addresses that are claimed; `127.0.0.0/8` has more, which nobody counts.
pub(super) const LOOPBACK: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

/// How many owners of one address are named.
const NAMED: usize = 3;

/// How many addresses that the host had are kept: entries with them may be there for days.
pub(super) const MOST_FORMER_HOST: usize = 1024;

impl Slots {
    /// Forgets earlier holders, of addresses and of tables, that have no entries any more.
    pub(super) fn settle(&mut self, idle: impl Fn(u32) -> bool) {
        let addresses = self.held.values_mut().map(|held| &mut held.holding);
        for holding in addresses.chain(self.tables.values_mut()) {
            holding.learn(&mut self.sweep, |holding| holding.settle(&idle));
        }
    }

    /// Gives up the addresses that nobody has, as far as nothing is left of their holders.
    pub(super) fn lose(&mut self, found: &Discovery, idle: impl Fn(u32) -> bool) {
        if !found.whole {
            return;
        }
        let claimed: HashSet<IpAddr> = claimed_by_host(found)
            .chain(found.dummy_addresses.iter().copied())
            .chain(
                found
                    .owners
                    .iter()
                    .flat_map(|one| one.addresses.iter().copied()),
            )
            .collect();
        self.note_lost(found, &claimed);
        let gone: HashSet<u32> = self
            .occupants
            .iter()
            .filter(|(_, occupant)| occupant.state != OccupantState::Present)
            .map(|(slot, _)| *slot)
            .collect();
        let mut former_host = Vec::new();
        for (address, held) in &mut self.held {
            if claimed.contains(address) {
                held.lost = None;
            } else {
                if gone.contains(&held.holding.holder()) {
                    // Whoever uses it next is not its owner, and may be there before it is found.
                    held.holding.hand_over(UNKNOWN);
                }
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
        let lost: HashSet<IpAddr> = self
            .held
            .iter()
            .filter(|(address, held)| {
                let Some(lost) = held.lost else { return false };
                let over = now.saturating_duration_since(lost) >= grace;
                match held.holding.holder() {
                    // Not while somebody has entries with it.
                    UNKNOWN => held.holding.is_plain(),
                    HOST => surplus.contains(*address),
                    slot => over && idle(slot) && !gone.contains(&slot),
                }
            })
            .map(|(address, _)| *address)
            .collect();
        self.release(|_, address| lost.contains(address));
    }

    /// Notes who had the addresses that nobody was found to have. Where no process of that one could be asked, that waits
    /// until one can be, or the owner is gone.
    fn note_lost(&mut self, found: &Discovery, claimed: &HashSet<IpAddr>) {
        let silent: HashSet<u32> = found
            .owners
            .iter()
            .filter(|one| one.netns.is_none())
            .filter_map(|one| self.slot_of(&one.owner.key()))
            .collect();
        for (address, held) in &self.held {
            let slot = held.holding.holder();
            if held.lost.is_none() && slot != UNKNOWN && !claimed.contains(address) {
                self.former.missed(*address, slot);
            }
        }
        for (address, slot) in self.former.decided(|slot| silent.contains(&slot)) {
            if claimed.contains(&address) {
                continue;
            }
            if let Some(owner) = self.owner(slot).cloned() {
                self.former.lost(address, owner, found.at);
            }
        }
    }

    /// Lets go of the addresses that `which` says.
    pub(super) fn release(&mut self, which: impl Fn(u32, &IpAddr) -> bool) {
        let sweep = &mut self.sweep;
        self.held.retain(|address, held| {
            let holding = &mut held.holding;
            if !which(holding.holder(), address) {
                return true;
            }
            let returned = holding.release() == Released::Returned;
            if returned && holding.is_plain() {
                sweep.insert(holding.holder());
            }
            returned
        });
    }

    /// A census found no entry that is tagged as nobody's with the addresses that `used` does not name.
    /// Takes effect with the next [`Slots::apply`].
    pub fn confirm_nobodys_gone(&mut self, used: impl Fn(IpAddr) -> bool) {
        for (address, held) in &mut self.held {
            if !used(*address) {
                held.holding.learn(&mut self.sweep, Holding::nobodys_gone);
            }
        }
    }

    /// Hands the addresses to those who have them.
    pub(super) fn claim(
        &mut self,
        found: &Discovery,
        slots: &[u32],
        has_entries: &mut impl FnMut(Place) -> bool,
        changes: &mut Changes,
    ) {
        let mut left_out = Problem::new(format!(
            "there are more than {} addresses: what belongs to the rest is counted as unknown",
            self.limits.addresses
        ));
        for (address, slot) in self.claimants(found, slots, changes) {
            self.former.taken(&address);
            if let Some(held) = self.held.get_mut(&address) {
                held.holding.hand_over(slot);
                held.lost = None;
                continue;
            }
            if self.held.len() >= self.limits.addresses {
                left_out.add(address);
                continue;
            }
            let holding =
                if !self.complete || slot == UNKNOWN || !has_entries(Place::Address(address)) {
                    Holding::new(slot)
                } else {
                    Holding::late(slot)
                };
            let lost = None;
            self.held.insert(address, Held { holding, lost });
        }
        changes.problems.extend(left_out.if_any());
    }

    /// Who has which address, the most important first: those of the host's interfaces; of each owner its first ones, so
    /// that who has many takes no room from others; those of the host's dummies.
    fn claimants(
        &self,
        found: &Discovery,
        slots: &[u32],
        changes: &mut Changes,
    ) -> Vec<(IpAddr, u32)> {
        let mut claims: BTreeMap<IpAddr, Claims<'_>> = BTreeMap::new();
        let mut add = |address: IpAddr, importance, slot, owner| {
            let claims = claims.entry(address).or_insert_with(|| Claims {
                importance,
                by: Vec::with_capacity(1),
            });
            claims.importance = claims.importance.min(importance);
            if !claims.by.iter().any(|(other, _)| *other == slot) || slot == UNKNOWN {
                claims.by.push((slot, owner));
            }
        };
        for address in claimed_by_host(found) {
            add(address, (0, 0), HOST, None);
        }
        // Those that have no process that could be asked just now keep what they had.
        let mut silent = HashSet::new();
        for (one, slot) in found.owners.iter().zip(slots) {
            if one.netns.is_none() {
                silent.insert(*slot);
            }
            for (number, address) in one.addresses.iter().enumerate() {
                add(*address, (1, number), *slot, Some(&one.owner));
            }
        }
        for (number, address) in found.dummy_addresses.iter().enumerate() {
            add(*address, (2, number), HOST, None);
        }
        let mut ordered: Vec<_> = claims
            .into_iter()
            .map(|(address, claims)| {
                let before = self.held.get(&address).map(|held| held.holding.holder());
                let before = before.filter(|slot| *slot != UNKNOWN);
                let silent = before.filter(|slot| silent.contains(slot));
                let slot = claims.decide(address, before, silent, &mut changes.problems);
                (claims.importance, address, slot)
            })
            .collect();
        ordered.sort_unstable();
        ordered
            .into_iter()
            .map(|(_, address, slot)| (address, slot))
            .collect()
    }
}

/// Who was found to have one address.
struct Claims<'a> {
    /// Lower is more important; the first number is 0 for one of the host's interfaces.
    importance: (u8, usize),
    /// With the owner, unless it is the host.
    by: Vec<(u32, Option<&'a Owner>)>,
}

impl Claims<'_> {
    /// Whose it is: the host's if one of its interfaces has it; else his who had it `before`, if he has it still or is
    /// `silent`; else his who alone has it. What is wrong with that is noted.
    fn decide(
        &self,
        address: IpAddr,
        before: Option<u32>,
        silent: Option<u32>,
        problems: &mut Vec<Problem>,
    ) -> u32 {
        let has = |slot: &u32| self.by.iter().any(|(by, _)| by == slot);
        let kept = before.filter(has).or(silent);
        let (slot, problem) = match self.by.as_slice() {
            [(slot, _)] if self.importance.0 == 0 || kept.is_none_or(|kept| kept == *slot) => {
                return *slot;
            }
            _ if self.importance.0 == 0 => (
                HOST,
                "an address of the host is one of others too: it stays the host's",
            ),
            _ => match kept {
                Some(slot) => (
                    slot,
                    "an address that somebody had was given to others too: it stays the first one's",
                ),
                None => (
                    UNKNOWN,
                    "an address is one of several: what it sends and receives is counted as unknown while that is so",
                ),
            },
        };
        let problem =
            Problem::new(problem).help("find out who added it, and why it may (CAP_NET_ADMIN)");
        problem.note(Conflict(address, slot, &self.by), problems);
        slot
    }
}

/// `10.0.0.7, also of pod shop/a and pod shop/b`: without the one who keeps it.
struct Conflict<'a>(IpAddr, u32, &'a [(u32, Option<&'a Owner>)]);

impl fmt::Display for Conflict<'_> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(address, slot, by) = self;
        let others = by
            .iter()
            .filter(|(other, _)| other != slot || *slot == UNKNOWN);
        // Any number of owners may have it.
        let names: Vec<String> = others
            .take(NAMED)
            .map(|(_, owner)| owner.map_or_else(|| "the host".to_owned(), ToString::to_string))
            .collect();
        write!(to, "{address} of {}", names.join(" and "))
    }
}

fn claimed_by_host(found: &Discovery) -> impl Iterator<Item = IpAddr> + '_ {
    LOOPBACK
        .into_iter()
        .chain(found.host_addresses.iter().copied())
}
