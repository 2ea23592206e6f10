//! The census of the agent: what is in the tables, by owner, against what the counts say.
//!
//! The first one gives the entries that were there before the counts began. Later ones find
//! addresses whose earlier entries are gone, and correct what does not fit, which should be nothing.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    ops::ControlFlow,
    time::{Duration, Instant},
};

use conntrack_ebpf::owner::{Party, UNKNOWN};
use ctpressure_model::{events::OwnersBySlot, verdict::Composition};
use serde::Serialize;
use tokio::sync::oneshot;

use crate::{
    census::{Charging, CompositionCount, sighting},
    kernel::{
        Root,
        entries::{EntryState, WalkOutcome, walk_namespaces},
        overlays,
        tables::{self, Namespace, TableReader},
    },
    owners::Sighting,
    probes::TagReader,
    sys::priority,
};

/// How often there is one without need.
const EVERY: Duration = Duration::from_mins(1);
/// How often there is one while a table is nearly full, and what part of the time may go into it then: who looks at a node in distress
/// wants to know.
const WHILE_FULL: Duration = Duration::from_secs(5);
const SHARE_WHILE_FULL: u32 = 10;
/// A table that has fewer entries than one in so many buckets is looked at once and then at the usual pace: the kernel goes through all
/// empty buckets at one stretch (`ctnetlink_dump_table`), and where it can't be preempted no event is read on that CPU meanwhile
/// (262,144 buckets: 15 million instructions).
const BUCKETS_TO_AN_ENTRY: u64 = 16;
/// How soon there can be another one, and how long it may be put off for what it costs.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
/// Of the time, at most one part in so many goes into this, unless that would put it off for too long.
const SHARE: u32 = 50;
/// How long the tables of other namespaces than the host's may be walked, if the host's takes less: each walk goes through the hash
/// that all share, however few entries a namespace has in it.
const OTHERS: Duration = Duration::from_millis(250);
/// Different ones of what entries tell of Services that are kept.
const MOST_SIGHTINGS: usize = 1 << 14;

/// States of entries, by slot.
pub(super) type States = BTreeMap<(u32, EntryState), u64>;

/// What a census is to know when it begins.
pub(super) struct CensusOrder {
    pub(super) charging: Charging,
    /// Tags of single entries, as they are when an entry is seen; `None`: no probe gives any.
    pub(super) tags: Option<TagReader>,
    /// Tables of which more is to be known than how many entries they have.
    pub(super) wanted: HashSet<u32>,
    /// Tables of which it is to be told what they are made of.
    pub(super) judged: HashSet<u32>,
    /// Owners by slot.
    pub(super) names: OwnersBySlot,
}

/// What a census found.
#[derive(Debug, Default)]
pub(super) struct CensusResult {
    /// Entries by slot and direction.
    pub(super) entries: HashMap<Party, u64>,
    /// Of those: the ones that should have a tag and have none.
    pub(super) untagged: HashMap<Party, u64>,
    /// Entries in tables that were not walked, by the slot of the table's owner.
    pub(super) elsewhere: HashMap<u32, u64>,
    /// Addresses with entries that have no tag, though they should, or one that says nobody.
    pub(super) unsettled: HashSet<IpAddr>,
    /// Tables that were walked, and whether there was such an entry in it.
    pub(super) walked: HashMap<u32, bool>,
    /// States of the entries in each table that was walked.
    pub(super) states: HashMap<u32, States>,
    /// What the tables are made of for which that was asked.
    pub(super) compositions: HashMap<u32, Composition>,
    /// What entries tell of Services, and how many tell the same.
    pub(super) sightings: HashMap<Sighting, u32>,
    /// Nothing was left out but what is in `elsewhere`.
    pub(super) whole: bool,
    pub(super) took: Duration,
}

/// The last census, for `ctpressure status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Recount {
    /// How many there were.
    pub times: u64,
    /// Seconds that the last one took.
    pub seconds: f64,
    /// Entries that it found.
    pub entries: u64,
    /// Owners whose entries are known exactly.
    pub exact_owners: usize,
    /// Owners, the host and nobody included.
    pub owners: usize,
    /// Entries between the bounds of those whose entries are not known exactly, the widest; `None`: of some nothing is known
    /// yet.
    pub widest: Option<u64>,
    /// Entries by which a census was outside of what was known before, so far; 0 unless something was missed.
    pub drift: u64,
}

