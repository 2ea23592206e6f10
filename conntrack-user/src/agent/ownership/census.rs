//! What a census tells of the entries of each owner.

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::Arc,
    time::Instant,
};

use conntrack_ebpf::owner::Party;
use ctpressure_model::events::OwnersBySlot;

use super::{
    Bounds, DIRECTIONS, Moment, Ownership,
    tally::{Found, Window},
};
use crate::{
    agent::{
        census::{CensusOrder, CensusResult},
        nat::NatTold,
        recount::Recount,
        states::{NodeStates, states_by_slot},
    },
    census::{Charging, VacantAddresses},
    probes::Probes,
    walk::CensusSource,
};

/// Censuses after attaching that come soon one after another to find out what was there before. Later ones narrow the bounds of an
/// owner that never rests.
const CENSUSES_FOR_BASELINE: u64 = 10;

/// Entries by owner, as a census found them.
#[derive(Debug)]
pub(super) struct FoundEntries {
    entries: HashMap<Party, u64>,
    /// Slots with a table that it did not come to.
    elsewhere: HashSet<u32>,
}

impl FoundEntries {
    /// `None`: not all of this owner's were seen.
    pub(super) fn of(&self, party: Party) -> Option<u64> {
        let is_known = !self.elsewhere.contains(&party.slot());
        is_known.then(|| self.entries.get(&party).copied().unwrap_or(0))
    }
}

impl Ownership {
    /// Whether a census would tell something: entries that were there before the counts began, or
    /// whether an address has entries from before its owner was known.
    pub(super) fn needs_census(&self) -> bool {
        self.counts_entries()
            && self.recount.times < CENSUSES_FOR_BASELINE
            && self.exact() < self.tallies.len()
            || self.slots.unconfirmed().next().is_some()
            || self.slots.unconfirmed_tables().next().is_some()
    }

    pub(super) fn exact(&self) -> usize {
        self.tallies
            .values()
            .filter(|tally| tally.is_exact())
            .count()
    }

    /// A census begins: what it needs to know; of the tables that are `judged` it tells what they are made of. Without `probes` there
    /// are no tags, and sockets of the host are the host's.
    ///
    /// # Errors
    /// If a map can't be read.
    pub(in crate::agent) fn census(
        &mut self,
        probes: Option<&Probes>,
        host_netns: u32,
        judged: HashSet<u32>,
    ) -> io::Result<CensusOrder> {
        if let Some(probes) = probes {
            self.read(probes)?;
        }
        for tally in self.tallies.values_mut() {
            tally.at_census = Some(tally.moved());
        }
        self.census = Some(Moment {
            totals: self.totals,
            clashes: self.clashes.front().copied().unwrap_or(0),
            waiting: self.waiting.waiting(),
            changes: self.changes,
        });
        let maps = Arc::clone(self.slots.maps());
        let wanted = maps.netns.iter().filter(|(_, claim)| {
            let tally = self.tallies.get(&claim.slot);
            claim.slot != claim.base || tally.is_some_and(|tally| !tally.is_exact())
        });
        Ok(CensusOrder {
            wanted: wanted.map(|(netns, _)| *netns).collect(),
            charging: Charging {
                maps,
                vacant: self.vacant(),
                host_netns,
                ..Charging::default()
            },
            tags: probes
                .map(|probes| probes.owners().tag_reader())
                .transpose()?,
            names: if judged.is_empty() {
                OwnersBySlot::default()
            } else {
                self.names()
            },
            judged,
        })
    }

    /// Addresses that somebody on this node had and nobody has now.
    fn vacant(&self) -> VacantAddresses {
        let former = self.slots.former().iter();
        VacantAddresses::former(
            former.map(|(address, holder)| (*address, holder.owner.name(), holder.since.elapsed())),
        )
    }

