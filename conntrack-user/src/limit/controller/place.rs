//! Where a controller works, and what it is told.

use std::time::{Duration, Instant};

use super::{Composition, TableSeen, look};
use crate::{
    agent::Snapshot,
    kernel::Root,
    limit::{lock, look::LookOwners},
};

/// Of the time, at most one part in so many goes into looking at tables.
const LOOK_SHARE: u32 = 20;

/// A step of a change that was just taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ControllerStep {
    /// What is about to be done is written down, beside the earlier state.
    IntentDrafted,
    /// It has replaced the earlier state.
    IntentKept,
    /// The kernel has the new number.
    Written,
    /// It was read back.
    Confirmed,
    /// What came of it is written down, beside the earlier state.
    ResultDrafted,
    /// It has replaced the earlier state.
    ResultKept,
}

/// What the agent saw in one second.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ControllerSample {
    pub tables: Vec<TableSeen>,
    /// Inserts and deletes of all tables, so far; `None`: nothing counts both.
    pub flow: Option<(u64, u64)>,
}

impl From<&Snapshot> for ControllerSample {
    fn from(snapshot: &Snapshot) -> Self {
        let counts = &snapshot.probes.totals;
        Self {
            tables: snapshot.tables.list.iter().map(TableSeen::from).collect(),
            flow: counts.flow(),
        }
    }
}

/// Where the controller works, and how it looks at tables.
pub(crate) struct ControllerPlace {
    /// Where the sysctls and what else is read are.
    pub root: Root,
    /// Name of the socket that was the node's lock once.
    pub lock: String,
    /// Tells what a table is made of.
    pub look: Box<dyn FnMut(u32) -> Option<Composition> + Send>,
    /// Called after each step of a change.
    pub stepped: fn(ControllerStep),
}

impl ControllerPlace {
    /// This node; `owners` tells whose entries are at the time of a look.
    pub(crate) fn node(owners: impl Fn() -> LookOwners + Send + 'static) -> Self {
        // What was found last: a look at a large table is not repeated at once.
        let mut last: Option<(Instant, Duration, u32, Option<Composition>)> = None;
        let look = move |netns| {
            if let Some((when, took, of, found)) = &last
                && *of == netns
                && when.elapsed() < *took * LOOK_SHARE
            {
                return found.clone();
            }
            let begin = Instant::now();
            let found = look::composition(&Root::system(), netns, &owners())
                .inspect_err(|error| {
                    tracing::warn!(%error, "what fills the table could not be looked at");
                })
                .ok();
            last = Some((Instant::now(), begin.elapsed(), netns, found.clone()));
            found
        };
        Self {
            root: Root::system(),
            lock: lock::SOCKET.to_owned(),
            look: Box::new(look),
            stepped: |_| {},
        }
    }
}
