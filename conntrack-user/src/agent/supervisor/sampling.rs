//! What the supervisor does once a second: it reads everything and publishes a snapshot.

use std::{io, sync::Arc};

use conntrack_ebpf::owner::{Direction, HOST, Party};
use ctpressure_model::{
    events::Names,
    pressure::{
        PressureSample,
        destinations::What,
        state::{Drops, Pressure},
    },
};

use super::{ProbesLife, Supervisor};
use crate::{
    agent::ownership::OwnersNow,
    agent::{
        AgentState, Own, OwnerSample, Probed, SelfCheck, Snapshot, Table, Tables, Tops, Uncharged,
        drift::drift,
    },
    kernel::{
        Problem, Root, slab,
        tables::{HOST_NAME, TableReader, TableSample, TablesError, TablesSample},
    },
    owners::table_names,
    probes::{self, AttachError, ProbeStatus, ProgramTime, Room, Totals},
    sys::lock::locked,
};

/// Destinations of an owner that a snapshot has.
const TOP: usize = 5;
/// Kinds of problems that are kept for `ctpressure status`.
const PROBLEMS: usize = 32;

/// What is read for one sample.
#[derive(Default)]
struct Readings {
    tables: Option<TablesSample>,
    /// What the probes have counted; `None` while there are none.
    counts: Option<io::Result<Totals>>,
    /// The same before the tables were read, at the first sample.
    counts_before: Totals,
    /// Inserts before the tables were read.
    inserts_before: u64,
    table_bytes: Option<u64>,
    programs: Vec<ProgramTime>,
    own: Own,
    owners: OwnersNow,
    /// Why there is no room for more tags of entries.
    no_room: Option<io::Error>,
}

impl Supervisor {
    /// Reads everything and publishes it.
    pub(super) async fn sample(&mut self) {
        let Readings {
            tables,
            counts,
            counts_before,
            inserts_before,
            table_bytes,
            programs,
            own,
            owners,
            no_room,
        } = self.read().await;
        if let Some(error) = no_room {
            self.remember(format!(
                "no room for the tags of as many entries as the limit allows, those without are charged to the host: {error}"
            ));
        }
        let mut snapshot = Snapshot {
            uptime_seconds: self.began.elapsed().as_secs_f64(),
            kernel: self.kernel.clone(),
            capabilities: self.capabilities.clone().unwrap_or_default(),
            own,
            tables: Tables {
                table_bytes,
                ..Tables::default()
            },
            probes: Probed {
                totals: self.base,
                unexplained: self.publisher.latest().probes.unexplained,
                node_losses: self.publisher.latest().probes.node_losses,
                watchers_lost: self.publisher.watchers_lost(),
                ..Probed::default()
            },
            begun: self.begun,
            ..Snapshot::default()
        };
        if let Some(tables) = &tables {
            let counts = counts.as_ref().and_then(|counts| counts.as_ref().ok());
            self.describe(tables, counts, &owners, &mut snapshot);
        }
        if self.publisher.take_unknown_owner() {
            self.scans.look_again();
        }
        let room = tables.as_ref().map(|tables| room(tables, inserts_before));
        self.probe(tables.as_ref(), &counts_before, counts, &mut snapshot);
        if matches!(self.life, ProbesLife::Attached { .. }) {
            snapshot.probes.programs = programs;
        }
        snapshot.self_check = SelfCheck::new(
            owners.owners_off,
            owners.owners.census.drift,
            snapshot.probes.unexplained,
        );
        snapshot.owners = owners.owners;
        if tables
            .as_ref()
            .is_some_and(|tables| tables.host_unseen.is_some())
        {
            // What is the host's can't be told from what is nobody's.
            snapshot.owners.list.retain(|owner| owner.slot != HOST);
        }
        let grown = grown(
            &self.publisher.latest().probes.totals,
            &snapshot.probes.totals,
        );
        self.add_destinations(&mut snapshot.owners.list, grown);
        snapshot.problems = self.problems.texts();
        let worst = snapshot
            .tables
            .list
            .iter()
            .map(|table| table.pressure)
            .max();
        self.publisher.publish(snapshot);
        self.tell_charges().await;
        self.set_reserve(worst.unwrap_or_default()).await;
        if let Some(room) = room {
            self.arm(room).await;
        }
        self.recount(owners.needs_census).await;
    }

