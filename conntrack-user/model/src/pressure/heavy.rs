//! The heaviest keys of a stream in bounded memory: Space-Saving (Metwally, Agrawal, El Abbadi,
//! 2005), weighted.
//!
//! There are `capacity` counters. A key that has one is counted there. Another takes the counter
//! that has counted least, goes on from its count, and notes that count as its possible error.
//! Then, whatever the stream:
//!
//! * the true count of a counted key is between `count - error` and `count`;
//! * a key without a counter has at most `SpaceSaving::uncounted`, and that is at most total /
//!   capacity; so every key with more than that has a counter.
//!
//! Counts fade: `SpaceSaving::fade` multiplies everything by a factor, and all of the above holds
//! of the faded counts. With a factor of exp(-t / tau) for a time t the counts are those of about
//! the last tau seconds. That takes half the memory of two windows in turn, and the top doesn't
//! go empty when they change.
//!
//! A stream may be sampled, and how much of it was not seen be known: `SpaceSaving::spread` adds that to the keys in proportion to
//! what came of them lately, and all of it to their possible error, since it may have been others. Then the true count still
//! is at least `count - error`; that of any key is at most `SpaceSaving::spread_out` above what is said above.
//!
//! The counters that have counted least are found by a heap, keys by an open-addressed index of
//! slots: an update takes O(log capacity), and mostly less: the heavy keys are far from the heap's
//! top and move little.

use std::hash::{BuildHasher, Hash, RandomState};

/// Slots have 16 bits, and one number of them means "none".
const MOST: usize = 1 << 15;
const NONE: u16 = u16::MAX;

/// A key with what was counted of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Counted<K> {
    /// The key that was counted.
    pub key: K,
    /// Its true count is at most this,
    pub(crate) count: f64,
    /// and at least this much less.
    pub(crate) error: f64,
}

impl<K> Counted<K> {
    /// The true count is at least this.
    pub fn at_least(&self) -> f64 {
        (self.count - self.error).max(0.0)
    }
}

#[derive(Clone, Debug)]
struct HeavyCounter<K> {
    counted: Counted<K>,
    hash: u32,
    /// Where in the heap it is.
    place: u16,
    /// What came of it since the last turn, and in the turn before: not more exact than what is made of it.
    lately: [f32; 2],
}

/// The heaviest keys of a stream: see the [module](self).
#[derive(Clone, Debug)]
pub struct SpaceSaving<K, S = RandomState> {
    capacity: usize,
    counters: Vec<HeavyCounter<K>>,
    /// Slots of counters, the least count first.
    heap: Vec<u16>,
    /// Slots by hash, linear probing; a power of two, at most half full.
    index: Vec<u16>,
    total: f64,
    /// As `HeavyCounter::lately`, of all keys.
    lately: [f64; 2],
    /// What was spread, faded.
    spread: f64,
    hasher: S,
}

impl<K: Copy + Eq + Hash> SpaceSaving<K> {
    /// With `capacity` counters at most (1 to 32,768). Memory is taken as keys come.
    pub fn new(capacity: usize) -> Self {
        Self::with_hasher(capacity, RandomState::new())
    }
}

impl<K: Copy + Eq + Hash, S: BuildHasher> SpaceSaving<K, S> {
    /// As [`SpaceSaving::new`], with a hasher that may be shared. Keys that strangers choose want a
    /// keyed one.
    pub(crate) fn with_hasher(capacity: usize, hasher: S) -> Self {
        Self {
            capacity: capacity.clamp(1, MOST),
            counters: Vec::new(),
            heap: Vec::new(),
            index: Vec::new(),
            total: 0.0,
            lately: [0.0; 2],
            spread: 0.0,
            hasher,
        }
    }

