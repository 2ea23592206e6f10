//! Whose the counts are: slots are given to owners, the kernel is told, and what it counted by slot
//! becomes what each owner has.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use conntrack_ebpf::owner::{
    Address, Direction, FLAG_TAGGED, HOST, OwnerState, Party, TagKey, UNKNOWN,
};
use ctpressure_model::kubernetes::Pods;

use super::{
    OwnerSample, Owners,
    owner_sample::Tops,
    recount::{CensusResult, Recount},
};
use crate::{
    census::Charging,
    owners::{
        Discovery, Looks, OccupantState, Owner, OwnerKind, Services, SlotLimits, SlotMaps, Slots,
    },
    probes::Probes,
    sys::lock::locked,
};

mod tally;
#[cfg(test)]
mod tests;

use ctpressure_model::{
    events::OwnersBySlot,
    pressure::{
        rate::Timeline,
        share::{OwnerHolding, shares},
    },
};
use tally::{OwnerTally, difference, sum};

/// Censuses after attaching that only look for what was there before: an owner that never rests
/// keeps an estimate.
const CENSUSES_FOR_BASELINE: u64 = 10;

/// What came of a look around.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) problems: Vec<String>,
    /// Slots that nobody has any more.
    pub(super) freed: Vec<u32>,
}

/// Owners at one second.
#[derive(Debug, Default)]
pub(super) struct OwnersNow {
    /// As a snapshot has them, without destinations.
    pub(super) owners: Owners,
    pub(super) names: OwnersBySlot,
    /// A census would tell something.
    pub(super) needs_census: bool,
}

/// The owners of this node and what they have. There is one, the sampler's.
#[derive(Debug)]
pub(super) struct Ownership {
    slots: Slots,
    tallies: BTreeMap<u32, OwnerTally>,
    /// Who had each slot when last looked.
    labels: BTreeMap<u32, Owner>,
    timeline: Timeline,
    recount: Recount,
    looks: Looks,
    /// What the Kubernetes API says.
    pods: Arc<Pods>,
    /// Who is behind Service addresses; events add to it.
    services: Arc<Mutex<Services>>,
}

impl Ownership {
    /// Nobody is known yet but the host.
    pub(super) fn new(slots: u32, services: Arc<Mutex<Services>>) -> Self {
        let timeline = Timeline::default();
        let tally = || OwnerTally::from_now(OwnerState::default(), &timeline);
        Self {
            slots: Slots::new(SlotLimits {
                slots,
                ..SlotLimits::default()
            }),
            tallies: [(UNKNOWN, tally()), (HOST, tally())].into(),
            labels: BTreeMap::new(),
            timeline,
            recount: Recount::default(),
            looks: Looks::default(),
            pods: Arc::default(),
            services,
        }
    }

    /// Takes over what the Kubernetes API says of this node's pods. What it does not know (any more) is left as it is.
    pub(super) fn know(&mut self, pods: Arc<Pods>) {
        self.pods = pods;
        self.describe_pods();
        self.note_labels();
    }

    /// Notes who has each slot.
    fn note_labels(&mut self) {
        let known = self
            .tallies
            .keys()
            .filter_map(|slot| Some((*slot, self.slots.owner(*slot)?.clone())));
        self.labels = known.collect();
    }

    /// Gives pods their workloads, and what else the API says.
    fn describe_pods(&mut self) {
        let news: Vec<_> = self
            .slots
            .occupants()
            .filter(|(_, occupant)| occupant.owner.kind == OwnerKind::Pod)
            .filter_map(|(_, occupant)| {
                let pod = self.pods.get(occupant.owner.uid.as_str())?;
                (!pod.is_known(&occupant.owner)).then(|| (occupant.owner.key(), Arc::clone(pod)))
            })
            .collect();
        for (key, pod) in news {
            self.slots.describe(&key, |details| pod.describe(details));
        }
    }

    /// What the kernel is to be told before the first probe is attached.
    pub(super) fn maps(&self) -> &SlotMaps {
        self.slots.maps()
    }

