//! What one watcher gets.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::SystemTime,
};

use conntrack_ebpf::record::View;
use ctpressure_model::events::{Event, Filter, Kind, LostEvent, Names, VerdictEvent};
use tokio::sync::{broadcast, watch};

use super::{Closed, HubShared};
use crate::{
    agent::{Snapshot, clock::BootClock},
    probes::Lost,
};

/// Events in one go at most, so that a storm is written in pieces.
const BATCH: usize = 512;

/// Counts as one who watches inserts until it is dropped.
#[derive(Debug)]
pub(super) struct InsertWatcher(Arc<HubShared>);

impl InsertWatcher {
    pub(super) fn new(shared: &Arc<HubShared>) -> Self {
        shared
            .insert_watchers
            .send_modify(|watchers| *watchers += 1);
        Self(Arc::clone(shared))
    }
}

impl Drop for InsertWatcher {
    fn drop(&mut self) {
        self.0
            .insert_watchers
            .send_modify(|watchers| *watchers -= 1);
    }
}

/// One watcher's view of the events.
#[derive(Debug)]
pub struct Subscription {
    pub(super) filter: Filter,
    pub(super) _inserts: Option<InsertWatcher>,
    pub(super) events: broadcast::Receiver<View>,
    pub(super) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(super) shared: Arc<HubShared>,
    pub(super) names: watch::Receiver<Names>,
    pub(super) lost: Lost,
    pub(super) clock: BootClock,
    /// What was told of full tables, by network namespace.
    pub(super) told: HashMap<u32, Vec<String>>,
}

impl Subscription {
    /// Waits for events that pass the filter, and appends those that are there.
    ///
    /// May be cancelled: what was not appended comes with the next call.
    ///
    /// # Errors
    /// [`Closed`] after the agent has ended.
    pub async fn next(&mut self, events: &mut Vec<Event>) -> Result<(), Closed> {
        let before = events.len();
        while events.len() == before {
            tokio::select! {
                received = self.events.recv() => match received {
                    Ok(view) => {
                        self.append(&view, events);
                        self.append_waiting(events);
                    }
                    Err(broadcast::error::RecvError::Lagged(number)) => {
                        self.too_slow(number, events);
                    }
                    Err(broadcast::error::RecvError::Closed) => return Err(Closed),
                },
                changed = self.snapshots.changed() => {
                    changed.map_err(|_| Closed)?;
                    self.take_snapshot(events);
                }
            }
        }
        Ok(())
    }

    fn append(&mut self, view: &View, events: &mut Vec<Event>) {
        let names = self.names.borrow();
        if self.filter.passes(view, &names) {
            let time = self.clock.time_of_day(view.header().time_ns);
            events.push(Event::new(view, time, &names));
        }
    }

    fn append_waiting(&mut self, events: &mut Vec<Event>) {
        for _ in 0..BATCH {
            match self.events.try_recv() {
                Ok(view) => self.append(&view, events),
                Err(broadcast::error::TryRecvError::Lagged(number)) => {
                    self.too_slow(number, events);
                }
                Err(_) => break,
            }
        }
    }

    fn too_slow(&self, number: u64, events: &mut Vec<Event>) {
        self.shared
            .watchers_lost
            .fetch_add(number, Ordering::Relaxed);
        events.push(Event::Lost(
            LostEvent {
                watcher: number,
                ..nothing_lost()
            }
            .summed(),
        ));
    }

    fn take_snapshot(&mut self, events: &mut Vec<Event>) {
        let snapshot = Arc::clone(&self.snapshots.borrow_and_update());
        let (before, now) = (self.lost, snapshot.probes.totals.lost);
        self.lost = now;
        let wanted = |kind, count: fn(&Lost) -> u64| {
            let lost = count(&now).saturating_sub(count(&before));
            if self.filter.wants(kind) { lost } else { 0 }
        };
        let lost = LostEvent {
            drops: wanted(Kind::Drop, |lost| lost.drop_records),
            evictions: wanted(Kind::Eviction, |lost| lost.eviction_records),
            inserts: wanted(Kind::Insert, |lost| lost.insert_records),
            drops_not_detailed: wanted(Kind::Drop, |lost| lost.drops_not_detailed),
            evictions_not_detailed: wanted(Kind::Eviction, |lost| lost.evictions_not_detailed),
            ..nothing_lost()
        }
        .summed();
        if lost.records > 0 {
            events.push(Event::Lost(lost));
        }
        if self.filter.wants(Kind::Drop) || self.filter.wants(Kind::Eviction) {
            self.tell_verdicts(&snapshot, events);
        }
    }

    /// Says of what tables are full, each once for as long as it is so.
    fn tell_verdicts(&mut self, snapshot: &Snapshot, events: &mut Vec<Event>) {
        let mut told = HashMap::new();
        for table in &snapshot.tables.list {
            let before = self.told.remove(&table.netns).unwrap_or_default();
            let passes = self.filter.passes_netns(table.netns, &table.name);
            for verdict in table.verdicts.iter().filter(|_| passes) {
                let which = verdict.which();
                if !before.contains(&which) {
                    events.push(Event::Verdict(VerdictEvent {
                        time: SystemTime::now(),
                        netns: table.netns,
                        netns_name: table.name.clone(),
                        advice: verdict.advice(),
                        verdict: verdict.clone(),
                    }));
                }
                let of_table: &mut Vec<String> = told.entry(table.netns).or_default();
                of_table.push(which);
            }
        }
        self.told = told;
    }
}

fn nothing_lost() -> LostEvent {
    LostEvent {
        time: SystemTime::now(),
        records: 0,
        watcher: 0,
        drops: 0,
        evictions: 0,
        inserts: 0,
        drops_not_detailed: 0,
        evictions_not_detailed: 0,
    }
}
