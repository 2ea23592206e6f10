//! Which network the processes of single control groups are in, where their path alone doesn't tell whose they are.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use super::groups::{GroupNetworks, MemberId};
use super::networks::{self, Problems};
use crate::kernel::Root;

/// How long a control group is looked at with each scan, and how often later.
const YOUNG: Duration = Duration::from_secs(10);
const REFRESH: Duration = Duration::from_secs(30);

/// What was asked, and when.
#[derive(Debug, Default)]
pub(super) struct Asked {
    known: HashMap<MemberId, (GroupNetworks, Instant)>,
}

/// The questions of one scan. What is not asked is forgotten.
pub(super) struct Asking<'a> {
    root: &'a Root,
    host: Option<u32>,
    now: Instant,
    before: &'a Asked,
    found: Asked,
}

impl Asked {
    pub(super) fn ask<'a>(&'a self, root: &'a Root, host: Option<u32>, now: Instant) -> Asking<'a> {
        Asking {
            root,
            host,
            now,
            before: self,
            found: Self {
                known: HashMap::with_capacity(self.known.len()),
            },
        }
    }
}

impl Asking<'_> {
    /// The networks of a control group that was first seen when it was `born`.
    pub(super) fn networks(
        &mut self,
        id: MemberId,
        born: Instant,
        folder: &Path,
        problems: &mut Problems,
    ) -> GroupNetworks {
        if let Some((networks, _)) = self.found.known.get(&id) {
            return *networks;
        }
        let age = |since| self.now.saturating_duration_since(since);
        let known = self.before.known.get(&id).copied();
        let known = known.filter(|(_, at)| age(born) >= YOUNG && age(*at) < REFRESH);
        let known = known.unwrap_or_else(|| {
            let networks = networks::of_folder(self.root, folder, self.host, problems);
            (networks, self.now)
        });
        self.found.known.insert(id, known);
        known.0
    }

    pub(super) fn done(self) -> Asked {
        self.found
    }
}
