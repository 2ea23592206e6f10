//! When a table will be full.
//!
//! # Method
//!
//! 1. **Level.** What is followed is inserts less deletes where both are counted for this table
//!    (exact), if they agree with the entries; else the entries. A sample a second, a minute of them.
//! 2. **Slope.** Theil-Sen over the last 10 samples, or the last 20, 40, 60 as long as these agree
//!    with the shorter ones: a new slope is found in seconds, an old slow one in spite of noise.
//! 3. **Growing or not.** It begins when in two samples running the slope is four standard errors
//!    above 0 (noise around the line, what wanders, and the accidents of counting arrivals), the rise
//!    is spread over the window (a burst is not), and inserts and deletes are out of balance by three
//!    standard deviations and 2 %. It ends when, three samples running (more, the longer it has grown), less
//!    than half of that holds; or at once when the last three seconds brought less than a third of what the slope
//!    says, or a quarter of the rise is gone again (a wave of expiries). Then all begins anew.
//! 4. **Levelling off.** If deletes grow with the entries, or the slope falls, the level approaches
//!    `level + slope / h`, where h is how fast the deletes grow with the entries (or the slope
//!    falls). If that is below the limit there is no forecast but `Outlook::levels_off_at`; else
//!    the forecast is along that curve. And if the table was in balance before, its entries had a
//!    mean lifetime W (see [`super::lifetime`]): when the new insert rate x W is below the limit, the
//!    growth may well end there, and for W it is not told (unless the level is beyond it).
//! 5. **Waves.** If the level was higher in the two minutes before it began to grow, and below 90 %
//!    of the limit, it was a wave. This one has to be higher by a fifth before it is told.
//! 6. **Reach.** A forecast beyond two minutes needs a tenth of its time as evidence: for an hour,
//!    six minutes of growth (a third, when only the entries are known). None is
//!    beyond a day.
//!
//! What can't be known: entries with a time-out that come into an empty table grow along a straight
//! line until the first ones expire. Until then a forecast says what happens if it goes on.
//!
//! # Accuracy
//!
//! Errors as part of the time that is left, median / nine in ten / worst; the tests print and check them:
//!
//! | series | with rates | entries only |
//! |---|---|---|
//! | linear, noise of 10 per mille of the limit, first 5 s told, 15 seeds | told after 9 s, 13 s at most; 1 / 3 / 6 % | 10 s, 16 s; 6 / 12 / 22 % |
//! | linear, exact, to the end | 3 / 5 / 10 % | the same |
//! | recorded flood, limit reached after 25 s, 50 s | 8 / 13 / 15 %, 5 / 10 / 16 % | the same |
//! | bends, but reaches the limit | 8 / 21 / 44 % | |
//! | a leak of 4 % under churn | told after 160 s; 9 / 33 / 94 % | |
//! | bends to half or three quarters of the limit | never told; the level within 3 % | told for up to 45 s of 400 |
//! | in balance, 13 % below the limit | never told | told for 0.3 % of the time |
//! | waves, bursts, time-outs in an empty table | once, the first time | once |
//!
//! No series makes it come and go more often than a few times.

use std::{collections::VecDeque, time::Duration};

use serde::Serialize;

use super::{as_count, as_f64, state::PressureSample, trend};
use slope::Trend;

/// Samples that are kept.
const KEPT: usize = 62;
/// Samples closer than this to the one before replace the newest.
const SPACING: f64 = 0.95;
/// Inserts and deletes balance if they are this near, as part of the inserts.
const BALANCE: f64 = 0.02;
/// A higher level this long ago makes the present growth a wave, in seconds.
const WAVES: f64 = 120.0;
/// A forecast within this needs no more evidence, in seconds.
const NEAR: f64 = 120.0;
/// A forecast further out is told up to this many times of the time that it has been growing.
const REACH: f64 = 10.0;
/// As [`REACH`], when only the entries are known.
const REACH_OF_ENTRIES: f64 = 3.0;
/// A forecast beyond this is none, in seconds.
const HORIZON: f64 = 24.0 * 3600.0;

