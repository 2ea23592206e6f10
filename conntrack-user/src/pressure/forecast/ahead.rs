//! Where a growth leads: to the limit, along a line or a curve, or to a level below it.

use super::{
    Forecaster, Growth, HORIZON, NEAR, Outlook, Point, REACH, Seen, Trend, as_count, trend,
};

/// Samples that the bend of a growth is taken from.
const BEND: usize = 30;

impl Forecaster {
    /// What is ahead of a growth.
    pub(super) fn look_ahead(&mut self, trend: &Trend, growth: &Growth, limit: f64) -> Outlook {
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
        if let Some(growth) = &mut self.growth {
            // A sample a little lower makes it no wave again.
            growth.above = 0.0;
        }
        if let Some(level) = self.level_by_lifetime(&newest, trend, growth, limit) {
            return levels_off(level);
        }
        let bend = self.bend(growth);
        // The slope is that of the middle of its window.
        let slope = trend.line.slope * (-bend * trend.seconds / 2.0).exp();
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
        let reach = (REACH * held).max(NEAR) * if self.told { 1.5 } else { 1.0 };
        Outlook {
            seconds_to_full: (seconds <= reach.min(HORIZON)).then_some(seconds.max(0.0)),
            levels_off_at: None,
        }
    }

    /// Where it would be in balance again if the new entries lived as long as those before; `None`
    /// if that is beyond the limit, not known, or refuted.
    fn level_by_lifetime(
        &self,
        newest: &Seen,
        trend: &Trend,
        growth: &Growth,
        limit: f64,
    ) -> Option<f64> {
        let lifetime = self.lifetime?;
        let (came, _) = trend.flow?;
        let level = came / trend.seconds * lifetime;
        let refuted = newest.at - growth.since > 1.2 * lifetime || newest.entries > 1.1 * level;
        (level < 0.95 * limit && !refuted).then_some(level)
    }

    /// How fast the growth bends towards a level: the part of the remaining way that it goes each
    /// second. 0: along a line.
    fn bend(&self, growth: &Growth) -> f64 {
        self.response_of_deletes(growth)
            .unwrap_or(0.0)
            .max(self.bend_of_level(growth).unwrap_or(0.0))
    }

    /// How fast the deletes a second grow with the entries.
    fn response_of_deletes(&self, growth: &Growth) -> Option<f64> {
        let samples: Vec<&Seen> = self
            .newest(BEND)
            .filter(|seen| seen.at >= growth.since)
            .collect();
        let points: Vec<Point> = samples
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
    fn bend_of_level(&self, growth: &Growth) -> Option<f64> {
        let (mut points, flow) = self.levels(BEND);
        points.retain(|(at, _)| *at >= growth.since);
        if points.len() < 12 {
            return None;
        }
        let (one, other) = points.split_at(points.len() / 2);
        let (before, after) = (trend::line(one)?, trend::line(other)?);
        let seconds = (other.last()?.0 - one.first()?.0) / 2.0;
        let accidents = flow.map_or(0.0, |(came, left)| (came + left).sqrt() / seconds);
        let error = before.error.hypot(after.error).hypot(accidents);
        (before.slope - after.slope > 3.0 * error && before.slope > 0.0)
            .then(|| (before.slope / after.slope.max(0.1 * before.slope)).ln() / seconds)
    }
}
