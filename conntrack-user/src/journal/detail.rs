//! Drops and evictions of one second: as many as are kept, and how many there were.

use std::collections::HashMap;

use super::same_flows::SameFlows;
use crate::{
    agent::Snapshot,
    events::{DropEvent, Event, EvictionEvent, Who},
    owners::Owner,
};

/// Events of one kind that a tick keeps.
pub(super) const MOST: usize = 64;

/// What happened within one second.
#[derive(Clone, Debug, Default)]
pub(super) struct Detail {
    pub(super) drops: Vec<DropEvent>,
    pub(super) evictions: Vec<EvictionEvent>,
    /// Drops and evictions that are not kept.
    pub(super) not_recorded: [u64; 2],
}

impl Detail {
    /// Adds it if its flow is one of those that are kept.
    pub(super) fn add(&mut self, event: Event, flows: &mut SameFlows) {
        match event {
            Event::Drop(event) => {
                self.not_recorded[0] += flows.drops.add(&mut self.drops, event);
            }
            Event::Eviction(event) => {
                self.not_recorded[1] += flows.evictions.add(&mut self.evictions, event);
            }
            Event::Insert(_) | Event::Lost(_) => {}
        }
    }

    /// Adds what could not be written with the second before.
    pub(super) fn put_back(&mut self, earlier: Self) {
        let later = std::mem::replace(self, earlier);
        for (number, more) in self.not_recorded.iter_mut().zip(later.not_recorded) {
            *number += more;
        }
        self.not_recorded[0] += fill(&mut self.drops, later.drops);
        self.not_recorded[1] += fill(&mut self.evictions, later.evictions);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.drops.is_empty() && self.evictions.is_empty() && self.not_recorded == [0; 2]
    }
}

/// Adds what there is room for; how many there was none for.
fn fill<E>(kept: &mut Vec<E>, more: Vec<E>) -> u64 {
    let (all, room) = (more.len(), MOST.saturating_sub(kept.len()));
    kept.extend(more.into_iter().take(room));
    all.saturating_sub(room) as u64
}

/// Owners by the names that an event has.
#[derive(Clone, Debug, Default)]
pub(super) struct Parties(HashMap<[String; 4], Owner>);

impl Parties {
    /// Of those that there are, and of those that were there a second ago.
    pub(super) fn new(before: Option<&Snapshot>, now: &Snapshot) -> Self {
        let owners = before
            .into_iter()
            .chain([now])
            .flat_map(|snapshot| &snapshot.owners);
        Self(
            owners
                .map(|sample| {
                    let labels = sample.owner.labels();
                    let name = [labels.owner_kind, labels.namespace, labels.pod, labels.unit];
                    (name.map(str::to_owned), sample.owner.clone())
                })
                .collect(),
        )
    }

    /// Who it is; the unknown one if nobody goes by this name any more.
    pub(super) fn owner(&self, who: &Who) -> Owner {
        let name = [&who.kind, &who.namespace, &who.pod, &who.unit].map(Clone::clone);
        self.0.get(&name).cloned().unwrap_or_else(Owner::unknown)
    }
}
