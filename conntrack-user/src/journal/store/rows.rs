//! Writing the rows of one tick.

use std::time::SystemTime;

use conntrack_ebpf::owner::Direction;
use rusqlite::{Transaction, TransactionBehavior, params};

use super::{Known, Store};
use crate::{
    journal::{
        ChangeResult, ChangedBy, JournalError, LimitChange, Loss,
        database::explain,
        reader::milliseconds,
        second::{Second, TableRow},
    },
    kernel::Root,
    limit::culprit,
    owners::Owner,
};

/// Owners that are known without asking the database.
const MOST_KNOWN: usize = 8192;
/// How many ticks an owner's `last_tick` may be behind: a minute.
const LAST_TICK: i64 = 60;

/// What is known when the agent begins.
#[derive(Clone, Debug)]
pub(in crate::journal) struct RunInfo {
    pub(in crate::journal) started: SystemTime,
    pub(in crate::journal) boot_id: String,
    pub(in crate::journal) kernel: String,
    pub(in crate::journal) node: String,
    pub(in crate::journal) ram_bytes: u64,
    pub(in crate::journal) cpus: u64,
}

/// Fields of the store that a transaction, which borrows its connection, needs besides.
pub(super) struct Writing<'a> {
    pub(super) transaction: &'a Transaction<'a>,
    pub(super) owners: &'a mut std::collections::HashMap<crate::owners::Key, Known>,
    pub(super) namespaces: &'a mut std::collections::HashMap<(u32, String), (i64, i64)>,
    pub(super) tick: i64,
    pub(super) run: i64,
}

impl Store {
    /// Notes that the agent begins, and in which run everything is from now on.
    pub(in crate::journal) fn begin_run(&mut self, run: &RunInfo) -> Result<(), JournalError> {
        let insert = || -> rusqlite::Result<i64> {
            self.connection.execute(
                "INSERT INTO run (started, boot_id, version, kernel, node, ram_bytes, cpus) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![
                    milliseconds(run.started),
                    run.boot_id,
                    env!("CARGO_PKG_VERSION"),
                    run.kernel,
                    run.node,
                    run.ram_bytes,
                    run.cpus
                ],
            )?;
            Ok(self.connection.last_insert_rowid())
        };
        self.run = insert().map_err(|error| explain(&self.path, error))?;
        Ok(())
    }

    /// Notes that the agent ends.
    pub(in crate::journal) fn end_run(&self, at: SystemTime) -> Result<(), JournalError> {
        self.connection
            .execute(
                "UPDATE run SET ended = ?2 WHERE id = ?1",
                params![self.run, milliseconds(at)],
            )
            .map(drop)
            .map_err(|error| explain(&self.path, error))
    }

    /// Notes something in the life of the agent.
    pub(in crate::journal) fn life(
        &self,
        at: SystemTime,
        kind: &str,
        detail: &str,
    ) -> Result<(), JournalError> {
        self.connection
            .prepare_cached("INSERT INTO life (run, at, kind, detail) VALUES (?1, ?2, ?3, ?4)")
            .and_then(|mut insert| {
                insert.execute(params![self.run, milliseconds(at), kind, detail])
            })
            .map(drop)
            .map_err(|error| explain(&self.path, error))
    }

    /// Notes a fact of the node.
    pub(in crate::journal) fn fact(
        &self,
        at: SystemTime,
        name: &str,
        value: &str,
    ) -> Result<(), JournalError> {
        self.connection
            .prepare_cached("INSERT INTO fact (run, at, name, value) VALUES (?1, ?2, ?3, ?4)")
            .and_then(|mut insert| insert.execute(params![self.run, milliseconds(at), name, value]))
            .map(drop)
            .map_err(|error| explain(&self.path, error))
    }

    /// Notes a change of the limit.
    pub(in crate::journal) fn limit_change(
        &self,
        change: &LimitChange,
    ) -> Result<(), JournalError> {
        insert_change(&self.connection, self.run, change)
            .map_err(|error| explain(&self.path, error))
    }

    pub(super) fn try_write(&mut self, second: &Second) -> Result<(), JournalError> {
        // It is looked for while it may still run, and not while others wait for the database.
        let change = change_by_other(second);
        let write = |store: &mut Self| -> rusqlite::Result<()> {
            let transaction =
                Transaction::new(&mut store.connection, TransactionBehavior::Immediate)?;
            let mut writing = Writing {
                transaction: &transaction,
                owners: &mut store.owners,
                namespaces: &mut store.namespaces,
                tick: store.next_tick,
                run: store.run,
            };
            writing.tick(second)?;
            writing.tables(second)?;
            writing.owners(second)?;
            writing.flows_lost(second)?;
            writing.events(second)?;
            writing.rest(second)?;
            if let Some(change) = &change {
                insert_change(&transaction, store.run, change)?;
            }
            let mut shape = store.shape;
            shape.add(second.at, second.span);
            super::thin::keep_bounds(&transaction, &mut shape, store.bounds, second.at)?;
            transaction.commit()?;
            store.shape = shape;
            store.next_tick += 1;
            Ok(())
        };
        write(self).map_err(|error| explain(&self.path, error))?;
        if self.owners.len() > MOST_KNOWN {
            self.owners.clear();
        }
        if self.namespaces.len() > MOST_KNOWN {
            self.namespaces.clear();
        }
        Ok(())
    }
}

