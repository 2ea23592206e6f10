//! Writing the rows of one tick.

use std::time::SystemTime;

use conntrack_ebpf::owner::Direction;
use ctpressure_journal::{
    ChangeResult, ChangedBy, JournalError, LimitChange, Loss, database::explain, milliseconds,
};
use rusqlite::{Transaction, TransactionBehavior, params};

use super::{JournalStore, KnownOwner, insert::insert};
use crate::{
    kernel::{Root, memory, release},
    limit::culprit,
    owners::Owner,
    recorder::{facts, second::Second},
};

/// Owners that are known without asking the database.
const MOST_KNOWN: usize = 8192;
/// How many ticks an owner's `last_tick` may be behind: a minute.
const LAST_TICK: i64 = 60;

/// Fields of the store that a transaction, which borrows its connection, needs besides.
pub(super) struct Writing<'a> {
    pub(super) transaction: &'a Transaction<'a>,
    pub(super) owners: &'a mut std::collections::HashMap<crate::owners::Key, KnownOwner>,
    pub(super) namespaces: &'a mut std::collections::HashMap<(u32, String), (i64, i64)>,
    pub(super) tick: i64,
    pub(super) run: i64,
}

impl JournalStore {
    /// Notes that the agent begins, and in which run everything is from now on.
    pub(in crate::recorder) fn begin_run(&mut self, root: &Root) -> Result<(), JournalError> {
        insert!(self.connection, "INSERT" run {
            started: milliseconds(SystemTime::now()),
            boot_id: facts::text(root, "sys/kernel/random/boot_id"),
            version: env!("CARGO_PKG_VERSION"),
            kernel: release::release(root).unwrap_or_else(|_| "unknown".to_owned()),
            node: facts::text(root, "sys/kernel/hostname"),
            ram_bytes: memory::read(root).map_or(0, |memory| memory.total),
            cpus: release::possible_cpus(root).unwrap_or(0) as u64,
        })
        .map_err(|error| explain(&self.path, error))?;
        self.run = self.connection.last_insert_rowid();
        Ok(())
    }

    /// Notes that the agent ends.
    pub(in crate::recorder) fn end_run(&self, at: SystemTime) -> Result<(), JournalError> {
        self.connection
            .execute(
                "UPDATE run SET ended = ?2 WHERE id = ?1",
                params![self.run, milliseconds(at)],
            )
            .map(drop)
            .map_err(|error| explain(&self.path, error))
    }

    /// Notes something in the life of the agent.
    pub(in crate::recorder) fn life(
        &self,
        at: SystemTime,
        kind: &str,
        detail: &str,
    ) -> Result<(), JournalError> {
        let at = milliseconds(at);
        insert!(self.connection, "INSERT" life { run: self.run, at: at, kind: kind, detail: detail })
            .map_err(|error| explain(&self.path, error))
    }

    /// Notes a fact of the node.
    pub(in crate::recorder) fn fact(
        &self,
        at: SystemTime,
        name: &str,
        value: &str,
    ) -> Result<(), JournalError> {
        let at = milliseconds(at);
        insert!(self.connection, "INSERT" fact { run: self.run, at: at, name: name, value: value })
            .map_err(|error| explain(&self.path, error))
    }

    /// Notes a change of the limit.
    pub(in crate::recorder) fn limit_change(
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
        if let Err(error) = write(self) {
            self.forget();
            return Err(explain(&self.path, error));
        }
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
        at: ctpressure_journal::time(second.at),
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
    insert!(connection, "INSERT" limit_change {
        run: run,
        at: milliseconds(change.at),
        by: change.by.to_string(),
        who: change.who,
        limit_before: change.limit_before,
        limit_after: change.limit_after,
        buckets_before: change.buckets_before,
        buckets_after: change.buckets_after,
        result: change.result.to_string(),
        reason: change.reason,
    })
}

impl Writing<'_> {
    fn tick(&self, second: &Second) -> rusqlite::Result<()> {
        let [inserts, deletes, evictions, drops] = second.totals;
        insert!(self.transaction, "INSERT" tick {
            id: self.tick,
            run: self.run,
            at: second.at,
            span: second.span,
            level: 0,
            state: second.state,
            table_limit: second.limit,
            buckets: second.buckets,
            table_bytes: second.table_bytes,
            inserts: inserts,
            deletes: deletes,
            evictions: evictions,
            drops: drops,
        })
    }

