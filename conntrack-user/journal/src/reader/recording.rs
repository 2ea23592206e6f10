//! A range of a journal.

use std::time::{Duration, SystemTime};

use rusqlite::{Connection, Params, Row, Transaction};

use super::{JournalError, Reader, explain};
use crate::Coverage;

/// A row of `tick`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tick {
    pub(super) id: i64,
    /// Wall time at its end, milliseconds.
    pub(super) at: i64,
    /// Milliseconds.
    pub(super) span: i64,
}

/// A range of a journal: [`Reader::read`].
///
/// Points are by bucket: the time of the range cut into pieces of one length, the first of which
/// begins at `since`. A row belongs to the bucket that it ends in, so take one from
/// [`Recording::bucket`]: it is never finer than the coarsest row. Buckets without a sample have no
/// point.
#[derive(Debug)]
pub struct Recording<'a> {
    pub(super) transaction: Transaction<'a>,
    reader: &'a Reader,
    pub(super) since: i64,
    pub(super) until: i64,
    /// Those in the range, by id.
    pub(super) ticks: Vec<Tick>,
}

impl<'a> Recording<'a> {
    pub(super) fn begin(
        reader: &'a Reader,
        since: SystemTime,
        until: SystemTime,
    ) -> rusqlite::Result<Self> {
        let transaction = reader.connection.unchecked_transaction()?;
        let (since, until) = (milliseconds(since), milliseconds(until));
        let ticks = transaction
            .prepare(
                "SELECT id, at, span FROM tick WHERE at > ?1 AND at <= ?2 AND span >= 0 ORDER BY id",
            )?
            .query_map([since, until], |row| {
                Ok(Tick {
                    id: row.get(0)?,
                    at: row.get(1)?,
                    span: row.get(2)?,
                })
            })?
            .collect::<rusqlite::Result<_>>()?;
        Ok(Self {
            transaction,
            reader,
            since,
            until,
            ticks,
        })
    }

    /// How many samples are in it.
    pub fn samples(&self) -> usize {
        self.ticks.len()
    }

    /// The length of a bucket, in whole seconds, with which there are at most `points` of them, and
    /// none is finer than what was recorded (but for rows after a gap).
    pub fn bucket(&self, points: usize) -> Duration {
        let points = u64::try_from(points).unwrap_or(u64::MAX).max(1);
        let range = self.until.saturating_sub(self.since).max(0).cast_unsigned();
        let by_points = range.div_ceil(1000).div_ceil(points);
        // A row takes 1, 10 or 60 s, and a bit more where the agent was late.
        let level = self.ticks.iter().map(|tick| match tick.span {
            ..=1999 => 1,
            2000..=11_999 => 10,
            _ => 60,
        });
        let level = level.max().unwrap_or(1);
        Duration::from_secs(by_points.max(1).div_ceil(level).saturating_mul(level))
    }

    /// What `read` finds in the journal; an error says which journal it is.
    pub(super) fn ask<T>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, JournalError> {
        read(&self.transaction).map_err(|error| explain(&self.reader.path, error))
    }

    /// Rows of a query, each as `read` has it.
    pub(super) fn rows<T, C: FromIterator<T>>(
        &self,
        query: &str,
        parameters: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<C, JournalError> {
        self.ask(|journal| {
            let mut statement = journal.prepare(query)?;
            statement.query_map(parameters, read)?.collect()
        })
    }

    /// Rows of a query whose parameters are the first tick and the last one, and whose first column is the tick; in order of time. `visit` is
    /// given the index of the tick.
    pub(super) fn each_row(
        &self,
        query: &str,
        mut visit: impl FnMut(usize, &Row<'_>) -> rusqlite::Result<()>,
    ) -> rusqlite::Result<()> {
        let mut statement = self.transaction.prepare(query)?;
        let mut rows = statement.query(self.bounds())?;
        let mut from = 0;
        while let Some(row) = rows.next()? {
            if self.tick(row.get(0)?, &mut from).is_some() {
                visit(from, row)?;
            }
        }
        Ok(())
    }

    /// The ids of its ticks; of an empty range nothing is between them.
    pub(super) fn bounds(&self) -> [i64; 2] {
        match (self.ticks.first(), self.ticks.last()) {
            (Some(first), Some(last)) => [first.id, last.id],
            _ => [1, 0],
        }
    }

    /// The tick with this id; `from`: where to begin to look, which is moved there. Ids that are
    /// asked for must rise.
    pub(super) fn tick(&self, id: i64, from: &mut usize) -> Option<Tick> {
        while self.ticks.get(*from).is_some_and(|tick| tick.id < id) {
            *from += 1;
        }
        self.ticks.get(*from).copied().filter(|tick| tick.id == id)
    }

    /// Number of the bucket that a tick ends in.
    pub(super) fn bucket_of(&self, tick: Tick, bucket: Duration) -> i64 {
        (tick.at - self.since - 1) / length(bucket)
    }

    /// Where a bucket begins.
    pub(super) fn begin_of(&self, index: i64, bucket: Duration) -> SystemTime {
        time(
            self.since
                .saturating_add(index.saturating_mul(length(bucket))),
        )
    }
}

fn length(bucket: Duration) -> i64 {
    i64::try_from(bucket.as_millis()).unwrap_or(i64::MAX).max(1)
}

pub(super) fn coverage(connection: &Connection) -> rusqlite::Result<Option<Coverage>> {
    connection.query_row(
        "SELECT min(at - span), max(at), sum(span), min(at - span) FILTER (WHERE level = 0) FROM tick",
        [],
        |row| {
            let known = |column| row.get::<_, Option<i64>>(column);
            let (Some(since), Some(until), Some(sum)) = (known(0)?, known(1)?, known(2)?) else {
                return Ok(None);
            };
            Ok(Some(Coverage {
                since: time(since),
                until: time(until),
                recorded_seconds: seconds(sum),
                seconds_since: known(3)?.map(time),
            }))
        },
    )
}

/// The time of day from milliseconds since 1970.
pub fn time(milliseconds: i64) -> SystemTime {
    // What a damaged file has may be out of any range.
    let most = 1 << 50;
    let from_1970 = Duration::from_millis(milliseconds.clamp(0, most).cast_unsigned());
    SystemTime::UNIX_EPOCH + from_1970
}

/// A time in milliseconds of Unix time.
pub fn milliseconds(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        })
}

/// Seconds of a time that the journal keeps in milliseconds.
#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
pub fn seconds(milliseconds: i64) -> f64 {
    milliseconds as f64 / 1000.0
}
