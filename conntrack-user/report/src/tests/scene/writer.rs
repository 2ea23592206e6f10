//! Simulates the table of a [`Scene`] and writes its seconds.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    time::Duration,
};

use ctpressure_model::pressure::state::{Drops, PressureSample, StateTracker};
use rusqlite::{Connection, params};

use super::{START, Scene, ms, sql};

#[derive(Clone, Copy)]
struct Flow {
    actor: usize,
    id: u64,
    ends: u64,
    tries: u32,
}

/// What happens in one second, by actor.
#[derive(Clone, Default)]
struct Did {
    inserts: u64,
    deletes: u64,
    losses: BTreeMap<i64, u64>,
}

pub(super) struct Writer<'a> {
    connection: &'a Connection,
    owners: Vec<i64>,
    table: VecDeque<Flow>,
    due: BTreeMap<u64, Vec<Flow>>,
    next: u64,
    state: StateTracker,
    recent: HashMap<usize, VecDeque<u64>>,
    full_drops: u64,
    /// Flows to which it happened.
    refused: HashSet<u64>,
    evicted: HashSet<u64>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(connection: &'a Connection, scene: &Scene) -> Self {
        let run = |statement: &str, name: &str, other: &str| {
            connection
                .execute(statement, params![name, other])
                .expect("a row");
        };
        run(
            "INSERT INTO netns (inode, name, last_tick) VALUES (4026531840, ?1 || ?2, 0)",
            "host",
            "",
        );
        if scene.table != "host" {
            run(
                "INSERT INTO netns (inode, name, last_tick) VALUES (4026532999, ?1 || ?2, 0)",
                scene.table,
                "",
            );
        }
        let owners = scene
            .actors
            .iter()
            .map(|actor| {
                let (kind, namespace, pod, unit) = match actor.owner.split_once('/') {
                    Some((namespace, pod)) => ("pod", namespace, pod, ""),
                    None if actor.owner == "host" => ("host", "", "", ""),
                    None => ("cgroup", "", "", actor.owner.as_str()),
                };
                connection
                    .execute(
                        "INSERT OR IGNORE INTO owner (kind, uid, namespace, pod, unit, last_tick) \
                         VALUES (?1, ?2, ?3, ?4, ?5, 0)",
                        params![kind, actor.owner, namespace, pod, unit],
                    )
                    .expect("an owner");
                connection
                    .query_row(
                        "SELECT id FROM owner WHERE uid = ?1",
                        [&actor.owner],
                        |row| row.get(0),
                    )
                    .expect("its id")
            })
            .collect();
        let mut writer = Self {
            connection,
            owners,
            table: VecDeque::new(),
            due: BTreeMap::new(),
            next: 0,
            state: StateTracker::default(),
            recent: HashMap::new(),
            full_drops: 0,
            refused: HashSet::new(),
            evicted: HashSet::new(),
        };
        for (at, actor) in scene.actors.iter().enumerate() {
            for _ in 0..actor.held {
                writer.next += 1;
                writer.table.push_back(Flow {
                    actor: at,
                    id: writer.next,
                    ends: u64::MAX,
                    tries: 0,
                });
            }
        }
        writer
    }

    pub(super) fn run(&mut self, scene: &Scene, seconds: u64) {
        let mut pending: Vec<Did> = vec![Did::default(); scene.actors.len()];
        let mut most = 0;
        for second in 0..seconds {
            let limit = (scene.limit)(second);
            // The sample at its end.
            let tick = sql(second + 1);
            let did = self.second(scene, second, limit, tick);
            for (sum, did) in pending.iter_mut().zip(did) {
                sum.inserts += did.inserts;
                sum.deletes += did.deletes;
                for (what, number) in did.losses {
                    *sum.losses.entry(what).or_default() += number;
                }
            }
            most = most.max(self.table.len() as u64);
            if (scene.asleep)(second) || !(second + 1).is_multiple_of(scene.every) {
                continue;
            }
            self.write(scene, second, tick, limit, most, &pending);
            pending.fill(Did::default());
            most = 0;
        }
    }

    fn second(&mut self, scene: &Scene, second: u64, limit: u64, tick: i64) -> Vec<Did> {
        let mut did: Vec<Did> = vec![Did::default(); scene.actors.len()];
        self.table.retain(|flow| {
            let stays = flow.ends > second;
            did[flow.actor].deletes += u64::from(!stays);
            stays
        });
        let mut tries = self.due.remove(&second).unwrap_or_default();
        for (at, actor) in scene.actors.iter().enumerate() {
            for _ in 0..(actor.rate)(second) {
                self.next += 1;
                let ends = second.saturating_add(actor.life);
                tries.push(Flow {
                    actor: at,
                    id: self.next,
                    ends,
                    tries: 0,
                });
            }
            for _ in 0..(actor.loses)(second) {
                self.next += 1;
                let flow = Flow {
                    actor: at,
                    id: self.next,
                    ends: 0,
                    tries: 0,
                };
                *did[at].losses.entry(actor.reason.0).or_default() += 1;
                if actor.reason.1 == "table_full" {
                    *did[at].losses.entry(110).or_default() += 1;
                }
                self.drop_event(scene, second, tick, flow, actor.reason.1);
            }
        }
        for mut flow in tries {
            let actor = &scene.actors[flow.actor];
            if self.table.len() as u64 >= limit {
                let victim = self
                    .table
                    .iter()
                    .position(|flow| scene.actors[flow.actor].evictable);
                let Some(victim) = victim.and_then(|at| self.table.remove(at)) else {
                    let flows = &mut did[flow.actor].losses;
                    *flows.entry(1).or_default() += 1;
                    let again = !self.refused.insert(flow.id);
                    *flows.entry(110 + i64::from(again)).or_default() += 1;
                    self.full_drops += 1;
                    self.drop_event(scene, second, tick, flow, "table_full");
                    if flow.tries < actor.retries {
                        let next = second + (1 << flow.tries);
                        flow.tries += 1;
                        self.due.entry(next).or_default().push(flow);
                    }
                    continue;
                };
                did[victim.actor].deletes += 1;
                let flows = &mut did[victim.actor].losses;
                *flows.entry(100).or_default() += 1;
                let again = !self.evicted.insert(victim.id);
                *flows.entry(112 + i64::from(again)).or_default() += 1;
                *did[flow.actor].losses.entry(101).or_default() += 1;
                self.eviction_event(scene, second, tick, victim, flow);
            }
            did[flow.actor].inserts += 1;
            self.table.push_back(flow);
        }
        did
    }

    fn path(scene: &Scene, second: u64, flow: Flow) -> (String, i64, &'static str, u16) {
        let actor = &scene.actors[flow.actor];
        let to = match &actor.later {
            Some((from, later)) if second >= *from => later,
            _ => &actor.to,
        };
        let (destination, port) = to[usize::try_from(flow.id).unwrap_or(0) % to.len()];
        let source = if actor.many_sources {
            format!("198.51.{}.{}", flow.id / 250 % 250, flow.id % 250 + 1)
        } else {
            format!("10.42.{}.5", flow.actor + 1)
        };
        (source, sql(1024 + flow.id % 60_000), destination, port)
    }

    fn drop_event(&self, scene: &Scene, second: u64, tick: i64, flow: Flow, reason: &str) {
        let actor = &scene.actors[flow.actor];
        let (source, source_port, destination, port) = Self::path(scene, second, flow);
        self.connection
            .prepare(
                "INSERT INTO drop_event (tick, at, netns, reason, owner, direction, protocol, source, source_port, \
                 destination, destination_port, zone) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, 0)",
            )
            .and_then(|mut statement| {
                statement.execute(params![
                    tick,
                    ms(START + second) + 400,
                    netns(scene),
                    reason,
                    self.owners[flow.actor],
                    actor.ingress,
                    actor.protocol,
                    source,
                    source_port,
                    destination,
                    port
                ])
            })
            .expect("an event");
    }

    fn eviction_event(&self, scene: &Scene, second: u64, tick: i64, victim: Flow, cause: Flow) {
        let actor = &scene.actors[victim.actor];
        let (source, source_port, destination, port) = Self::path(scene, second, victim);
        self.connection
            .prepare(
                "INSERT INTO eviction_event (tick, at, netns, victim, victim_direction, cause, cause_direction, protocol, \
                 source, source_port, destination, destination_port, assured, seen_reply) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, 0, ?13)",
            )
            .and_then(|mut statement| {
                statement.execute(params![
                    tick,
                    ms(START + second) + 400,
                    netns(scene),
                    self.owners[victim.actor],
                    actor.ingress,
                    self.owners[cause.actor],
                    scene.actors[cause.actor].ingress,
                    actor.protocol,
                    source,
                    source_port,
                    destination,
                    port,
                    actor.answered
                ])
            })
            .expect("an event");
    }

    #[expect(
        clippy::too_many_lines,
        reason = "one statement for each table of the schema"
    )]
    fn write(&mut self, scene: &Scene, second: u64, tick: i64, limit: u64, most: u64, did: &[Did]) {
        let sum = |what: &[i64]| -> u64 {
            did.iter()
                .flat_map(|did| &did.losses)
                .filter(|(loss, _)| what.contains(loss))
                .map(|(_, number)| number)
                .sum()
        };
        let entries = self.table.len() as u64;
        let run = |statement: &str, values: &[&dyn rusqlite::ToSql]| {
            self.connection
                .prepare(statement)
                .and_then(|mut statement| statement.execute(values))
                .expect("a row");
        };
        let at = ms(START + second) + 900;
        run(
            "INSERT INTO tick VALUES (?1, 1, ?2, ?3, 0, 1, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            &[
                &tick,
                &at,
                &sql(1000 * scene.every),
                &sql(limit),
                &sql(scene.buckets),
                &sql(entries * 256 + scene.buckets * 8),
                &sql(did.iter().map(|did| did.inserts).sum()),
                &sql(did.iter().map(|did| did.deletes).sum()),
                &sql(sum(&[100])),
                &sql(sum(&[1, 2, 3, 4])),
            ],
        );
        let pressure = self.state.add(&PressureSample {
            at: Duration::from_secs(second),
            entries,
            limit,
            drops: Drops {
                here: Some(self.full_drops),
                ..Drops::default()
            },
            ..PressureSample::default()
        });
        run(
            "INSERT INTO table_sample VALUES (?1, ?2, ?3, ?3, ?4, ?5)",
            &[
                &tick,
                &netns(scene),
                &sql(entries),
                &sql(most),
                &(pressure as i64),
            ],
        );
        if scene.table != "host" {
            run(
                "INSERT INTO table_sample VALUES (?1, 1, 40, 40, 40, 0)",
                &[&tick],
            );
        }
        let (found, invalid) = ((scene.found)(second), (scene.invalid)(second));
        let failed = sum(&[2, 3, 4]);
        if found + invalid + failed + sum(&[1, 100]) > 0 {
            run(
                "INSERT INTO kernel_stat VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0, 0, 0, ?8)",
                &[
                    &tick,
                    &netns(scene),
                    &sql(found),
                    &sql(invalid),
                    &sql(failed),
                    &sql(sum(&[1, 2])),
                    &sql(sum(&[100])),
                    &sql(sum(&[3])),
                ],
            );
        }
        let mut live: BTreeMap<(i64, bool), (u64, u64, u64)> = BTreeMap::new();
        let mut losses: BTreeMap<(i64, bool, i64), u64> = BTreeMap::new();
        for (at, did) in did.iter().enumerate() {
            let key = (self.owners[at], scene.actors[at].ingress);
            let holds = self.table.iter().filter(|flow| flow.actor == at).count() as u64;
            let row = live.entry(key).or_default();
            *row = (row.0 + did.inserts, row.1 + did.deletes, row.2 + holds);
            for (what, number) in &did.losses {
                *losses.entry((key.0, key.1, *what)).or_default() += number;
            }
        }
        for ((owner, ingress), (inserts, deletes, holds)) in &live {
            if inserts + deletes > 0 || (holds > &0 && tick % 60 == 1) {
                run(
                    "INSERT INTO flow VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                    &[
                        &tick,
                        owner,
                        ingress,
                        &sql(*inserts),
                        &sql(*deletes),
                        &sql(*holds),
                    ],
                );
            }
        }
        for ((owner, ingress, what), number) in &losses {
            run(
                "INSERT INTO loss VALUES (?1, ?2, ?3, ?4, ?5)",
                &[&tick, owner, ingress, what, &sql(*number)],
            );
        }
        for (at, actor) in scene.actors.iter().enumerate() {
            let holds = self.table.iter().filter(|flow| flow.actor == at).count() as u64;
            let recent = self.recent.entry(at).or_default();
            recent.push_back(did[at].inserts);
            if recent.len() > 30 {
                recent.pop_front();
            }
            let opened: u64 = recent.iter().sum();
            if tick % 10 == 0 && opened > 0 {
                let to = match &actor.later {
                    Some((from, later)) if second >= *from => later,
                    _ => &actor.to,
                };
                for (address, port) in to {
                    let count = ctpressure_model::pressure::as_f64(opened)
                        / ctpressure_model::pressure::as_f64(to.len() as u64);
                    run(
                        "INSERT INTO destination VALUES (?1, ?2, 0, ?3, ?4, ?5, ?6, 0)",
                        &[
                            &tick,
                            &self.owners[at],
                            address,
                            port,
                            &actor.protocol,
                            &count,
                        ],
                    );
                }
            }
            if tick % 30 == 0 && holds > 0 {
                for (state, part) in actor.states {
                    run(
                        "INSERT OR REPLACE INTO state_mix VALUES (?1, ?2, ?3, ?4)",
                        &[&tick, &self.owners[at], state, &sql(holds * part / 100)],
                    );
                }
            }
        }
    }
}

fn netns(scene: &Scene) -> i64 {
    if scene.table == "host" { 1 } else { 2 }
}
