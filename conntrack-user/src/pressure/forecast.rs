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
//!    falls). If that is below the limit there is no forecast but [`Outlook::levels_off_at`]; else
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
//! `cargo test -p conntrack-user pressure::forecast -- --nocapture` prints it for each series.

use std::{collections::VecDeque, time::Duration};

use serde::Serialize;

use super::{
    as_count, as_f64,
    trend::{self, Line, Point},
};

/// Samples that are kept.
const KEPT: usize = 62;
/// Samples closer than this to the one before replace the newest.
const SPACING: f64 = 0.95;
/// Fewer samples make no slope.
const ENOUGH: usize = 5;
/// Windows of the slope, in samples.
const WINDOWS: [usize; 4] = [10, 20, 40, 61];
/// At least this sure of a slope to begin, in standard errors; half of it to go on.
const SURE: f64 = 4.0;
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

/// What was seen of a table at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Since any fixed time.
    pub at: Duration,
    /// Entries in the table.
    pub entries: u64,
    /// The limit; 0: none.
    pub limit: u64,
    /// Inserts and deletes of this table so far; `None`: not counted for this table alone.
    pub flow: Option<(u64, u64)>,
}

/// What is ahead of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Outlook {
    /// Seconds until it is full, 0: it is; `None`: it is not filling, or will not be full.
    pub seconds_to_full: Option<f64>,
    /// It grows, but is expected to stop at about this many entries, below the limit.
    pub levels_off_at: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    at: f64,
    entries: f64,
    flow: Option<(f64, f64)>,
}

