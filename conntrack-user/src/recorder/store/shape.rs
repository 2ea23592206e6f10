//! How much a journal has of what, and what is to go next: pure.

use rusqlite::Connection;

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
/// Of the pages that there may be, per cent: from here on room is made.
const HIGH: u64 = 88;
/// From here on more of it at a time.
const HIGHER: u64 = 95;

/// What is to be done to make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ThinStep {
    /// Of the oldest ticks of this level those of one longer time become one.
    Thin(usize),
    /// The oldest ticks go.
    Drop,
}

/// How long each level reaches, in recorded milliseconds, and how full the file is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shape {
    /// Recorded time in ticks of each level.
    pub(super) spans: [i64; 3],
    /// Number of ticks of each level.
    pub(super) ticks: [u64; 3],
    /// Wall time of the oldest tick's end.
    pub(super) oldest: i64,
}

impl Shape {
    /// As it is in the database.
    pub(super) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let mut shape = Self::default();
        let mut statement =
            connection.prepare("SELECT level, sum(span), count(*) FROM tick GROUP BY level")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let level: usize = row.get(0)?;
            if let Some(span) = shape.spans.get_mut(level) {
                *span = row.get(1)?;
                shape.ticks[level] = row.get(2)?;
            }
        }
        shape.oldest = oldest(connection)?;
        Ok(shape)
    }

    /// A tick was written.
    pub(super) fn add(&mut self, at: i64, span: i64) {
        if self.ticks == [0; 3] {
            self.oldest = at;
        }
        self.spans[0] = self.spans[0].saturating_add(span);
        self.ticks[0] += 1;
    }

    /// What to do when there has to be room.
    ///
    /// Seconds are kept for half an hour and tens of seconds for three hours as long as thinning
    /// what is older helps; then two and ten minutes; only then something is dropped.
    pub(super) fn next(&self) -> ThinStep {
        let [seconds, tens, _] = self.spans;
        if seconds > HOUR / 2 {
            ThinStep::Thin(0)
        } else if tens > 3 * HOUR {
            ThinStep::Thin(1)
        } else if seconds > 2 * MINUTE && self.ticks[0] > 30 {
            ThinStep::Thin(0)
        } else if tens > 10 * MINUTE && self.ticks[1] > 12 {
            ThinStep::Thin(1)
        } else {
            ThinStep::Drop
        }
    }

    /// How many steps to take at once with so many pages in use of those that there may be.
    pub(super) const fn steps(used: u64, most: u64) -> usize {
        if used * 100 < most * HIGH {
            0
        } else if used * 100 < most * HIGHER {
            2
        } else {
            8
        }
    }
}

/// Wall time of the oldest tick; 0 if there is none.
pub(super) fn oldest(connection: &Connection) -> rusqlite::Result<i64> {
    connection
        .prepare_cached("SELECT ifnull((SELECT at FROM tick ORDER BY id LIMIT 1), 0)")?
        .query_row([], |row| row.get(0))
}
