//! How close a table is to losing packets, and how long until then: pure functions of samples.

use std::{collections::VecDeque, time::Duration};

use serde::Serialize;

/// How long the table counts as full after the last drop.
pub const AFTER_DROP: Duration = Duration::from_secs(10);
/// How far occupancy has to fall below the threshold of a state to leave it, per cent.
const HYSTERESIS: u64 = 5;
/// Samples that the slope is taken from.
const WINDOW: usize = 15;
/// Fewer samples make no slope.
const ENOUGH: usize = 4;
/// A forecast beyond this is none.
const HORIZON: Duration = Duration::from_hours(24);
/// A drop says "table full" only if the table was at least this full, per cent: the kernel's
/// statistic also counts packets lost to a clash of tuples.
const DROPS_COUNT_FROM: u64 = 50;

/// The state of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pressure {
    /// Below half.
    #[default]
    Calm,
    /// From 50 % on.
    Rising,
    /// From 75 % on.
    High,
    /// From 95 % on, or packets were dropped in the last ten seconds.
    Full,
}

impl Pressure {
    /// All states, lowest first.
    pub const ALL: [Self; 4] = [Self::Calm, Self::Rising, Self::High, Self::Full];

    /// The name used in metrics and output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::Rising => "rising",
            Self::High => "high",
            Self::Full => "full",
        }
    }

    /// The occupancy from which on a table is in this state, per cent.
    const fn threshold(self) -> u64 {
        match self {
            Self::Calm => 0,
            Self::Rising => 50,
            Self::High => 75,
            Self::Full => 95,
        }
    }

    /// The next state by occupancy alone.
    fn next(self, entries: u64, limit: u64) -> Self {
        let above = |per_cent| entries.saturating_mul(100) >= limit.saturating_mul(per_cent);
        let mut next = Self::Calm;
        for state in Self::ALL {
            let leave = if state <= self { HYSTERESIS } else { 0 };
            if above(state.threshold().saturating_sub(leave)) {
                next = state;
            }
        }
        next
    }
}

/// What was seen of a table at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Since any fixed time.
    pub at: Duration,
    /// Entries in the table.
    pub entries: u64,
    /// The limit; 0: none.
    pub limit: u64,
    /// Packets dropped so far; `None`: not known.
    pub drops: Option<u64>,
}

/// Follows one table.
#[derive(Clone, Debug, Default)]
pub struct Tracker {
    samples: VecDeque<(Duration, u64)>,
    occupancy: Pressure,
    drops: Option<u64>,
    dropped_at: Option<Duration>,
    was_half_full: bool,
    limit: u64,
}

impl Tracker {
    /// Takes one more sample.
    pub fn add(&mut self, sample: Sample) {
        let half_full = sample.limit > 0
            && sample.entries.saturating_mul(100) >= sample.limit.saturating_mul(DROPS_COUNT_FROM);
        if let (Some(before), Some(now)) = (self.drops, sample.drops)
            && now > before
            && (half_full || self.was_half_full)
        {
            self.dropped_at = Some(sample.at);
        }
        self.drops = sample.drops.or(self.drops);
        self.was_half_full = half_full;
        self.limit = sample.limit;
        self.occupancy = if sample.limit == 0 {
            Pressure::Calm
        } else {
            self.occupancy.next(sample.entries, sample.limit)
        };
        if self.samples.len() == WINDOW {
            self.samples.pop_front();
        }
        self.samples.push_back((sample.at, sample.entries));
    }

    /// The state after the last sample.
    pub fn pressure(&self) -> Pressure {
        let now = self.samples.back().map(|(at, _)| *at);
        match (now, self.dropped_at) {
            (Some(now), Some(dropped)) if now.saturating_sub(dropped) < AFTER_DROP => {
                Pressure::Full
            }
            _ => self.occupancy,
        }
    }

    /// Seconds until the limit at the present slope; `None`: not filling, or not within a day.
    pub fn seconds_to_full(&self) -> Option<f64> {
        if self.limit == 0 || self.samples.len() < ENOUGH {
            return None;
        }
        let (_, entries) = self.samples.back()?;
        if *entries >= self.limit {
            return Some(0.0);
        }
        let slope = self.slope()?;
        let seconds = as_f64(self.limit - entries) / slope;
        (slope > 0.0 && seconds <= HORIZON.as_secs_f64()).then_some(seconds)
    }