    /// Takes what a look around found; gives what is wrong. Without `probes` nothing is attached, and
    /// the maps are told when it is.
    ///
    /// # Errors
    /// If a map can't be read or written.
    pub(super) fn take(&mut self, found: &Discovery, probes: Option<&Probes>) -> io::Result<Taken> {
        self.looks.add(found.took);
        if let Some(probes) = probes {
            self.read(probes);
        }
        let tallies = &self.tallies;
        let idle = |slot: u32| {
            tallies.get(&slot).is_none_or(|tally| {
                tally.live(Direction::Egress) <= 0 && tally.live(Direction::Ingress) <= 0
            })
        };
        // Whether there are entries is for the census to tell; until then they are taken for granted.
        let attached = probes.is_some();
        let changes = self.slots.apply(found, idle, |_| attached);
        self.describe_pods();
        let mut problems = changes.problems.clone();
        for slot in &changes.freed {
            self.free(*slot);
        }
        let counted = match &probes {
            Some(probes) => probes.owner_counts(self.highest(&changes.given)),
            None => Vec::new(),
        };
        for (slot, _) in &changes.given {
            let counts = counted.get(*slot as usize).copied().unwrap_or_default();
            let mut tally = OwnerTally::from_now(counts, &self.timeline);
            // Entries from before it had its slot are charged to whoever they were charged to.
            tally.exact = [attached; 2];
            self.tallies.insert(*slot, tally);
        }
        self.note_labels();
        if let Some(probes) = probes
            && !changes.is_empty()
        {
            self.tell_services(probes)?;
            let mut maps = probes.owners();
            let left_out = maps.charge(self.slots.maps())?;
            if left_out > 0 {
                problems.push(format!(
                    "{left_out} addresses or cgroups do not fit the kernel's tables: theirs is charged to nobody"
                ));
            }
            maps.sweep_tags(&changes.freed, &changes.sweep_tags, self.slots.maps())?;
        }
        Ok(Taken {
            problems,
            freed: changes.freed,
        })
    }

    /// Nobody has this slot any more. A pod that was made anew under the same name takes over what
    /// was counted, since it goes by the same labels, and counters don't go back.
    fn free(&mut self, slot: u32) {
        let (Some(tally), Some(owner)) = (self.tallies.remove(&slot), self.labels.remove(&slot))
        else {
            return;
        };
        let heir = self
            .labels
            .iter()
            .find(|(_, other)| other.labels() == owner.labels())
            .and_then(|(heir, _)| self.tallies.get_mut(heir));
        if let Some(heir) = heir {
            for direction in 0..2 {
                let counted = sum(&tally.counts[direction], &tally.earlier[direction]);
                heir.earlier[direction] = sum(&heir.earlier[direction], &counted);
            }
        }
    }

    fn highest(&self, given: &[(u32, Owner)]) -> u32 {
        let known = self.tallies.keys().next_back().copied();
        let given = given.iter().map(|(slot, _)| *slot).max();
        known.max(given).map_or(0, |slot| slot + 1)
    }

    /// Reads what the kernel has counted.
    pub(super) fn read(&mut self, probes: &Probes) {
        let counted = probes.owner_counts(self.highest(&[]));
        for (slot, tally) in &mut self.tallies {
            if let Some(counts) = counted.get(*slot as usize) {
                tally.counts = difference(counts, &tally.from);
            }
        }
    }

    /// Tells the kernel who is behind Service addresses now.
    ///
    /// # Errors
    /// If the map can't be written.
    pub(super) fn tell_services(&self, probes: &Probes) -> io::Result<()> {
        let now = self.timeline.now();
        let told = self.services().told(self.slots.maps(), now);
        probes.owners().charge_services(&told)
    }

