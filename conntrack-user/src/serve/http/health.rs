//! How the port is doing, for `ctpressure status` and `/metrics`.

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use serde::Serialize;

use crate::sys::lock::locked;

/// Why a connection was closed before it had come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closed {
    /// Its peer had made as many others as one may have.
    PeerFull,
    /// All places were taken, and its peer had as many as nobody else.
    Full,
    /// It did not ask in time, or had its time.
    Slow,
}

/// What is counted, and what is wrong.
#[derive(Debug, Default)]
pub struct PortHealth {
    peer_full: AtomicU64,
    full: AtomicU64,
    slow: AtomicU64,
    problem: Mutex<Option<String>>,
}

/// The same at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PortStatus {
    /// Connections that were closed for another one of the same peer.
    pub closed_peer_full: u64,
    /// Connections that were closed for one of somebody else.
    pub closed_full: u64,
    /// Connections that were closed because they took too long.
    pub closed_slow: u64,
    /// What is wrong with its certificates or tokens; what was read before stays in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl PortStatus {
    /// How many connections were closed early, by the reasons of `ctpressure_http_connections_closed_total`.
    pub(crate) const fn closed(&self) -> [(&'static str, u64); 3] {
        [
            ("peer_full", self.closed_peer_full),
            ("full", self.closed_full),
            ("slow", self.closed_slow),
        ]
    }
}

impl PortHealth {
    /// Counts a connection that was closed; gives how many of this kind there are now.
    pub(super) fn closed(&self, why: Closed) -> u64 {
        let counter = match why {
            Closed::PeerFull => &self.peer_full,
            Closed::Full => &self.full,
            Closed::Slow => &self.slow,
        };
        counter.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Notes what is wrong with certificates or tokens; `None`: nothing any more.
    pub(super) fn set_problem(&self, problem: Option<String>) {
        *locked(&self.problem) = problem;
    }

    /// How it is now.
    pub(crate) fn status(&self) -> PortStatus {
        PortStatus {
            closed_peer_full: self.peer_full.load(Ordering::Relaxed),
            closed_full: self.full.load(Ordering::Relaxed),
            closed_slow: self.slow.load(Ordering::Relaxed),
            problem: locked(&self.problem).clone(),
        }
    }
}