/// It counts as full for at least as long after it was at the limit.
const STAYS_FULL: Duration = Duration::from_secs(10);

/// What is ahead of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
pub struct Outlook {
    /// Seconds until it is full, 0: it is; `None`: it is not filling, or will not be full.
    pub seconds_to_full: Option<f64>,
    /// It grows, but is expected to stop at about this many entries, below the limit.
    levels_off_at: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct ForecastPoint {
    at: f64,
    entries: f64,
    flow: Option<(f64, f64)>,
}

/// A growth that is going on.
#[derive(Clone, Copy, Debug)]
struct ForecastGrowth {
    since: f64,
    /// Entries have to be above this.
    above: f64,
    from: f64,
    top: f64,
}

/// How fast a growth bends, the level that it bends to, and when that was sure last.
#[derive(Clone, Copy, Debug)]
struct Bend {
    speed: f64,
    level: f64,
    seen: f64,
}

/// Follows one table, to tell when it is full.
#[derive(Clone, Debug, Default)]
pub struct Forecaster {
    seen: VecDeque<ForecastPoint>,
    /// Samples before this belong to another slope.
    fresh: f64,
    growth: Option<ForecastGrowth>,
    bend: Option<Bend>,
    /// Samples running that speak for the other state.
    doubts: u64,
    /// Samples running that say that it has stopped or fallen.
    stops: u64,
    /// Highest entries of ten seconds each, and when these began; the newest last.
    peaks: VecDeque<(f64, f64)>,
    /// Mean lifetime when it was last in balance.
    lifetime: Option<f64>,
    /// When it was at the limit last, and at which.
    full: Option<(Duration, u64)>,
    told: bool,
    outlook: Outlook,
}

/// How many samples running may speak against a growth of this age.
fn patience(age: f64) -> u64 {
    (2 + as_count(age / 60.0)).min(8)
}

impl Outlook {
    /// The same, some seconds later.
    fn after(self, seconds: f64) -> Self {
        Self {
            seconds_to_full: self.seconds_to_full.map(|left| (left - seconds).max(0.0)),
            ..self
        }
    }
}

impl Forecaster {
    /// Takes one more sample, and says what is ahead.
    pub fn add(&mut self, sample: &PressureSample) -> Outlook {
        let before = std::mem::take(&mut self.outlook);
        if sample.limit == 0 {
            *self = Self::default();
            return self.outlook;
        }
        let limit = as_f64(sample.limit);
        self.keep(sample);
        self.note_full(sample);
        let trend = self.trend();
        self.follow(trend.as_ref(), limit);
        if self.full.is_some() {
            self.outlook.seconds_to_full = Some(0.0);
        } else if let (Some(trend), Some(growth)) = (trend, self.growth) {
            self.outlook = if self.doubts == 0 {
                self.look_ahead(&trend, &growth, limit)
            } else {
                let passed = self.seen.iter().rev().take(2).map(|seen| seen.at);
                before.after(passed.reduce(|now, then| now - then).unwrap_or_default())
            };
        }
        self.told = self.outlook.seconds_to_full.is_some();
        self.outlook
    }

    /// What [`Self::add`] said last.
    pub(crate) const fn outlook(&self) -> Outlook {
        self.outlook
    }

    /// Full at the limit, and then until it is well below or has another limit.
    fn note_full(&mut self, sample: &PressureSample) {
        let PressureSample {
            at, entries, limit, ..
        } = *sample;
        if entries >= limit {
            self.full = Some((at, limit));
        }
        self.full = self.full.filter(|(reached, of)| {
            let near = entries.saturating_mul(100) >= limit.saturating_mul(95);
            *of == limit && (near || at.saturating_sub(*reached) < STAYS_FULL)
        });
    }

