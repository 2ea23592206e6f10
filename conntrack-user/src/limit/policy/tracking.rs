//! What the samples of the last minutes say: for how long there has been pressure, how fast the
//! table grows, what its peak was.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use ctpressure_model::{
    cost::Sharing,
    pressure::{
        as_f64,
        lifetime::{Bound, FlowCounts},
    },
};

use super::{FullTables, Observation, Settings, TableLosses, TableSeen};

/// Samples that are kept, at most one a second.
const KEPT: usize = 64;
/// Samples closer than this replace the newest.
const SPACING: Duration = Duration::from_millis(950);
/// After a longer gap, what was before does not count as sustained.
const GAP: Duration = Duration::from_secs(15);
/// Minutes whose peaks are kept.
const PEAKS: usize = 10;
/// Samples running in which the forecast has to say the same.
const FORECASTS: u32 = 3;
/// How long packets count as being lost after the last one was.
const DROPPING: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug)]
struct TrackedSecond {
    at: Duration,
    /// The table that this is about: the fullest of those for which the limit is raised.
    netns: Option<u32>,
    entries: u64,
    losses: Option<TableLosses>,
    /// Of all tables.
    flow: Option<(u64, u64)>,
}

impl TrackedSecond {
    /// What was counted of the table since an earlier second; `None`: that was another table, or there is no count.
    fn since(&self, before: &Self, of: impl Fn(&TableLosses, &TableLosses) -> u64) -> Option<u64> {
        (self.netns == before.netns).then_some(())?;
        Some(of(&self.losses?, &before.losses?))
    }
}

/// Why more room is wanted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum LimitPressure {
    Dropping,
    Sustained(Duration),
    /// It will be full in so many seconds.
    Forecast(f64),
}

/// What is kept of the samples.
#[derive(Clone, Debug, Default)]
pub(super) struct Tracking {
    seen: VecDeque<TrackedSecond>,
    above: Option<Duration>,
    dropped: Option<Duration>,
    forecasts: u32,
    /// The minute, the most entries in it of a table for which the limit is raised, and of any.
    peaks: VecDeque<(u64, u64, u64)>,
    /// Mean lifetime in seconds when the table was in balance last.
    lifetime: Option<f64>,
    /// Since when every table has been at or below the level that calm is about.
    calm: Option<Duration>,
    /// Tables that have held an entry and are still there.
    used: BTreeSet<u32>,
}

impl Tracking {
    /// Takes one more sample; `calm_below`: entries that count as calm.
    pub(super) fn add(&mut self, seen: &Observation, settings: &Settings, calm_below: u64) {
        let at = seen.at;
        let table = seen.fullest_of(settings);
        let entries = table.map_or(0, |table| table.entries);
        // What is given back is taken from all tables.
        let any = seen.fullest().map_or(0, |table| table.entries);
        self.note_used(&seen.tables);
        let second = TrackedSecond {
            at,
            netns: table.map(|table| table.netns),
            entries,
            losses: table.and_then(|table| table.losses),
            flow: seen.flow,
        };
        let share = as_f64(entries) / as_f64(seen.size.limit.max(1));
        let gap = self
            .seen
            .back()
            .is_some_and(|newest| at.saturating_sub(newest.at) > GAP);
        if gap {
            self.above = None;
            self.forecasts = 0;
        }
        let pressed = share >= settings.raise_at;
        self.above = pressed.then(|| self.above.unwrap_or(at));
        let before = self.seen.back();
        let lost = before.and_then(|before| second.since(before, TableLosses::full_since));
        if pressed && lost.is_some_and(|lost| lost > 0) {
            self.dropped = Some(at);
        }
        self.forecasts = match forecast(seen, settings) {
            Some(_) => self.forecasts.saturating_add(1),
            None => 0,
        };
        self.calm = (any <= calm_below).then(|| self.calm.filter(|_| !gap).unwrap_or(at));
        self.note_peak(at, entries, any);
        self.keep(second);
        self.note_lifetime();
    }