    /// Keeps room for the tags of as many entries as the limit allows; not while a census reads them.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub(in crate::agent) fn keep_room_for_tags(
        &self,
        probes: &Probes,
        limit: u64,
    ) -> io::Result<()> {
        if self.census.is_some() {
            return Ok(());
        }
        probes.owners().keep_room_for_tags(limit)
    }

    /// A census has ended.
    ///
    /// # Errors
    /// If a map can't be read.
    pub(in crate::agent) fn counted(
        &mut self,
        found: CensusResult,
        probes: Option<&Probes>,
    ) -> io::Result<()> {
        if let Some(probes) = probes {
            self.read(probes)?;
        }
        let Some(began) = self.census.take() else {
            return Ok(());
        };
        for (sighting, entries) in &found.sightings {
            self.services().found(sighting, *entries);
        }
        self.recount.times += 1;
        let now = Instant::now();
        let since = self.recount.ended.replace(now);
        let since = since.map(|since| now.saturating_duration_since(since));
        let before = self.nat.as_deref().zip(since);
        self.nat = Some(Arc::new(NatTold::of(&found.nat, before)));
        self.recount.seconds = found.took.as_secs_f64();
        self.recount.source.clone_from(&found.source);
        let restarts = found.source.as_ref().map_or(0, CensusSource::restarts);
        self.recount.restarts += u64::from(restarts);
        let elsewhere: u64 = found.elsewhere.values().sum();
        self.recount.entries = found.entries.values().sum::<u64>() + elsewhere;
        if found.whole && probes.is_some() {
            self.narrow(&began, &found);
            // An entry that found no room for its tag may be in a place that was walked before.
            if self.totals.lost.tags == began.totals.lost.tags {
                self.confirm(&found);
            }
        }
        self.found = found.whole.then(|| FoundEntries {
            entries: found.entries,
            elsewhere: found.elsewhere.into_keys().collect(),
        });
        self.states.extend(found.states);
        self.node_states = Some(Arc::new(NodeStates::of(self.states.values())));
        let states = states_by_slot(self.states.values());
        for (slot, tally) in &mut self.tallies {
            tally.at_census = None;
            tally.states = states.get(slot).cloned().unwrap_or_default();
        }
        Ok(())
    }

    /// Takes over the entries that a census found.
    fn narrow(&mut self, began: &Moment, found: &CensusResult) {
        let (before, now) = (&began.totals, &self.totals);
        let missed = now.lost.missed_counts - before.lost.missed_counts;
        let window = Window {
            inserts: now.inserts.unwrap_or(0) - before.inserts.unwrap_or(0),
            deletes: now.deletes.unwrap_or(0) - before.deletes.unwrap_or(0),
            // A walk over the hash table meets them too.
            clashes: match found.source {
                Some(CensusSource::Hash { .. }) => 0,
                _ => now.clash_inserts - began.clashes,
            },
            claims_changed: self.changes != began.changes,
            unsure: missed + began.waiting + self.waiting.waiting() + found.unreadable(),
        };
        for (slot, tally) in &mut self.tallies {
            let elsewhere = found.elsewhere.get(slot).copied().unwrap_or(0);
            for direction in DIRECTIONS {
                let party = Party::new(*slot, direction);
                let of = |counts: &HashMap<Party, u64>| counts.get(&party).copied().unwrap_or(0);
                let found = Found {
                    entries: of(&found.entries),
                    untagged: of(&found.untagged),
                    elsewhere,
                };
                self.recount.drift += tally.recounted(direction, &found, &window);
            }
        }
    }

    /// Addresses and tables in which there is nothing any more that is not tagged need no tags.
    fn confirm(&mut self, found: &CensusResult) {
        let gone: Vec<_> = self
            .slots
            .unconfirmed()
            .filter(|address| !found.unsettled.contains(address))
            .collect();
        for address in gone {
            self.slots.confirm_untagged_gone(address);
        }
        for (netns, unsettled) in &found.walked {
            if !unsettled {
                self.slots.confirm_table_untagged_gone(*netns);
            }
        }
        self.slots
            .confirm_nobodys_gone(|address| found.unsettled.contains(&address));
    }

    pub(super) fn recount(&self) -> Recount {
        let bounds = self
            .tallies
            .values()
            .flat_map(|tally| DIRECTIONS.map(|direction| tally.live(direction)));
        let widest = bounds.map(|bounds| bounds.map(Bounds::width));
        Recount {
            exact_owners: self.exact(),
            owners: self.tallies.len(),
            widest: widest
                .collect::<Option<Vec<_>>>()
                .and_then(|widths| widths.into_iter().max()),
            ..self.recount.clone()
        }
    }
}
