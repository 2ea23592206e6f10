//! A look at what a table is made of, before it is given more room.

use std::ops::ControlFlow;

use ctpressure_model::verdict::Composition;

use crate::{
    agent::Charged,
    census::{AlikeEntries, Charging, CompositionCount},
    kernel::{
        Root,
        entries::{WalkOutcome, walk_namespaces},
        overlays, tables,
    },
    probes::TagReader,
};

/// Whose entries are.
pub(crate) struct LookOwners {
    charging: Charging,
    tags: Option<TagReader>,
}

impl LookOwners {
    /// As the running agent charges them; by a look around while it does not know which table is the host's.
    pub(crate) fn of_agent(charged: &Charged) -> Self {
        let Some(charging) = charged.charging() else {
            return Self::look_around();
        };
        let tags = charged.tags.map(TagReader::open).transpose();
        Self {
            charging,
            tags: tags.unwrap_or_else(|error| {
                tracing::debug!(%error, "tags can't be read: entries of sockets of the host are the host's");
                None
            }),
        }
    }

    /// As far as it can be told without an agent.
    pub(crate) fn look_around() -> Self {
        Self {
            charging: Charging::look_around(&Root::system()),
            tags: None,
        }
    }
}

/// What the table of this network namespace is made of.
///
/// # Errors
/// Why it can't be told.
pub(crate) fn composition(
    root: &Root,
    netns: u32,
    owners: &LookOwners,
) -> Result<Composition, String> {
    let found = tables::discover(root);
    let Some(namespace) = found.namespaces.get(&netns) else {
        return Err(format!("network namespace {netns} is not there any more"));
    };
    let LookOwners { charging, tags } = owners;
    let mut count = CompositionCount::new(charging, &overlays::of(root, namespace));
    let mut alike = AlikeEntries::new(charging, tags.as_ref(), count.tunnels());
    let outcomes = walk_namespaces(root, std::slice::from_ref(namespace), |inode, entry| {
        alike.add(inode, entry, 0, |alike| count.add(alike));
        ControlFlow::Continue(())
    });
    alike.tell(|alike| count.add(alike));
    match outcomes.into_iter().next() {
        Some((_, WalkOutcome::Walked(walk))) => {
            Ok(count.finish(&walk, |slot| charging.names.get(&slot).cloned()))
        }
        Some((_, WalkOutcome::NotEntered(error))) => Err(error.to_string()),
        Some((_, WalkOutcome::Failed(error))) => Err(error.to_string()),
        Some((_, WalkOutcome::Gone)) | None => Err(format!("network namespace {netns} is gone")),
    }
}