/// When there is to be a census, and the one that is under way. A default one is due: there has to be a first one, and one
/// again when the counts begin anew.
#[derive(Debug, Default)]
pub(super) struct Recounter {
    running: Option<oneshot::Receiver<CensusResult>>,
    ended: Option<Instant>,
    took: Duration,
    /// Which of the tables that are walked in turn is the first of the next one.
    turn: usize,
}

impl Recounter {
    /// Whether one should begin now; `needed`: there is something to find out, `hurried`: a table is full, and it is to be told of what.
    pub(super) fn is_due(&self, needed: bool, hurried: bool) -> bool {
        match (&self.running, self.ended) {
            (Some(_), _) => false,
            (None, None) => true,
            (None, Some(ended)) => {
                let pause = (self.took * SHARE).clamp(PAUSE.0, PAUSE.1);
                let pause = if needed { pause } else { pause.max(EVERY) };
                let while_full = (self.took * SHARE_WHILE_FULL).clamp(WHILE_FULL, EVERY);
                ended.elapsed()
                    >= if hurried {
                        pause.min(while_full)
                    } else {
                        pause
                    }
            }
        }
    }

    /// Begins one, on a thread of its own.
    pub(super) fn begin(&mut self, order: CensusOrder) {
        let (sender, found) = oneshot::channel();
        let first = self.turn;
        let count = move || drop(sender.send(Census::new(order).count(first)));
        match priority::thread("census", count) {
            Ok(_) => self.running = Some(found),
            Err(error) => {
                tracing::warn!(%error, "no thread for a census");
                self.ended = Some(Instant::now());
            }
        }
    }

    /// Waits for the one that is under way; never ends while there is none. May be cancelled.
    pub(super) async fn finished(&mut self) -> CensusResult {
        let Some(running) = &mut self.running else {
            return std::future::pending().await;
        };
        // An error: the thread panicked. As if it had found out nothing.
        let found = running.await.unwrap_or_default();
        self.running = None;
        self.ended = Some(Instant::now());
        self.took = found.took;
        self.turn = self.turn.wrapping_add(found.walked.len());
        found
    }
}

/// Whether a table with so many entries may be walked more often than others in a hash of so many buckets.
pub(super) fn fills_its_buckets(entries: u64, buckets: Option<u64>) -> bool {
    buckets.is_some_and(|buckets| entries.saturating_mul(BUCKETS_TO_AN_ENTRY) >= buckets)
}

/// One that is under way.
struct Census {
    order: CensusOrder,
    found: CensusResult,
}

impl Census {
    fn new(order: CensusOrder) -> Self {
        Self {
            order,
            found: CensusResult::default(),
        }
    }

    /// Walks the host's table, and of the others as many as there is time for, beginning with `first`: those that are wanted, then
    /// the rest. Of what is not walked the kernel's count is taken.
    fn count(mut self, first: usize) -> CensusResult {
        let began = Instant::now();
        let root = Root::system();
        let held: HashMap<u32, u64> = match TableReader::new(root.clone()).read() {
            Ok(sample) => sample
                .tables
                .iter()
                .map(|table| (table.netns, table.entries))
                .collect(),
            Err(_) => return self.found,
        };
        let host = self.order.charging.host_netns;
        let mut namespaces = tables::discover(&root).namespaces;
        let Some(host) = namespaces.remove(&host) else {
            return self.found;
        };
        self.found.whole = self.walk(&root, &host);
        let until = began.elapsed().max(OTHERS) + began.elapsed();
        let mut others: Vec<(u64, Namespace)> = namespaces
            .into_values()
            .map(|namespace| (held.get(&namespace.inode).copied().unwrap_or(0), namespace))
            .filter(|(entries, _)| *entries > 0)
            .collect();
        if !others.is_empty() {
            let middle = first % others.len();
            others.rotate_left(middle);
        }
        let CensusOrder { wanted, judged, .. } = &self.order;
        others.sort_by_key(|(_, namespace)| {
            let inode = &namespace.inode;
            (!judged.contains(inode), !wanted.contains(inode))
        });
        for (entries, namespace) in &others {
            if began.elapsed() > until || !self.walk(&root, namespace) {
                let table = self.order.charging.maps.netns.get(&namespace.inode);
                let slot = table.map_or(UNKNOWN, |claim| claim.slot);
                *self.found.elsewhere.entry(slot).or_default() += entries;
                if let Some(base) = table.map(|claim| claim.base).filter(|base| *base != slot) {
                    *self.found.elsewhere.entry(base).or_default() += entries;
                }
            }
        }
        self.found.took = began.elapsed();
        self.found
    }