    /// Fills in what the probes say: the state of the agent hangs on it.
    fn probe(
        &mut self,
        tables: Option<&TablesSample>,
        counts_before: &Totals,
        counts: Option<io::Result<Totals>>,
        snapshot: &mut Snapshot,
    ) {
        match &self.life {
            ProbesLife::Waiting => {
                snapshot.reason = Some(AttachError::NotLoaded.to_string());
                // There is nothing that it does not see. A rollout must not stop at nodes that track no connections.
                snapshot.ready = true;
            }
            ProbesLife::Without { reason, .. } => {
                // Of what was counted before it is not known what came since.
                snapshot.probes.totals = self.base.not_counted();
                snapshot.probes.status = probes::nothing(reason);
                snapshot.state = AgentState::Degraded;
                snapshot.ready = tables.is_some();
                snapshot.reason = Some(match tables {
                    Some(_) => reason.clone(),
                    None => format!("{reason}; tables: they can't be read"),
                });
                if let Some(tables) = tables {
                    let uncharged =
                        self.reconciler
                            .add(&tables.tables, counts_before, &Totals::default());
                    snapshot.probes.note(uncharged);
                }
            }
            ProbesLife::Attached {
                reader,
                status,
                probes,
            } => {
                let mut missing = unseen(status);
                missing.extend_from_slice(probes.blind());
                if reader.is_finished() {
                    missing.push("events: the ring can't be read".to_owned());
                }
                match counts {
                    Some(Ok(totals)) => {
                        snapshot.probes.totals = totals.after(&self.base);
                        if let Some(tables) = tables {
                            let uncharged =
                                self.reconciler.add(&tables.tables, counts_before, &totals);
                            snapshot.probes.note(uncharged);
                            snapshot.probes.drift =
                                drift(&mut self.baseline, entries(tables), &snapshot.probes.totals);
                        }
                        snapshot.ready = tables.is_some();
                        let host_unseen = tables.and_then(|tables| tables.host_unseen.as_ref());
                        if let Some(why) = host_unseen {
                            snapshot.ready = false;
                            missing.push(why.clone());
                        }
                    }
                    failed => {
                        snapshot.probes.totals = self.publisher.latest().probes.totals;
                        missing.push(match failed {
                            Some(Err(error)) => format!("counters: {error}"),
                            _ => "counters: they can't be read".to_owned(),
                        });
                    }
                }
                if tables.is_none() {
                    missing.push("tables: they can't be read".to_owned());
                }
                snapshot.probes.status = status.clone();
                snapshot.state = if missing.is_empty() {
                    AgentState::Attached
                } else {
                    AgentState::Degraded
                };
                snapshot.reason = (!missing.is_empty()).then(|| missing.join("; "));
            }
        }
    }

    /// Attaches what is needed near a limit, or detaches it.
    async fn set_reserve(&mut self, worst: Pressure) {
        let wanted = self.near_limit.update(worst, self.began.elapsed());
        let ProbesLife::Attached { probes, .. } = &self.life else {
            return;
        };
        let probes = Arc::clone(probes);
        let changed = self
            .aside(move || probes.set_reserve(wanted).then(|| probes.status()))
            .await
            .flatten();
        let Some(now) = changed else { return };
        for event in unseen(&now) {
            self.remember(event);
        }
        if let ProbesLife::Attached { status, .. } = &mut self.life {
            *status = now;
        }
    }

    /// Attaches what only matters while a table fills, or detaches it.
    async fn arm(&mut self, room: Room) {
        let ProbesLife::Attached { probes, .. } = &self.life else {
            return;
        };
        let probes = Arc::clone(probes);
        let now = self
            .aside(move || {
                probes.look(room);
                probes.status()
            })
            .await;
        let Some(now) = now else { return };
        if let ProbesLife::Attached { status, .. } = &mut self.life
            && *status != now
        {
            let unseen_before = unseen(status);
            *status = now.clone();
            for event in unseen(&now) {
                if !unseen_before.contains(&event) {
                    self.remember(event);
                }
            }
        }
    }

