//! What happened: drops, evictions, changes of the limit, the life of the agent.

use std::{collections::BTreeMap, net::IpAddr, time::SystemTime};

use ctpressure_model::{events::Reason, pressure::as_f64};
use rusqlite::{Row, types::Type};
use serde::de::{DeserializeOwned, IntoDeserializer as _, value};

use super::recording::{Recording, time};
use crate::{
    DestinationSum, DestinationsOf, DropRow, EventCount, EvictionRow, Fact, JournalError, Life,
    LimitChange, OwnerId, Path, Run, What,
};

/// `event_count.kind`
pub(crate) const DROPS: i64 = 0;
/// `event_count.kind`
pub(crate) const EVICTIONS: i64 = 1;

/// Text that is one of some words; the default for what a newer version wrote.
fn word<T: DeserializeOwned + Default>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    let word: Result<T, value::Error> = T::deserialize(text.into_deserializer());
    Ok(word.unwrap_or_default())
}

fn not_understood(column: usize, text: &str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(
        column,
        Type::Text,
        format!("{text:?} is not understood").into(),
    )
}

fn address(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<IpAddr>> {
    let text: Option<String> = row.get(column)?;
    text.map(|text| text.parse().map_err(|_| not_understood(column, &text)))
        .transpose()
}

/// Protocol, source, its port, destination, its port from this column on.
fn path(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Path>> {
    let (source, destination) = (address(row, column + 1)?, address(row, column + 3)?);
    let (Some(source), Some(destination)) = (source, destination) else {
        return Ok(None);
    };
    Ok(Some(Path {
        protocol: row.get::<_, Option<String>>(column)?.unwrap_or_default(),
        source,
        source_port: row.get::<_, Option<u16>>(column + 2)?.unwrap_or(0),
        destination,
        destination_port: row.get::<_, Option<u16>>(column + 4)?.unwrap_or(0),
    }))
}

/// When the sample was taken that an event hangs on; without one when it was itself.
fn sample(row: &Row<'_>, column: usize) -> rusqlite::Result<SystemTime> {
    let sample: Option<i64> = row.get(column)?;
    Ok(time(sample.map_or_else(|| row.get(0), Ok)?))
}

impl Recording<'_> {
    /// Packets lost, with detail, the first ones first; at most `most`.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn drops(&self, most: usize) -> Result<Vec<DropRow>, JournalError> {
        self.rows(
            "SELECT at, reason, owner, protocol, source, source_port, destination, destination_port, \
             (SELECT at FROM tick WHERE tick.id = drop_event.tick) \
             FROM drop_event WHERE at > ?1 AND at <= ?2 ORDER BY id LIMIT ?3",
            self.range(most),
            |row| {
                Ok(DropRow {
                    at: time(row.get(0)?),
                    sample: sample(row, 8)?,
                    reason: Reason::from_name(&row.get::<_, String>(1)?),
                    owner: OwnerId(row.get(2)?),
                    path: path(row, 3)?,
                })
            },
        )
    }

    /// Entries evicted, with detail, the first ones first; at most `most`.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn evictions(&self, most: usize) -> Result<Vec<EvictionRow>, JournalError> {
        self.rows(
            "SELECT at, victim, protocol, source, source_port, destination, destination_port, seen_reply, \
             (SELECT at FROM tick WHERE tick.id = eviction_event.tick) \
             FROM eviction_event WHERE at > ?1 AND at <= ?2 ORDER BY id LIMIT ?3",
            self.range(most),
            |row| {
                Ok(EvictionRow {
                    sample: sample(row, 8)?,
                    victim: OwnerId(row.get(1)?),
                    path: path(row, 2)?,
                    seen_reply: row.get(7)?,
                })
            },
        )
    }

    /// How many drops and how many evictions came with detail, and how much of it was kept.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn event_counts(&self) -> Result<(EventCount, EventCount), JournalError> {
        let (mut drops, mut evictions) = (EventCount::default(), EventCount::default());
        let query = "SELECT tick, kind, recorded, not_recorded FROM event_count \
                     WHERE tick BETWEEN ?1 AND ?2 ORDER BY tick";
        self.ask(|_| {
            self.each_row(query, |_, row| {
                let count = match row.get::<_, i64>(1)? {
                    DROPS => &mut drops,
                    EVICTIONS => &mut evictions,
                    _ => return Ok(()),
                };
                count.recorded = count.recorded.saturating_add(row.get(2)?);
                count.not_recorded = count.not_recorded.saturating_add(row.get(3)?);
                Ok(())
            })
        })?;
        Ok((drops, evictions))
    }

    /// What was not seen or not delivered, by the kinds of `ctpressure_events_lost_total`.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn events_lost(&self) -> Result<BTreeMap<String, u64>, JournalError> {
        let mut lost: BTreeMap<String, u64> = BTreeMap::new();
        let query =
            "SELECT tick, kind, number FROM events_lost WHERE tick BETWEEN ?1 AND ?2 ORDER BY tick";
        self.ask(|_| {
            self.each_row(query, |_, row| {
                let number = lost.entry(row.get(1)?).or_default();
                *number = number.saturating_add(row.get(2)?);
                Ok(())
            })
        })?;
        Ok(lost)
    }

    /// Where connections of owners went, the foremost `most` of each.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn destinations(
        &self,
        what: What,
        most: usize,
    ) -> Result<BTreeMap<OwnerId, DestinationsOf>, JournalError> {
        let [first, last] = self.bounds();
        let range = "FROM destination WHERE what = ?1 AND tick BETWEEN ?2 AND ?3 \
                     AND tick IN (SELECT id FROM tick WHERE at > ?4 AND at <= ?5)";
        let parameters = [what as i64, first, last, self.since, self.until];
        let query = format!("SELECT owner, count(DISTINCT tick) {range} GROUP BY owner");
        let mut of: BTreeMap<OwnerId, DestinationsOf> = self.rows(&query, parameters, |row| {
            let none = DestinationsOf {
                samples: row.get(1)?,
                top: Vec::new(),
            };
            Ok((OwnerId(row.get(0)?), none))
        })?;
        let query = format!(
            "SELECT owner, address, port, protocol, sum(count), count(*) {range} \
             GROUP BY owner, address, port, protocol ORDER BY owner, sum(count) DESC"
        );
        self.ask(|journal| {
            let mut statement = journal.prepare(&query)?;
            let mut rows = statement.query(parameters)?;
            while let Some(row) = rows.next()? {
                if let Some(of) = of.get_mut(&OwnerId(row.get(0)?))
                    && of.top.len() < most
                    && let Some(address) = address(row, 1)?
                {
                    of.top.push(DestinationSum {
                        address,
                        port: row.get(2)?,
                        protocol: row.get(3)?,
                        count: row.get::<_, f64>(4)? / as_f64(of.samples.max(1)),
                        samples: row.get(5)?,
                    });
                }
            }
            Ok(of)
        })
    }

    /// States of the entries of owners: the mean number over the censuses in the range, the most
    /// frequent first. Only owners with many entries have any.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn state_mixes(&self) -> Result<BTreeMap<OwnerId, Vec<(String, f64)>>, JournalError> {
        self.ask(|journal| {
            let mut mixes: BTreeMap<OwnerId, Vec<(String, f64)>> = BTreeMap::new();
            let [first, last] = self.bounds();
            let mut statement = journal.prepare(
                "WITH mix AS (SELECT * FROM state_mix WHERE tick BETWEEN ?1 AND ?2 \
                 AND tick IN (SELECT id FROM tick WHERE at > ?3 AND at <= ?4)), \
                 times AS (SELECT owner, count(DISTINCT tick) AS number FROM mix GROUP BY owner) \
                 SELECT mix.owner, state, 1.0 * sum(entries) / times.number AS mean \
                 FROM mix JOIN times ON times.owner = mix.owner \
                 GROUP BY mix.owner, state ORDER BY mix.owner, mean DESC",
            )?;
            let mut rows = statement.query([first, last, self.since, self.until])?;
            while let Some(row) = rows.next()? {
                mixes
                    .entry(OwnerId(row.get(0)?))
                    .or_default()
                    .push((row.get(1)?, row.get(2)?));
            }
            Ok(mixes)
        })
    }

    /// Changes of the limit and of the buckets, the first one first; at most `most`.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn limit_changes(&self, most: usize) -> Result<Vec<LimitChange>, JournalError> {
        self.rows(
            "SELECT at, by, who, limit_before, limit_after, buckets_before, buckets_after, result, reason \
             FROM limit_change WHERE at > ?1 AND at <= ?2 ORDER BY id LIMIT ?3",
            self.range(most),
            |row| {
                Ok(LimitChange {
                    at: time(row.get(0)?),
                    by: word(row, 1)?,
                    who: row.get(2)?,
                    limit_before: row.get(3)?,
                    limit_after: row.get(4)?,
                    buckets_before: row.get(5)?,
                    buckets_after: row.get(6)?,
                    result: word(row, 7)?,
                    reason: row.get(8)?,
                })
            },
        )
    }

    /// The life of the agent and of the journal, the first thing first; at most `most`.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn life(&self, most: usize) -> Result<Vec<Life>, JournalError> {
        self.rows(
            "SELECT kind, detail FROM life WHERE at > ?1 AND at <= ?2 ORDER BY id LIMIT ?3",
            self.range(most),
            |row| {
                Ok(Life {
                    kind: row.get(0)?,
                    detail: row.get(1)?,
                })
            },
        )
    }

    /// Lives of the agent that have something in the range.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn runs(&self) -> Result<Vec<Run>, JournalError> {
        self.rows(
            "SELECT ended, version, kernel, node, ram_bytes FROM run \
             WHERE id IN (SELECT run FROM tick WHERE id BETWEEN ?1 AND ?2) ORDER BY id",
            self.bounds(),
            |row| {
                Ok(Run {
                    ended: row.get::<_, Option<i64>>(0)?.map(time),
                    version: row.get(1)?,
                    kernel: row.get(2)?,
                    node: row.get(3)?,
                    ram_bytes: row.get(4)?,
                })
            },
        )
    }

    /// Facts of the node: of each the last value before the range, and its changes in it; by name,
    /// then time.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn facts(&self) -> Result<Vec<Fact>, JournalError> {
        self.rows(
            "SELECT name, value FROM fact WHERE at <= ?2 AND (at > ?1 OR id IN \
             (SELECT max(id) FROM fact WHERE at <= ?1 GROUP BY name)) ORDER BY name, id",
            [self.since, self.until],
            |row| {
                Ok(Fact {
                    name: row.get(0)?,
                    value: row.get(1)?,
                })
            },
        )
    }

    /// The range, and how many rows of it there may be.
    fn range(&self, most: usize) -> [i64; 3] {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        [self.since, self.until, most]
    }
}