    fn keep(&mut self, sample: &PressureSample) {
        let at = sample.at.as_secs_f64();
        let length = self.seen.len();
        if length >= 2 && self.seen[length - 1].at - self.seen[length - 2].at < SPACING {
            self.seen.pop_back();
        } else if length == KEPT {
            self.seen.pop_front();
        }
        let newest = self.seen.back().map_or(at, |newest| newest.at);
        self.seen.push_back(ForecastPoint {
            at: at.max(newest),
            entries: as_f64(sample.entries),
            flow: sample
                .flow
                .map(|(inserts, deletes)| (as_f64(inserts), as_f64(deletes))),
        });
    }

    /// Whether it grows.
    fn follow(&mut self, trend: Option<&Trend>, limit: f64) {
        let Some(newest) = self.seen.back().copied() else {
            return;
        };
        let mut last: Vec<f64> = self.newest(3).map(|seen| seen.entries).collect();
        let level = trend::median(&mut last);
        let Some(growth) = &mut self.growth else {
            self.begin(trend, limit);
            self.note_peak(newest.at, level);
            return;
        };
        growth.top = growth.top.max(level);
        let ForecastGrowth {
            since, from, top, ..
        } = *growth;
        let scatter = trend.map_or(0.0, |trend| trend.line.scatter);
        let fell = top - level > (0.25 * (top - from)).max(4.0 * scatter);
        let stalled = trend.is_some_and(|trend| self.stalled(trend));
        self.stops = if fell || stalled { self.stops + 1 } else { 0 };
        let goes_on = trend.is_some_and(|trend| trend.rises(0.5));
        self.doubts = if goes_on { 0 } else { self.doubts + 1 };
        if self.stops >= 2 || self.doubts > patience(newest.at - since) {
            self.growth = None;
            if self.stops >= 2 {
                self.fresh = newest.at - if fell { 0.5 } else { 3.5 };
            }
            (self.stops, self.doubts) = (0, 0);
        }
        self.note_peak(newest.at, level);
    }

    fn begin(&mut self, trend: Option<&Trend>, limit: f64) {
        let Some((trend, newest)) = trend.zip(self.seen.back().copied()) else {
            return;
        };
        if !trend.rises(1.0) {
            self.doubts = 0;
            self.note_lifetime(trend);
            return;
        }
        self.doubts += 1;
        if self.doubts < 2 {
            return;
        }
        self.doubts = 0;
        let began = |seen: &&ForecastPoint| newest.at - seen.at <= trend.seconds + 0.5;
        let Some((since, from)) = self
            .newest(KEPT)
            .find(began)
            .map(|seen| (seen.at, seen.entries))
        else {
            return;
        };
        let peak = self
            .peaks
            .iter()
            .filter(|(began, _)| *began < since)
            .map(|(_, highest)| *highest)
            .fold(0.0, f64::max);
        let wave = peak - from;
        let harmless = wave > 0.02 * limit && peak < 0.9 * limit;
        self.growth = Some(ForecastGrowth {
            since,
            above: if harmless { peak + 0.2 * wave } else { 0.0 },
            from,
            top: from,
        });
    }

    fn note_peak(&mut self, at: f64, level: f64) {
        match self.peaks.back_mut() {
            Some((began, highest)) if at - *began < 10.0 => *highest = highest.max(level),
            _ => self.peaks.push_back((at, level)),
        }
        while self
            .peaks
            .front()
            .is_some_and(|(began, _)| at - began > WAVES + 10.0)
        {
            self.peaks.pop_front();
        }
    }

    /// Remembers the mean lifetime while the table is in balance.
    fn note_lifetime(&mut self, trend: &Trend) {
        let Some((came, left)) = trend.flow else {
            return;
        };
        let balance = (came - left).abs() <= (3.0 * (came + left).sqrt()).max(BALANCE * came);
        if came >= 50.0 && balance && trend.seconds >= 8.5 {
            self.lifetime = self
                .seen
                .back()
                .map(|newest| newest.entries * trend.seconds / came);
        }
    }
}

mod ahead;
mod slope;
#[cfg(test)]
mod tests;
