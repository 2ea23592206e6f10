//! A census: what is in the tables, by owner.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    ops::ControlFlow,
    time::{Duration, Instant},
};

use conntrack_ebpf::owner::{Party, UNKNOWN};
use ctpressure_model::{events::OwnersBySlot, verdict::Composition};

use super::{
    nat::{NatFound, stale_entries},
    states::{StateKey, States},
};
use crate::{
    census::{Alike, AlikeEntries, Charging, CompositionCount, PortSpaces, TagSeen, sighting},
    kernel::{
        Root,
        entries::{FoundEntry, WalkOutcome, walk_namespaces},
        overlays,
        tables::{self, Namespace, TableReader},
    },
    owners::Sighting,
    probes::TagReader,
    walk::{CensusSource, EntryCounter, TableWalker},
};

/// How long the tables of other namespaces than the host's may be walked, if the host's takes less: each walk goes through the hash
/// that all share, however few entries a namespace has in it.
const OTHERS: Duration = Duration::from_millis(250);
/// Different ones of what entries tell of Services that are kept.
const MOST_SIGHTINGS: usize = 1 << 14;

/// The class of entries that a list shows.
const LISTED: u16 = 0;
/// The class of those that lost a clash: they take room, and have nothing else to tell.
const CLASH: u16 = 1;

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
    /// Entries of a list that could not be read.
    pub(super) unreadable_listed: u64,
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
    /// What NAT made of them.
    pub(super) nat: NatFound,
    /// What entries tell of Services, and how many tell the same.
    pub(super) sightings: HashMap<Sighting, u32>,
    /// Nothing was left out but what is in `elsewhere`.
    pub(super) whole: bool,
    /// Where the entries came from.
    pub(super) source: Option<CensusSource>,
    pub(super) took: Duration,
}

/// One that is under way.
pub(super) struct Census {
    order: CensusOrder,
    found: CensusResult,
}

/// What is seen in one table.
struct TableSeen<'a> {
    /// All but the entries that a list shows.
    seen: CensusResult,
    unsettled: bool,
    /// Entries by who is charged and state.
    counts: hashbrown::HashMap<(Party, StateKey), u64>,
    makeup: Option<CompositionCount<'a>>,
}

impl TableSeen<'_> {
    fn add(&mut self, charging: &Charging, alike: &Alike<'_>) {
        let Alike {
            netns,
            entry,
            charge,
            class,
            entries,
        } = *alike;
        let party = charge.party;
        let seen = &mut self.seen;
        if charge.tag == TagSeen::Missing {
            *seen.untagged.entry(party).or_default() += entries;
        }
        if charge.is_unsettled() {
            self.unsettled = true;
            let ends = [entry.original.source, entry.reply.source];
            seen.unsettled
                .extend(ends.into_iter().filter(|end| charging.claims(*end)));
        }
        if class == CLASH {
            *seen.entries.entry(party).or_default() += entries;
            return;
        }
        let key = (party, StateKey::of(entry));
        *self.counts.entry(key).or_default() += entries;
        if let Some(makeup) = &mut self.makeup {
            makeup.add(alike);
        }
        seen.nat.stale += stale_entries(entry, entries, charging);
        if entry.destination_translated()
            && let Some(sighting) = sighting(netns, entry, party)
        {
            seen.see(sighting, u32::try_from(entries).unwrap_or(u32::MAX));
        }
    }
}

/// What is seen in several tables.
struct TablesSeen<'a> {
    alike: AlikeEntries<'a>,
    tables: hashbrown::HashMap<u32, TableSeen<'a>>,
    spaces: PortSpaces,
    charging: &'a Charging,
}

