//! What the tables are made of, as the last census found it: entries by protocol, state, and whether the kernel may remove them early.

use std::{cmp::Reverse, collections::BTreeMap};

use ctpressure_model::protocol::{is_named, protocol_name};

use crate::kernel::entries::{EntryState, TableEntry};

/// Owners whose entries are told apart so: those with the most.
const FOREMOST: usize = 10;

/// What entries have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct StateKey {
    state: EntryState,
    /// Its number; `None`: one without a name. Strangers choose it, and there are 256.
    protocol: Option<u8>,
    evictable: bool,
}

impl StateKey {
    pub(super) fn of(entry: &TableEntry) -> Self {
        let protocol = entry.original.protocol;
        Self {
            state: entry.state,
            protocol: is_named(protocol).then_some(protocol),
            evictable: entry.evictable(),
        }
    }
}

/// Entries of each slot.
pub(super) type States = BTreeMap<(u32, StateKey), u64>;

/// Entries that have something in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StateEntries {
    /// `tcp`, `udp`, ... or `other`.
    pub(crate) protocol: String,
    /// As `ctpressure table` calls it.
    pub(crate) state: String,
    /// The kernel may remove them to make room (`early_drop`).
    pub(crate) evictable: bool,
    pub(crate) entries: u64,
}

/// What all tables are made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeStates {
    /// Over all owners.
    pub(crate) all: Vec<StateEntries>,
    /// Of the owners with the most entries, by slot.
    pub(crate) foremost: Vec<(u32, Vec<StateEntries>)>,
}

impl NodeStates {
    pub(super) fn of<'a>(tables: impl Iterator<Item = &'a States>) -> Self {
        let mut all: BTreeMap<StateKey, u64> = BTreeMap::new();
        let mut by_slot: BTreeMap<u32, BTreeMap<StateKey, u64>> = BTreeMap::new();
        for ((slot, key), entries) in tables.flatten() {
            *all.entry(*key).or_default() += entries;
            let of_slot = by_slot.entry(*slot).or_default();
            *of_slot.entry(*key).or_default() += entries;
        }
        let mut foremost: Vec<_> = by_slot.into_iter().collect();
        foremost.sort_by_key(|(slot, states)| (Reverse(states.values().sum::<u64>()), *slot));
        foremost.truncate(FOREMOST);
        let foremost = foremost.into_iter();
        Self {
            all: named(&all),
            foremost: foremost
                .map(|(slot, states)| (slot, named(&states)))
                .collect(),
        }
    }
}

fn named(states: &BTreeMap<StateKey, u64>) -> Vec<StateEntries> {
    let one = |(key, entries): (&StateKey, &u64)| StateEntries {
        protocol: key
            .protocol
            .map_or_else(|| "other".to_owned(), |it| protocol_name(it).into_owned()),
        state: key.state.label(),
        evictable: key.evictable,
        entries: *entries,
    };
    states.iter().map(one).collect()
}

/// Names of states and how many entries are in each, most frequent first, by slot.
pub(super) fn states_by_slot<'a>(
    tables: impl Iterator<Item = &'a States>,
) -> BTreeMap<u32, Vec<(String, u64)>> {
    let mut sums: BTreeMap<(u32, EntryState), u64> = BTreeMap::new();
    for ((slot, key), entries) in tables.flatten() {
        *sums.entry((*slot, key.state)).or_default() += entries;
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

#[cfg(test)]
mod tests {
    use super::*;

    const fn key(state: EntryState, protocol: Option<u8>, evictable: bool) -> StateKey {
        StateKey {
            state,
            protocol,
            evictable,
        }
    }

    #[test]
    fn the_node_has_the_sum_and_the_foremost_their_own() {
        let udp = key(EntryState::Unreplied, Some(17), true);
        let odd = key(EntryState::Unreplied, None, true);
        let waits = key(EntryState::TIME_WAIT, Some(6), false);
        let mut host = States::from([((1, udp), 5), ((2, udp), 7), ((2, waits), 1)]);
        host.extend((3..20).map(|slot| ((slot, odd), 2)));
        let other = States::from([((2, udp), 10)]);
        let found = NodeStates::of([&host, &other].into_iter());
        let entries: Vec<_> = found
            .all
            .iter()
            .map(|part| (&*part.protocol, &*part.state, part.evictable, part.entries))
            .collect();
        assert_eq!(
            entries,
            [
                ("tcp", "TIME_WAIT", false, 1),
                ("other", "UNREPLIED", true, 34),
                ("udp", "UNREPLIED", true, 22),
            ]
        );
        let slots: Vec<_> = found.foremost.iter().map(|(slot, _)| *slot).collect();
        assert_eq!(slots, [2, 1, 3, 4, 5, 6, 7, 8, 9, 10]);
        let second = &found.foremost[0].1;
        assert_eq!((second.len(), second[1].entries), (2, 17));
        let states = states_by_slot([&host, &other].into_iter());
        assert_eq!(
            states[&2],
            [("UNREPLIED".to_owned(), 17), ("TIME_WAIT".to_owned(), 1)]
        );
    }
}
