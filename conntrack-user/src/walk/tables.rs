//! The tables of network namespaces, by the best way that there is.

use std::{ops::ControlFlow, thread, time::Duration};

use clap::ValueEnum;
use hashbrown::HashMap;

use super::{
    CensusSource, NoHashWalk,
    hash::{HashWalk, HashWalked},
};
use crate::{
    kernel::{
        Root,
        entries::{
            EntryWalk, FoundEntry, HashFound, WalkOutcome, count_namespaces, walk_namespaces,
        },
        tables::Namespace,
    },
    sys::netns::Inode,
};

/// How often a walk begins anew when the kernel makes another hash table meanwhile, and how long it waits before: the first time so long,
/// then twice as long each time. To move all entries takes the kernel a while.
const RESTARTS: u32 = 5;
const WAIT: Duration = Duration::from_millis(20);

/// Where entries are read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum WalkSource {
    /// The hash table where possible, else ctnetlink
    #[default]
    Auto,
    /// The kernel's hash table, by an eBPF program
    Hash,
    /// The kernel's list of each network namespace
    Ctnetlink,
}

/// What the last walk over the hash table was like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct HashWalkStats {
    walked: HashWalked,
    /// How often it began anew.
    restarts: u32,
}

/// Reads tables.
pub(crate) struct TableWalker {
    hash: Result<HashWalk, NoHashWalk>,
    /// Why the last walk was none over the hash table, though there could be one.
    failed: Option<NoHashWalk>,
    /// Of the last walk, if it was one over the hash table.
    stats: Option<HashWalkStats>,
}

/// What is found in the table of one namespace.
#[derive(Clone, Copy, Default)]
struct Found {
    entries: u64,
    hash: HashFound,
}

impl TableWalker {
    /// Makes ready what this source needs; conntrack has to be loaded.
    pub(crate) fn new(root: &Root, source: WalkSource) -> Self {
        Self {
            hash: match source {
                WalkSource::Ctnetlink => Err(NoHashWalk::NotAsked),
                WalkSource::Auto | WalkSource::Hash => HashWalk::new(root),
            },
            failed: None,
            stats: None,
        }
    }

    /// Why it reads from ctnetlink; `None`: it does not.
    pub(crate) fn no_hash_walk(&self) -> Option<&NoHashWalk> {
        self.hash.as_ref().err().or(self.failed.as_ref())
    }

    /// Where the entries of the last walk came from.
    pub(crate) fn source(&self) -> CensusSource {
        match self.stats {
            Some(stats) => CensusSource::Hash {
                restarts: stats.restarts,
                torn_buckets: stats.walked.torn,
                unreadable: stats.walked.unreadable,
                cpu_held_ns: stats.walked.held_ns,
            },
            None => CensusSource::Ctnetlink {
                reason: self
                    .no_hash_walk()
                    .map_or_else(String::new, ToString::to_string),
            },
        }
    }

    /// Counts every entry of each namespace's table: in any order, from the hash table in one pass for all. `make` makes the counter; it
    /// is made again when the kernel made another hash table meanwhile.
    pub(crate) fn walk<C: EntryCounter + Send>(
        &mut self,
        root: &Root,
        namespaces: &[Namespace],
        mut make: impl FnMut() -> C,
    ) -> (C, Vec<(Inode, WalkOutcome)>) {
        if let Some(walked) = self.walk_hash(root, namespaces, &mut make) {
            return walked;
        }
        let generation = self.generation();
        let mut counter = make();
        let mut outcomes = walk_namespaces(root, namespaces, |inode, entry| {
            counter.add(inode, entry);
            ControlFlow::Continue(())
        });
        // A table that was made anew twice has as many buckets as before.
        if self.hash.is_ok() && (generation.is_none() || generation != self.generation()) {
            for (_, outcome) in &mut outcomes {
                if let WalkOutcome::Walked(walk) = outcome {
                    walk.changed = true;
                }
            }
        }
        (counter, outcomes)
    }

