//! Whose the counts are: slots are given to owners, the kernel is told, and what it counted by slot
//! becomes what each owner has.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    io,
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};

use conntrack_ebpf::owner::{Direction, FIRST, HOST, OwnerState, UNKNOWN};
use ctpressure_model::kubernetes::Pods;

use super::{
    Charged, Moved, NatTold, NodeStates, Owners, recount::Recount, self_check::OwnersCheck,
    states::States,
};
use crate::{
    kernel::{Problem, tables::TablesSample},
    owners::{
        Discovery, Looks, Owner, OwnerKind, Services, SlotLimits, SlotMaps, Slots, TableOwners,
    },
    probes::{InsertMarks, Probes, Totals},
    sys::{lock::locked, netns::Inode},
};

mod bounds;
mod census;
mod held;
mod samples;
mod tally;
#[cfg(test)]
mod tests;
mod waiting;

use bounds::Baseline;
pub use bounds::Bounds;
use census::FoundEntries;
use ctpressure_model::{events::OwnersBySlot, pressure::rate::Timeline};
use held::Held;
use tally::{OwnerTally, difference, sum};
use waiting::Waiting;

/// How often counts are read again while an insert that was left is just given to the host.
const READINGS: usize = 3;
/// How long an entry that lost a clash lives (`IPS_FIXED_TIMEOUT`, one second), with something to spare, in samples. A listing does
/// not show it.
const CLASH_SAMPLES: usize = 3;

const DIRECTIONS: [Direction; 2] = [Direction::Egress, Direction::Ingress];

/// What came of a look around.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) problems: Vec<Problem>,
    /// Slots that nobody has any more.
    pub(super) freed: Vec<u32>,
}

/// Owners at one second.
#[derive(Debug, Default)]
pub(super) struct OwnersNow {
    /// As a snapshot has them, without destinations.
    pub(super) owners: Owners,
    pub(super) names: OwnersBySlot,
    /// Who has which table.
    pub(super) tables: TableOwners,
    /// By how much the sum over owners was off the count of all.
    pub(super) owners_off: u64,
    /// A census would tell something.
    pub(super) needs_census: bool,
}

/// What had been counted at a moment.
#[derive(Clone, Copy, Debug)]
struct Moment {
    totals: Totals,
    /// Entries that had lost a clash some time before it.
    clashes: u64,
    waiting: u64,
    changes: u64,
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
    /// What was counted in all, at the last reading.
    totals: Totals,
    owners_check: OwnersCheck,
    /// What that check said.
    owners_off: u64,
    /// Slots that were ever given, with those of the host and of nobody.
    most_slots: u32,
    /// Entries that had lost a clash, at each of the last samples.
    clashes: VecDeque<u64>,
    /// Inserts that are not charged to anybody yet.
    waiting: Waiting,
    /// Entries that are counted and in no table.
    held: Held,
    /// How often it was changed who is charged.
    changes: u64,
    /// When the census that is under way began.
    census: Option<Moment>,
    /// What the last census found.
    found: Option<FoundEntries>,
    /// States of the entries in each table, when it was last walked.
    states: HashMap<u32, States>,
    /// What they come to.
    node_states: Option<Arc<NodeStates>>,
    /// What the last census told of NAT.
    nat: Option<Arc<NatTold>>,
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
        let tally = || OwnerTally::from_now(OwnerState::default(), Baseline::UNKNOWN, &timeline);
        Self {
            slots: Slots::new(SlotLimits {
                slots,
                ..SlotLimits::default()
            }),
            tallies: [(UNKNOWN, tally()), (HOST, tally())].into(),
            labels: BTreeMap::new(),
            timeline,
            recount: Recount::default(),
            totals: Totals::default(),
            owners_check: OwnersCheck::default(),
            owners_off: 0,
            most_slots: FIRST,
            clashes: VecDeque::new(),
            waiting: Waiting::default(),
            held: Held::default(),
            changes: 0,
            census: None,
            found: None,
            states: HashMap::new(),
            node_states: None,
            nat: None,
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
        self.slots.maps().as_ref()
    }

    /// By what entries are charged now.
    pub(super) fn charged(&self, probes: Option<&Probes>, host_netns: Inode) -> Charged {
        Charged {
            maps: Arc::clone(self.slots.maps()),
            owners: self.labels.clone(),
            tables: self.slots.table_owners(),
            former: Arc::clone(self.slots.former()),
            host_netns,
            tags: probes.map(|probes| probes.owners().tag_map_ids()),
        }
    }