    fn note_used(&mut self, tables: &[TableSeen]) {
        let there: BTreeSet<u32> = tables.iter().map(|table| table.netns).collect();
        self.used.retain(|netns| there.contains(netns));
        let holding = tables.iter().filter(|table| table.entries > 0);
        self.used.extend(holding.map(|table| table.netns));
    }

    /// The tables that the ceiling counts.
    pub(super) fn full_tables(&self, seen: &Observation) -> FullTables {
        let entries = |table: &TableSeen| table.entries;
        let in_use = |table: &&TableSeen| table.entries > 0 || self.used.contains(&table.netns);
        FullTables {
            in_use: Sharing::at_most(seen.tables.iter().filter(in_use).map(entries)),
            all: Sharing::at_most(seen.tables.iter().map(entries)),
        }
    }

    fn keep(&mut self, seen: TrackedSecond) {
        let length = self.seen.len();
        if length >= 2
            && self.seen[length - 1]
                .at
                .saturating_sub(self.seen[length - 2].at)
                < SPACING
        {
            self.seen.pop_back();
        } else if length == KEPT {
            self.seen.pop_front();
        }
        self.seen.push_back(seen);
    }

    fn note_peak(&mut self, at: Duration, entries: u64, any: u64) {
        let minute = at.as_secs() / 60;
        match self.peaks.back_mut() {
            Some((last, peak, peak_of_any)) if *last == minute => {
                *peak = entries.max(*peak);
                *peak_of_any = any.max(*peak_of_any);
            }
            _ => self.peaks.push_back((minute, entries, any)),
        }
        let oldest = minute.saturating_sub(PEAKS as u64);
        while self.peaks.front().is_some_and(|(then, ..)| *then < oldest) {
            self.peaks.pop_front();
        }
    }

    fn note_lifetime(&mut self) {
        let (Some(newest), Some(oldest)) = (self.seen.back(), self.seen.front()) else {
            return;
        };
        let (Some(now), Some(then)) = (newest.flow, oldest.flow) else {
            return;
        };
        let watched = newest.at.saturating_sub(oldest.at);
        let flow = FlowCounts {
            live: newest.entries,
            inserts: now.0.saturating_sub(then.0),
            deletes: now.1.saturating_sub(then.1),
            seconds: watched.as_secs_f64(),
            watched,
        };
        if let Some(lifetime) = flow.lifetime()
            && lifetime.is == Bound::About
            && watched >= Duration::from_secs(20)
        {
            self.lifetime = Some(lifetime.seconds);
        }
    }

    /// The pressure that calls for a raise, if there is any.
    pub(super) fn pressure(
        &self,
        seen: &Observation,
        settings: &Settings,
    ) -> Option<LimitPressure> {
        if self.is_dropping(seen.at) && self.above.is_some() {
            return Some(LimitPressure::Dropping);
        }
        let lasted = self.above.map(|since| seen.at.saturating_sub(since));
        if let Some(lasted) = lasted
            && lasted >= settings.raise_for
        {
            return Some(LimitPressure::Sustained(lasted));
        }
        if self.forecasts >= FORECASTS {
            return forecast(seen, settings).map(LimitPressure::Forecast);
        }
        None
    }

    /// Whether packets were lost a moment ago.
    pub(super) fn is_dropping(&self, at: Duration) -> bool {
        self.dropped
            .is_some_and(|dropped| at.saturating_sub(dropped) < DROPPING)
    }

    /// The most entries of the last minutes, of a table for which the limit is raised.
    pub(super) fn peak(&self) -> u64 {
        let peaks = self.peaks.iter().map(|(_, peak, _)| *peak);
        peaks.max().unwrap_or(0)
    }

    /// The most entries of the last minutes, of any table.
    pub(super) fn peak_of_any(&self) -> u64 {
        let peaks = self.peaks.iter().map(|(.., peak)| *peak);
        peaks.max().unwrap_or(0)
    }

    /// For how long it has been calm.
    pub(super) fn calm_for(&self, at: Duration) -> Duration {
        self.calm
            .map_or(Duration::ZERO, |since| at.saturating_sub(since))
    }

