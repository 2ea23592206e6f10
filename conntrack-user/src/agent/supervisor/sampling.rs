//! What the supervisor does once a second: it reads everything and publishes a snapshot.

use std::{collections::HashSet, io, sync::Arc};

use conntrack_ebpf::owner::{Direction, Party};

use super::{Life, Supervisor, locked};
use crate::{
    agent::ownership::OwnersNow,
    agent::{Explained, Own, OwnerSample, Snapshot, State, Table, Tops, drift::drift, table_bytes},
    events::{Names, OwnersBySlot},
    kernel::{
        Root,
        tables::{TableReader, TablesError, TablesSample},
    },
    limit,
    pressure::{
        Sample,
        destinations::What,
        state::{Drops, Pressure},
    },
    probes::{AttachError, ProgramTime, Totals},
};

/// Destinations of an owner that a snapshot has.
const TOP: usize = 5;
/// Problems that are kept for /status.
const PROBLEMS: usize = 32;

/// What is read for one sample.
#[derive(Default)]
struct Readings {
    tables: Option<TablesSample>,
    /// What the probes have counted; `None` while there are none.
    counts: Option<io::Result<Totals>>,
    table_bytes: Option<u64>,
    programs: Vec<ProgramTime>,
    own: Own,
    owners: OwnersNow,
}

impl Supervisor {
    /// Reads everything and publishes it.
    pub(super) async fn sample(&mut self) {
        let Readings {
            tables,
            counts,
            table_bytes,
            programs,
            own,
            owners,
        } = self.read().await;
        let mut snapshot = Snapshot {
            uptime_seconds: self.began.elapsed().as_secs_f64(),
            kernel: Arc::clone(&self.kernel),
            capabilities: self.capabilities.clone().unwrap_or_default(),
            watchers_lost: self.publisher.watchers_lost(),
            journal: self
                .options
                .journal
                .as_ref()
                .map(|journal| journal.status()),
            own,
            table_bytes,
            counting: self.attached_once,
            totals: self.base,
            unexplained: self.publisher.latest().unexplained,
            ..Snapshot::default()
        };
        if let Some(tables) = &tables {
            let counts = counts.as_ref().and_then(|counts| counts.as_ref().ok());
            self.describe(tables, counts, &owners.names, &mut snapshot);
        }
        if self.publisher.take_unknown_owner() {
            self.scans.look_again();
        }
        match &self.life {
            Life::Waiting => {
                snapshot.reason = Some(AttachError::NotLoaded.to_string());
            }
            Life::Failed { reason, .. } => {
                snapshot.state = State::Degraded;
                snapshot.reason = Some(reason.clone());
            }
            Life::Attached { reader, status, .. } => {
                let mut missing: Vec<String> = status
                    .missing()
                    .map(|hook| {
                        format!(
                            "{}: {}",
                            hook.event,
                            hook.reason.as_deref().unwrap_or("no hook")
                        )
                    })
                    .collect();
                if reader.is_finished() {
                    missing.push("events: the ring can't be read".to_owned());
                }
                match counts {
                    Some(Ok(totals)) => {
                        snapshot.totals = self.base + totals;
                        if let Some(tables) = &tables {
                            let ours = Explained {
                                drops: totals.drops.table_full + totals.drops.clash,
                                evictions: totals.evictions,
                            };
                            snapshot.unexplained = self.reconciler.add(&tables.tables, ours);
                            snapshot.drift =
                                Some(drift(&mut self.baseline, entries(tables), &snapshot.totals));
                        }
                        snapshot.ready = tables.is_some();
                    }
                    failed => {
                        snapshot.totals = self.publisher.latest().totals;
                        missing.push(match failed {
                            Some(Err(error)) => format!("counters: {error}"),
                            _ => "counters: they can't be read".to_owned(),
                        });
                    }
                }
                if tables.is_none() {
                    missing.push("tables: they can't be read".to_owned());
                }
                snapshot.programs = programs;
                snapshot.status = Arc::clone(status);
                snapshot.state = if missing.is_empty() {
                    State::Attached
                } else {
                    State::Degraded
                };
                snapshot.reason = (!missing.is_empty()).then(|| missing.join("; "));
            }
        }
        snapshot.owners = self.with_destinations(owners.samples);
        snapshot.recount = owners.recount;
        snapshot.looks = owners.looks;
        snapshot.occupancy = owners.occupancy;
        snapshot.services = owners.services;
        self.hand_out(snapshot).await;
        self.recount(owners.needs_census).await;
    }

