//! A look at what a table is made of, before it is given more room.

use std::ops::ControlFlow;

use ctpressure_model::verdict::Composition;

use crate::{
    census::{Charging, CompositionCount},
    kernel::{
        Root,
        entries::{WalkOutcome, walk_namespaces},
        overlays, tables,
    },
};

/// What the table of this network namespace is made of.
///
/// # Errors
/// Why it can't be told.
pub(crate) fn composition(root: &Root, netns: u32) -> Result<Composition, String> {
    let found = tables::discover(root);
    let Some(namespace) = found.namespaces.get(&netns) else {
        return Err(format!("network namespace {netns} is not there any more"));
    };
    let owners = Charging::look_around(root);
    let mut count = CompositionCount::new(&owners, &overlays::of(root, namespace));
    let outcomes = walk_namespaces(root, std::slice::from_ref(namespace), |inode, entry| {
        count.add(inode, entry, None);
        ControlFlow::Continue(())
    });
    match outcomes.into_iter().next() {
        Some((_, WalkOutcome::Walked(walk))) => {
            Ok(count.finish(&walk, |slot| owners.names.get(&slot).cloned()))
        }
        Some((_, WalkOutcome::NotEntered(error))) => Err(error.to_string()),
        Some((_, WalkOutcome::Failed(error))) => Err(error.to_string()),
        Some((_, WalkOutcome::Gone)) | None => Err(format!("network namespace {netns} is gone")),
    }
}