    /// Walks one table; `false`: what it holds is not known, and nothing of it is noted.
    fn walk(&mut self, root: &Root, namespace: &Namespace) -> bool {
        let mut seen = CensusResult::default();
        let mut unsettled = false;
        let mut states = States::new();
        let CensusOrder {
            charging,
            tags,
            judged,
            names,
            ..
        } = &self.order;
        let mut makeup = judged
            .contains(&namespace.inode)
            .then(|| CompositionCount::new(charging, &overlays::of(root, namespace)));
        let outcomes = walk_namespaces(root, std::slice::from_ref(namespace), |netns, entry| {
            let charge = charging.charge(netns, entry, |key| tags.as_ref()?.tag(key));
            let party = charge.party;
            if let Some(makeup) = &mut makeup {
                makeup.add(netns, entry, Some(party));
            }
            *states.entry((party.slot(), entry.state)).or_default() += 1;
            *seen.entries.entry(party).or_default() += 1;
            if charge.untagged {
                *seen.untagged.entry(party).or_default() += 1;
            }
            if charge.unsettled {
                unsettled = true;
                let ends = [entry.original.source, entry.reply.source];
                seen.unsettled
                    .extend(ends.into_iter().filter(|end| charging.claims(*end)));
            }
            if entry.destination_translated()
                && let Some(sighting) = sighting(netns, entry, party)
            {
                seen.see(sighting);
            }
            ControlFlow::Continue(())
        });
        let walked = outcomes.iter().all(|(_, outcome)| match outcome {
            WalkOutcome::Walked(walk) => !walk.changed,
            WalkOutcome::Gone => true,
            WalkOutcome::NotEntered(_) | WalkOutcome::Failed(_) => false,
        });
        if let (Some(makeup), Some((_, WalkOutcome::Walked(walk)))) = (makeup, outcomes.first()) {
            let composition = makeup.finish(walk, |slot| names.name(slot));
            self.found.compositions.insert(namespace.inode, composition);
        }
        if walked {
            self.found.walked.insert(namespace.inode, unsettled);
            self.found.states.insert(namespace.inode, states);
            self.found.add(seen);
        }
        walked
    }
}

impl CensusResult {
    fn see(&mut self, sighting: Sighting) {
        let room = self.sightings.len() < MOST_SIGHTINGS;
        if room || self.sightings.contains_key(&sighting) {
            *self.sightings.entry(sighting).or_default() += 1;
        }
    }

    /// Adds what another table holds.
    fn add(&mut self, other: Self) {
        for (party, entries) in other.entries {
            *self.entries.entry(party).or_default() += entries;
        }
        for (party, entries) in other.untagged {
            *self.untagged.entry(party).or_default() += entries;
        }
        for (sighting, entries) in other.sightings {
            if self.sightings.len() < MOST_SIGHTINGS || self.sightings.contains_key(&sighting) {
                *self.sightings.entry(sighting).or_default() += entries;
            }
        }
        self.unsettled.extend(other.unsettled);
    }
}

/// Names of states and how many entries are in each, most frequent first, by slot.
pub(super) fn states_by_slot<'a>(
    tables: impl Iterator<Item = &'a States>,
) -> BTreeMap<u32, Vec<(String, u64)>> {
    let mut sums = States::new();
    for ((slot, state), entries) in tables.flatten() {
        *sums.entry((*slot, *state)).or_default() += entries;
    }
    let mut by_slot: BTreeMap<u32, Vec<(String, u64)>> = BTreeMap::new();
    for ((slot, state), entries) in &sums {
        let states = by_slot.entry(*slot).or_default();
        states.push((state.label(), *entries));
    }
    for states in by_slot.values_mut() {
        states.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    }
    by_slot
}