    /// Counts `weight` more of `key`. A weight that is not above 0 (or no number) is ignored.
    pub fn add(&mut self, key: K, weight: f64) {
        if weight.is_nan() || weight <= 0.0 {
            return;
        }
        self.total += weight;
        self.lately[0] += weight;
        let hash = self.hash(&key);
        if let Some(slot) = self.find(&key, hash) {
            let counter = &mut self.counters[usize::from(slot)];
            counter.counted.count += weight;
            counter.lately[0] += short(weight);
            let place = counter.place;
            self.sift_down(usize::from(place));
        } else if self.counters.len() < self.capacity {
            let counted = Counted {
                key,
                count: weight,
                error: 0.0,
            };
            self.push(counted, hash, weight);
        } else {
            let before = self.uncounted();
            let least = self.heap[0];
            self.unindex(least);
            let counter = &mut self.counters[usize::from(least)];
            counter.hash = hash;
            counter.counted = Counted {
                key,
                count: before + weight,
                error: before,
            };
            counter.lately = [short(weight), 0.0];
            self.enter(least);
            self.sift_down(0);
        }
    }

    /// Counts what was not seen of the stream: `factor` times what came lately, of each key its part.
    pub(crate) fn spread(&mut self, factor: f64) {
        if factor.is_nan() || factor <= 0.0 {
            return;
        }
        for counter in &mut self.counters {
            let [new, before] = counter.lately.map(f64::from);
            let more = factor * (new + before);
            counter.counted.count += more;
            counter.counted.error += more;
        }
        let more = factor * self.lately();
        self.total += more;
        self.spread += more;
        for place in (0..self.heap.len() / 2).rev() {
            self.sift_down(place);
        }
    }

    /// What came in this turn and in the one before.
    pub(crate) const fn lately(&self) -> f64 {
        self.lately[0] + self.lately[1]
    }

    /// What came since the last turn.
    pub(crate) const fn newly(&self) -> f64 {
        self.lately[0]
    }

    /// Begins a turn.
    pub(crate) fn turn(&mut self) {
        for counter in &mut self.counters {
            counter.lately = [0.0, counter.lately[0]];
        }
        self.lately = [0.0, self.lately[0]];
    }

    /// What was spread in all, faded: of a single key it may all have been.
    pub(crate) const fn spread_out(&self) -> f64 {
        self.spread
    }

    /// Everything counted, since it began, faded.
    pub const fn total(&self) -> f64 {
        self.total
    }

    /// Counters that are taken.
    pub(crate) const fn len(&self) -> usize {
        self.counters.len()
    }

    /// The most that a key without a counter can have.
    pub(crate) fn uncounted(&self) -> f64 {
        if self.counters.len() < self.capacity {
            0.0
        } else {
            self.count_at(0)
        }
    }

    /// Multiplies all counts, errors and the total by `factor`, 0 to 1.
    pub(crate) fn fade(&mut self, factor: f64) {
        // The order stays: no counter moves in the heap.
        for counter in &mut self.counters {
            counter.counted.count *= factor;
            counter.counted.error *= factor;
        }
        self.total *= factor;
        self.spread *= factor;
    }

    /// The `count` heaviest, heaviest first; equals by key.
    pub fn top(&self, count: usize) -> Vec<Counted<K>>
    where
        K: Ord,
    {
        let mut all: Vec<_> = self.counters.iter().map(|one| one.counted).collect();
        all.sort_unstable_by(|one, other| {
            other
                .count
                .total_cmp(&one.count)
                .then(one.key.cmp(&other.key))
        });
        all.truncate(count);
        all
    }

    /// Bytes that it takes on the heap.
    pub const fn bytes(&self) -> usize {
        self.counters.capacity() * size_of::<HeavyCounter<K>>()
            + (self.heap.capacity() + self.index.capacity()) * size_of::<u16>()
    }

    #[expect(clippy::cast_possible_truncation, reason = "32 bits are enough")]
    fn hash(&self, key: &K) -> u32 {
        self.hasher.hash_one(key) as u32
    }

    /// The next place of the index to look at.
    fn after(&self, place: usize) -> usize {
        (place + 1) & (self.index.len() - 1)
    }