    /// The sample of about so long ago, or the oldest, of the same table.
    fn back(&self, time: Duration) -> Option<(&TrackedSecond, &TrackedSecond)> {
        let newest = self.seen.back()?;
        let then = self
            .seen
            .iter()
            .find(|seen| seen.netns == newest.netns && newest.at.saturating_sub(seen.at) <= time)?;
        (then.at < newest.at).then_some((then, newest))
    }

    /// Entries a second that the table grows by: over ten seconds or over a minute, whichever is more.
    fn growth(&self) -> f64 {
        [10, 60]
            .into_iter()
            .filter_map(|seconds| {
                let (then, now) = self.back(Duration::from_secs(seconds))?;
                let grown = as_f64(now.entries) - as_f64(then.entries);
                Some(grown / now.at.saturating_sub(then.at).as_secs_f64())
            })
            .fold(0.0, f64::max)
    }

    /// Events a second over the last ten seconds, of a count that may be missing.
    fn rate(&self, between: impl Fn(&TrackedSecond, &TrackedSecond) -> Option<u64>) -> Option<f64> {
        let (then, now) = self.back(Duration::from_secs(10))?;
        let more = between(then, now)?;
        Some(as_f64(more) / now.at.saturating_sub(then.at).as_secs_f64())
    }

    /// Inserts a second into all tables.
    fn inserts(&self) -> Option<f64> {
        self.rate(|then, now| Some(now.flow?.0.saturating_sub(then.flow?.0)))
    }

    /// Entries a second that the table had no room for: packets that it refused, and entries that it evicted for others.
    fn refused(&self) -> f64 {
        let refused = |now: &TableLosses, then: &TableLosses| {
            now.full_since(then).saturating_add(now.evicted_since(then))
        };
        self.rate(|then, now| now.since(then, refused))
            .unwrap_or(0.0)
    }

    /// Whether this second brings no more inserts than a second of the last minute on average.
    pub(super) fn is_quiet_second(&self) -> bool {
        let mut newest = self.seen.iter().rev();
        let (Some(now), Some(before)) = (newest.next(), newest.next()) else {
            return false;
        };
        let (Some(oldest), Some((last, _)), Some((then, _))) =
            (self.seen.front(), now.flow, before.flow)
        else {
            return true;
        };
        let Some((first, _)) = oldest.flow else {
            return true;
        };
        let rate = |more: u64, from: Duration| {
            as_f64(more) / now.at.saturating_sub(from).as_secs_f64().max(0.001)
        };
        rate(last.saturating_sub(then), before.at)
            <= rate(last.saturating_sub(first), oldest.at) * 1.05
    }

    /// Entries that will be asked for within `horizon`: what is there, and what grows until then, or
    /// is refused now; where the mean lifetime is known, not more than twice what the insert rate
    /// comes to.
    ///
    /// Inserts are those of all tables, since they are not counted by table: what others insert can make that bound wider and
    /// the lifetime shorter, but adds nothing to the demand.
    pub(super) fn demand(&self, horizon: Duration) -> f64 {
        let entries = as_f64(self.seen.back().map_or(0, |seen| seen.entries));
        let horizon = horizon.as_secs_f64();
        let growth = self.growth() * horizon;
        let refused = self.refused();
        let lives = self.lifetime.unwrap_or(horizon).min(horizon);
        let grown = entries + growth + refused * lives;
        match (self.lifetime, self.inserts()) {
            (Some(lifetime), Some(rate)) => {
                let settles = (rate + refused) * lifetime;
                grown.min((2.0 * settles).max(entries))
            }
            _ => grown,
        }
    }
}

/// Seconds until the fullest table for which the limit is raised is full, if that is too soon to wait for sustained
/// pressure.
fn forecast(seen: &Observation, settings: &Settings) -> Option<f64> {
    let lead = settings.raise_for.as_secs_f64() + FORECAST_LEAD.as_secs_f64();
    let table = seen.fullest_of(settings)?;
    let near = settings.raise_at / 2.0 * as_f64(seen.size.limit.max(1));
    let seconds = table.seconds_to_full?;
    (as_f64(table.entries) >= near && seconds <= lead).then_some(seconds)
}

/// A raise takes effect at once, but forecasts are off by some seconds.
const FORECAST_LEAD: Duration = Duration::from_secs(15);