impl<'a> TablesSeen<'a> {
    /// For the tables of these namespaces, of which nothing was seen yet.
    fn new<'n>(
        order: &'a CensusOrder,
        root: &Root,
        namespaces: impl Iterator<Item = &'n Namespace>,
    ) -> Self {
        let table = |namespace: &Namespace| (namespace.inode, order.table(root, namespace));
        let tables: hashbrown::HashMap<u32, TableSeen<'a>> = namespaces.map(table).collect();
        let makeups = tables.values().filter_map(|table| table.makeup.as_ref());
        Self {
            alike: AlikeEntries::new(
                &order.charging,
                order.tags.as_ref(),
                makeups.flat_map(CompositionCount::tunnels),
            ),
            tables,
            spaces: PortSpaces::default(),
            charging: &order.charging,
        }
    }

    /// By network namespace.
    fn finish(mut self) -> (hashbrown::HashMap<u32, TableSeen<'a>>, PortSpaces) {
        let Self {
            alike,
            tables,
            spaces,
            charging,
        } = &mut self;
        alike.tell(|alike| tell(tables, spaces, charging, alike));
        (self.tables, self.spaces)
    }

    fn add_of(&mut self, netns: u32, found: &impl FoundEntry, class: u16) {
        let Self {
            alike,
            tables,
            spaces,
            charging,
        } = self;
        alike.add(netns, found, class, |alike| {
            tell(tables, spaces, charging, alike);
        });
    }
}

impl EntryCounter for TablesSeen<'_> {
    #[inline]
    fn add(&mut self, netns: u32, found: &impl FoundEntry) {
        self.add_of(netns, found, LISTED);
    }

    fn add_clash(&mut self, netns: u32, found: &impl FoundEntry) {
        self.add_of(netns, found, CLASH);
    }
}

/// Counts entries in their table.
fn tell(
    tables: &mut hashbrown::HashMap<u32, TableSeen<'_>>,
    spaces: &mut PortSpaces,
    charging: &Charging,
    alike: &Alike<'_>,
) {
    if let Some(table) = tables.get_mut(&alike.netns) {
        spaces.add(alike.netns, alike.entry, alike.entries);
        table.add(charging, alike);
    }
}

impl CensusOrder {
    /// For the table of a namespace, of which nothing was seen yet.
    fn table(&self, root: &Root, namespace: &Namespace) -> TableSeen<'_> {
        let is_judged = self.judged.contains(&namespace.inode);
        TableSeen {
            seen: CensusResult::default(),
            unsettled: false,
            counts: hashbrown::HashMap::new(),
            makeup: is_judged
                .then(|| CompositionCount::new(&self.charging, &overlays::of(root, namespace))),
        }
    }
}

impl Census {
    /// One that begins.
    pub(super) fn new(order: CensusOrder) -> Self {
        Self {
            order,
            found: CensusResult::default(),
        }
    }

    /// Walks the tables of all namespaces that hold something; `first`: see [`Self::list`].
    pub(super) fn count(mut self, walker: &mut TableWalker, first: usize) -> CensusResult {
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
        namespaces
            .retain(|inode, _| *inode == host || held.get(inode).is_some_and(|held| *held > 0));
        if !namespaces.contains_key(&host) {
            return self.found;
        }
        let all: Vec<Namespace> = namespaces.values().cloned().collect();
        if !self.walk_hash(walker, &root, &all) {
            self.list(&root, namespaces, &held, first);
        }
        self.found.source = Some(walker.source());
        self.found.took = began.elapsed();
        self.found
    }

    /// Walks over the hash table, in one pass for all namespaces; `false`: that can't be had.
    fn walk_hash(&mut self, walker: &mut TableWalker, root: &Root, all: &[Namespace]) -> bool {
        let Self { order, found } = self;
        let tables = || TablesSeen::new(order, root, all.iter());
        let Some((tables, outcomes)) = walker.walk_hash(root, all, tables) else {
            return false;
        };
        let (mut tables, spaces) = tables.finish();
        found.whole = true;
        for (netns, outcome) in outcomes {
            if let Some(table) = tables.remove(&netns)
                && !found.take(order, netns, &outcome, table)
            {
                found.whole = false;
            }
        }
        found.nat.add_spaces(&spaces, &found.walked);
        true
    }