    /// Publishes it, with what the parts beside the probes say; who acts on it is told.
    async fn hand_out(&mut self, mut snapshot: Snapshot) {
        snapshot.problems.clone_from(&self.problems);
        let worst = snapshot.tables.iter().map(|table| table.pressure).max();
        snapshot.kubernetes = self.kube.status();
        // Not remembered: it is over when the API is back.
        let problem = snapshot.kubernetes.as_ref();
        let problem = problem.and_then(|status| status.problem.clone());
        snapshot.problems.extend(problem);
        let events = self.options.kube_events.as_ref();
        snapshot.kube_events = events.map(|events| events.status());
        let problem = snapshot.kube_events.as_ref();
        let problem = problem.and_then(|status| status.problem.clone());
        snapshot.problems.extend(problem);
        let limit = self.options.limit.as_ref();
        snapshot.limit_control = limit.map(limit::Control::report);
        self.publisher.publish(snapshot);
        if let Some(limit) = limit {
            limit.sample(self.publisher.latest());
        }
        self.set_reserve(worst.unwrap_or_default()).await;
    }

    /// Attaches what is needed near a limit, or detaches it.
    async fn set_reserve(&mut self, worst: Pressure) {
        let wanted = self.near_limit.update(worst, self.began.elapsed());
        let Life::Attached { probes, .. } = &self.life else {
            return;
        };
        let probes = Arc::clone(probes);
        let changed = self
            .aside(move || probes.set_reserve(wanted).then(|| probes.status()))
            .await
            .flatten();
        let Some(now) = changed else { return };
        for hook in now.missing() {
            self.remember(&format!(
                "{}: {}",
                hook.event,
                hook.reason.as_deref().unwrap_or("no hook")
            ));
        }
        if let Life::Attached { status, .. } = &mut self.life {
            *status = Arc::new(now);
        }
    }

    /// The owners with where their connections go.
    fn with_destinations(&self, mut owners: Vec<OwnerSample>) -> Vec<OwnerSample> {
        let mut destinations = self.publisher.destinations();
        destinations.advance(self.began.elapsed());
        for owner in &mut owners {
            let party = Party::new(owner.slot, Direction::Egress);
            let top = |what| destinations.top(party, what, TOP);
            owner.destinations = Tops {
                inserts: top(What::Inserts),
                services: top(What::ServiceInserts),
                drops: top(What::Drops),
            };
        }
        owners
    }

