//! How many records inserts have, which is changed while the programs run.

use std::{io, sync::Mutex};

use aya::maps::{Array, MapData};

use super::{InsertBudget, globals::per_window, map_error::error};
use crate::sys::lock::locked;

/// The map from which the programs read it, and what it may say.
pub(super) struct InsertRecords {
    map: Mutex<Array<MapData, u32>>,
    budget: InsertBudget,
}

impl InsertRecords {
    pub(super) const fn new(map: Array<MapData, u32>, budget: InsertBudget) -> Self {
        Self {
            map: Mutex::new(map),
            budget,
        }
    }

    /// `watched`: somebody watches inserts from now on; else nobody does. The programs know it with the next tick of a CPU's clock.
    pub(super) fn watch(&self, watched: bool) -> io::Result<()> {
        let InsertBudget {
            unwatched,
            watched: most,
        } = self.budget;
        let records = per_window(if watched { most } else { unwatched });
        locked(&self.map).set(0, records, 0).map_err(error)
    }
}
