//! What happened: drops, evictions, changes of the limit, the life of the agent.

use std::{collections::BTreeMap, net::IpAddr, time::SystemTime};

use ctpressure_model::{events::Reason, pressure::as_f64};
use rusqlite::{Connection, Row, types::Type};

use super::{
    owners::direction,
    recording::{Recording, time},
};
use crate::{
    ChangeResult, ChangedBy, DestinationSum, DestinationsOf, DropRow, EventCount, EvictionRow,
    Fact, JournalError, Life, LimitChange, NetnsId, OwnerId, Path, Run, What,
};

/// `event_count.kind`
pub(crate) const DROPS: i64 = 0;
/// `event_count.kind`
pub(crate) const EVICTIONS: i64 = 1;

pub(super) fn runs(connection: &Connection) -> rusqlite::Result<Vec<Run>> {
    connection
        .prepare(
            "SELECT id, started, ended, boot_id, version, kernel, node, ram_bytes, cpus FROM run ORDER BY id",
        )?
        .query_map([], |row| {
            Ok(Run {
                id: row.get(0)?,
                started: time(row.get(1)?),
                ended: row.get::<_, Option<i64>>(2)?.map(time),
                boot_id: row.get(3)?,
                version: row.get(4)?,
                kernel: row.get(5)?,
                node: row.get(6)?,
                ram_bytes: row.get(7)?,
                cpus: row.get(8)?,
            })
        })?
        .collect()
}

