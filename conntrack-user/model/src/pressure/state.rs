//! How close a table is to losing packets.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long the table counts as full after the last drop.
const AFTER_DROP: Duration = Duration::from_secs(10);
/// How far occupancy has to fall below the threshold of a state to leave it, per cent.
const HYSTERESIS: u64 = 5;
/// A mixed statistic says "table full" only if the table was at least this full, per cent: it
/// also counts packets lost to a clash of tuples.
const DROPS_COUNT_FROM: u64 = 50;
/// Counts that are read one after the other may show the same packet in two samples.
const TOGETHER: Duration = Duration::from_millis(2500);

/// The state of a table.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Pressure {
    /// Below half of the limit.
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
        let mut next = Self::Calm;
        for state in Self::ALL {
            let leave = if state <= self { HYSTERESIS } else { 0 };
            if at_least(entries, limit, state.threshold().saturating_sub(leave)) {
                next = state;
            }
        }
        next
    }
}

const fn at_least(entries: u64, limit: u64, per_cent: u64) -> bool {
    entries.saturating_mul(100) >= limit.saturating_mul(per_cent)
}

/// Packets lost so far, by what the caller can tell. `None`: not known.
///
/// The best of what is known decides: `here`; else `anywhere` together with `mixed`; else either
/// of them, with the table's occupancy as a witness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops {
    /// Lost because this table was full, exact.
    pub here: Option<u64>,
    /// Lost because any table was full, exact: what the probes count over all tables.
    pub anywhere: Option<u64>,
    /// The kernel's statistic `drop` of this table: full table and clash mixed.
    pub mixed: Option<u64>,
}

/// What was seen of a table at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PressureSample {
    /// Since any fixed time.
    pub at: Duration,
    /// Entries in the table.
    pub entries: u64,
    /// The limit; 0: none.
    pub limit: u64,
    /// Packets lost so far, by who counted them.
    pub drops: Drops,
    /// Inserts and deletes of this table so far; `None`: not counted for this table alone.
    pub flow: Option<(u64, u64)>,
}

/// A count that may be missing, and when it last grew.
#[derive(Clone, Copy, Debug, Default)]
struct PressureGrowth {
    value: Option<u64>,
    at: Option<Duration>,
}

impl PressureGrowth {
    /// A count that begins anew, lower than before, has not grown.
    fn add(&mut self, at: Duration, value: Option<u64>) {
        if let (Some(before), Some(now)) = (self.value, value)
            && now > before
        {
            self.at = Some(at);
        }
        self.value = value.or(self.value);
    }

    fn within(&self, now: Duration, time: Duration) -> bool {
        self.at.is_some_and(|at| now.saturating_sub(at) < time)
    }

    fn now(&self, now: Duration) -> bool {
        self.at == Some(now)
    }
}

/// Follows the state of one table.
#[derive(Clone, Debug, Default)]
pub struct StateTracker {
    at: Duration,
    occupancy: Pressure,
    here: PressureGrowth,
    anywhere: PressureGrowth,
    mixed: PressureGrowth,
    dropped_at: Option<Duration>,
    was_half_full: bool,
    /// At the last sample.
    limit: u64,
}

impl StateTracker {
    /// Takes one more sample and gives the state.
    pub fn add(&mut self, sample: &PressureSample) -> Pressure {
        let PressureSample {
            at,
            entries,
            limit,
            drops,
            ..
        } = *sample;
        self.at = at;
        self.here.add(at, drops.here);
        self.anywhere.add(at, drops.anywhere);
        self.mixed.add(at, drops.mixed);
        let half_full = limit > 0 && at_least(entries, limit, DROPS_COUNT_FROM);
        if limit == 0 && self.limit != 0 {
            // What was lost before says nothing of a table without a limit.
            self.dropped_at = None;
        } else if self.lost_now(&drops, half_full || self.was_half_full) {
            self.dropped_at = Some(at);
        }
        self.was_half_full = half_full;
        self.limit = limit;
        self.occupancy = if limit == 0 {
            Pressure::Calm
        } else {
            self.occupancy.next(entries, limit)
        };
        self.pressure()
    }

    /// Whether this sample says that a packet was lost because the table was full.
    fn lost_now(&self, known: &Drops, half_full: bool) -> bool {
        let at = self.at;
        match known {
            Drops { here: Some(_), .. } => self.here.now(at),
            Drops {
                anywhere: Some(_),
                mixed: Some(_),
                ..
            } => {
                half_full
                    && (self.anywhere.now(at) || self.mixed.now(at))
                    && self.anywhere.within(at, TOGETHER)
                    && self.mixed.within(at, TOGETHER)
            }
            Drops {
                anywhere: Some(_), ..
            } => half_full && self.anywhere.now(at),
            Drops { .. } => half_full && self.mixed.now(at),
        }
    }

    /// The state after the last sample.
    pub(crate) fn pressure(&self) -> Pressure {
        match self.dropped_at {
            Some(dropped) if self.at.saturating_sub(dropped) < AFTER_DROP => Pressure::Full,
            _ => self.occupancy,
        }
    }
}

#[cfg(test)]
mod tests;
