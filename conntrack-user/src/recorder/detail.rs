//! Drops and evictions of one second: as many as are kept, how many there were, and of how many flows.

use std::collections::HashMap;

use conntrack_ebpf::record::DropReason;
use ctpressure_model::events::{DropEvent, Event, EvictionEvent, Occurrence, Tuple, Who};

use super::known_flows::KnownFlows;
use crate::{agent::Snapshot, owners::Owner};

/// Events of one kind that a tick keeps.
pub(super) const MOST: usize = 64;
/// Of those, the ones that are charged to one owner: the one that storms must not hide the others.
const MOST_OF_ONE: usize = 48;

/// What happened within one second.
#[derive(Clone, Debug, Default)]
pub(super) struct SecondDetail {
    pub(super) drops: Kept<DropEvent>,
    pub(super) evictions: Kept<EvictionEvent>,
    /// Of each owner: packets that a full table refused.
    pub(super) refused: HashMap<Who, FlowsLost>,
    /// And entries that were evicted.
    pub(super) evicted: HashMap<Who, FlowsLost>,
}

/// Events by what is known of their flows. Those of packets that are not known are in neither.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FlowsLost {
    /// The first ones of a flow.
    pub(super) first: u64,
    /// Those of a flow to which it happened before.
    pub(super) again: u64,
}

/// Flows to which something happened before, by what it was.
#[derive(Debug, Default)]
pub(super) struct DetailFlows {
    refused: KnownFlows,
    evicted: KnownFlows,
}

/// Events of one kind, as many as there is room for.
#[derive(Clone, Debug)]
pub(super) struct Kept<E> {
    pub(super) events: Vec<E>,
    /// How many of them each owner has.
    owners: HashMap<Who, usize>,
    /// Those that came and were not kept.
    pub(super) not_recorded: u64,
}

/// What an event tells of its flow.
pub(super) trait OfFlow {
    /// Whom it is charged to, when and where it was seen, and the tuple if it is known.
    fn of(&self) -> (&Who, &Occurrence, Option<&Tuple>);
}

impl OfFlow for DropEvent {
    fn of(&self) -> (&Who, &Occurrence, Option<&Tuple>) {
        (&self.owner, &self.seen, self.original.as_ref())
    }
}

impl OfFlow for EvictionEvent {
    fn of(&self) -> (&Who, &Occurrence, Option<&Tuple>) {
        (&self.victim_owner, &self.seen, self.victim.as_ref())
    }
}

impl SecondDetail {
    /// Counts it, and keeps it if there is room.
    pub(super) fn add(&mut self, event: Event, known: &mut DetailFlows) {
        match event {
            Event::Drop(event) => {
                if event.reason == DropReason::TableFull {
                    count(&mut self.refused, &mut known.refused, &event);
                }
                self.drops.add(event);
            }
            Event::Eviction(event) => {
                count(&mut self.evicted, &mut known.evicted, &event);
                self.evictions.add(event);
            }
            Event::Insert(_) | Event::Lost(_) | Event::Verdict(_) => {}
        }
    }

    /// Adds what could not be written with the second before.
    pub(super) fn put_back(&mut self, earlier: Self) {
        let later = std::mem::replace(self, earlier);
        self.drops.append(later.drops);
        self.evictions.append(later.evictions);
        append(&mut self.refused, later.refused);
        append(&mut self.evicted, later.evicted);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.drops.is_empty() && self.evictions.is_empty()
    }

    /// Drops and evictions that are not kept.
    pub(super) const fn not_recorded(&self) -> [u64; 2] {
        [self.drops.not_recorded, self.evictions.not_recorded]
    }
}

fn count(owners: &mut HashMap<Who, FlowsLost>, known: &mut KnownFlows, event: &impl OfFlow) {
    let (owner, seen, Some(tuple)) = event.of() else {
        return;
    };
    let again = known.saw(seen.protocol.as_deref(), tuple, seen.time);
    let flows = match owners.get_mut(owner) {
        Some(flows) => flows,
        None => owners.entry(owner.clone()).or_default(),
    };
    flows.first += u64::from(!again);
    flows.again += u64::from(again);
}

fn append(owners: &mut HashMap<Who, FlowsLost>, more: HashMap<Who, FlowsLost>) {
    for (owner, later) in more {
        let flows = owners.entry(owner).or_default();
        flows.first += later.first;
        flows.again += later.again;
    }
}

impl<E> Default for Kept<E> {
    fn default() -> Self {
        Self {
            events: Vec::new(),
            owners: HashMap::new(),
            not_recorded: 0,
        }
    }
}

impl<E: OfFlow> Kept<E> {
    fn add(&mut self, event: E) {
        let (owner, ..) = event.of();
        let of_owner = self.owners.get(owner).copied().unwrap_or(0);
        if of_owner >= MOST_OF_ONE {
            self.not_recorded += 1;
            return;
        }
        if self.events.len() >= MOST {
            self.not_recorded += 1;
            if !self.make_room(of_owner + 1) {
                return;
            }
        }
        match self.owners.get_mut(owner) {
            Some(number) => *number += 1,
            None => drop(self.owners.insert(owner.clone(), 1)),
        }
        self.events.push(event);
    }

    /// Takes the last event of the owner that has most, if that is more than this.
    fn make_room(&mut self, than: usize) -> bool {
        let most = self.owners.iter_mut().max_by_key(|(_, number)| **number);
        let Some((owner, number)) = most.filter(|(_, number)| **number > than) else {
            return false;
        };
        *number -= 1;
        let last = self.events.iter().rposition(|event| event.of().0 == owner);
        if let Some(last) = last {
            self.events.remove(last);
        }
        true
    }

    fn append(&mut self, later: Self) {
        for event in later.events {
            self.add(event);
        }
        self.not_recorded += later.not_recorded;
    }

    const fn is_empty(&self) -> bool {
        self.events.is_empty() && self.not_recorded == 0
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
            .flat_map(|snapshot| &snapshot.owners.list);
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

#[cfg(test)]
mod tests;
