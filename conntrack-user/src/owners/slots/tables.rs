//! Who has the table of which network namespace.

use std::collections::HashMap;

use super::holding::{Holding, Released};
use super::{Changes, OccupantState, Place, Slots};
use crate::owners::{TableOwner, TableOwners};

impl Slots {
    /// Hands the tables to those who have them.
    pub(super) fn hold_tables(
        &mut self,
        idle: impl Fn(u32) -> bool,
        has_entries: &mut impl FnMut(Place) -> bool,
        changes: &mut Changes,
    ) {
        let mut wished: HashMap<u32, u32> = HashMap::new();
        let mut left_out = false;
        for (slot, occupant) in self.latest_first() {
            let over = self.turn > occupant.turn + 1 && idle(slot);
            if let Some(netns) = occupant.netns.filter(|_| !over) {
                left_out |= wished.len() >= self.limits.netns;
                if wished.len() < self.limits.netns {
                    wished.entry(netns).or_insert(slot);
                }
            }
        }
        for (netns, slot) in &wished {
            if let Some(holding) = self.tables.get_mut(netns) {
                holding.hand_over(*slot);
                continue;
            }
            let holding = if !self.complete || !has_entries(Place::Table(*netns)) {
                Holding::new(*slot)
            } else {
                Holding::late(*slot)
            };
            self.tables.insert(*netns, holding);
        }
        self.tables.retain(|netns, holding| {
            wished.contains_key(netns)
                || !idle(holding.holder())
                || holding.release() == Released::Returned
        });
        if left_out {
            let problem = format!(
                "there are more than {} network namespaces of owners: what is in the tables of the rest is \
                 counted as unknown",
                self.limits.netns
            );
            changes.problems.push(problem.into());
        }
    }

    /// Who has which table.
    pub(crate) fn table_owners(&self) -> TableOwners {
        let owned = self.tables.iter().filter_map(|(netns, holding)| {
            let occupant = self.occupants.get(&holding.holder())?;
            let owner = TableOwner {
                owner: occupant.owner.clone(),
                present: occupant.state == OccupantState::Present,
            };
            Some((*netns, owner))
        });
        owned.collect()
    }

    /// The table of this network namespace was empty, at a time after the last changes were made. Takes effect with the
    /// next [`Slots::apply`].
    pub fn confirm_table_empty(&mut self, netns: u32) {
        if let Some(holding) = self.tables.get_mut(&netns) {
            holding.learn(&mut self.sweep, Holding::emptied);
        }
    }

    /// A census found no entry in the table of this network namespace that is without a tag. Takes effect with the next
    /// [`Slots::apply`].
    pub fn confirm_table_untagged_gone(&mut self, netns: u32) {
        if let Some(holding) = self.tables.get_mut(&netns) {
            holding.learn(&mut self.sweep, Holding::untagged_gone);
        }
    }

    /// The network namespaces whose table may have entries of others than who has it now.
    pub fn unconfirmed_tables(&self) -> impl Iterator<Item = u32> + '_ {
        self.tables
            .iter()
            .filter(|(_, holding)| !holding.is_plain())
            .map(|(netns, _)| *netns)
    }
}
