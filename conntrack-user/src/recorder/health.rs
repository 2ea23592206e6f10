//! How the journal is doing, for `/status` and `/metrics`.

use std::{
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::Serialize;

use crate::sys::lock::locked;

/// The journal at one second.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
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
    /// Drops and evictions whose detail it does not have.
    pub events_lost: u64,
    /// The name that a damaged journal was given when this one began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moved_aside: Option<PathBuf>,
}

/// What the writer says, and whoever wants to know reads.
#[derive(Debug, Default)]
pub struct Health {
    status: Mutex<JournalStatus>,
    samples_lost: AtomicU64,
    events_lost: AtomicU64,
}

impl Health {
    /// As it is now.
    pub fn status(&self) -> JournalStatus {
        JournalStatus {
            samples_lost: self.samples_lost.load(Ordering::Relaxed),
            events_lost: self.events_lost.load(Ordering::Relaxed),
            ..locked(&self.status).clone()
        }
    }

    pub(super) fn lose_sample(&self) {
        self.samples_lost.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn lose_events(&self, number: u64) {
        self.events_lost.fetch_add(number, Ordering::Relaxed);
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut JournalStatus)) {
        change(&mut locked(&self.status));
    }
}
