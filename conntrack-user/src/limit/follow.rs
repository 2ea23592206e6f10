//! Each change of the limit once, for whoever tells of them: the journal, Kubernetes Events.

use std::time::SystemTime;

use super::{Change, Report};

/// Remembers which changes were told.
#[derive(Debug)]
pub struct Following {
    /// Those from before are of an earlier life.
    since_millis: u64,
    last: u64,
}

impl Following {
    /// Changes from now on.
    pub fn from_now() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self::from_millis(since.map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        }))
    }

    /// Changes from this Unix time on.
    pub const fn from_millis(since_millis: u64) -> Self {
        Self {
            since_millis,
            last: 0,
        }
    }

    /// Those that are new, the oldest first.
    pub fn next<'a>(&mut self, report: &'a Report) -> Vec<&'a Change> {
        let new = report.since(self.last);
        let told = new
            .filter(|change| change.unix_millis >= self.since_millis)
            .collect();
        let sequences = report.since(self.last).map(|change| change.sequence);
        self.last = sequences.max().unwrap_or(self.last);
        told
    }
}
