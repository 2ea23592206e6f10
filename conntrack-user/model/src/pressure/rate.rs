//! Rates over the last second, ten seconds and minute, from counters that only grow.
//!
//! Samples come about once a second, but not exactly, and some not at all. So a rate is what was
//! counted between two samples by the time between them, and the earlier one is that whose age is
//! nearest to the window. When samples were missed the nearest may be older than the window: then
//! the rate is over that longer time.
//!
//! There are thousands of series and they share their times, so the times are kept once, in a
//! [`Timeline`]; a [`Series`] keeps a ring of counts only.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Samples that are kept.
const SLOTS: usize = 64;
/// Samples closer than this to the one before replace the newest, so that the ring covers a minute.
const SPACING: Duration = Duration::from_millis(950);
/// More than this is not counted between two samples: with as many in every slot the sums of a
/// ring still fit 32 bits. No kernel makes 67 million entries a second.
const MOST: u64 = (1 << 32) / SLOTS as u64 - 1;

/// How far back a rate looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Window {
    /// One second, or since the sample before if that is longer.
    Second = 0,
    /// Over the last ten seconds.
    TenSeconds = 1,
    /// Over the last sixty seconds.
    Minute = 2,
}

impl Window {
    /// All windows, shortest first.
    const ALL: [Self; 3] = [Self::Second, Self::TenSeconds, Self::Minute];

    /// How long the window is.
    const fn length(self) -> Duration {
        Duration::from_secs(match self {
            Self::Second => 1,
            Self::TenSeconds => 10,
            Self::Minute => 60,
        })
    }
}

/// Events a second over each window. `None` with the first sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
pub struct Rates {
    /// Over the last second.
    #[serde(rename = "1s")]
    pub second: Option<f64>,
    /// Over the last ten seconds.
    #[serde(rename = "10s")]
    pub ten_seconds: Option<f64>,
    /// Over the last minute.
    #[serde(rename = "60s")]
    pub minute: Option<f64>,
}

/// The sample that a window begins with.
#[derive(Clone, Copy, Debug)]
struct Start {
    sample: u64,
    seconds: f64,
}

/// When the samples were taken; shared by all series.
#[derive(Clone, Debug)]
pub struct Timeline {
    times: [Duration; SLOTS],
    /// Samples so far: the newest is `samples - 1`, in the slot of that number modulo `SLOTS`.
    samples: u64,
    starts: [Option<Start>; 3],
}

impl Default for Timeline {
    fn default() -> Self {
        Self {
            times: [Duration::ZERO; SLOTS],
            samples: 0,
            starts: [None; 3],
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "below 64")]
const fn slot(sample: u64) -> usize {
    (sample % SLOTS as u64) as usize
}

impl Timeline {
    /// A sample is taken at this time (since any fixed time). A time before the newest is taken
    /// for the newest.
    pub fn tick(&mut self, at: Duration) {
        let at = match self.samples.checked_sub(1) {
            Some(newest) => at.max(self.times[slot(newest)]),
            None => at,
        };
        let replaces = self.samples >= 2 && {
            let (newest, before) = (self.samples - 1, self.samples - 2);
            self.times[slot(newest)].saturating_sub(self.times[slot(before)]) < SPACING
        };
        if !replaces {
            self.samples += 1;
        }
        self.times[slot(self.samples - 1)] = at;
        for window in Window::ALL {
            self.starts[window as usize] = self.start(window, at);
        }
    }

    /// When the newest sample was taken.
    pub fn now(&self) -> Duration {
        self.samples
            .checked_sub(1)
            .map_or(Duration::ZERO, |newest| self.times[slot(newest)])
    }

    fn start(&self, window: Window, now: Duration) -> Option<Start> {
        let newest = self.samples - 1;
        let oldest = self.samples.saturating_sub(SLOTS as u64);
        let age = |sample| now.saturating_sub(self.times[slot(sample)]);
        (oldest..newest)
            .rev()
            .filter(|sample| !age(*sample).is_zero())
            .min_by_key(|sample| age(*sample).abs_diff(window.length()))
            .map(|sample| Start {
                sample,
                seconds: age(sample).as_secs_f64(),
            })
    }
}

/// Counters of one owner or table, `N` of them, over the last minute.
#[derive(Clone, Debug)]
pub struct Series<const N: usize> {
    /// Sums modulo 2^32 of what was counted, by slot of the timeline.
    ring: Box<[[u32; N]; SLOTS]>,
    /// As the counters stood.
    last: [u64; N],
    /// As they stood before they fell, until the next sample.
    before_fall: [u64; N],
    /// Samples of the timeline that the ring has.
    samples: u64,
    began: Duration,
}

impl<const N: usize> Series<N> {
    /// Counters whose present values were counted before now: nothing of them is in a rate.
    ///
    /// For an owner that is new, and counted from 0 on, begin with zeros and [`Self::add`] what
    /// there is: then the rate over a minute is the right one although it is younger.
    pub fn new(timeline: &Timeline, counts: [u64; N]) -> Self {
        Self {
            ring: Box::new([[0; N]; SLOTS]),
            last: counts,
            before_fall: counts,
            samples: timeline.samples,
            began: timeline.now(),
        }
    }

    /// When it began, on the timeline.
    pub const fn began(&self) -> Duration {
        self.began
    }

    /// The counters at the newest sample of the timeline. Samples without this call count as ones
    /// in which nothing happened; what did is in the next one.
    ///
    /// A counter that is lower than before began anew: what it shows is where it begins, and adds
    /// nothing. If it is back above where it was in the next sample, the low one was an error of
    /// reading.
    pub fn add(&mut self, timeline: &Timeline, counts: [u64; N]) {
        let mut sums = self.ring[slot(self.samples.saturating_sub(1))];
        let missed = timeline.samples.saturating_sub(self.samples);
        for ago in 1..missed.min(SLOTS as u64) {
            self.ring[slot(timeline.samples - 1 - ago)] = sums;
        }
        self.samples = timeline.samples;
        for (index, now) in counts.into_iter().enumerate() {
            let last = self.last[index];
            let from = if self.before_fall[index] <= now {
                self.before_fall[index].max(last)
            } else {
                last
            };
            let grown = now.saturating_sub(from).min(MOST);
            sums[index] = sums[index].wrapping_add(u32::try_from(grown).unwrap_or(u32::MAX));
            self.before_fall[index] = if now < last { last } else { now };
            self.last[index] = now;
        }
        self.ring[slot(self.samples.saturating_sub(1))] = sums;
    }

    /// What counter `index` counted in a window, and the seconds that it really covers; `None`
    /// with the first sample.
    pub fn grown(&self, timeline: &Timeline, window: Window, index: usize) -> Option<(u64, f64)> {
        let start = timeline.starts[window as usize]?;
        // The timeline may be ahead: nothing was counted since, as far as this series knows.
        let newest = self.ring[slot(self.samples.saturating_sub(1))][index];
        let then = if start.sample + 1 >= self.samples {
            newest
        } else {
            self.ring[slot(start.sample)][index]
        };
        Some((u64::from(newest.wrapping_sub(then)), start.seconds))
    }

    /// Rates of counter `index`.
    pub fn rates(&self, timeline: &Timeline, index: usize) -> Rates {
        let rate = |window| {
            self.grown(timeline, window, index)
                .map(|(grown, seconds)| super::as_f64(grown) / seconds)
        };
        Rates {
            second: rate(Window::Second),
            ten_seconds: rate(Window::TenSeconds),
            minute: rate(Window::Minute),
        }
    }
}

#[cfg(test)]
mod tests;