    /// Entries a second: the median of the slopes between all pairs of samples (Theil-Sen), which
    /// one odd sample, such as a burst of expiries, does not move.
    fn slope(&self) -> Option<f64> {
        let mut slopes = Vec::with_capacity(WINDOW * (WINDOW - 1) / 2);
        for (index, (later, after)) in self.samples.iter().enumerate() {
            for (earlier, before) in self.samples.iter().take(index) {
                let apart = later.saturating_sub(*earlier).as_secs_f64();
                if apart > 0.0 {
                    slopes.push((as_f64(*after) - as_f64(*before)) / apart);
                }
            }
        }
        slopes.sort_unstable_by(f64::total_cmp);
        slopes.get(slopes.len() / 2).copied()
    }
}

#[expect(clippy::cast_precision_loss, reason = "entries are far below 2^53")]
const fn as_f64(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 1000;

    fn sample(second: u64, entries: u64) -> Sample {
        Sample {
            at: Duration::from_secs(second),
            entries,
            limit: LIMIT,
            drops: Some(0),
        }
    }

    fn after(entries: impl IntoIterator<Item = u64>) -> Tracker {
        let mut tracker = Tracker::default();
        for (second, entries) in entries.into_iter().enumerate() {
            tracker.add(sample(second as u64, entries));
        }
        tracker
    }

    #[test]
    fn states_begin_at_their_thresholds() {
        for (entries, state) in [
            (0, Pressure::Calm),
            (499, Pressure::Calm),
            (500, Pressure::Rising),
            (749, Pressure::Rising),
            (750, Pressure::High),
            (949, Pressure::High),
            (950, Pressure::Full),
            (1100, Pressure::Full),
        ] {
            assert_eq!(after([entries]).pressure(), state, "{entries}");
        }
    }

    #[test]
    fn a_state_is_left_only_well_below_its_threshold() {
        for (entries, state) in [
            (900, Pressure::Full),
            (899, Pressure::High),
            (700, Pressure::High),
            (699, Pressure::Rising),
            (450, Pressure::Rising),
            (449, Pressure::Calm),
        ] {
            let mut entries_of = vec![960, 960];
            // Down through the states, each kept as long as it can be.
            if state < Pressure::Full {
                entries_of.extend([800, 760, 705]);
            }
            if state < Pressure::High {
                entries_of.extend([650, 510]);
            }
            let mut tracker = after(entries_of.iter().copied().filter(|seen| *seen >= entries));
            tracker.add(sample(100, entries));
            assert_eq!(tracker.pressure(), state, "{entries}");
        }
    }

    #[test]
    fn a_drop_keeps_it_full_for_ten_seconds() {
        let mut tracker = after([800, 800]);
        tracker.add(Sample {
            drops: Some(3),
            ..sample(2, 800)
        });
        assert_eq!(tracker.pressure(), Pressure::Full);
        tracker.add(Sample {
            drops: Some(3),
            ..sample(11, 800)
        });
        assert_eq!(tracker.pressure(), Pressure::Full);
        tracker.add(Sample {
            drops: Some(3),
            ..sample(12, 800)
        });
        assert_eq!(tracker.pressure(), Pressure::High);
    }

    #[test]
    fn drops_before_the_first_sample_and_clashes_in_an_empty_table_say_nothing() {
        let mut tracker = Tracker::default();
        tracker.add(Sample {
            drops: Some(70),
            ..sample(0, 800)
        });
        assert_eq!(tracker.pressure(), Pressure::High);

        let mut tracker = after([10]);
        tracker.add(Sample {
            drops: Some(1),
            ..sample(1, 10)
        });
        assert_eq!(tracker.pressure(), Pressure::Calm);
    }

    #[test]
    fn no_limit_is_calm_and_never_full() {
        let mut tracker = Tracker::default();
        for second in 0..20 {
            tracker.add(Sample {
                limit: 0,
                ..sample(second, second * 1000)
            });
        }
        assert_eq!(
            (tracker.pressure(), tracker.seconds_to_full()),
            (Pressure::Calm, None)
        );
    }

    #[test]
    fn a_steady_rise_is_forecast() {
        let tracker = after((0..10).map(|second| second * 50));
        let seconds = tracker.seconds_to_full().expect("filling");
        assert!((seconds - 11.0).abs() < 1e-9, "{seconds}");
    }

    #[test]
    fn one_odd_sample_does_not_move_the_forecast() {
        let tracker = after([0, 20, 40, 60, 400, 100, 120, 140, 160]);
        let seconds = tracker.seconds_to_full().expect("filling");
        assert!((seconds - 42.0).abs() < 1.0, "{seconds}");
    }

    #[test]
    fn no_forecast_without_a_rise() {
        assert_eq!(after([5, 5, 5, 5, 5]).seconds_to_full(), None);
        assert_eq!(after([50, 40, 30, 20]).seconds_to_full(), None);
        assert_eq!(after([1, 500]).seconds_to_full(), None, "too few samples");
        assert_eq!(after([900, 950, 1000, 1000]).seconds_to_full(), Some(0.0));
    }
}