/// The change of the limit that nobody of ours told of.
fn change_by_other(second: &Second) -> Option<LimitChange> {
    let (limit, buckets) = second.limit_before?;
    let changed = second.limit.filter(|now| *now != limit);
    Some(LimitChange {
        at: crate::journal::reader::time(second.at),
        by: ChangedBy::Other,
        who: changed.and_then(|now| culprit::find(&Root::system(), now)),
        limit_before: Some(limit),
        limit_after: second.limit,
        buckets_before: Some(buckets),
        buckets_after: second.buckets,
        result: ChangeResult::Seen,
        reason: String::new(),
    })
}

fn insert_change(
    connection: &rusqlite::Connection,
    run: i64,
    change: &LimitChange,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO limit_change (run, at, by, who, limit_before, limit_after, buckets_before, \
             buckets_after, result, reason) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?
        .execute(params![
            run,
            milliseconds(change.at),
            change.by.name(),
            change.who,
            change.limit_before,
            change.limit_after,
            change.buckets_before,
            change.buckets_after,
            change.result.name(),
            change.reason
        ])
        .map(drop)
}

impl Writing<'_> {
    fn tick(&self, second: &Second) -> rusqlite::Result<()> {
        let [inserts, deletes, evictions, drops] = second.totals;
        self.transaction
            .prepare_cached(
                "INSERT INTO tick (id, run, at, span, level, state, table_limit, buckets, table_bytes, \
                 inserts, deletes, evictions, drops) \
                 VALUES (?1, ?2, ?3, ?4, 0, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            )?
            .execute(params![
                self.tick,
                self.run,
                second.at,
                second.span,
                second.state,
                second.limit,
                second.buckets,
                second.table_bytes,
                inserts,
                deletes,
                evictions,
                drops
            ])
            .map(drop)
    }

    fn tables(&mut self, second: &Second) -> rusqlite::Result<()> {
        for table in &second.tables {
            let netns = self.netns(table)?;
            self.transaction
                .prepare_cached(
                    "INSERT INTO table_sample (tick, netns, entries, entries_min, entries_max, pressure) \
                     VALUES (?1, ?2, ?3, ?3, ?3, ?4)",
                )?
                .execute(params![self.tick, netns, table.entries, table.pressure as i64])?;
        }
        for (table, stats) in &second.kernel {
            let netns = self.netns(table)?;
            self.transaction
                .prepare_cached(
                    "INSERT INTO kernel_stat (tick, netns, found, invalid, insert_failed, dropped, early_drop, \
                     icmp_error, search_restart, clash_resolve, chain_too_long) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
                )?
                .execute(params![
                    self.tick,
                    netns,
                    stats.found,
                    stats.invalid,
                    stats.insert_failed,
                    stats.drop,
                    stats.early_drop,
                    stats.icmp_error,
                    stats.search_restart,
                    stats.clash_resolve,
                    stats.chain_too_long
                ])?;
        }
        Ok(())
    }

    fn owners(&mut self, second: &Second) -> rusqlite::Result<()> {
        // The same key twice: an owner whose slot changed between two samples.
        for row in &second.flows {
            let owner = self.owner(&row.owner)?;
            self.transaction
                .prepare_cached(
                    "INSERT INTO flow (tick, owner, direction, inserts, deletes, live) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
                     ON CONFLICT DO UPDATE SET inserts = inserts + excluded.inserts, \
                     deletes = deletes + excluded.deletes, live = live + excluded.live",
                )?
                .execute(params![
                    self.tick,
                    owner,
                    row.direction as i64,
                    row.inserts,
                    row.deletes,
                    row.live
                ])?;
        }
        for row in &second.losses {
            let owner = self.owner(&row.owner)?;
            self.loss(owner, row.direction as i64, row.what, row.number)?;
        }
        for (owner, state, entries) in &second.states {
            let owner = self.owner(owner)?;
            self.transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO state_mix (tick, owner, state, entries) VALUES (?1, ?2, ?3, ?4)",
                )?
                .execute(params![self.tick, owner, state, entries])?;
        }
        for row in &second.destinations {
            let owner = self.owner(&row.owner)?;
            let destination = &row.destination;
            self.transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO destination (tick, owner, what, address, port, protocol, count, error) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                )?
                .execute(params![
                    self.tick,
                    owner,
                    row.what,
                    destination.address.to_string(),
                    destination.port.unwrap_or(0),
                    destination.protocol,
                    destination.count,
                    destination.error
                ])?;
        }
        Ok(())
    }

    pub(super) fn loss(
        &self,
        owner: i64,
        direction: i64,
        what: Loss,
        number: u64,
    ) -> rusqlite::Result<()> {
        self.transaction
            .prepare_cached(
                "INSERT INTO loss (tick, owner, direction, what, number) VALUES (?1, ?2, ?3, ?4, ?5) \
                 ON CONFLICT DO UPDATE SET number = number + excluded.number",
            )?
            .execute(params![self.tick, owner, direction, what.number(), number])
            .map(drop)
    }

    fn rest(&self, second: &Second) -> rusqlite::Result<()> {
        for (kind, number) in &second.lost {
            self.transaction
                .prepare_cached("INSERT INTO events_lost (tick, kind, number) VALUES (?1, ?2, ?3)")?
                .execute(params![self.tick, kind, number])?;
        }
        for (kind, detail) in &second.life {
            self.transaction
                .prepare_cached("INSERT INTO life (run, at, kind, detail) VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![self.run, second.at, kind, detail])?;
        }
        Ok(())
    }

    fn netns(&mut self, table: &TableRow) -> rusqlite::Result<i64> {
        self.netns_by(table.netns, &table.name)
    }

    pub(super) fn netns_by(&mut self, inode: u32, name: &str) -> rusqlite::Result<i64> {
        let tick = self.tick;
        // One that was not written for long may be gone from the database.
        if let Some((id, last)) = self.namespaces.get(&(inode, name.to_owned()))
            && tick - last < LAST_TICK
        {
            return Ok(*id);
        }
        let id = self
            .transaction
            .prepare_cached(
                "INSERT INTO netns (inode, name, last_tick) VALUES (?1, ?2, ?3) \
                 ON CONFLICT (inode, name) DO UPDATE SET last_tick = excluded.last_tick RETURNING id",
            )?
            .query_row(params![inode, name, tick], |row| row.get(0))?;
        self.namespaces.insert((inode, name.to_owned()), (id, tick));
        Ok(id)
    }

    pub(super) fn owner(&mut self, owner: &Owner) -> rusqlite::Result<i64> {
        let tick = self.tick;
        let key = owner.key();
        if let Some(known) = self.owners.get(&key)
            && known.owner == *owner
            && tick - known.last_tick < LAST_TICK
        {
            return Ok(known.id);
        }
        let workload = owner.workload.as_ref();
        let id = self
            .transaction
            .prepare_cached(
                "INSERT INTO owner (kind, uid, namespace, pod, unit, workload_kind, workload, last_tick) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) \
                 ON CONFLICT (kind, uid) DO UPDATE SET last_tick = excluded.last_tick, \
                 namespace = CASE excluded.pod WHEN '' THEN namespace ELSE excluded.namespace END, \
                 pod = CASE excluded.pod WHEN '' THEN pod ELSE excluded.pod END, \
                 unit = excluded.unit, \
                 workload_kind = ifnull(excluded.workload_kind, workload_kind), \
                 workload = ifnull(excluded.workload, workload) RETURNING id",
            )?
            .query_row(
                params![
                    owner.kind.label(),
                    owner.uid,
                    owner.namespace,
                    owner.pod,
                    owner.unit,
                    workload.map(|workload| &workload.kind),
                    workload.map(|workload| &workload.name),
                    tick
                ],
                |row| row.get(0),
            )?;
        let known = Known {
            id,
            owner: owner.clone(),
            last_tick: tick,
        };
        self.owners.insert(key, known);
        Ok(id)
    }
}

const _: () = assert!(Direction::Egress as i64 == 0 && Direction::Ingress as i64 == 1);
