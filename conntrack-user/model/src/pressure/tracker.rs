//! One table followed: its state and its forecast, from the same samples.

use super::{
    forecast::{Forecaster, Outlook},
    state::{Pressure, PressureSample, StateTracker},
};

/// Follows one table: its pressure and its forecast.
#[derive(Clone, Debug, Default)]
pub struct Tracker {
    state: StateTracker,
    forecaster: Forecaster,
    used: bool,
}

impl Tracker {
    /// Takes one more sample.
    pub fn add(&mut self, sample: &PressureSample) {
        self.state.add(sample);
        self.forecaster.add(sample);
        self.used |= sample.entries > 0;
    }

    /// The state after the last sample.
    pub fn pressure(&self) -> Pressure {
        self.state.pressure()
    }

    /// Whether the table has ever held an entry at a sample.
    pub const fn is_used(&self) -> bool {
        self.used
    }

    /// What is ahead after the last sample.
    pub const fn outlook(&self) -> Outlook {
        self.forecaster.outlook()
    }
}
