//! Drops and evictions of one second: as many as are kept, and how many there were.

use std::collections::HashMap;

use crate::{
    agent::Snapshot,
    events::{DropEvent, Event, EvictionEvent, Who},
    owners::Owner,
};

/// Events of one kind that a tick keeps.
pub(super) const MOST: usize = 24;
/// Of those, events that are charged to one owner: the one that storms must not hide the others.
const MOST_OF_ONE: usize = 8;

/// What happened within one second.
#[derive(Clone, Debug, Default)]
pub(super) struct Detail {
    pub(super) drops: Vec<DropEvent>,
    pub(super) evictions: Vec<EvictionEvent>,
    /// Drops and evictions that are not kept.
    pub(super) not_recorded: [u64; 2],
}

impl Detail {
    /// Adds what there is room for.
    pub(super) fn add(&mut self, event: Event) {
        match event {
            Event::Drop(event) => {
                let of_one = self
                    .drops
                    .iter()
                    .filter(|other| other.owner == event.owner)
                    .count();
                if self.drops.len() < MOST && of_one < MOST_OF_ONE {
                    self.drops.push(event);
                } else {
                    self.not_recorded[0] += 1;
                }
            }
            Event::Eviction(event) => {
                let of_one = self
                    .evictions
                    .iter()
                    .filter(|other| other.victim_owner == event.victim_owner)
                    .count();
                if self.evictions.len() < MOST && of_one < MOST_OF_ONE {
                    self.evictions.push(event);
                } else {
                    self.not_recorded[1] += 1;
                }
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
        for event in later.drops {
            self.add(Event::Drop(event));
        }
        for event in later.evictions {
            self.add(Event::Eviction(event));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.drops.is_empty() && self.evictions.is_empty() && self.not_recorded == [0; 2]
    }
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
