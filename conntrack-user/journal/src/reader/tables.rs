//! Tables and sums over time.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use ctpressure_model::pressure::state::Pressure;
use rusqlite::Row;

use super::recording::{Recording, Tick, seconds};
use crate::{JournalError, NetnsId, RecordedNetns, TablePoint, TotalPoint};

/// Ticks before the range in which the last row of what did not change since is looked for: each
/// has one at least once a minute.
pub(super) const LOOK_BACK: i64 = 120;

/// What a tick says about all tables.
#[derive(Clone, Copy, Default)]
struct Shared {
    limit: Option<u64>,
    buckets: Option<u64>,
    table_bytes: Option<u64>,
}

/// A row of `table_sample`.
#[derive(Clone, Copy)]
struct Sample {
    entries: u64,
    least: u64,
    most: u64,
    pressure: Pressure,
}

impl Sample {
    fn read(row: &Row<'_>) -> rusqlite::Result<(i64, NetnsId, Self)> {
        let sample = Self {
            entries: row.get(2)?,
            least: row.get(3)?,
            most: row.get(4)?,
            pressure: pressure(row.get(5)?),
        };
        Ok((row.get(0)?, NetnsId(row.get(1)?), sample))
    }

    /// The same while nothing changes.
    fn still(self) -> Self {
        Self {
            least: self.entries,
            most: self.entries,
            ..self
        }
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
    pub fn namespaces(&self) -> Result<Vec<RecordedNetns>, JournalError> {
        self.ask(|journal| {
            journal
                .prepare("SELECT id, inode, name FROM netns ORDER BY id")?
                .query_map([], |row| {
                    Ok(RecordedNetns {
                        id: NetnsId(row.get(0)?),
                        inode: row.get(1)?,
                        name: row.get(2)?,
                    })
                })?
                .collect()
        })
    }

    /// Tables by bucket, each in order of time. A table that did not change in a bucket has a point
    /// nevertheless.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn table_points(&self, bucket: Duration) -> Result<Vec<TablePoint>, JournalError> {
        let mut points: BTreeMap<(i64, NetnsId), TablePoint> = BTreeMap::new();
        let read = |tick, netns, sample, shared: Shared| {
            let index = self.bucket_of(tick, bucket);
            let point = points.entry((index, netns)).or_insert(TablePoint {
                at: self.begin_of(index, bucket),
                seconds: 0.0,
                netns,
                entries: 0,
                entries_min: u64::MAX,
                entries_max: 0,
                limit: None,
                buckets: None,
                table_bytes: None,
                pressure: Pressure::Calm,
            });
            add(point, tick, sample, shared);
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
        let read = |tick: Tick, netns, sample: Sample, shared: Shared| {
            visit(&TablePoint {
                at: super::recording::time(tick.at.saturating_sub(tick.span)),
                seconds: seconds(tick.span),
                netns,
                entries: sample.entries,
                entries_min: sample.least,
                entries_max: sample.most,
                limit: shared.limit,
                buckets: shared.buckets,
                table_bytes: shared.table_bytes,
                pressure: sample.pressure,
            });
        };
        self.ask(|_| self.each_table(read))
    }

    fn each_table(
        &self,
        mut visit: impl FnMut(Tick, NetnsId, Sample, Shared),
    ) -> rusqlite::Result<()> {
        let [first, last] = self.bounds();
        let mut now: BTreeMap<NetnsId, Sample> = BTreeMap::new();
        let mut earlier = self.transaction.prepare(&format!(
            "SELECT {COLUMNS} WHERE tick >= ?1 AND tick < ?2 ORDER BY tick"
        ))?;
        let mut rows = earlier.query([first.saturating_sub(LOOK_BACK), first])?;
        while let Some(row) = rows.next()? {
            let (_, netns, sample) = Sample::read(row)?;
            now.insert(netns, sample.still());
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
        let mut next = samples.next()?.map(Sample::read).transpose()?;
        let mut from = 0;
        while let Some(row) = ticks.next()? {
            let id: i64 = row.get(0)?;
            let shared = Shared {
                limit: row.get(1)?,
                buckets: row.get(2)?,
                table_bytes: row.get(3)?,
            };
            let mut changed: HashMap<NetnsId, Sample> = HashMap::new();
            while let Some((tick, netns, sample)) = next
                && tick <= id
            {
                if tick == id {
                    changed.insert(netns, sample);
                }
                now.insert(netns, sample.still());
                next = samples.next()?.map(Sample::read).transpose()?;
            }
            if let Some(tick) = self.tick(id, &mut from) {
                for (netns, still) in &now {
                    let sample = changed.get(netns).unwrap_or(still);
                    visit(tick, *netns, *sample, shared);
                }
            }
            // One that is gone says so by a last row without entries.
            now.retain(|netns, sample| sample.entries > 0 || !changed.contains_key(netns));
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
            let query = "SELECT id, inserts, deletes, evictions, drops, table_limit FROM tick \
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
                    limit: None,
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
                point.limit = row.get(5)?;
                Ok(())
            })?;
            Ok(points.into_values().collect())
        })
    }
}

fn add(point: &mut TablePoint, tick: Tick, sample: Sample, shared: Shared) {
    point.seconds += seconds(tick.span);
    point.entries = sample.entries;
    point.entries_min = point.entries_min.min(sample.least);
    point.entries_max = point.entries_max.max(sample.most);
    point.limit = shared.limit;
    point.buckets = shared.buckets;
    point.table_bytes = shared.table_bytes;
    point.pressure = point.pressure.max(sample.pressure);
}
