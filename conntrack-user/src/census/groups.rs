//! Counts by key, for a bounded number of keys.

use std::hash::{BuildHasher as _, Hasher as _};

use hashbrown::{DefaultHashBuilder, HashTable};
use serde::Serialize;

/// Different keys that a grouping counts at most.
pub(crate) const MOST_KEYS: usize = 1 << 16;

/// Entries with something in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Counts {
    pub entries: u64,
    /// Those that `early_drop` may remove: not assured.
    pub evictable: u64,
}

impl Counts {
    /// So many `entries`, which are all evictable or none is.
    pub(crate) const fn of(entries: u64, evictable: bool) -> Self {
        Self {
            entries,
            evictable: if evictable { entries } else { 0 },
        }
    }

    #[inline]
    pub(crate) const fn add(&mut self, more: Self) {
        self.entries += more.entries;
        self.evictable += more.evictable;
    }

    /// What is left of these without `part` of them.
    #[must_use]
    pub(crate) fn without(self, part: Self) -> Self {
        Self {
            entries: self.entries.saturating_sub(part.entries),
            evictable: self.evictable.saturating_sub(part.evictable),
        }
    }
}

/// Whether two keys are the same. Not by `memcmp`, which may go byte by byte (musl).
#[inline]
pub(super) fn same(one: &[u64], other: &[u64]) -> bool {
    let pairs = one.iter().zip(other);
    one.len() == other.len() && pairs.fold(0, |differ, (one, other)| differ | (one ^ other)) == 0
}

#[inline]
pub(super) fn hash(hasher: &DefaultHashBuilder, key: &[u64]) -> u64 {
    let mut hasher = hasher.build_hasher();
    let (pairs, rest) = key.as_chunks();
    for [low, high] in pairs {
        hasher.write_u128(u128::from(*low) | u128::from(*high) << 64);
    }
    for word in rest {
        hasher.write_u64(*word);
    }
    hasher.finish()
}

/// Keys of one width and their counts. Addresses are chosen by strangers, so the hash is a keyed
/// one.
#[derive(Debug)]
pub(super) struct Groups {
    width: usize,
    most: usize,
    /// One key behind the other.
    keys: Vec<u64>,
    counts: Vec<Counts>,
    places: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// Entries of keys that were not counted one by one.
    pub(super) untold: u64,
    /// Those of them since room was made last.
    lately: u64,
    /// By how many entries a count may be too low.
    pub(super) too_low_by: u64,
}

impl Groups {
    /// No keys yet, each of `width` words.
    pub(super) fn new(width: usize) -> Self {
        Self::with_most(width, MOST_KEYS)
    }

    pub(super) fn with_most(width: usize, most: usize) -> Self {
        Self {
            width: width.max(1),
            most,
            keys: Vec::new(),
            counts: Vec::new(),
            places: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            untold: 0,
            lately: 0,
            too_low_by: 0,
        }
    }

    fn key(keys: &[u64], width: usize, place: u32) -> &[u64] {
        let begin = place as usize * width;
        keys.get(begin..begin + width).unwrap_or_default()
    }

    #[inline]
    pub(super) fn add(&mut self, key: &[u64], counts: Counts) {
        let hash = hash(&self.hasher, key);
        let (keys, width) = (&self.keys, self.width);
        let found = self
            .places
            .find(hash, |place| same(Self::key(keys, width, *place), key));
        if let Some(place) = found {
            self.counts[*place as usize].add(counts);
        } else if self.counts.len() < self.most {
            self.insert(hash, key, counts);
        } else {
            self.untold += counts.entries;
            self.lately += counts.entries;
        }
    }

    #[cold]
    fn insert(&mut self, hash: u64, key: &[u64], counts: Counts) {
        // There are no more than `MOST_KEYS`.
        let place = u32::try_from(self.counts.len()).unwrap_or(u32::MAX);
        self.keys.extend_from_slice(key);
        self.counts.push(counts);
        let (keys, width, hasher) = (&self.keys, self.width, &self.hasher);
        self.places.insert_unique(hash, place, |place| {
            self::hash(hasher, Self::key(keys, width, *place))
        });
    }