    fn home(&self, hash: u32) -> usize {
        hash as usize & (self.index.len() - 1)
    }

    fn find(&self, key: &K, hash: u32) -> Option<u16> {
        if self.index.is_empty() {
            return None;
        }
        let mut place = self.home(hash);
        loop {
            let slot = self.index[place];
            if slot == NONE {
                return None;
            }
            let counter = &self.counters[usize::from(slot)];
            if counter.hash == hash && counter.counted.key == *key {
                return Some(slot);
            }
            place = self.after(place);
        }
    }

    /// A further counter.
    fn push(&mut self, counted: Counted<K>, hash: u32, weight: f64) {
        let length = self.counters.len();
        if length == self.counters.capacity() {
            self.grow();
        }
        // Below `MOST`: `capacity` is.
        let slot = u16::try_from(length).unwrap_or(NONE);
        self.counters.push(HeavyCounter {
            counted,
            hash,
            place: slot,
            lately: [short(weight), 0.0],
        });
        self.heap.push(slot);
        self.enter(slot);
        self.sift_up(length);
    }

    /// Twice as many counters, and an index to match.
    fn grow(&mut self) {
        let length = self.counters.len();
        let room = (length * 2).clamp(4, self.capacity.max(4)) - length;
        self.counters.reserve_exact(room);
        self.heap.reserve_exact(room);
        let index = (self.counters.capacity() * 2).next_power_of_two();
        self.index.clear();
        self.index.reserve_exact(index);
        self.index.resize(index, NONE);
        for slot in 0..length {
            self.enter(u16::try_from(slot).unwrap_or(NONE));
        }
    }

    /// Writes a counter into the index.
    fn enter(&mut self, slot: u16) {
        let mut place = self.home(self.counters[usize::from(slot)].hash);
        while self.index[place] != NONE {
            place = self.after(place);
        }
        self.index[place] = slot;
    }

    /// Takes a counter out of the index, and closes the gap.
    fn unindex(&mut self, slot: u16) {
        let mut gap = self.home(self.counters[usize::from(slot)].hash);
        while self.index[gap] != slot {
            gap = self.after(gap);
        }
        let mask = self.index.len() - 1;
        let mut place = gap;
        loop {
            place = self.after(place);
            let moved = self.index[place];
            if moved == NONE {
                break;
            }
            let home = self.home(self.counters[usize::from(moved)].hash);
            // It may move back unless its home lies behind the gap.
            if (place.wrapping_sub(home) & mask) >= (place.wrapping_sub(gap) & mask) {
                self.index[gap] = moved;
                gap = place;
            }
        }
        self.index[gap] = NONE;
    }

    fn count_at(&self, place: usize) -> f64 {
        self.counters[usize::from(self.heap[place])].counted.count
    }

    fn put(&mut self, place: usize, slot: u16) {
        self.heap[place] = slot;
        self.counters[usize::from(slot)].place = u16::try_from(place).unwrap_or(NONE);
    }

    fn sift_down(&mut self, mut place: usize) {
        let slot = self.heap[place];
        let count = self.counters[usize::from(slot)].counted.count;
        loop {
            let mut child = 2 * place + 1;
            if child >= self.heap.len() {
                break;
            }
            if child + 1 < self.heap.len() && self.count_at(child + 1) < self.count_at(child) {
                child += 1;
            }
            if self.count_at(child) >= count {
                break;
            }
            self.put(place, self.heap[child]);
            place = child;
        }
        self.put(place, slot);
    }

    fn sift_up(&mut self, mut place: usize) {
        let slot = self.heap[place];
        let count = self.counters[usize::from(slot)].counted.count;
        while place > 0 {
            let parent = (place - 1) / 2;
            if self.count_at(parent) <= count {
                break;
            }
            self.put(place, self.heap[parent]);
            place = parent;
        }
        self.put(place, slot);
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "what came in two turns, to seven digits"
)]
const fn short(weight: f64) -> f32 {
    weight as f32
}

#[cfg(test)]
mod tests;
