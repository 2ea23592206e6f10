//! What passed and what failed in a run of the tests, and how long each took.

use crate::times::Timed;

/// What passed and what failed.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    passed: usize,
    failures: Vec<String>,
    times: Vec<Timed>,
}

impl Tally {
    /// Counts tests that passed.
    pub(crate) fn pass(&mut self, tests: usize) {
        self.passed += tests;
    }

    /// Counts one failure; the text says which test and why.
    pub(crate) fn fail(&mut self, failure: String) {
        self.failures.push(failure);
    }

    /// Notes how long something took.
    pub(crate) fn time(&mut self, timed: Timed) {
        self.times.push(timed);
    }

    /// Takes over what another one counted.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failures.extend(other.failures);
        self.times.extend(other.times);
    }

    pub(crate) fn passed(&self) -> usize {
        self.passed
    }

    /// What failed, and why.
    pub(crate) fn failures(&self) -> &[String] {
        &self.failures
    }

    /// How long each part took.
    pub(crate) fn times(&self) -> &[Timed] {
        &self.times
    }
}