    /// Lets go of the keys with the fewest entries if more than half of the room is taken: for
    /// another table, whose large keys may come late.
    pub(super) fn make_room(&mut self) {
        let half = self.most / 2;
        if self.counts.len() <= half {
            return;
        }
        let mut order = self.order();
        let let_go = order.split_off(half);
        // One of them, or one that found no room, may come again, and is counted from then on only.
        let largest = let_go
            .first()
            .map_or(0, |place| self.counts[*place as usize].entries);
        let too_low_by = self.too_low_by + largest.max(self.lately);
        let gone: u64 = let_go
            .iter()
            .map(|place| self.counts[*place as usize].entries)
            .sum();
        self.untold += gone;
        let mut kept = Self::with_most(self.width, self.most);
        for place in order {
            let key = Self::key(&self.keys, self.width, place);
            let hash = hash(&kept.hasher, key);
            kept.insert(hash, key, self.counts[place as usize]);
        }
        kept.untold = self.untold;
        kept.too_low_by = too_low_by;
        *self = kept;
    }

    /// Places by counts, the largest first; equal ones by key, so that the order does not change.
    fn order(&self) -> Vec<u32> {
        let mut order: Vec<u32> = (0..).take(self.counts.len()).collect();
        order.sort_unstable_by(|one, other| {
            let key = |place: &u32| Self::key(&self.keys, self.width, *place);
            self.counts[*other as usize]
                .entries
                .cmp(&self.counts[*one as usize].entries)
                .then_with(|| key(one).cmp(key(other)))
        });
        order
    }

    /// The `top` keys with the most entries.
    pub(super) fn top(&self, top: usize) -> Vec<(&[u64], Counts)> {
        let mut order = self.order();
        order.truncate(top);
        order
            .into_iter()
            .map(|place| {
                (
                    Self::key(&self.keys, self.width, place),
                    self.counts[place as usize],
                )
            })
            .collect()
    }

    /// Different keys that are counted.
    pub(super) fn len(&self) -> u64 {
        self.counts.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn room_for_another_table() {
        let mut groups = Groups::with_most(1, 4);
        for key in [1, 1, 1, 2, 2, 3, 4, 5, 5] {
            groups.add(&[key], Counts::of(1, true));
        }
        assert_eq!((groups.len(), groups.untold), (4, 2));
        groups.make_room();
        assert_eq!((groups.len(), groups.untold, groups.too_low_by), (2, 4, 2));
        for key in [5, 5, 5, 5, 3] {
            groups.add(&[key], Counts::of(1, false));
        }
        let top = groups.top(2);
        assert_eq!(
            top[0],
            (
                &[5][..],
                Counts {
                    entries: 4,
                    evictable: 0
                }
            )
        );
        assert_eq!(
            top[1],
            (
                &[1][..],
                Counts {
                    entries: 3,
                    evictable: 3
                }
            )
        );
    }

    proptest! {
        #[test]
        fn counts_are_exact_and_nothing_is_lost(
            keys in proptest::collection::vec((0..40_u64, any::<bool>()), 0..400),
            most in 1..64_usize,
        ) {
            let mut groups = Groups::with_most(2, most);
            let mut exact: HashMap<[u64; 2], Counts> = HashMap::new();
            for (key, evictable) in &keys {
                let key = [*key, 7];
                groups.add(&key, Counts::of(1, *evictable));
                exact.entry(key).or_default().add(Counts::of(1, *evictable));
            }
            let top = groups.top(usize::MAX);
            let sum: u64 = top.iter().map(|(_, counts)| counts.entries).sum();
            prop_assert_eq!(sum + groups.untold, keys.len() as u64);
            prop_assert_eq!(top.len(), exact.len().min(most));
            prop_assert!(top.windows(2).all(|two| two[0].1.entries >= two[1].1.entries));
            for (key, counts) in &top {
                prop_assert_eq!(*counts, exact[*key]);
            }
            let largest = exact.iter().filter(|(key, _)| !top.iter().any(|(told, _)| told == *key));
            for (_, counts) in largest {
                prop_assert!(counts.entries <= groups.untold);
            }
        }

        #[test]
        fn after_making_room_counts_are_too_low_by_no_more_than_said(
            tables in proptest::collection::vec(
                proptest::collection::vec(0..40_u64, 0..100), 1..5),
            most in 2..32_usize,
        ) {
            let mut groups = Groups::with_most(1, most);
            let mut exact: HashMap<u64, u64> = HashMap::new();
            for table in &tables {
                groups.make_room();
                for key in table {
                    groups.add(&[*key], Counts::of(1, false));
                    *exact.entry(*key).or_default() += 1;
                }
            }
            let all: u64 = exact.values().sum();
            let top = groups.top(usize::MAX);
            let sum: u64 = top.iter().map(|(_, counts)| counts.entries).sum();
            prop_assert_eq!(sum + groups.untold, all);
            for (key, counts) in &top {
                let missing = exact[&key[0]] - counts.entries;
                prop_assert!(missing <= groups.too_low_by);
                prop_assert!(missing <= groups.untold);
            }
        }
    }
}
