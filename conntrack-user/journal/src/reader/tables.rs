//! Tables and sums over time.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, SystemTime},
};

use ctpressure_model::pressure::state::Pressure;
use rusqlite::Row;

use super::recording::{Recording, Tick, seconds, time};
use crate::{JournalError, NetnsId, RecordedNetns, TablePoint, TotalPoint};

/// Ticks before the range in which the last row of what did not change since is looked for: each
/// has one at least once a minute.
pub(super) const LOOK_BACK: i64 = 120;

/// A row of `table_sample` with the number of its tick, which says the rest.
fn sample(row: &Row<'_>) -> rusqlite::Result<(i64, TablePoint)> {
    let point = TablePoint {
        at: SystemTime::UNIX_EPOCH,
        seconds: 0.0,
        netns: NetnsId(row.get(1)?),
        entries: row.get(2)?,
        entries_min: row.get(3)?,
        entries_max: row.get(4)?,
        limit: None,
        buckets: None,
        table_bytes: None,
        pressure: pressure(row.get(5)?),
    };
    Ok((row.get(0)?, point))
}

/// The same while nothing changes.
const fn still(point: TablePoint) -> TablePoint {
    TablePoint {
        entries_min: point.entries,
        entries_max: point.entries,
        ..point
    }
}

fn pressure(number: i64) -> Pressure {
    let index = usize::try_from(number).unwrap_or(0);
    Pressure::ALL[index.min(Pressure::ALL.len() - 1)]
}

const COLUMNS: &str = "tick, netns, entries, entries_min, entries_max, pressure FROM table_sample";

impl Recording<'_> {
    /// Network namespaces that have rows in this journal.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn namespaces(&self) -> Result<BTreeMap<NetnsId, RecordedNetns>, JournalError> {
        self.rows("SELECT id, inode, name FROM netns", [], |row| {
            let netns = RecordedNetns {
                inode: row.get(1)?,
                name: row.get(2)?,
            };
            Ok((NetnsId(row.get(0)?), netns))
        })
    }

    /// Tables by bucket, each in order of time. A table that did not change in a bucket has a point
    /// nevertheless.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn table_points(&self, bucket: Duration) -> Result<Vec<TablePoint>, JournalError> {
        let mut points: BTreeMap<(i64, NetnsId), TablePoint> = BTreeMap::new();
        let read = |tick: Tick, sample: TablePoint| {
            let index = self.bucket_of(tick, bucket);
            let add = |point: &mut TablePoint| {
                *point = TablePoint {
                    at: point.at,
                    seconds: point.seconds + sample.seconds,
                    entries_min: point.entries_min.min(sample.entries_min),
                    entries_max: point.entries_max.max(sample.entries_max),
                    pressure: point.pressure.max(sample.pressure),
                    ..sample
                };
            };
            let first = TablePoint {
                at: self.begin_of(index, bucket),
                ..sample
            };
            let point = points.entry((index, sample.netns));
            point.and_modify(add).or_insert(first);
        };
        self.ask(|_| self.each_table(read))?;
        Ok(points.into_values().collect())
    }

    /// Every table at every tick, in order of time, as it was recorded: for looking for the moment
    /// at which something changed. `at` of a point is the tick's begin.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn each_table_sample(
        &self,
        mut visit: impl FnMut(&TablePoint),
    ) -> Result<(), JournalError> {
        self.ask(|_| self.each_table(|_, sample| visit(&sample)))
    }

    fn each_table(&self, mut visit: impl FnMut(Tick, TablePoint)) -> rusqlite::Result<()> {
        let [first, last] = self.bounds();
        let mut now: BTreeMap<NetnsId, TablePoint> = BTreeMap::new();
        let mut earlier = self.transaction.prepare(&format!(
            "SELECT {COLUMNS} WHERE tick >= ?1 AND tick < ?2 ORDER BY tick"
        ))?;
        let mut rows = earlier.query([first.saturating_sub(LOOK_BACK), first])?;
        while let Some(row) = rows.next()? {
            let (_, point) = sample(row)?;
            now.insert(point.netns, still(point));
        }
        // Ticks and their rows, side by side.
        let mut ticks = self.transaction.prepare(
            "SELECT id, table_limit, buckets, table_bytes FROM tick WHERE id BETWEEN ?1 AND ?2 ORDER BY id",
        )?;
        let mut ticks = ticks.query([first, last])?;
        let mut samples = self.transaction.prepare(&format!(
            "SELECT {COLUMNS} WHERE tick BETWEEN ?1 AND ?2 ORDER BY tick"
        ))?;
        let mut samples = samples.query([first, last])?;
        let mut next = samples.next()?.map(sample).transpose()?;
        let mut from = 0;
        while let Some(row) = ticks.next()? {
            let id: i64 = row.get(0)?;
            let (limit, buckets, table_bytes) = (row.get(1)?, row.get(2)?, row.get(3)?);
            let mut changed: HashMap<NetnsId, TablePoint> = HashMap::new();
            while let Some((tick, point)) = next
                && tick <= id
            {
                if tick == id {
                    changed.insert(point.netns, point);
                }
                now.insert(point.netns, still(point));
                next = samples.next()?.map(sample).transpose()?;
            }
            if let Some(tick) = self.tick(id, &mut from) {
                for (netns, still) in &now {
                    let point = TablePoint {
                        at: time(tick.at.saturating_sub(tick.span)),
                        seconds: seconds(tick.span),
                        limit,
                        buckets,
                        table_bytes,
                        ..*changed.get(netns).unwrap_or(still)
                    };
                    visit(tick, point);
                }
            }
            // One that is gone says so by a last row without entries.
            now.retain(|netns, point| point.entries > 0 || !changed.contains_key(netns));
        }
        Ok(())
    }

    /// All owners together, by bucket, in order of time.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn total_points(&self, bucket: Duration) -> Result<Vec<TotalPoint>, JournalError> {
        self.ask(|_| {
            let mut points: BTreeMap<i64, TotalPoint> = BTreeMap::new();
            let query = "SELECT id, inserts, deletes, evictions, drops FROM tick \
                 WHERE id BETWEEN ?1 AND ?2 ORDER BY id";
            self.each_row(query, |tick, row| {
                let tick = self.ticks[tick];
                let index = self.bucket_of(tick, bucket);
                let point = points.entry(index).or_insert(TotalPoint {
                    at: self.begin_of(index, bucket),
                    seconds: 0.0,
                    inserts: 0,
                    deletes: 0,
                    evictions: 0,
                    drops: 0,
                });
                point.seconds += seconds(tick.span);
                for (sum, column) in [
                    &mut point.inserts,
                    &mut point.deletes,
                    &mut point.evictions,
                    &mut point.drops,
                ]
                .into_iter()
                .zip(1..)
                {
                    *sum = sum.saturating_add(row.get(column)?);
                }
                Ok(())
            })?;
            Ok(points.into_values().collect())
        })
    }
}
