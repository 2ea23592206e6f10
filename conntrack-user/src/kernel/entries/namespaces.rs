//! The tables of several network namespaces, one after another.

use std::io;
use std::ops::ControlFlow;
use std::sync::Mutex;

use super::{EntriesError, EntryWalk, TableEntry, walk};
use crate::kernel::tables::{Namespace, is_gone};
use crate::kernel::{Root, sysctl};
use crate::sys::{
    lock::locked,
    netns::{self, Inode},
};

/// What came of one table.
#[derive(Debug)]
pub(crate) enum WalkOutcome {
    Walked(EntryWalk),
    /// Its namespace is gone.
    Gone,
    /// Its namespace can't be entered.
    NotEntered(io::Error),
    /// Its table can't be walked.
    Failed(EntriesError),
}

/// Calls `each` with every entry of each namespace's table, until it breaks. The caller's own is
/// walked here; the others are entered, one after another, by a thread made for it.
pub(crate) fn walk_namespaces(
    root: &Root,
    namespaces: &[Namespace],
    each: impl FnMut(Inode, &TableEntry) -> ControlFlow<()> + Send,
) -> Vec<(Inode, WalkOutcome)> {
    let visitor = Mutex::new((each, false));
    let look = |namespace: &Namespace| {
        // Used by one thread at a time.
        let mut visitor = locked(&visitor);
        let (each, enough) = &mut *visitor;
        if *enough {
            return WalkOutcome::Walked(EntryWalk {
                stopped: true,
                ..EntryWalk::default()
            });
        }
        match walk(root, |entry| each(namespace.inode, entry)) {
            Ok(walk) => {
                *enough = walk.stopped;
                WalkOutcome::Walked(walk)
            }
            Err(error) => WalkOutcome::Failed(error),
        }
    };
    in_each(root, namespaces, look)
}

/// How many entries the kernel counts in the table of each namespace: twice the same in [`EntryWalk::counts`].
pub(crate) fn count_namespaces(root: &Root, namespaces: &[Namespace]) -> Vec<(Inode, WalkOutcome)> {
    in_each(root, namespaces, |_| match sysctl::count(root) {
        Ok(count) => WalkOutcome::Walked(EntryWalk {
            counts: [count; 2],
            ..EntryWalk::default()
        }),
        Err(error) => WalkOutcome::Failed(error.into()),
    })
}

/// Calls `look` inside each namespace.
pub(super) fn in_each(
    root: &Root,
    namespaces: &[Namespace],
    look: impl Fn(&Namespace) -> WalkOutcome + Send + Sync,
) -> Vec<(Inode, WalkOutcome)> {
    let (own, others): (Vec<_>, Vec<_>) = namespaces.iter().partition(|namespace| namespace.own);
    let mut outcomes: Vec<_> = own
        .into_iter()
        .map(|namespace| (namespace.inode, look(namespace)))
        .collect();
    let mut to_enter = Vec::with_capacity(others.len());
    for namespace in others {
        match namespace.way_in(root) {
            Some(path) => to_enter.push((namespace.inode, path, namespace)),
            None => outcomes.push((namespace.inode, WalkOutcome::Gone)),
        }
    }
    outcomes.extend(netns::visit(
        &to_enter,
        |namespace, entered| match entered {
            Ok(()) => look(namespace),
            Err(error) if is_gone(&error) => WalkOutcome::Gone,
            Err(error) => WalkOutcome::NotEntered(error),
        },
    ));
    outcomes
}