    /// Says of each owner where its connections go; `grown`: by how many inserts and drops all of them have grown.
    fn add_destinations(&self, owners: &mut [OwnerSample], grown: [u64; 2]) {
        let mut destinations = self.publisher.destinations();
        destinations.advance(self.began.elapsed());
        for owner in owners {
            let opened = &owner.egress;
            let counted = [opened.inserts, opened.lost()];
            destinations.settle(owner.slot, counted, grown);
            let party = Party::new(owner.slot, Direction::Egress);
            let top = |what| destinations.top(party, what, TOP);
            owner.destinations = Tops {
                inserts: top(What::Inserts),
                services: top(What::ServiceInserts),
                drops: top(What::Drops),
            };
        }
    }

    /// What is in files and in the probes' maps, read beside the events.
    async fn read(&mut self) -> Readings {
        let probes = match &self.life {
            ProbesLife::Waiting => {
                return Readings {
                    own: Own::read().unwrap_or_default(),
                    // What was counted stays.
                    owners: locked(&self.ownership).now(self.began.elapsed(), None),
                    ..Readings::default()
                };
            }
            ProbesLife::Without { .. } => None,
            ProbesLife::Attached { probes, .. } => Some(Arc::clone(probes)),
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
        let is_first = self.reconciler.is_new();
        let work = move || {
            // In this order: see `Reconciler::add`.
            let first = probes.as_ref().filter(|_| is_first);
            let counts_before = first.and_then(|probes| probes.totals().ok());
            let inserts_before = probes.as_ref().map_or(0, |probes| probes.hash_inserts());
            let marks = probes.as_ref();
            let marks = marks.and_then(|probes| locked(&ownership).insert_marks(probes));
            let tables = reader.read_since(|netns| marks.as_ref()?.of(netns));
            let mut ownership = locked(&ownership);
            let counts = probes.as_ref().map(|probes| {
                ownership.read(probes)?;
                if let Ok(tables) = &tables {
                    ownership.note_tables(tables);
                }
                ownership.tell_services(probes)?;
                Ok(ownership.totals())
            });
            let owners = ownership.now(at, tables.as_ref().ok());
            let no_room = match (&probes, &tables) {
                (Some(probes), Ok(tables)) => {
                    ownership.keep_room_for_tags(probes, tables.limit).err()
                }
                _ => None,
            };
            drop(ownership);
            let table_bytes = match &tables {
                Ok(tables) => slab::table_bytes(&Root::system(), tables.buckets),
                Err(_) => None,
            };
            let programs = probes.and_then(|probes| probes.run_time());
            let readings = Readings {
                tables: None,
                counts,
                counts_before: counts_before.unwrap_or_default(),
                inserts_before,
                table_bytes,
                programs: programs.unwrap_or_default(),
                own: Own::read().unwrap_or_default(),
                owners,
                no_room,
            };
            (reader, tables, readings)
        };
        let Some((reader, tables, readings)) = self.aside(work).await else {
            // It panicked, which was printed; the next one begins anew.
            return Readings::default();
        };
        self.tables = Some(reader);
        Readings {
            tables: self.note_problems(tables),
            ..readings
        }
    }

    /// Says what went wrong, if it is new.
    fn note_problems(&mut self, result: Result<TablesSample, TablesError>) -> Option<TablesSample> {
        match result {
            Ok(sample) => {
                for problem in &sample.problems {
                    self.remember(problem.clone());
                }
                Some(sample)
            }
            Err(error) => {
                // Nothing to say when conntrack has just gone: `tend` will.
                let gone = matches!(&error, TablesError::Sysctl(error)
                    if error.source.kind() == io::ErrorKind::NotFound);
                if !gone {
                    self.remember(error.to_string());
                }
                None
            }
        }
    }

    /// Says a kind of problem once, and again when it has grown much; keeps it for `ctpressure status`.
    pub(super) fn remember(&mut self, problem: impl Into<Problem>) {
        let problem = problem.into();
        let text = problem.to_string();
        if self.problems.take(problem, PROBLEMS) {
            tracing::warn!("{text}");
        }
    }

    /// Fills in what the tables say.
    fn describe(
        &mut self,
        sample: &TablesSample,
        counts: Option<&Totals>,
        owners: &OwnersNow,
        snapshot: &mut Snapshot,
    ) {
        let at = self.began.elapsed();
        self.trackers
            .retain(|netns, _| sample.tables.iter().any(|table| table.netns == *netns));
        self.verdicts
            .retain(|netns| sample.tables.iter().any(|table| table.netns == netns));
        snapshot.tables.limit = Some(sample.limit);
        snapshot.tables.buckets = Some(sample.buckets);
        snapshot.tables.expectation_limit = sample.expectation_limit;
        let kept_as = sample
            .tables
            .iter()
            .map(|table| (table.netns, table.name.as_str()));
        let mut names = table_names(kept_as, &owners.tables);
        for table in &sample.tables {
            let tracker = self.trackers.entry(table.netns).or_default();
            tracker.add(&PressureSample {
                at,
                entries: table.entries,
                limit: sample.limit,
                drops: Drops {
                    mixed: table.stats.map(|stats| stats.drop),
                    anywhere: counts.and_then(|counts| counts.drops.table_full),
                    here: None,
                },
                // Counted over all tables: one table's own when there is no other.
                flow: counts
                    .filter(|_| sample.tables.len() == 1)
                    .and_then(Totals::flow),
            });
            let name = names
                .remove(&table.netns)
                .unwrap_or_else(|| table.netns.to_string());
            let owner = owners
                .tables
                .get(&table.netns)
                .filter(|_| name != HOST_NAME);
            snapshot.tables.list.push(Table {
                netns: table.netns,
                kept_as: (table.name != name).then(|| table.name.clone()),
                name,
                owner: owner.map(|it| it.owner.clone()),
                entries: table.entries,
                pressure: tracker.pressure(),
                seconds_to_full: tracker.outlook().seconds_to_full,
                verdicts: self.verdicts.on(table.netns, table.entries, sample.limit),
                used: tracker.is_used(),
                stats: table.stats,
            });
        }
        let kept = sample
            .tables
            .iter()
            .map(|table| (table.netns, table.name.clone()));
        let names: Names = snapshot
            .tables
            .list
            .iter()
            .map(|table| (table.netns, table.name.clone()))
            .collect::<Names>()
            .with_kept(kept)
            .with_owners(owners.names.clone());
        self.publisher.name(names);
    }
}

/// What tells whether a table may fill soon; so many were inserted `before` they were read.
fn room(tables: &TablesSample, before: u64) -> Room {
    let entries = || tables.tables.iter().map(|table| table.entries);
    let chains = |table: &TableSample| table.stats?.chain_too_long;
    Room {
        limit: tables.limit,
        fullest: entries().max().unwrap_or(0),
        entries: entries().sum(),
        buckets: tables.buckets,
        chains_too_long: tables.tables.iter().filter_map(chains).sum(),
        inserts: before,
    }
}

/// Inserts and drops between two samples, as far as they are counted.
fn grown(before: &Totals, now: &Totals) -> [u64; 2] {
    let drops = |totals: &Totals| {
        let drops = &totals.drops;
        let counted = [
            drops.table_full,
            drops.clash,
            drops.chain_too_long,
            drops.dying,
        ];
        counted.into_iter().flatten().sum::<u64>()
    };
    let inserts = |totals: &Totals| totals.inserts.unwrap_or(0);
    [
        inserts(now).saturating_sub(inserts(before)),
        drops(now).saturating_sub(drops(before)),
    ]
}

impl Probed {
    fn note(&mut self, uncharged: Uncharged) {
        self.unexplained = uncharged.unexplained;
        self.node_losses = uncharged.node;
    }
}

/// The events that have no hook, each with the reason.
fn unseen(status: &ProbeStatus) -> Vec<String> {
    let missing = status.missing();
    missing
        .map(|hook| {
            let reason = hook.reason.as_deref().unwrap_or("no hook");
            format!("{}: {reason}", hook.event)
        })
        .collect()
}

fn entries(sample: &TablesSample) -> u64 {
    sample.tables.iter().map(|table| table.entries).sum()
}
