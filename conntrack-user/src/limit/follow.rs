//! Each change of the limit once, for whoever tells of them: the journal, Kubernetes Events.

use std::time::SystemTime;

use super::{Change, Report};

/// Remembers which changes were told.
#[derive(Debug)]
pub(crate) struct Following {
    /// Those from before are of an earlier life.
    since: SystemTime,
    last: u64,
}

impl Following {
    /// Changes from now on.
    pub(crate) fn from_now() -> Self {
        Self::since(SystemTime::now())
    }

    /// Changes from this time on.
    pub(crate) const fn since(since: SystemTime) -> Self {
        Self { since, last: 0 }
    }

    /// Those that are new, the oldest first.
    pub(crate) fn next<'a>(&mut self, report: &'a Report) -> Vec<&'a Change> {
        let new = report.since(self.last);
        let told = new.filter(|change| change.time.0 >= self.since).collect();
        let sequences = report.since(self.last).map(|change| change.sequence);
        self.last = sequences.max().unwrap_or(self.last);
        told
    }
}
