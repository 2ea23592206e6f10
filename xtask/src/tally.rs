//! What passed and what failed in a run of the tests, and how long each took.

use crate::times::Timed;

/// What passed and what failed.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// How many tests passed.
    pub(crate) passed: usize,
    /// What failed: each text says which test and why.
    pub(crate) failures: Vec<String>,
    /// How long each part took.
    pub(crate) times: Vec<Timed>,
}

impl Tally {
    /// Counts one failure.
    pub(crate) fn fail(&mut self, failure: String) {
        self.failures.push(failure);
    }

    /// Takes over what another one counted.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failures.extend(other.failures);
        self.times.extend(other.times);
    }
}
