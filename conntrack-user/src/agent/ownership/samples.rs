//! What a snapshot says of each owner.

use std::time::Duration;

use conntrack_ebpf::owner::{Direction, FIRST, Party};
use ctpressure_model::{
    events::OwnersBySlot,
    pressure::share::{OwnerHolding, shares},
};

use super::{DIRECTIONS, OwnersNow, Ownership, bounds::values};
use crate::{
    agent::{
        OwnerSample, Owners,
        owner_sample::{Activity, OwnerTotals, Tops},
    },
    kernel::tables::TablesSample,
    owners::{OccupantState, OwnerKind},
};

impl Ownership {
    /// Everything that a snapshot needs, `at` so long after the agent began, of what was last read and the `tables` of then.
    pub(in crate::agent) fn now(
        &mut self,
        at: Duration,
        tables: Option<&TablesSample>,
    ) -> OwnersNow {
        self.timeline.tick(at);
        for tally in self.tallies.values_mut() {
            let sums = tally.sums();
            tally.series.add(&self.timeline, sums);
        }
        let held = tables.map(|tables| tables.tables.iter().map(|table| table.entries).sum());
        let mut list = self.samples(held);
        share(
            &mut list,
            held.unwrap_or(0),
            tables.map_or(0, |tables| tables.limit),
        );
        let held = held.filter(|_| self.counts_entries() && self.recount.times > 0);
        let held = held.map(|counted| self.held(counted, &mut list));
        OwnersNow {
            owners: Owners {
                list,
                held,
                occupancy: self.slots.occupancy(),
                services: self.services().counts(),
                census: self.recount(),
                states: self.node_states.clone(),
                nat: self.nat.clone(),
                looks: self.looks,
            },
            names: self.names(),
            tables: self.slots.table_owners(),
            owners_off: self.owners_off,
            needs_census: self.needs_census(),
        }
    }

    /// Every owner with what it has, by slot; `held`: entries in all tables.
    fn samples(&self, held: Option<u64>) -> Vec<OwnerSample> {
        let mut samples: Vec<OwnerSample> = self
            .tallies
            .iter()
            .filter_map(|(slot, tally)| {
                Some(OwnerSample {
                    slot: *slot,
                    owner: self.slots.owner(*slot)?.clone(),
                    present: self.is_present(*slot),
                    egress: tally.totals(Direction::Egress),
                    ingress: tally.totals(Direction::Ingress),
                    held_at_most: 0,
                    activity: Activity::default(),
                    destinations: Tops::default(),
                })
            })
            .collect();
        self.settle(&mut samples, held);
        for sample in &mut samples {
            if let Some(tally) = self.tallies.get(&sample.slot) {
                sample.activity = tally.activity(&self.timeline, sample.live());
            }
        }
        samples
    }

    /// Says how many entries each has: within its bounds, and together what the tables hold.
    fn settle(&self, samples: &mut [OwnerSample], held: Option<u64>) {
        let mut totals: Vec<&mut OwnerTotals> = Vec::with_capacity(2 * samples.len());
        let counts_entries = self.counts_entries();
        for sample in samples {
            if !counts_entries {
                let slot = sample.slot;
                let found = |direction| self.found.as_ref()?.of(Party::new(slot, direction));
                (sample.egress.bounds, sample.ingress.bounds) = (None, None);
                [sample.egress.found, sample.ingress.found] = DIRECTIONS.map(found);
            }
            // Whoever has sockets in the host's network may be the one that an insert waits for; till then the host has it.
            let has_sockets = sample.owner.host_network
                || !matches!(sample.owner.kind, OwnerKind::Pod | OwnerKind::Unknown);
            if let Some(bounds) = sample.egress.bounds.as_mut().filter(|_| has_sockets) {
                bounds.upper += self.waiting.waiting();
            }
            totals.extend([&mut sample.egress, &mut sample.ingress]);
        }
        let Some(bounds) = totals
            .iter()
            .map(|totals| totals.bounds)
            .collect::<Option<Vec<_>>>()
        else {
            // Of those that are known exactly it can be said all the same.
            for totals in totals {
                totals.live = totals
                    .bounds
                    .filter(|bounds| bounds.width() == 0)
                    .map(|bounds| bounds.lower);
            }
            return;
        };
        let lowest: u64 = bounds.iter().map(|bounds| bounds.lower).sum();
        for (totals, live) in totals
            .into_iter()
            .zip(values(&bounds, held.unwrap_or(lowest)))
        {
            totals.live = Some(live);
        }
    }

    /// Whether both what enters and what leaves is counted.
    pub(super) fn counts_entries(&self) -> bool {
        self.totals.flow().is_some()
    }

    /// Entries that are `counted` and in no table, so that packets must hold them, and of each owner how many of them there are at most.
    fn held(&mut self, counted: u64, samples: &mut [OwnerSample]) -> u64 {
        let live = samples.iter().map(OwnerSample::live).sum();
        let moved = self.totals.inserts.unwrap_or(0);
        let held = self.held.add(counted, live, moved);
        for sample in samples {
            if let Some(tally) = self.tallies.get_mut(&sample.slot) {
                sample.held_at_most = tally.held_at_most(held.at_most);
            }
        }
        held.at_least
    }

    fn is_present(&self, slot: u32) -> bool {
        slot < FIRST
            || self
                .slots
                .occupants()
                .any(|(known, occupant)| known == slot && occupant.state == OccupantState::Present)
    }

    pub(in crate::agent) fn names(&self) -> OwnersBySlot {
        self.tallies
            .keys()
            .filter_map(|slot| Some((*slot, self.slots.owner(*slot)?.clone())))
            .collect()
    }
}

/// Fills in what part of everything each has.
fn share(samples: &mut [OwnerSample], counted: u64, limit: u64) {
    let holdings: Vec<_> = samples
        .iter()
        .map(|sample| OwnerHolding {
            live: sample.live(),
            insert_rate: sample
                .activity
                .inserts_per_second
                .ten_seconds
                .unwrap_or(0.0),
            drop_rate: sample.activity.drops_per_second.ten_seconds.unwrap_or(0.0),
        })
        .collect();
    for (sample, share) in samples.iter_mut().zip(shares(&holdings, counted, limit)) {
        sample.activity.live_share = share.live_share;
        sample.activity.limit_share = share.limit_share;
        sample.activity.insert_share = share.insert_share;
        sample.activity.drop_share = share.drop_share;
    }
}
