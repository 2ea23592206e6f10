//! Keeping the bounds: ticks of ten seconds become one, then those of a minute, then the oldest go.
//!
//! Counts of ticks that become one are added up, so that sums over any longer time stay what they
//! are. Of what is not a count the last value stays (entries, live, states, destinations), with the
//! least and the most of entries and the highest pressure. Drops and evictions with detail stay as
//! many as one tick may have.

use rusqlite::{Connection, OptionalExtension as _};

use super::{
    Bounds, JournalStore,
    shape::{Shape, ThinStep, oldest},
};
use crate::recorder::detail::MOST;

/// Milliseconds of a tick after thinning, by the level before.
const BUCKETS: [i64; 2] = [10_000, 60_000];
/// Ticks that one step looks at: more are never in one bucket, but when somebody plays with the clock.
const MOST_TICKS: i64 = 64;
/// Ticks that go at once for want of room.
const DROPPED: i64 = 8;
/// Ticks that may go in one second because of their age: a clock that is set ahead for a while must
/// not take everything along.
const AGED: i64 = 8;
/// Rows of `life`, `fact` and `limit_change` at most.
const MOST_LIFE: i64 = 4096;
/// Pages that are given back to the file system at once.
const SHRINK: u64 = 256;

/// Tables that hang on a tick.
const CHILDREN: [&str; 10] = [
    "table_sample",
    "kernel_stat",
    "flow",
    "loss",
    "state_mix",
    "destination",
    "drop_event",
    "eviction_event",
    "event_count",
    "events_lost",
];

/// What becomes one row for each of its keys: statements with the first and the last tick as ?1, ?2.
const MERGES: [&str; 8] = [
    "INSERT OR REPLACE INTO table_sample SELECT ?2, netns, final, min(entries_min), max(entries_max), \
     max(pressure) FROM (SELECT *, last_value(entries) OVER (PARTITION BY netns ORDER BY tick \
     ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS final FROM table_sample \
     WHERE tick BETWEEN ?1 AND ?2) GROUP BY netns, final",
    "INSERT OR REPLACE INTO kernel_stat SELECT ?2, netns, sum(found), sum(invalid), sum(insert_failed), \
     sum(dropped), sum(early_drop), sum(icmp_error), sum(search_restart), sum(clash_resolve), \
     sum(chain_too_long) FROM kernel_stat WHERE tick BETWEEN ?1 AND ?2 GROUP BY netns",
    // With one max() the other columns are those of the row that has it.
    "INSERT OR REPLACE INTO flow SELECT ?2, owner, direction, inserts, deletes, live FROM \
     (SELECT owner, direction, sum(inserts) AS inserts, sum(deletes) AS deletes, live, max(tick) \
     FROM flow WHERE tick BETWEEN ?1 AND ?2 GROUP BY owner, direction)",
    "INSERT OR REPLACE INTO loss SELECT ?2, owner, direction, what, sum(number) FROM loss \
     WHERE tick BETWEEN ?1 AND ?2 GROUP BY owner, direction, what",
    "INSERT OR REPLACE INTO events_lost SELECT ?2, kind, sum(number) FROM events_lost \
     WHERE tick BETWEEN ?1 AND ?2 GROUP BY kind",
    "INSERT OR REPLACE INTO event_count SELECT ?2, kind, sum(recorded), sum(not_recorded) FROM event_count \
     WHERE tick BETWEEN ?1 AND ?2 GROUP BY kind",
    // Of the last census, and of the last look at destinations, all rows.
    "INSERT OR REPLACE INTO state_mix SELECT ?2, owner, state, entries FROM state_mix \
     WHERE tick = (SELECT max(tick) FROM state_mix WHERE tick BETWEEN ?1 AND ?2)",
    "INSERT OR REPLACE INTO destination SELECT ?2, owner, what, address, port, protocol, count, error \
     FROM destination WHERE tick = (SELECT max(tick) FROM destination WHERE tick BETWEEN ?1 AND ?2)",
];

/// Some ticks that become one.
#[derive(Clone, Copy, Debug)]
struct TickGroup {
    first: i64,
    last: i64,
    ticks: u64,
    span: i64,
}

