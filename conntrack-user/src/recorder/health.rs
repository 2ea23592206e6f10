//! How the journal is doing, for `ctpressure status` and `/metrics`.

use std::{path::PathBuf, sync::Mutex};

use serde::Serialize;

use crate::sys::lock::locked;

/// The journal at one second.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct JournalStatus {
    /// The file that is written.
    pub path: PathBuf,
    /// Why it is not written; `None`: it is.
    pub problem: Option<String>,
    /// Bytes of the file and its log.
    pub bytes: u64,
    /// Bytes that they may have.
    pub bytes_most: u64,
    /// Seconds that were written.
    pub samples: u64,
    /// Seconds that it has only together with the next one, because it could not be written in
    /// time: their counts are not lost.
    pub samples_lost: u64,
    /// Drops and evictions whose detail it does not have, and changes of the limit that it does not have.
    pub events_lost: u64,
    /// The name that a damaged journal was given when this one began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moved_aside: Option<PathBuf>,
}

/// What the writer says, and whoever wants to know reads.
#[derive(Debug, Default)]
pub struct Health(Mutex<JournalStatus>);

impl Health {
    /// As it is now.
    pub fn status(&self) -> JournalStatus {
        locked(&self.0).clone()
    }

    pub(super) fn lose_sample(&self) {
        self.change(|status| status.samples_lost += 1);
    }

    pub(super) fn lose_events(&self, number: u64) {
        self.change(|status| status.events_lost += number);
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut JournalStatus)) {
        change(&mut locked(&self.0));
    }
}
