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

use conntrack_ebpf::owner::{Party, TagKey, UNKNOWN};
use serde::Serialize;
use tokio::sync::oneshot;

use crate::{
    census::{Charging, sighting},
    kernel::{
        Root,
        entries::{EntryState, WalkOutcome, walk_namespaces},
        tables,
    },
    owners::Sighting,
    sys::priority,
};

/// How often there is one without need.
const EVERY: Duration = Duration::from_mins(1);
/// How soon there can be another one.
const PAUSE: Duration = Duration::from_secs(1);
/// Of the time, at most one part in so many goes into this.
const SHARE: u32 = 50;
/// Entries without the tag that they should have that are kept for another look.
const MOST_UNTAGGED: usize = 1 << 16;

/// Different ones of what entries tell of Services that are kept.
const MOST_SIGHTINGS: usize = 1 << 14;

/// Entries of one owner in one direction.
pub(super) type EntriesByOwner = HashMap<Party, u64>;

/// What a walk over all tables found.
#[derive(Debug, Default)]
pub(super) struct CensusResult {
    /// Entries by slot and direction, without those in `untagged`.
    pub(super) entries: EntriesByOwner,
    /// Entries that had no tag when it began but should have one: what it would be called, the
    /// slot and direction without it, and the address.
    pub(super) untagged: Vec<(TagKey, Party, IpAddr)>,
    /// Addresses with entries that are tagged as nobody's.
    nobodys: HashSet<IpAddr>,
    /// States of all entries, by slot.
    states: BTreeMap<(u32, EntryState), u64>,
    /// What entries tell of Services, and how many tell the same.
    pub(super) sightings: HashMap<Sighting, u32>,
    /// Nothing was left out.
    pub(super) whole: bool,
    pub(super) took: Duration,
}

/// The last census, for `/status`.
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
    /// Entries that the counts of owners had to be corrected by so far, apart from the first
    /// census; 0 unless something was missed.
    pub drift: u64,
}

/// When there is to be a census, and the one that is under way. A default one is due: there has to be a first one, and one
/// again when the counts begin anew.
#[derive(Debug, Default)]
pub(super) struct Recounter {
    running: Option<oneshot::Receiver<CensusResult>>,
    ended: Option<Instant>,
    took: Duration,
}

impl Recounter {
    /// Whether one should begin now; `needed`: there is something to find out.
    pub(super) fn is_due(&self, needed: bool) -> bool {
        match (&self.running, self.ended) {
            (Some(_), _) => false,
            (None, None) => true,
            (None, Some(ended)) => {
                let pause = PAUSE.max(self.took * SHARE);
                ended.elapsed() >= if needed { pause } else { pause.max(EVERY) }
            }
        }
    }

    /// Begins one, on a thread of its own.
    pub(super) fn begin(&mut self, charging: Charging) {
        let (sender, found) = oneshot::channel();
        let walk = move || drop(sender.send(walk(&charging)));
        match priority::thread("census", walk) {
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
        found
    }
}

/// Walks over all tables.
fn walk(charging: &Charging) -> CensusResult {
    let began = Instant::now();
    let root = Root::system();
    let namespaces: Vec<_> = tables::discover(&root).namespaces.into_values().collect();
    let mut found = CensusResult::default();
    let mut overflow = false;
    let outcomes = walk_namespaces(&root, &namespaces, |netns, entry| {
        let charge = charging.charge(netns, entry);
        let party = charge.party;
        *found.states.entry((party.slot(), entry.state)).or_default() += 1;
        found.nobodys.extend(charge.nobodys);
        if entry.destination_translated()
            && let Some(sighting) = sighting(netns, entry, party)
        {
            found.see(sighting);
        }
        match charge.untagged {
            Some((key, address)) if found.untagged.len() < MOST_UNTAGGED => {
                found.untagged.push((key, party, address));
            }
            untagged => {
                overflow |= untagged.is_some();
                *found.entries.entry(party).or_default() += 1;
            }
        }
        ControlFlow::Continue(())
    });
    found.whole = !overflow
        && outcomes.iter().all(|(_, outcome)| match outcome {
            WalkOutcome::Walked(walk) => !walk.changed,
            WalkOutcome::Gone => true,
            WalkOutcome::NotEntered(_) | WalkOutcome::Failed(_) => false,
        });
    found.took = began.elapsed();
    found
}

impl CensusResult {
    fn see(&mut self, sighting: Sighting) {
        let room = self.sightings.len() < MOST_SIGHTINGS;
        if room || self.sightings.contains_key(&sighting) {
            *self.sightings.entry(sighting).or_default() += 1;
        }
    }

    /// Names of states and how many entries are in each, most frequent first, by slot.
    pub(super) fn states_by_slot(&self) -> BTreeMap<u32, Vec<(String, u64)>> {
        let mut by_slot: BTreeMap<u32, Vec<(String, u64)>> = BTreeMap::new();
        for ((slot, state), entries) in &self.states {
            let states = by_slot.entry(*slot).or_default();
            states.push((state.label(), *entries));
        }
        for states in by_slot.values_mut() {
            states.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        }
        by_slot
    }

    /// Entries by slot and direction, with the tags that there are by now; and the addresses that
    /// have entries without one, or with one that says nobody.
    pub(super) fn settle(self, tags: &HashMap<TagKey, Party>) -> (EntriesByOwner, HashSet<IpAddr>) {
        let mut entries = self.entries;
        // What is tagged as nobody's may have its tag from before the address was anybody's, and is not
        // its holder's either.
        let mut untagged = self.nobodys;
        for (key, party, address) in self.untagged {
            let tag = tags.get(&key).copied();
            if tag.is_none_or(|tag| tag.slot() == UNKNOWN) {
                untagged.insert(address);
            }
            *entries.entry(tag.unwrap_or(party)).or_default() += 1;
        }
        (entries, untagged)
    }
}