    fn tables(&mut self, second: &Second) -> rusqlite::Result<()> {
        for table in &second.tables {
            let netns = self.netns(table.netns, &table.name)?;
            insert!(self.transaction, "INSERT" table_sample {
                tick: self.tick,
                netns: netns,
                entries: table.entries,
                entries_min: table.entries,
                entries_max: table.entries,
                pressure: table.pressure as i64,
            })?;
        }
        for (table, stats) in &second.kernel {
            let netns = self.netns(table.netns, &table.name)?;
            insert!(self.transaction, "INSERT" kernel_stat {
                tick: self.tick,
                netns: netns,
                found: stats.found,
                invalid: stats.invalid,
                insert_failed: stats.insert_failed,
                dropped: stats.drop,
                early_drop: stats.early_drop,
                icmp_error: stats.icmp_error,
                search_restart: stats.search_restart,
                clash_resolve: stats.clash_resolve,
                chain_too_long: stats.chain_too_long,
            })?;
        }
        Ok(())
    }

    fn owners(&mut self, second: &Second) -> rusqlite::Result<()> {
        // The same key twice: an owner whose slot changed between two samples.
        for row in &second.flows {
            let owner = self.owner(&row.owner)?;
            insert!(
                self.transaction,
                "INSERT" flow {
                    tick: self.tick,
                    owner: owner,
                    direction: row.direction as i64,
                    inserts: row.inserts,
                    deletes: row.deletes,
                    live: row.live,
                },
                "ON CONFLICT DO UPDATE SET inserts = inserts + excluded.inserts, \
                 deletes = deletes + excluded.deletes, live = live + excluded.live"
            )?;
        }
        for row in &second.losses {
            let owner = self.owner(&row.owner)?;
            self.loss(owner, row.direction as i64, row.what, row.number)?;
        }
        for (owner, state, entries) in &second.states {
            let owner = self.owner(owner)?;
            insert!(self.transaction, "REPLACE" state_mix {
                tick: self.tick,
                owner: owner,
                state: state,
                entries: entries,
            })?;
        }
        for row in &second.destinations {
            let owner = self.owner(&row.owner)?;
            let destination = &row.destination;
            insert!(self.transaction, "REPLACE" destination {
                tick: self.tick,
                owner: owner,
                what: row.what,
                address: destination.address.to_string(),
                port: destination.port.unwrap_or(0),
                protocol: destination.protocol,
                count: destination.count,
                error: destination.error,
            })?;
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
        insert!(
            self.transaction,
            "INSERT" loss {
                tick: self.tick,
                owner: owner,
                direction: direction,
                what: what.number(),
                number: number,
            },
            "ON CONFLICT DO UPDATE SET number = number + excluded.number"
        )
    }

    fn rest(&self, second: &Second) -> rusqlite::Result<()> {
        for (kind, number) in &second.lost {
            insert!(self.transaction, "INSERT" events_lost {
                tick: self.tick,
                kind: kind,
                number: number,
            })?;
        }
        for (kind, detail) in &second.life {
            insert!(self.transaction, "INSERT" life {
                run: self.run,
                at: second.at,
                kind: kind,
                detail: detail,
            })?;
        }
        Ok(())
    }

    pub(super) fn netns(&mut self, inode: u32, name: &str) -> rusqlite::Result<i64> {
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
        let known = KnownOwner {
            id,
            owner: owner.clone(),
            last_tick: tick,
        };
        self.owners.insert(key, known);
        Ok(id)
    }
}

const _: () = assert!(Direction::Egress as i64 == 0 && Direction::Ingress as i64 == 1);
