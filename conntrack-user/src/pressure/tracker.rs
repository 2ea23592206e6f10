//! One table followed: its state and its forecast, from the same samples.

use std::time::Duration;

use super::{
    forecast::{self, Forecaster, Outlook},
    state::{self, Drops, Pressure, StateTracker},
};

/// What was seen of a table at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Since any fixed time.
    pub at: Duration,
    /// Entries in the table.
    pub entries: u64,
    /// The limit; 0: none.
    pub limit: u64,
    /// Packets lost.
    pub drops: Drops,
    /// Inserts and deletes of this table so far; `None`: not counted for this table alone.
    pub flow: Option<(u64, u64)>,
}

/// Follows one table.
#[derive(Clone, Debug, Default)]
pub struct Tracker {
    state: StateTracker,
    forecaster: Forecaster,
}

impl Tracker {
    /// Takes one more sample.
    pub fn add(&mut self, sample: &Sample) {
        let Sample {
            at,
            entries,
            limit,
            drops,
            flow,
        } = *sample;
        self.state.add(&state::Sample {
            at,
            entries,
            limit,
            drops,
        });
        self.forecaster.add(&forecast::Sample {
            at,
            entries,
            limit,
            flow,
        });
    }

    /// The state after the last sample.
    pub fn pressure(&self) -> Pressure {
        self.state.pressure()
    }

    /// What is ahead after the last sample.
    pub const fn outlook(&self) -> Outlook {
        self.forecaster.outlook()
    }
}