    fn services(&self) -> MutexGuard<'_, Services> {
        locked(&self.services)
    }

    /// The probes are gone, and their maps with them: what they counted is kept, entries are not.
    pub(super) fn detached(&mut self) {
        for tally in self.tallies.values_mut() {
            for direction in 0..2 {
                tally.earlier[direction] = sum(&tally.earlier[direction], &tally.counts[direction]);
            }
            tally.counts = OwnerState::default();
            tally.from = OwnerState::default();
            tally.baseline = [0; 2];
            tally.exact = [false; 2];
            tally.at_census = None;
        }
        self.recount.times = 0;
        self.slots.restart();
    }

    /// Whether a census would tell something: entries that were there before the counts began, or
    /// whether an address has entries from before its owner was known.
    fn needs_census(&self) -> bool {
        self.recount.times < CENSUSES_FOR_BASELINE && self.exact() < self.tallies.len()
            || self.slots.unconfirmed().next().is_some()
    }

    fn exact(&self) -> usize {
        let exact = |tally: &&OwnerTally| tally.exact == [true; 2];
        self.tallies.values().filter(exact).count()
    }

    /// A census begins: what it needs to know.
    ///
    /// # Errors
    /// If a map can't be read.
    pub(super) fn census(&mut self, probes: &Probes, host_netns: u32) -> io::Result<Charging> {
        self.read(probes);
        for tally in self.tallies.values_mut() {
            tally.at_census = Some(tally.moved());
        }
        Ok(Charging {
            maps: self.slots.maps().clone(),
            tags: probes.owners().tags()?,
            host_netns,
            ..Charging::default()
        })
    }

    /// A census has ended.
    ///
    /// # Errors
    /// If a map can't be read.
    pub(super) fn counted(&mut self, found: CensusResult, probes: &Probes) -> io::Result<()> {
        self.read(probes);
        for (sighting, entries) in &found.sightings {
            self.services().found(sighting, *entries);
        }
        let (whole, seconds) = (found.whole, found.took.as_secs_f64());
        let states = found.states_by_slot();
        let tags = probes.owners().tags()?;
        let (entries, untagged) = found.settle(&tags);
        self.recount.times += 1;
        self.recount.seconds = seconds;
        self.recount.entries = entries.values().sum();
        for (slot, tally) in &mut self.tallies {
            for direction in [Direction::Egress, Direction::Ingress] {
                let party = Party::new(*slot, direction);
                let entries = entries.get(&party).copied().unwrap_or(0);
                if whole {
                    self.recount.drift += tally.recounted(direction, entries);
                }
            }
            tally.at_census = None;
            tally.states = states.get(slot).cloned().unwrap_or_default();
        }
        if whole {
            let gone: Vec<_> = self
                .slots
                .unconfirmed()
                .filter(|address| !untagged.contains(address))
                .collect();
            for address in gone {
                self.slots.confirm_untagged_gone(address);
            }
            self.confirm_nobodys_gone(&tags);
        }
        Ok(())
    }

    /// Entries that came in while an address was between two owners are tagged as nobody's; once
    /// they are gone, its entries need no tag any more.
    fn confirm_nobodys_gone(&mut self, tags: &HashMap<TagKey, Party>) {
        let nobodys: HashSet<Address> = tags
            .iter()
            .filter(|(_, party)| party.slot() == UNKNOWN)
            .map(|(key, _)| key.source())
            .collect();
        let maps = self.slots.maps();
        let tagged = |address: &Address| {
            maps.addresses
                .get(address)
                .is_some_and(|claim| claim.flags & FLAG_TAGGED != 0)
        };
        // One that was tagged by the address of its server does not tell which that is.
        if nobodys.iter().all(tagged) {
            self.slots
                .confirm_nobodys_gone(|address| nobodys.contains(&Address::of(address)));
        }
    }

    fn recount(&self) -> Recount {
        Recount {
            exact_owners: self.exact(),
            owners: self.tallies.len(),
            ..self.recount
        }
    }

    /// Everything that a snapshot needs, `at` so long after the agent began; `limit`: that of the
    /// tables, 0: none.
    pub(super) fn now(&mut self, at: Duration, limit: u64) -> OwnersNow {
        self.timeline.tick(at);
        for tally in self.tallies.values_mut() {
            let sums = tally.sums();
            tally.series.add(&self.timeline, sums);
        }
        let mut list = self.samples();
        share(&mut list, limit);
        OwnersNow {
            owners: Owners {
                list,
                occupancy: self.slots.occupancy(),
                services: self.services().counts(),
                census: self.recount(),
                looks: self.looks,
            },
            names: self.names(),
            needs_census: self.needs_census(),
        }
    }

    /// Every owner with what it has, by slot.
    fn samples(&self) -> Vec<OwnerSample> {
        self.tallies
            .iter()
            .filter_map(|(slot, tally)| {
                Some(OwnerSample {
                    slot: *slot,
                    owner: self.slots.owner(*slot)?.clone(),
                    present: self.is_present(*slot),
                    egress: tally.totals(Direction::Egress),
                    ingress: tally.totals(Direction::Ingress),
                    activity: tally.activity(&self.timeline),
                    destinations: Tops::default(),
                })
            })
            .collect()
    }

    fn is_present(&self, slot: u32) -> bool {
        slot < conntrack_ebpf::owner::FIRST
            || self
                .slots
                .occupants()
                .any(|(known, occupant)| known == slot && occupant.state == OccupantState::Present)
    }

    pub(super) fn names(&self) -> OwnersBySlot {
        self.tallies
            .keys()
            .filter_map(|slot| Some((*slot, self.slots.owner(*slot)?.clone())))
            .collect()
    }
}

/// Fills in what part of everything each has.
fn share(samples: &mut [OwnerSample], limit: u64) {
    let holdings: Vec<_> = samples
        .iter()
        .map(|sample| OwnerHolding {
            live: sample.live(),
            insert_rate: sample
                .activity
                .inserts_per_second
                .ten_seconds
                .unwrap_or(0.0),
            drop_rate: sample.activity.drops_per_second.ten_seconds.unwrap_or(0.0),
        })
        .collect();
    for (sample, share) in samples.iter_mut().zip(shares(&holdings, limit)) {
        sample.activity.live_share = share.live_share;
        sample.activity.limit_share = share.limit_share;
        sample.activity.insert_share = share.insert_share;
        sample.activity.drop_share = share.drop_share;
    }
}
