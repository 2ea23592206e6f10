//! Series for tests: the same every time, by a seed.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use crate::pressure::{as_count, as_f64};

/// A small generator of random numbers (`SplitMix64`).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.bits() % end
    }

    /// From 0 (not itself) to 1.
    pub fn unit(&mut self) -> f64 {
        (as_f64(self.bits() >> 12) + 0.5) / as_f64(1 << 52)
    }

    /// A number that is exponentially distributed around a mean.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -mean * self.unit().ln()
    }

    /// About normally distributed, deviation 1.
    pub fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }
}

/// How long the entries of a simulation live, in seconds.
#[derive(Clone, Copy, Debug)]
pub enum Life {
    /// All the same, as by a time-out.
    Fixed(f64),
    /// Exponentially distributed with this mean.
    Memoryless(f64),
    /// One or the other, by even chance.
    Either(f64, f64),
    /// They stay until the end of the simulation.
    Forever,
}

impl Life {
    pub fn mean(self) -> f64 {
        match self {
            Self::Fixed(mean) | Self::Memoryless(mean) => mean,
            Self::Either(one, other) => f64::midpoint(one, other),
            Self::Forever => f64::INFINITY,
        }
    }

    fn of_one(self, random: &mut Random) -> f64 {
        match self {
            Self::Fixed(mean) => mean,
            Self::Memoryless(mean) => random.exponential(mean),
            Self::Either(one, other) => {
                if random.below(2) == 0 {
                    one
                } else {
                    other
                }
            }
            Self::Forever => f64::INFINITY,
        }
    }
}

/// What a table looks like at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimulatedSecond {
    pub at: Duration,
    pub entries: u64,
    pub inserts: u64,
    pub deletes: u64,
}

/// A table whose entries arrive at random and live as told.
pub struct Simulation {
    random: Random,
    /// When entries leave, microseconds.
    ends: BinaryHeap<Reverse<u64>>,
    at: f64,
    inserts: u64,
    deletes: u64,
}

impl Simulation {
    pub fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            ends: BinaryHeap::new(),
            at: 0.0,
            inserts: 0,
            deletes: 0,
        }
    }

    /// One sample a second, the first now. `load` tells, for a time in seconds, inserts a second
    /// (held for a twentieth of a second) and how long they live.
    pub fn run(mut self, seconds: u64, load: impl Fn(f64) -> (f64, Life)) -> Vec<SimulatedSecond> {
        let mut seen = vec![self.seen()];
        let mut sample = 0;
        while sample < seconds {
            let step = self.at + 0.05;
            let (rate, life) = load(self.at);
            loop {
                // Never, at a rate of 0.
                let next = self.at + self.random.exponential(1.0 / rate);
                if next >= step {
                    break;
                }
                self.at = next;
                self.inserts += 1;
                let end = next + life.of_one(&mut self.random);
                if end.is_finite() {
                    self.ends.push(Reverse(micros(end)));
                }
            }
            self.at = step;
            if step + 1e-6 >= as_f64(sample + 1) {
                sample += 1;
                self.at = as_f64(sample);
                seen.push(self.seen());
            }
        }
        seen
    }

    fn seen(&mut self) -> SimulatedSecond {
        let now = micros(self.at);
        while self.ends.peek().is_some_and(|Reverse(end)| *end <= now) {
            self.ends.pop();
            self.deletes += 1;
        }
        SimulatedSecond {
            at: Duration::from_micros(now),
            entries: self.inserts - self.deletes,
            inserts: self.inserts,
            deletes: self.deletes,
        }
    }
}

fn micros(seconds: f64) -> u64 {
    as_count(seconds * 1e6)
}
