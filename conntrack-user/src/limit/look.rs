//! A look at what a table is made of, before it is given more room.

use std::ops::ControlFlow;

use conntrack_ebpf::owner::{Direction, HOST, UNKNOWN};

use super::flood::{Composition, FloodPart};
use crate::{
    census::{self, By, Census, Charging, Filter, Group},
    kernel::{
        Root,
        entries::{EntryState, WalkOutcome, walk_namespaces},
        tables,
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
    let owners = Charging::look_around(root, |_| {});
    let filter = Filter {
        one_way: true,
        evictable: Some(true),
        ..Filter::default()
    };
    let groupings = vec![
        vec![By::Source],
        vec![By::Destination],
        vec![By::Owner, By::Direction],
    ];
    let mut census = Census::new(filter, groupings, &owners, 0);
    let mut time_wait = 0;
    let outcomes = walk_namespaces(root, std::slice::from_ref(namespace), |inode, entry| {
        time_wait += u64::from(entry.state == EntryState::TIME_WAIT);
        census.add(inode, entry);
        ControlFlow::Continue(())
    });
    let walk = match outcomes.into_iter().next() {
        Some((_, WalkOutcome::Walked(walk))) => walk,
        Some((_, WalkOutcome::NotEntered(error))) => return Err(error.to_string()),
        Some((_, WalkOutcome::Failed(error))) => return Err(error.to_string()),
        Some((_, WalkOutcome::Gone)) | None => {
            return Err(format!("network namespace {netns} is gone"));
        }
    };
    let summary = census.summary(8);
    let [sources, destinations, openers] = summary.groups.as_slice() else {
        return Err("the census is incomplete".to_owned());
    };
    Ok(Composition {
        entries: summary.seen,
        // A listing during which the hash was rebuilt may lack entries. Else a table that grows meanwhile is not far below.
        count: (!walk.changed).then(|| walk.counts[0].min(walk.counts[1])),
        one_way: summary.totals.entries,
        time_wait,
        source: first(sources, |key| match key {
            [census::Part::Source(address)] => Some(address.to_string()),
            _ => None,
        }),
        destination: first(destinations, |key| match key {
            [census::Part::Destination(endpoint)] => Some(endpoint.to_string()),
            _ => None,
        }),
        opener: first(openers, |key| match key {
            [
                census::Part::Owner(slot),
                census::Part::Direction(Direction::Egress),
            ] if ![HOST, UNKNOWN].contains(slot) => owners.names.get(slot).cloned(),
            _ => None,
        }),
    })
}

/// The largest key that has a name.
fn first(group: &Group, name: impl Fn(&[census::Part]) -> Option<String>) -> Option<FloodPart> {
    group.rows.iter().find_map(|row| {
        Some(FloodPart {
            name: name(&row.key)?,
            entries: row.counts.entries,
        })
    })
}