/// Thins and drops until the bounds are kept, or enough was done for one second.
pub(super) fn keep_bounds(
    connection: &Connection,
    shape: &mut Shape,
    bounds: Bounds,
    now: i64,
) -> rusqlite::Result<()> {
    let keep = i64::try_from(bounds.keep.as_millis()).unwrap_or(i64::MAX);
    if now.saturating_sub(shape.oldest) > keep {
        drop_oldest(connection, shape, AGED, now.saturating_sub(keep))?;
    }
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, u64>(0));
    let most = bounds.pages();
    let (pages, free) = (number("page_count")?, number("freelist_count")?);
    for _ in 0..Shape::steps(pages.saturating_sub(free), most) {
        step(connection, shape)?;
    }
    if pages > most && free > 0 {
        // The bound was lowered.
        let mut shrink = connection.prepare(&format!("PRAGMA incremental_vacuum({SHRINK})"))?;
        let mut rows = shrink.query([])?;
        while rows.next()?.is_some() {}
    }
    Ok(())
}

fn step(connection: &Connection, shape: &mut Shape) -> rusqlite::Result<()> {
    match shape.next() {
        ThinStep::Thin(level) => thin(connection, shape, level),
        ThinStep::Drop => drop_oldest(connection, shape, DROPPED, i64::MAX),
    }
}

/// The oldest ticks of this level become one of the next.
fn thin(connection: &Connection, shape: &mut Shape, level: usize) -> rusqlite::Result<()> {
    let Some(group) = oldest_group(connection, level)? else {
        return Ok(());
    };
    if group.ticks > 1 {
        for merge in MERGES {
            connection
                .prepare_cached(merge)?
                .execute([group.first, group.last])?;
        }
        thin_events(connection, "drop_event", "owner", 0, group)?;
        thin_events(connection, "eviction_event", "victim", 1, group)?;
        // Those with detail have moved to the last tick.
        for child in CHILDREN {
            connection
                .prepare_cached(&format!(
                    "DELETE FROM {child} WHERE tick >= ?1 AND tick < ?2"
                ))?
                .execute([group.first, group.last])?;
        }
        connection
            .prepare_cached(
                "UPDATE tick SET (span, state, inserts, deletes, evictions, drops) = (SELECT sum(span), \
                 max(state), sum(inserts), sum(deletes), sum(evictions), sum(drops) FROM tick \
                 WHERE id BETWEEN ?1 AND ?2) WHERE id = ?2",
            )?
            .execute([group.first, group.last])?;
        connection
            .prepare_cached("DELETE FROM tick WHERE id >= ?1 AND id < ?2")?
            .execute([group.first, group.last])?;
    }
    connection
        .prepare_cached("UPDATE tick SET level = level + 1 WHERE id = ?1")?
        .execute([group.last])?;
    shape.spans[level] -= group.span;
    shape.ticks[level] -= group.ticks;
    shape.spans[level + 1] += group.span;
    shape.ticks[level + 1] += 1;
    shape.oldest = oldest(connection)?;
    Ok(())
}

/// The oldest ticks of this level that are of one run and end in one bucket.
fn oldest_group(connection: &Connection, level: usize) -> rusqlite::Result<Option<TickGroup>> {
    let mut statement = connection.prepare_cached(
        "SELECT id, run, (at - 1) / ?2, span FROM tick WHERE level = ?1 ORDER BY id LIMIT ?3",
    )?;
    let mut rows = statement.query([
        i64::try_from(level).unwrap_or(i64::MAX),
        BUCKETS[level],
        MOST_TICKS,
    ])?;
    let mut group: Option<(TickGroup, (i64, i64))> = None;
    while let Some(row) = rows.next()? {
        let (id, span): (i64, i64) = (row.get(0)?, row.get(3)?);
        let place = (row.get(1)?, row.get(2)?);
        match &mut group {
            None => {
                let first = TickGroup {
                    first: id,
                    last: id,
                    ticks: 1,
                    span,
                };
                group = Some((first, place));
            }
            Some((group, first)) if *first == place => {
                group.last = id;
                group.ticks += 1;
                group.span += span;
            }
            Some(_) => break,
        }
    }
    Ok(group.map(|(group, _)| group))
}