    fn generation(&mut self) -> Option<u64> {
        self.hash.as_mut().ok()?.generation()
    }

    /// As [`Self::walk`], but over the hash table only; `None`: that can't be had now, as [`Self::no_hash_walk`] says.
    pub(crate) fn walk_hash<C: EntryCounter>(
        &mut self,
        root: &Root,
        namespaces: &[Namespace],
        mut make: impl FnMut() -> C,
    ) -> Option<(C, Vec<(Inode, WalkOutcome)>)> {
        self.stats = None;
        self.failed = None;
        let hash = self.hash.as_mut().ok()?;
        match over_hash(hash, root, namespaces, &mut make) {
            Ok((counter, outcomes, stats)) => {
                self.stats = Some(stats);
                Some((counter, outcomes))
            }
            Err(reason) => {
                self.failed = Some(reason);
                None
            }
        }
    }
}

/// What entries are counted by.
pub(crate) trait EntryCounter {
    /// Counts an entry of the table of this network namespace.
    fn add(&mut self, netns: Inode, found: &impl FoundEntry);

    /// Counts an entry that lost a clash. It takes room until somebody finds it expired, and no list shows it.
    fn add_clash(&mut self, _netns: Inode, _found: &impl FoundEntry) {}
}

type OfHash<C> = (C, Vec<(Inode, WalkOutcome)>, HashWalkStats);

fn over_hash<C: EntryCounter>(
    hash: &mut HashWalk,
    root: &Root,
    namespaces: &[Namespace],
    make: &mut impl FnMut() -> C,
) -> Result<OfHash<C>, NoHashWalk> {
    let only = match namespaces {
        [one] => Some(one.inode),
        _ => None,
    };
    let mut stats = HashWalkStats::default();
    let mut before = count_namespaces(root, namespaces);
    loop {
        let mut counter = make();
        let mut found: HashMap<Inode, Found> = before
            .iter()
            .filter(|(_, outcome)| matches!(outcome, WalkOutcome::Walked(_)))
            .map(|(inode, _)| (*inode, Found::default()))
            .collect();
        let walked = hash.walk(only, |netns, entry| {
            let Some(found) = found.get_mut(&netns) else {
                return;
            };
            if entry.is_clash() {
                found.hash.clashes += 1;
                counter.add_clash(netns, entry);
                return;
            }
            found.entries += 1;
            found.hash.expired += u64::from(entry.has_expired());
            counter.add(netns, entry);
        });
        match walked {
            Ok(walked) => {
                stats.walked = walked;
                let after = count_namespaces(root, namespaces);
                return Ok((counter, outcomes(before, after, &found), stats));
            }
            Err(NoHashWalk::Changed) if stats.restarts < RESTARTS => {
                thread::sleep(WAIT * (1 << stats.restarts));
                stats.restarts += 1;
                before = count_namespaces(root, namespaces);
            }
            Err(reason) => return Err(reason),
        }
    }
}

/// Puts together what was found and what the kernel counted before and after.
fn outcomes(
    before: Vec<(Inode, WalkOutcome)>,
    after: Vec<(Inode, WalkOutcome)>,
    found: &HashMap<Inode, Found>,
) -> Vec<(Inode, WalkOutcome)> {
    let after: HashMap<Inode, WalkOutcome> = after.into_iter().collect();
    before
        .into_iter()
        .map(|(inode, outcome)| {
            let outcome = match (outcome, after.get(&inode)) {
                (WalkOutcome::Walked(first), Some(WalkOutcome::Walked(last))) => {
                    let Found { entries, hash } = found.get(&inode).copied().unwrap_or_default();
                    WalkOutcome::Walked(EntryWalk {
                        entries,
                        counts: [first.counts[0], last.counts[0]],
                        hash: Some(hash),
                        ..EntryWalk::default()
                    })
                }
                (WalkOutcome::Walked(_), _) => WalkOutcome::Gone,
                (outcome, _) => outcome,
            };
            (inode, outcome)
        })
        .collect()
}