    /// Takes what a look around found; gives what is wrong. Without `probes` nothing is attached, and
    /// the maps are told when it is.
    ///
    /// # Errors
    /// If a map can't be read or written.
    pub(super) fn take(&mut self, found: &Discovery, probes: Option<&Probes>) -> io::Result<Taken> {
        self.looks.add(found.took);
        if let Some(probes) = probes {
            self.read(probes)?;
        }
        let tallies = &self.tallies;
        // Where not both inserts and deletes are counted nobody knows who has entries.
        let counts_entries = probes.is_some() && self.totals.flow().is_some();
        let idle =
            |slot: u32| !counts_entries || tallies.get(&slot).is_none_or(OwnerTally::is_idle);
        // Whether there are entries is for the census to tell; until then they are taken for granted.
        let attached = probes.is_some();
        let changes = self.slots.apply(found, idle, |_| attached);
        self.describe_pods();
        let mut problems = changes.problems.clone();
        for slot in &changes.freed {
            self.free(*slot);
        }
        let given = changes.given.iter().map(|(slot, _)| slot + 1);
        self.most_slots = given.fold(self.most_slots, u32::max);
        let counted = match &probes {
            Some(probes) => probes.owner_counts(self.most_slots),
            None => Vec::new(),
        };
        for (slot, _) in &changes.given {
            let counts = counted.get(*slot as usize).copied().unwrap_or_default();
            // Entries from before it had its slot are charged to whoever they were charged to.
            let baseline = if attached {
                Baseline::NONE
            } else {
                Baseline::UNKNOWN
            };
            let tally = OwnerTally::from_now(counts, baseline, &self.timeline);
            self.tallies.insert(*slot, tally);
        }
        self.note_labels();
        if let Some(probes) = probes
            && !changes.is_empty()
        {
            self.tell_services(probes)?;
            self.changes += 1;
            let mut maps = probes.owners();
            let left_out = maps.charge(self.slots.maps())?;
            if left_out > 0 {
                let problem = "addresses or cgroups do not fit the kernel's tables: theirs is charged to nobody";
                problems.extend(Problem::new(problem).of([format_args!("{left_out}")]));
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

    /// Reads what the kernel has counted.
    ///
    /// # Errors
    /// If the kernel does not tell which runs of programs it skipped.
    pub(super) fn read(&mut self, probes: &Probes) -> io::Result<()> {
        let moved = |(inserts, deletes)| Moved { inserts, deletes };
        let before = moved(probes.moved());
        let mut waiting = probes.waiting_for_socket();
        let mut counted = probes.owner_counts(self.most_slots);
        let mut still_waiting = probes.waiting_for_socket();
        for _ in 0..READINGS {
            if !self.waiting.are_given(&waiting, &still_waiting) {
                break;
            }
            waiting = still_waiting;
            counted = probes.owner_counts(self.most_slots);
            still_waiting = probes.waiting_for_socket();
        }
        for (slot, tally) in &mut self.tallies {
            if let Some(counts) = counted.get(*slot as usize) {
                tally.counts = difference(counts, &tally.from);
            }
        }
        let of_owners = counted.iter().flatten().fold((0, 0), |sum, counts| {
            (sum.0 + counts.inserts, sum.1 + counts.deletes)
        });
        self.waiting.look(&still_waiting, Instant::now());
        if let Some(host) = self.tallies.get_mut(&HOST) {
            host.counts[Direction::Egress as usize].inserts += self.waiting.left();
        }
        let totals = probes.totals()?;
        let after = Moved {
            inserts: totals.inserts.unwrap_or(0),
            deletes: totals.deletes.unwrap_or(0),
        };
        // A program, and the softirq inside it.
        let contexts = 2 * probes.owners().cpus() as u64;
        let waiting = waiting.len().max(still_waiting.len()) as u64;
        self.owners_off = self
            .owners_check
            .add(before, moved(of_owners), after, waiting, contexts);
        let missed = totals
            .lost
            .missed_counts
            .saturating_sub(self.totals.lost.missed_counts);
        for tally in self.tallies.values_mut().filter(|_| missed > 0) {
            for baseline in &mut tally.baseline {
                baseline.missed(missed);
            }
        }
        self.totals = totals;
        Ok(())
    }

    /// What tells whether anything was inserted into a table; `None`: not every insert is counted.
    pub(super) fn insert_marks(&self, probes: &Probes) -> Option<InsertMarks> {
        self.totals.inserts?;
        Some(probes.owners().insert_marks(self.most_slots))
    }

    /// What was counted in all, at the last reading.
    pub(super) const fn totals(&self) -> Totals {
        self.totals
    }

    /// What the tables held just before the last reading.
    pub(super) fn note_tables(&mut self, sample: &TablesSample) {
        if self.clashes.len() == CLASH_SAMPLES {
            self.clashes.pop_front();
        }
        self.clashes.push_back(self.totals.clash_inserts);
        if self.recount.times == 0 {
            // What was there before and left since is not in the tables any more.
            let held: u64 = sample.tables.iter().map(|table| table.entries).sum();
            let most = held + self.totals.deletes.unwrap_or(0);
            let unknown = self
                .tallies
                .values_mut()
                .flat_map(|tally| &mut tally.baseline);
            for baseline in unknown.filter(|baseline| most == 0 && !baseline.is_known()) {
                baseline.at_most(most);
            }
        }
        let waiting: HashSet<u32> = self.slots.unconfirmed_tables().collect();
        for table in sample.tables.iter().filter(|table| table.entries == 0) {
            if waiting.contains(&table.netns) {
                self.slots.confirm_table_empty(table.netns);
            }
        }
        self.states
            .retain(|netns, _| sample.tables.iter().any(|table| table.netns == *netns));
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
            tally.baseline = [Baseline::UNKNOWN; 2];
            tally.at_census = None;
            tally.held = (0, 0);
        }
        self.held = Held::default();
        self.totals = Totals::default();
        self.owners_check.restart();
        self.clashes.clear();
        self.waiting = Waiting::default();
        self.slots.restart();
        self.forget_censuses();
    }

    /// Probes begin to count, or there are none any more: what censuses told does not go with what is known from now on.
    pub(super) fn forget_censuses(&mut self) {
        self.recount.times = 0;
        self.census = None;
        self.found = None;
        self.states.clear();
        self.node_states = None;
        self.nat = None;
        self.recount.ended = None;
    }
}
