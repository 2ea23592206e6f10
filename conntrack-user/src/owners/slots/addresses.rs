//! Who has which address.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use conntrack_ebpf::owner::{HOST, UNKNOWN};

use super::holding::{Holding, Released};
use super::{Changes, Held, OccupantState, Place, Slots};
use crate::owners::{Discovery, Owner};

/// The host's loopback addresses that are claimed; `127.0.0.0/8` has more, which nobody counts.
pub(super) const LOOPBACK: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

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
            .chain(
                found
                    .owners
                    .iter()
                    .flat_map(|one| one.addresses.iter().copied()),
            )
            .collect();
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
        let mut left_out = 0_usize;
        for (address, slot) in claimants(found, slots, changes) {
            if let Some(held) = self.held.get_mut(&address) {
                held.holding.hand_over(slot);
                held.lost = None;
                continue;
            }
            if self.held.len() >= self.limits.addresses {
                left_out += 1;
                continue;
            }
            let holding = if !self.complete || slot == UNKNOWN || !has_entries(Place::Address(address)) {
                Holding::new(slot)
            } else {
                Holding::late(slot)
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
