//! What a table is full of: its entries by owner, destination, source, state and so on.
//!
//! [`Census`] takes entries one at a time ([`crate::kernel::entries`]) and keeps counts, never
//! entries; [`Summary`] is what came of it, with its JSON; [`text`] is how people see it. No I/O here.
//!
//! Memory is bounded: each grouping counts [`MOST_KEYS`] different keys at most. What is counted is
//! exact, and so are the totals; entries of keys beyond that are one number, [`Group::untold`], which
//! no missing key can exceed. A key with many entries is not missed: the kernel lists entries in the
//! order of their hash, which no sender knows, so whoever has a share `p` of a table is met among
//! the first [`MOST_KEYS`] entries with probability `1 - exp(-p * MOST_KEYS)`: all but certain from a
//! thousandth of the table on.

mod charging;
mod filter;
mod groups;
mod key;
mod owners;
mod summary;
#[cfg(test)]
mod tests;
pub mod text;

pub(crate) use charging::sighting;
pub use charging::{Charge, Charging, Workloads};
pub use filter::{Filter, UnknownState, parse_state};
pub use groups::{Counts, MOST_KEYS};
pub use key::{Age, By, Endpoint, Nat, Part, Span};
pub use owners::{Labels, Owners};
pub use summary::{Group, Others, Row, StateCount, Summary, line_json};

use crate::kernel::entries::{Entry, State};
use crate::sys::netns::Inode;
use groups::Groups;
use key::{Key, Seen};

/// State numbers are kept in one array: the class of the state times this, plus its number.
const STATES_OF_CLASS: usize = 256;
/// Classes of states: see [`State::to_bytes`].
const STATE_CLASSES: usize = 4;

/// Counts entries.
pub struct Census<'a> {
    filter: Filter,
    owners: Option<&'a (dyn Owners + Sync)>,
    /// Nanoseconds of Unix time.
    now: u64,
    seen: u64,
    totals: Counts,
    translated: u64,
    states: Vec<u64>,
    groupings: Vec<(Vec<By>, Groups)>,
    wants_owner: bool,
    wants_workload: bool,
}

impl<'a> Census<'a> {
    /// A census of what passes `filter`, grouped in each of these ways; `now` in nanoseconds of
    /// Unix time.
    pub fn new(
        filter: Filter,
        groupings: Vec<Vec<By>>,
        owners: Option<&'a (dyn Owners + Sync)>,
        now: u64,
    ) -> Self {
        let wants_owner = groupings
            .iter()
            .flatten()
            .any(|by| matches!(by, By::Owner | By::Workload | By::Direction));
        let wants_workload = groupings.iter().flatten().any(|by| *by == By::Workload);
        let groupings = groupings
            .into_iter()
            .map(|by| {
                let width = by.iter().map(|by| by.width()).sum();
                (by, Groups::new(width))
            })
            .collect();
        Self {
            filter,
            owners,
            now,
            seen: 0,
            totals: Counts::default(),
            translated: 0,
            states: vec![0; STATES_OF_CLASS * STATE_CLASSES],
            groupings,
            wants_owner,
            wants_workload,
        }
    }

    /// Says that another table begins: it is given room for its own keys.
    pub fn next_table(&mut self) {
        for (_, groups) in &mut self.groupings {
            groups.make_room();
        }
    }

    /// Whether the entry is one of those that were asked for.
    pub fn wants(&self, entry: &Entry) -> bool {
        self.filter.passes(entry)
    }

    /// Counts an entry of a table; allocates nothing unless its key is new.
    #[inline]
    pub fn add(&mut self, netns: Inode, entry: &Entry) {
        self.seen += 1;
        if !self.filter.passes(entry) {
            return;
        }
        let evictable = entry.evictable();
        self.totals.add(evictable);
        self.translated += u64::from(entry.source_translated() || entry.destination_translated());
        let [class, number] = entry.state.to_bytes();
        self.states[usize::from(class) * STATES_OF_CLASS + usize::from(number)] += 1;
        let party = if self.wants_owner {
            self.owners.and_then(|owners| owners.party(netns, entry))
        } else {
            None
        };
        let workload = match (self.owners, party) {
            (Some(owners), Some(party)) if self.wants_workload => {
                Some(owners.workload(party.slot()))
            }
            _ => None,
        };
        let seen = Seen {
            netns,
            entry,
            party,
            workload,
            now: self.now,
        };
        for (by, groups) in &mut self.groupings {
            let mut key = Key::default();
            for by in by {
                key.push(*by, &seen);
            }
            groups.add(key.bytes(), evictable);
        }
    }

    /// What was counted: of each grouping the `top` keys with the most entries.
    pub fn summary(&self, top: usize) -> Summary {
        let states = self
            .states
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0);
        let mut states: Vec<StateCount> = states
            .map(|(place, count)| {
                let byte = |number: usize| u8::try_from(number).unwrap_or(u8::MAX);
                StateCount {
                    state: State::from_bytes([
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
