//! Where a growth leads: to the limit, along a line or a curve, or to a level below it.

use super::{
    Bend, ForecastGrowth, ForecastPoint, Forecaster, HORIZON, KEPT, NEAR, Outlook, REACH,
    REACH_OF_ENTRIES, Trend, as_count, as_f64, trend,
};
use crate::pressure::trend::TrendPoint;

/// Samples that the bend of a growth is taken from.
const HALVED: usize = 30;

impl Forecaster {
    /// What is ahead of a growth.
    pub(super) fn look_ahead(
        &mut self,
        trend: &Trend,
        growth: &ForecastGrowth,
        limit: f64,
    ) -> Outlook {
        let Some(newest) = self.seen.back().copied() else {
            return Outlook::default();
        };
        let levels_off = |level: f64| Outlook {
            seconds_to_full: None,
            levels_off_at: Some(as_count(level)),
        };
        if newest.entries <= growth.above {
            return Outlook::default();
        }
        if let Some(level) = self.level_by_lifetime(&newest, trend, growth, limit) {
            return levels_off(level);
        }
        let found = self.bend(growth);
        let kept = self.bend.filter(|kept| {
            let age = newest.at - kept.seen;
            newest.entries <= 1.1 * kept.level && age <= (2.0 / kept.speed).max(30.0)
        });
        let bend = found.or(kept.map(|kept| kept.speed)).unwrap_or(0.0);
        // The slope is that of the middle of its window.
        let slope = trend.line.slope * (-bend * trend.seconds / 2.0).exp();
        self.bend = match found {
            Some(speed) => Some(Bend {
                speed,
                level: newest.entries + slope / speed,
                seen: newest.at,
            }),
            None => kept,
        };
        if let Some(growth) = &mut self.growth {
            // A sample that is a little lower doesn't make it a wave again.
            growth.above = 0.0;
        }
        let left = limit - newest.entries;
        let seconds = if bend > 0.0 {
            let part = left * bend / slope;
            if part >= 1.0 {
                return levels_off(newest.entries + slope / bend);
            }
            -(1.0 - part).ln() / bend
        } else {
            left / slope
        };
        let held = newest.at - growth.since;
        let times = if trend.flow.is_some() {
            REACH
        } else {
            REACH_OF_ENTRIES
        };
        let reach = (times * held).max(NEAR) * if self.told { 1.5 } else { 1.0 };
        Outlook {
            seconds_to_full: (seconds <= reach.min(HORIZON)).then_some(seconds.max(0.0)),
            levels_off_at: None,
        }
    }

    /// Where it would be in balance again if the new entries lived as long as those before; `None`
    /// if that is beyond the limit, not known, or refuted.
    fn level_by_lifetime(
        &self,
        newest: &ForecastPoint,
        trend: &Trend,
        growth: &ForecastGrowth,
        limit: f64,
    ) -> Option<f64> {
        let lifetime = self.lifetime?;
        trend.flow?;
        // Of the last seconds: a longer window may have begun before the growth.
        let (first, last) = (self.newest(6).next()?, self.newest(6).next_back()?);
        let came = last.flow?.0 - first.flow?.0;
        let level = came / (last.at - first.at) * lifetime;
        let outlived = newest.at - growth.since > 1.2 * lifetime + 10.0;
        let refuted = outlived || newest.entries > 1.1 * level;
        (level < 0.95 * limit && !refuted).then_some(level)
    }

    /// How fast the growth bends towards a level, if it is sure that it does: the part of the
    /// remaining way that it goes each second.
    fn bend(&self, growth: &ForecastGrowth) -> Option<f64> {
        let deletes = self.response_of_deletes(growth);
        let level = self.bend_of_level(growth);
        [deletes, level].into_iter().flatten().reduce(f64::max)
    }

    /// How fast the deletes a second grow with the entries.
    fn response_of_deletes(&self, growth: &ForecastGrowth) -> Option<f64> {
        let samples: Vec<&ForecastPoint> = self
            .newest(KEPT)
            .filter(|seen| seen.at >= growth.since)
            .collect();
        let points: Vec<TrendPoint> = samples
            .windows(2)
            .filter_map(|pair| {
                let (before, after) = pair[0].flow.zip(pair[1].flow)?;
                let seconds = pair[1].at - pair[0].at;
                let entries = f64::midpoint(pair[0].entries, pair[1].entries);
                (seconds > 0.0 && after.1 >= before.1)
                    .then(|| (entries, (after.1 - before.1) / seconds))
            })
            .collect();
        trend::response(&points)
    }

    /// How fast the slope falls, from one half of the growth to the other.
    fn bend_of_level(&self, growth: &ForecastGrowth) -> Option<f64> {
        let (mut points, flow) = self.levels(HALVED);
        points.retain(|(at, _)| *at >= growth.since);
        if points.len() < 16 {
            return None;
        }
        let (one, other) = points.split_at(points.len() / 2);
        let (before, after) = (trend::line(one)?, trend::line(other)?);
        let seconds = (other.last()?.0 - one.first()?.0) / 2.0;
        let accidents = flow.map_or(0.0, |(came, left)| (came + left).sqrt() / seconds);
        // Few points may lie on a line by chance: the scatter of all of them counts for both.
        let chance = trend::line(&points)?.scatter * (48.0 / as_f64(points.len() as u64)).sqrt();
        let error = before
            .error
            .hypot(after.error)
            .hypot(accidents)
            .hypot(chance / seconds);
        (before.slope - after.slope > 3.0 * error && before.slope > 0.0)
            .then(|| (before.slope / after.slope.max(0.1 * before.slope)).ln() / seconds)
    }
}