/// Events of the group hang on its last tick, as many as one tick may have; of each owner some.
fn thin_events(
    connection: &Connection,
    table: &str,
    owner: &str,
    kind: i64,
    group: TickGroup,
) -> rusqlite::Result<()> {
    let range = [group.first, group.last];
    let most = i64::try_from(MOST).unwrap_or(i64::MAX);
    let gone = connection
        .prepare_cached(&format!(
            "DELETE FROM {table} WHERE id IN (SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY {owner} \
             ORDER BY id) AS nth FROM {table} WHERE tick BETWEEN ?1 AND ?2) ORDER BY nth, id LIMIT -1 OFFSET ?3)"
        ))?
        .execute([group.first, group.last, most])?;
    connection
        .prepare_cached(&format!(
            "UPDATE {table} SET tick = ?2 WHERE tick BETWEEN ?1 AND ?2 AND tick <> ?2"
        ))?
        .execute(range)?;
    if gone > 0 {
        connection
            .prepare_cached(
                "UPDATE event_count SET recorded = recorded - ?3, not_recorded = not_recorded + ?3 \
                 WHERE tick = ?2 AND kind = ?1",
            )?
            .execute([kind, group.last, i64::try_from(gone).unwrap_or(i64::MAX)])?;
    }
    Ok(())
}

/// At most `most` of the oldest ticks that ended before `before` go.
fn drop_oldest(
    connection: &Connection,
    shape: &mut Shape,
    most: i64,
    before: i64,
) -> rusqlite::Result<()> {
    let mut last = None;
    {
        let mut statement = connection
            .prepare_cached("SELECT id, at, span, level FROM tick ORDER BY id LIMIT ?1")?;
        let mut rows = statement.query([most])?;
        while let Some(row) = rows.next()? {
            let (at, span, level): (i64, i64, usize) = (row.get(1)?, row.get(2)?, row.get(3)?);
            if at >= before {
                break;
            }
            last = Some(row.get::<_, i64>(0)?);
            if let Some(reach) = shape.spans.get_mut(level) {
                *reach -= span;
                shape.ticks[level] = shape.ticks[level].saturating_sub(1);
            }
        }
    }
    let Some(last) = last else { return Ok(()) };
    for child in CHILDREN {
        connection
            .prepare_cached(&format!("DELETE FROM {child} WHERE tick <= ?1"))?
            .execute([last])?;
    }
    connection
        .prepare_cached("DELETE FROM tick WHERE id <= ?1")?
        .execute([last])?;
    shape.oldest = oldest(connection)?;
    drop_unused(connection, shape.oldest)
}

/// What nothing refers to any more goes.
fn drop_unused(connection: &Connection, oldest_at: i64) -> rusqlite::Result<()> {
    let oldest: Option<i64> = connection
        .prepare_cached("SELECT id FROM tick ORDER BY id LIMIT 1")?
        .query_row([], |row| row.get(0))
        .optional()?;
    let Some(oldest) = oldest else { return Ok(()) };
    // `last_tick` may be 60 ticks behind, and a row may have moved to a tick after its own.
    for table in ["owner", "netns"] {
        connection
            .prepare_cached(&format!("DELETE FROM {table} WHERE last_tick < ?1 - 200"))?
            .execute([oldest])?;
    }
    for table in ["life", "limit_change", "fact"] {
        // The last value of each fact stays, however old.
        let but = match table {
            "fact" => "AND id NOT IN (SELECT max(id) FROM fact GROUP BY name)",
            _ => "",
        };
        connection
            .prepare_cached(&format!(
                "DELETE FROM {table} WHERE (at < ?1 OR id <= (SELECT max(id) FROM {table}) - ?2) {but}"
            ))?
            .execute([oldest_at, MOST_LIFE])?;
    }
    connection
        .prepare_cached(
            "DELETE FROM run WHERE id < (SELECT run FROM tick ORDER BY id LIMIT 1) \
             AND id NOT IN (SELECT run FROM fact)",
        )?
        .execute([])
        .map(drop)
}

impl JournalStore {
    /// Drops the oldest ticks if it is the journal's own bound that is reached; whether it was.
    pub(super) fn make_room(&mut self) -> rusqlite::Result<bool> {
        let pages: u64 = self
            .connection
            .pragma_query_value(None, "page_count", |row| row.get(0))?;
        if pages * 100 < self.bounds.pages() * 95 || self.shape.ticks.iter().sum::<u64>() < 64 {
            return Ok(false);
        }
        let transaction = self.connection.transaction()?;
        let mut shape = self.shape;
        drop_oldest(&transaction, &mut shape, 64, i64::MAX)?;
        transaction.commit()?;
        self.shape = shape;
        Ok(true)
    }
}
