//! The tables of several network namespaces, one after another.

use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::{EntriesError, Entry, Walk, walk};
use crate::kernel::Root;
use crate::kernel::tables::{Namespace, is_gone};
use crate::sys::netns::{self, Inode};

/// What came of one table.
#[derive(Debug)]
pub enum Outcome {
    /// It was walked.
    Walked(Walk),
    /// Its namespace is gone.
    Gone,
    /// Its namespace can't be entered.
    NotEntered(io::Error),
    /// Its table can't be walked.
    Failed(EntriesError),
}

/// Calls `each` with every entry of each namespace's table, until it breaks. The caller's own is
/// walked here; the others are entered, one after another, by a thread made for it.
pub fn walk_namespaces(
    root: &Root,
    namespaces: &[Namespace],
    each: impl FnMut(Inode, &Entry) -> ControlFlow<()> + Send,
) -> Vec<(Inode, Outcome)> {
    let visitor = Mutex::new((each, false));
    let look = |namespace: &Namespace| {
        // Used by one thread at a time.
        let mut visitor = visitor.lock().unwrap_or_else(PoisonError::into_inner);
        let (each, enough) = &mut *visitor;
        if *enough {
            return Outcome::Walked(Walk {
                stopped: true,
                ..Walk::default()
            });
        }
        match walk(root, |entry| each(namespace.inode, entry)) {
            Ok(walk) => {
                *enough = walk.stopped;
                Outcome::Walked(walk)
            }
            Err(error) => Outcome::Failed(error),
        }
    };
    let (own, others): (Vec<_>, Vec<_>) = namespaces.iter().partition(|namespace| namespace.own);
    let mut outcomes: Vec<_> = own
        .into_iter()
        .map(|namespace| (namespace.inode, look(namespace)))
        .collect();
    let mut to_enter: Vec<(&Namespace, PathBuf)> = Vec::with_capacity(others.len());
    for namespace in others {
        match namespace.way_in(root) {
            Some(path) => to_enter.push((namespace, path)),
            None => outcomes.push((namespace.inode, Outcome::Gone)),
        }
    }
    if !to_enter.is_empty() {
        outcomes.extend(netns::visit(
            &to_enter,
            |(_, path)| path.as_path(),
            |(namespace, _)| namespace.inode,
            |(namespace, _), entered| {
                let outcome = match entered {
                    Ok(()) => look(namespace),
                    Err(error) if is_gone(&error) => Outcome::Gone,
                    Err(error) => Outcome::NotEntered(error),
                };
                (namespace.inode, outcome)
            },
        ));
    }
    outcomes
}