/// Text that is one of some words; `None`: a newer version wrote it.
fn word<T: Copy>(
    row: &Row<'_>,
    column: usize,
    all: &[T],
    name: impl Fn(T) -> &'static str,
) -> rusqlite::Result<Option<T>> {
    let text: String = row.get(column)?;
    Ok(all.iter().copied().find(|item| name(*item) == text))
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
            "SELECT at, netns, reason, owner, direction, protocol, source, source_port, destination, \
             destination_port, (SELECT at FROM tick WHERE tick.id = drop_event.tick) \
             FROM drop_event WHERE at > ?1 AND at <= ?2 ORDER BY id LIMIT ?3",
            most,
            |row| {
                Ok(DropRow {
                    at: time(row.get(0)?),
                    sample: sample(row, 10)?,
                    netns: NetnsId(row.get(1)?),
                    reason: Reason::from_name(&row.get::<_, String>(2)?),
                    owner: OwnerId(row.get(3)?),
                    direction: direction(row.get(4)?),
                    path: path(row, 5)?,
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
            "SELECT at, netns, victim, victim_direction, cause, cause_direction, protocol, source, \
             source_port, destination, destination_port, cause_protocol, cause_destination, \
             cause_destination_port, assured, seen_reply, \
             (SELECT at FROM tick WHERE tick.id = eviction_event.tick) FROM eviction_event WHERE at > ?1 AND at <= ?2 ORDER BY id LIMIT ?3",
            most,
            |row| {
                let cause_destination = match (row.get(11)?, address(row, 12)?) {
                    (Some(protocol), Some(address)) => Some((
                        protocol,
                        address,
                        row.get::<_, Option<u16>>(13)?.unwrap_or(0),
                    )),
                    _ => None,
                };
                Ok(EvictionRow {
                    at: time(row.get(0)?),
                    sample: sample(row, 16)?,
                    netns: NetnsId(row.get(1)?),
                    victim: (OwnerId(row.get(2)?), direction(row.get(3)?)),
                    cause: (OwnerId(row.get(4)?), direction(row.get(5)?)),
                    path: path(row, 6)?,
                    cause_destination,
                    assured: row.get(14)?,
                    seen_reply: row.get(15)?,
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
        self.ask(|journal| {
            let mut of: BTreeMap<OwnerId, DestinationsOf> = BTreeMap::new();
            let [first, last] = self.bounds();
            let number = what as i64;
            let range = "FROM destination WHERE what = ?1 AND tick BETWEEN ?2 AND ?3 \
                         AND tick IN (SELECT id FROM tick WHERE at > ?4 AND at <= ?5)";
            let parameters = [number, first, last, self.since, self.until];
            let mut statement = journal.prepare(&format!(
                "SELECT owner, count(DISTINCT tick) {range} GROUP BY owner"
            ))?;
            let mut rows = statement.query(parameters)?;
            while let Some(row) = rows.next()? {
                let samples = row.get(1)?;
                let none = DestinationsOf {
                    samples,
                    top: Vec::new(),
                };
                of.insert(OwnerId(row.get(0)?), none);
            }
            let mut statement = journal.prepare(&format!(
                "SELECT owner, address, port, protocol, sum(count), sum(error), count(*) {range} \
                 GROUP BY owner, address, port, protocol ORDER BY owner, sum(count) DESC"
            ))?;
            let mut rows = statement.query(parameters)?;
            while let Some(row) = rows.next()? {
                let owner = OwnerId(row.get(0)?);
                let Some(found) = of.get_mut(&owner) else {
                    continue;
                };
                if found.top.len() >= most {
                    continue;
                }
                let Some(address) = address(row, 1)? else {
                    continue;
                };
                let mean = |sum: f64, samples: u64| sum / as_f64(samples.max(1));
                found.top.push(DestinationSum {
                    owner,
                    address,
                    port: row.get(2)?,
                    protocol: row.get(3)?,
                    count: mean(row.get(4)?, found.samples),
                    error: mean(row.get(5)?, found.samples),
                    samples: row.get(6)?,
                });
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
            most,
            |row| {
                Ok(LimitChange {
                    at: time(row.get(0)?),
                    by: word(row, 1, &ChangedBy::ALL, ChangedBy::name)?.unwrap_or_default(),
                    who: row.get(2)?,
                    limit_before: row.get(3)?,
                    limit_after: row.get(4)?,
                    buckets_before: row.get(5)?,
                    buckets_after: row.get(6)?,
                    result: word(row, 7, &ChangeResult::ALL, ChangeResult::name)?.unwrap_or_default(),
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
            "SELECT at, kind, detail FROM life WHERE at > ?1 AND at <= ?2 ORDER BY id LIMIT ?3",
            most,
            |row| {
                Ok(Life {
                    at: time(row.get(0)?),
                    kind: row.get(1)?,
                    detail: row.get(2)?,
                })
            },
        )
    }

    /// Lives of the agent that have something in the range.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn runs(&self) -> Result<Vec<Run>, JournalError> {
        self.ask(|journal| {
            let ids: Vec<i64> = journal
                .prepare("SELECT DISTINCT run FROM tick WHERE id BETWEEN ?1 AND ?2")?
                .query_map(self.bounds(), |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            let mut runs = runs(journal)?;
            runs.retain(|run| ids.contains(&run.id));
            Ok(runs)
        })
    }

    /// Facts of the node: of each the last value before the range, and its changes in it; by name,
    /// then time.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn facts(&self) -> Result<Vec<Fact>, JournalError> {
        self.ask(|journal| {
            journal
                .prepare(
                    "SELECT at, name, value FROM fact WHERE at <= ?2 AND (at > ?1 OR id IN \
                     (SELECT max(id) FROM fact WHERE at <= ?1 GROUP BY name)) ORDER BY name, id",
                )?
                .query_map([self.since, self.until], |row| {
                    Ok(Fact {
                        at: time(row.get(0)?),
                        name: row.get(1)?,
                        value: row.get(2)?,
                    })
                })?
                .collect()
        })
    }

    /// At most `most` rows of a query with the range and that number as its parameters.
    fn rows<T>(
        &self,
        query: &str,
        most: usize,
        each: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, JournalError> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        self.ask(|journal| {
            journal
                .prepare(query)?
                .query_map([self.since, self.until, most], each)?
                .collect()
        })
    }
}