/// A growth that is going on.
#[derive(Clone, Copy, Debug)]
struct Growth {
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

/// Follows one table.
#[derive(Clone, Debug, Default)]
pub struct Forecaster {
    seen: VecDeque<Seen>,
    /// Samples before this belong to another slope.
    fresh: f64,
    growth: Option<Growth>,
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

/// The slope now, and what was counted in its window.
#[derive(Clone, Copy, Debug)]
struct Trend {
    line: Line,
    seconds: f64,
    thirds: (f64, f64),
    flow: Option<(f64, f64)>,
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

impl Trend {
    /// Whether it rises, at this part of what it takes to begin.
    fn rises(&self, part: f64) -> bool {
        let accidents = self
            .flow
            .map_or(0.0, |(came, left)| (came + left).sqrt() / self.seconds);
        let balance = self.flow.is_none_or(|(came, left)| {
            came - left > part * (0.75 * SURE * (came + left).sqrt()).max(BALANCE * came)
        });
        let sure = self.line.slope > part * SURE * self.line.error.hypot(0.5 * accidents);
        self.line.slope > 0.0 && balance && sure && self.spread(part)
    }
}

impl Trend {
    /// Whether the rise is spread over the window, at this part of what it takes to begin.
    fn spread(&self, part: f64) -> bool {
        let (one, other) = self.thirds;
        one.min(other) >= 0.6 * part * one.max(other) - (1.0 - part) * self.line.scatter
    }
}

impl Forecaster {
    /// Takes one more sample, and says what is ahead.
    pub fn add(&mut self, sample: &Sample) -> Outlook {
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
    pub const fn outlook(&self) -> Outlook {
        self.outlook
    }

    /// Full at the limit, and then until it is well below or has another limit.
    fn note_full(&mut self, sample: &Sample) {
        let Sample {
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

    fn keep(&mut self, sample: &Sample) {
        let at = sample.at.as_secs_f64();
        let length = self.seen.len();
        if length >= 2 && self.seen[length - 1].at - self.seen[length - 2].at < SPACING {
            self.seen.pop_back();
        } else if length == KEPT {
            self.seen.pop_front();
        }
        let newest = self.seen.back().map_or(at, |newest| newest.at);
        self.seen.push_back(Seen {
            at: at.max(newest),
            entries: as_f64(sample.entries),
            flow: sample
                .flow
                .map(|(inserts, deletes)| (as_f64(inserts), as_f64(deletes))),
        });
    }

    /// The newest `count` samples that belong to the present slope.
    fn newest(&self, count: usize) -> impl DoubleEndedIterator<Item = &Seen> + Clone {
        let fresh = self.fresh;
        self.seen
            .iter()
            .skip(self.seen.len().saturating_sub(count))
            .filter(move |seen| seen.at >= fresh)
    }

    /// Levels of the newest samples, and what came and left in that time if it can be trusted.
    fn levels(&self, count: usize) -> (Vec<Point>, Option<(f64, f64)>) {
        let entries: Vec<Point> = self
            .newest(count)
            .map(|seen| (seen.at, seen.entries))
            .collect();
        let exact: Option<Vec<Point>> = self
            .newest(count)
            .map(|seen| seen.flow.map(|(came, left)| (seen.at, came - left)))
            .collect();
        let ends = self
            .newest(count)
            .next()
            .zip(self.newest(count).next_back());
        let flow = ends.and_then(|(first, last)| {
            let (before, after) = first.flow.zip(last.flow)?;
            Some((after.0 - before.0, after.1 - before.1))
        });
        let (Some(exact), Some((came, left))) = (exact, flow) else {
            return (entries, None);
        };
        if came < 0.0 || left < 0.0 {
            // A counter began anew.
            return (entries, None);
        }
        let rise = |(one, other): (f64, f64)| (one + other) / 2.0;
        let apart = rise(trend::thirds(&entries)) - rise(trend::thirds(&exact));
        let scatter = trend::line(&entries).map_or(0.0, |line| line.scatter);
        if apart.abs()
            > (0.25 * rise(trend::thirds(&exact)).abs())
                .max(2.0 * scatter)
                .max(8.0)
        {
            return (entries, None);
        }
        (exact, Some((came, left)))
    }

    fn trend_of(&self, count: usize) -> Option<Trend> {
        let (points, flow) = self.levels(count);
        if points.len() < ENOUGH {
            return None;
        }
        let seconds = points.last()?.0 - points.first()?.0;
        Some(Trend {
            line: trend::line(&points)?,
            seconds,
            thirds: trend::thirds(&points),
            flow,
        })
    }

    /// The slope over the longest window that agrees with the shorter ones.
    fn trend(&self) -> Option<Trend> {
        let mut best = self.trend_of(WINDOWS[0])?;
        for (shorter, window) in WINDOWS.into_iter().zip(WINDOWS.into_iter().skip(1)) {
            // It has to bring enough that is new.
            if self.newest(window).count() * 4 < shorter * 5 {
                break;
            }
            let Some(longer) = self.trend_of(window) else {
                break;
            };
            let apart = (longer.line.slope - best.line.slope).abs();
            let agrees = apart <= (0.1 * best.line.slope.abs()).max(2.5 * best.line.error);
            if !agrees || (best.rises(0.5) && !longer.spread(1.0)) {
                break;
            }
            best = longer;
        }
        Some(best)
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
        let Growth {
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
        let began = |seen: &&Seen| newest.at - seen.at <= trend.seconds + 0.5;
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
        self.growth = Some(Growth {
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

    /// Whether the last three seconds brought less than a third of what the slope says.
    fn stalled(&self, trend: &Trend) -> bool {
        let (points, flow) = self.levels(4);
        let (Some(first), Some(last)) = (points.first(), points.last()) else {
            return false;
        };
        let expected = trend.line.slope * (last.0 - first.0);
        let accidents = flow.map_or(0.0, |(came, left)| (came + left).sqrt());
        let noise = (1.5 * trend.line.scatter).hypot(accidents);
        points.len() == 4 && last.1 - first.1 < expected / 3.0 && expected > 4.0 * noise
    }
}

mod ahead;
#[cfg(test)]
mod tests;
