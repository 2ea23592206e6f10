//! The slope of a table's level: over which window, how sure, and whether it is a rise.

use super::{BALANCE, ForecastPoint, Forecaster};
use crate::pressure::trend::{self, TrendLine, TrendPoint};

/// Fewer samples make no slope.
const ENOUGH: usize = 5;
/// Windows of the slope, in samples.
const WINDOWS: [usize; 4] = [10, 20, 40, 61];
/// At least this sure of a slope to begin, in standard errors; half of it to go on.
const SURE: f64 = 4.0;

/// The slope now, and what was counted in its window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trend {
    pub(super) line: TrendLine,
    pub(super) seconds: f64,
    pub(super) thirds: (f64, f64),
    pub(super) flow: Option<(f64, f64)>,
}

impl Trend {
    /// Whether it rises, at this part of what it takes to begin.
    pub(super) fn rises(&self, part: f64) -> bool {
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
    pub(super) fn spread(&self, part: f64) -> bool {
        let (one, other) = self.thirds;
        one.min(other) >= 0.6 * part * one.max(other) - (1.0 - part) * self.line.scatter
    }
}

impl Forecaster {
    /// The newest `count` samples that belong to the present slope.
    pub(super) fn newest(
        &self,
        count: usize,
    ) -> impl DoubleEndedIterator<Item = &ForecastPoint> + Clone {
        let fresh = self.fresh;
        self.seen
            .iter()
            .skip(self.seen.len().saturating_sub(count))
            .filter(move |seen| seen.at >= fresh)
    }

    /// Levels of the newest samples, and what came and left in that time if it can be trusted.
    pub(super) fn levels(&self, count: usize) -> (Vec<TrendPoint>, Option<(f64, f64)>) {
        let entries: Vec<TrendPoint> = self
            .newest(count)
            .map(|seen| (seen.at, seen.entries))
            .collect();
        let exact: Option<Vec<TrendPoint>> = self
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
        let rise = |(one, other): (f64, f64)| f64::midpoint(one, other);
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

    pub(super) fn trend_of(&self, count: usize) -> Option<Trend> {
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
    pub(super) fn trend(&self) -> Option<Trend> {
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

    /// Whether the last three seconds brought less than a third of what the slope says.
    pub(super) fn stalled(&self, trend: &Trend) -> bool {
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
