//! What a table is full of: its entries by owner, destination, source, state and so on.
//!
//! [`AlikeEntries`] takes entries one at a time ([`crate::kernel::entries`]) and tells those that are alike at once;
//! [`Census`] takes these and keeps counts, never entries; [`Summary`] is what came of it, with its JSON; [`text`] is how people see it. No I/O here.
//!
//! Memory is bounded: each grouping counts [`MOST_KEYS`] different keys at most. What is counted is
//! exact, and so are the totals; entries of keys beyond that are one number, [`Group::untold`], which
//! no missing key can exceed. A key with many entries is not missed: the kernel lists entries in the
//! order of their hash, which no sender knows, so whoever has a share `p` of a table is met among
//! the first [`MOST_KEYS`] entries with probability `1 - exp(-p * MOST_KEYS)`: all but certain from a
//! thousandth of the table on.

mod alike;
mod charging;
mod composition;
mod filter;
mod groups;
mod key;
mod ports;
mod summary;
#[cfg(test)]
mod tests;
pub(crate) mod text;
mod vacant;

pub(crate) use alike::{Alike, AlikeEntries, NO_TAGS};
pub(crate) use charging::{Charging, TagSeen, sighting};
pub(crate) use composition::CompositionCount;
pub(crate) use filter::{Filter, parse_state};
pub(crate) use groups::{Counts, MOST_KEYS};
pub(crate) use key::By;
pub(crate) use ports::{NAT_PORTS, PortSpace, PortSpaces};
pub(crate) use summary::{EntryLine, Group, StateCount, Summary, SummaryRows};
#[cfg(test)]
pub(crate) use vacant::WasHolder;
pub(crate) use vacant::{Vacant, VacantAddresses};

use std::collections::BTreeMap;

use crate::kernel::entries::{EntryState, FoundEntry, TableEntry};
use crate::sys::netns::Inode;
use groups::Groups;
use key::Age;

/// State numbers are kept in one array: the class of the state times this, plus its number.
const STATES_OF_CLASS: usize = 256;
/// Classes of states: see [`State::to_bytes`].
const STATE_CLASSES: usize = 4;
/// The bit of a class that says that the filter lets entries pass.
const PASSES: u16 = 1 << 15;

/// Names of what keys hold as numbers.
#[derive(Clone, Copy)]
pub(crate) struct Labels<'a> {
    pub owners: &'a Charging,
    /// Names of network namespaces; others go by their inode number.
    pub namespaces: &'a BTreeMap<Inode, String>,
}

impl Labels<'_> {
    /// The name of a network namespace.
    pub(crate) fn netns(&self, inode: Inode) -> String {
        let name = self.namespaces.get(&inode).cloned();
        name.unwrap_or_else(|| inode.to_string())
    }
}

pub(crate) struct Census<'a> {
    filter: Filter,
    /// The filter lets everything pass.
    passes_all: bool,
    owners: &'a Charging,
    /// Nanoseconds of Unix time.
    now: u64,
    /// Entries are grouped by age.
    by_age: bool,
    seen: u64,
    totals: Counts,
    translated: u64,
    states: Vec<u64>,
    groupings: Vec<(Vec<By>, Groups)>,
    /// Room for a key in the making.
    key: Vec<u64>,
}

impl<'a> Census<'a> {
    /// A census of what passes `filter`, grouped in each of these ways; `now` in nanoseconds of
    /// Unix time.
    pub(crate) fn new(
        filter: Filter,
        groupings: Vec<Vec<By>>,
        owners: &'a Charging,
        now: u64,
    ) -> Self {
        let by_age = groupings.iter().flatten().any(|by| *by == By::Age);
        let groupings = groupings
            .into_iter()
            .map(|by| {
                let width = by.iter().map(|by| by.width()).sum();
                (by, Groups::new(width))
            })
            .collect();
        Self {
            passes_all: filter == Filter::default(),
            filter,
            owners,
            now,
            by_age,
            seen: 0,
            totals: Counts::default(),
            translated: 0,
            states: vec![0; STATES_OF_CLASS * STATE_CLASSES],
            groupings,
            key: Vec::new(),
        }
    }

    /// Says that another table begins: it is given room for its own keys.
    pub(crate) fn next_table(&mut self) {
        for (_, groups) in &mut self.groupings {
            groups.make_room();
        }
    }

    /// By what it is told whether entries that are [alike](Alike) count alike here too: whether they pass the filter, and their age if
    /// that is asked for.
    #[inline]
    pub(crate) fn class(&self, found: &impl FoundEntry) -> u16 {
        if self.passes_all && !self.by_age {
            return PASSES;
        }
        found.entry().map_or(0, |entry| self.class_of(&entry))
    }

    fn class_of(&self, entry: &TableEntry) -> u16 {
        if !self.filter.passes(entry) {
            return 0;
        }
        let age = self.by_age.then(|| Age::new(entry, self.now));
        age.map_or(0, |age| (age.span as u16) << 8 | u16::from(age.range)) | PASSES
    }

    /// Counts entries of a table, by their [class](Self::class).
    pub(crate) fn add(&mut self, alike: &Alike<'_>) {
        self.seen += alike.entries;
        if alike.class & PASSES == 0 {
            return;
        }
        let entry = alike.entry;
        let counts = Counts::of(alike.entries, entry.evictable());
        self.totals.add(counts);
        if entry.source_translated() || entry.destination_translated() {
            self.translated += alike.entries;
        }
        let [class, number] = entry.state.to_bytes();
        self.states[usize::from(class) * STATES_OF_CLASS + usize::from(number)] += alike.entries;
        for (by, groups) in &mut self.groupings {
            self.key.clear();
            for by in by {
                by.write(alike, self.owners, self.now, &mut self.key);
            }
            groups.add(&self.key, counts);
        }
    }

    /// What was counted: of each grouping the `top` keys with the most entries.
    pub(crate) fn summary(&self, top: usize) -> Summary {
        let states = self
            .states
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0);
        let mut states: Vec<StateCount> = states
            .map(|(place, count)| {
                let byte = |number: usize| u8::try_from(number).unwrap_or(u8::MAX);
                StateCount {
                    state: EntryState::from_bytes([
                        byte(place / STATES_OF_CLASS),
                        byte(place % STATES_OF_CLASS),
                    ]),
                    entries: *count,
                }
            })
            .collect();
        states.sort_by_key(|state| std::cmp::Reverse(state.entries));
        Summary {
            seen: self.seen,
            totals: self.totals,
            translated: self.translated,
            states,
            groups: self
                .groupings
                .iter()
                .map(|(by, groups)| Group::new(by, groups, self.totals, top))
                .collect(),
        }
    }
}