    /// Has the host's table listed, and of the others as many as there is time for, beginning with `first`: those that are wanted,
    /// then the rest. Of what is not listed the kernel's count is taken.
    fn list(
        &mut self,
        root: &Root,
        mut namespaces: BTreeMap<u32, Namespace>,
        held: &HashMap<u32, u64>,
        first: usize,
    ) {
        let began = Instant::now();
        let Self { order, found } = self;
        let walk = |found: &mut CensusResult, namespace: &Namespace| {
            let mut seen = TablesSeen::new(order, root, std::iter::once(namespace));
            let outcomes =
                walk_namespaces(root, std::slice::from_ref(namespace), |netns, entry| {
                    seen.add(netns, entry);
                    ControlFlow::Continue(())
                });
            let (mut tables, spaces) = seen.finish();
            let table = tables.remove(&namespace.inode);
            let outcome = outcomes.into_iter().next();
            let is_walked = outcome
                .zip(table)
                .is_some_and(|((netns, outcome), table)| found.take(order, netns, &outcome, table));
            found.nat.add_spaces(&spaces, &found.walked);
            is_walked
        };
        let Some(host) = namespaces.remove(&order.charging.host_netns) else {
            return;
        };
        found.whole = walk(found, &host);
        let until = began.elapsed().max(OTHERS) + began.elapsed();
        let mut others: Vec<Namespace> = namespaces.into_values().collect();
        if !others.is_empty() {
            let middle = first % others.len();
            others.rotate_left(middle);
        }
        others.sort_by_key(|namespace| {
            let inode = &namespace.inode;
            (!order.judged.contains(inode), !order.wanted.contains(inode))
        });
        for namespace in &others {
            if began.elapsed() > until || !walk(found, namespace) {
                let entries = held.get(&namespace.inode).copied().unwrap_or(0);
                let table = order.charging.maps.netns.get(&namespace.inode);
                let slot = table.map_or(UNKNOWN, |claim| claim.slot);
                *found.elsewhere.entry(slot).or_default() += entries;
                if let Some(base) = table.map(|claim| claim.base).filter(|base| *base != slot) {
                    *found.elsewhere.entry(base).or_default() += entries;
                }
            }
        }
    }
}

impl CensusResult {
    /// Entries that were met and could not be read, in whichever table.
    pub(super) fn unreadable(&self) -> u64 {
        let met = self.source.as_ref().map_or(0, CensusSource::unreadable);
        self.unreadable_listed + met
    }

    /// Takes over what was seen in a table; `false`: what it holds is not known, and nothing of it is noted.
    fn take(
        &mut self,
        order: &CensusOrder,
        netns: u32,
        outcome: &WalkOutcome,
        table: TableSeen<'_>,
    ) -> bool {
        let is_walked = match outcome {
            WalkOutcome::Walked(walk) => !walk.changed,
            WalkOutcome::Gone => true,
            WalkOutcome::NotEntered(_) | WalkOutcome::Failed(_) => false,
        };
        if let WalkOutcome::Walked(walk) = outcome {
            self.unreadable_listed += walk.unreadable;
        }
        if let (Some(makeup), WalkOutcome::Walked(walk)) = (table.makeup, outcome) {
            let composition = makeup.finish(walk, |slot| order.names.name(slot));
            self.compositions.insert(netns, composition);
        }
        if is_walked {
            self.walked.insert(netns, table.unsettled);
            let states = self.states.entry(netns).or_default();
            for ((party, key), entries) in table.counts {
                *states.entry((party.slot(), key)).or_default() += entries;
                *self.entries.entry(party).or_default() += entries;
            }
            self.add(table.seen);
        }
        is_walked
    }

    fn see(&mut self, sighting: Sighting, entries: u32) {
        let room = self.sightings.len() < MOST_SIGHTINGS;
        if room || self.sightings.contains_key(&sighting) {
            let seen = self.sightings.entry(sighting).or_default();
            *seen = seen.saturating_add(entries);
        }
    }

    /// Adds what is known of another table.
    fn add(&mut self, other: Self) {
        for (party, entries) in other.entries {
            *self.entries.entry(party).or_default() += entries;
        }
        for (party, entries) in other.untagged {
            *self.untagged.entry(party).or_default() += entries;
        }
        for (sighting, entries) in other.sightings {
            self.see(sighting, entries);
        }
        self.unsettled.extend(other.unsettled);
        self.nat.stale += other.nat.stale;
    }
}