    /// What is in files and in the probes' maps, read beside the events.
    async fn read(&mut self) -> Readings {
        let probes = match &self.life {
            Life::Waiting => {
                return Readings {
                    own: Own::read().unwrap_or_default(),
                    // What was counted stays.
                    owners: locked(&self.ownership).now(self.began.elapsed(), 0),
                    ..Readings::default()
                };
            }
            Life::Failed { .. } => None,
            Life::Attached { probes, .. } => Some(Arc::clone(probes)),
        };
        let mut reader = self
            .tables
            .take()
            .unwrap_or_else(|| TableReader::new(Root::system()));
        if self.publisher.take_unknown_netns() {
            reader.look_again();
        }
        let ownership = Arc::clone(&self.ownership);
        let at = self.began.elapsed();
        let work = move || {
            // Tables first: see `Reconciler::add`.
            let tables = reader.read();
            let mut ownership = locked(&ownership);
            let counts = probes.as_ref().map(|probes| {
                ownership.read(probes);
                ownership.tell_services(probes)?;
                probes.totals()
            });
            let limit = tables.as_ref().map_or(0, |tables| tables.limit);
            let owners = ownership.now(at, limit);
            drop(ownership);
            let table_bytes = match &tables {
                Ok(tables) => table_bytes(&Root::system(), tables.buckets),
                Err(_) => None,
            };
            let programs = probes.and_then(|probes| probes.run_time());
            let own = Own::read().unwrap_or_default();
            (reader, tables, counts, table_bytes, programs, own, owners)
        };
        let Some((reader, tables, counts, table_bytes, programs, own, owners)) =
            self.aside(work).await
        else {
            // It panicked, which was printed; the next one begins anew.
            return Readings::default();
        };
        self.tables = Some(reader);
        Readings {
            tables: self.note_problems(tables),
            counts,
            table_bytes,
            programs: programs.unwrap_or_default(),
            own,
            owners,
        }
    }

    /// Says what went wrong, if it is new.
    fn note_problems(&mut self, result: Result<TablesSample, TablesError>) -> Option<TablesSample> {
        match result {
            Ok(sample) => {
                for problem in &sample.problems {
                    self.remember(problem);
                }
                Some(sample)
            }
            Err(error) => {
                // Nothing to say when conntrack has just gone: `tend` will.
                let gone = matches!(&error, TablesError::Sysctl(error)
                    if error.source.kind() == io::ErrorKind::NotFound);
                if !gone {
                    self.remember(&error.to_string());
                }
                None
            }
        }
    }

    /// Says a problem once and keeps it for /status.
    pub(super) fn remember(&mut self, problem: &str) {
        if self.problems.iter().any(|known| known == problem) {
            return;
        }
        tracing::warn!("{problem}");
        if self.problems.len() == PROBLEMS {
            self.problems.remove(0);
        }
        self.problems.push(problem.to_owned());
    }

    /// Fills in what the tables say.
    fn describe(
        &mut self,
        sample: &TablesSample,
        counts: Option<&Totals>,
        owners: &OwnersBySlot,
        snapshot: &mut Snapshot,
    ) {
        let at = self.began.elapsed();
        self.trackers
            .retain(|netns, _| sample.tables.iter().any(|table| table.netns == *netns));
        snapshot.limit = Some(sample.limit);
        snapshot.buckets = Some(sample.buckets);
        let mut taken = HashSet::new();
        for table in &sample.tables {
            let tracker = self.trackers.entry(table.netns).or_default();
            tracker.add(&Sample {
                at,
                entries: table.entries,
                limit: sample.limit,
                drops: Drops {
                    mixed: table.stats.map(|stats| stats.drop),
                    anywhere: counts.map(|counts| counts.drops.table_full),
                    here: None,
                },
                // Counted over all tables: one table's own when there is no other.
                flow: counts
                    .filter(|_| sample.tables.len() == 1)
                    .map(|counts| (counts.inserts, counts.deletes)),
            });
            // A metric must not come twice: somebody may have called a namespace "host".
            let name = if taken.insert(table.name.as_str()) {
                table.name.clone()
            } else {
                table.netns.to_string()
            };
            snapshot.tables.push(Table {
                netns: table.netns,
                name,
                entries: table.entries,
                pressure: tracker.pressure(),
                seconds_to_full: tracker.outlook().seconds_to_full,
                stats: table.stats,
            });
        }
        let before = self.publisher.latest();
        let names: Names = snapshot
            .tables
            .iter()
            .map(|table| (table.netns, table.name.clone()))
            .collect::<Names>()
            .with_owners(owners.clone());
        snapshot.names = if *before.names == names {
            Arc::clone(&before.names)
        } else {
            Arc::new(names)
        };
    }
}

fn entries(sample: &TablesSample) -> u64 {
    sample.tables.iter().map(|table| table.entries).sum()
}
