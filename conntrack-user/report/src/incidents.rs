//! Incidents: from the first sign of pressure on a table to calm.
//!
//! An incident begins when a table's pressure leaves calm, or with a packet or a live entry lost,
//! and ends when there was neither for [`QUIET`] seconds; it also ends where the journal has a gap
//! that is longer. It counts when the pressure was high at least, or something was lost. A table
//! may be half full for days: of the time when the pressure does no more than rise, at most
//! [`LINGER`] seconds before and after belong to it.

use std::collections::BTreeMap;

use ctpressure_journal::NetnsId;
use ctpressure_model::{
    pressure::state::Pressure,
    words::time::{serialize_known_seconds, serialize_seconds},
};
use serde::Serialize;

/// An incident that comes back within these seconds is the same one.
pub(crate) const QUIET: u64 = 60;
/// Seconds of rising pressure, without more, that belong to an incident.
pub(crate) const LINGER: u64 = 900;
/// Packets lost for other reasons than a full table, from which on that is an incident.
const FEW: u64 = 5;
/// Incidents that are kept: the newest.
pub(crate) const MOST: usize = 1000;

/// One table in one span of time of the journal, as the finder needs it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct IncidentStep {
    /// Inode number of the table's namespace.
    pub(crate) table: u32,
    /// Number of that namespace in the journal: another one may get the inode number.
    pub(crate) netns: NetnsId,
    /// Its first second, since 1970.
    pub(crate) at: u64,
    /// Its length in seconds.
    pub(crate) seconds: u64,
    /// The highest pressure in it.
    pub(crate) pressure: Pressure,
    /// Most entries in it.
    pub(crate) entries: u64,
    /// The limit; 0: none or not known.
    pub(crate) limit: u64,
    pub(crate) drops: u64,
    /// Live entries removed to make room.
    pub(crate) evictions: u64,
}

/// A table: the inode number of its namespace, and what tells that from another one with the same.
type Key = (u32, NetnsId);

impl IncidentStep {
    const fn key(&self) -> Key {
        (self.table, self.netns)
    }
}

/// An incident of one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Incident {
    /// Inode number of the table's namespace.
    pub(crate) table: u32,
    #[serde(skip)]
    pub(crate) netns: NetnsId,
    /// Its first second, since 1970.
    #[serde(serialize_with = "serialize_seconds")]
    #[cfg_attr(test, schemars(with = "String"))]
    pub(crate) from: u64,
    /// The second after its last one.
    #[serde(serialize_with = "serialize_seconds")]
    #[cfg_attr(test, schemars(with = "String"))]
    pub(crate) until: u64,
    pub(crate) pressure: Pressure,
    pub(crate) entries: u64,
    /// The limit when there were most.
    pub(crate) limit: u64,
    pub(crate) drops: u64,
    /// Live entries removed to make room.
    pub(crate) evictions: u64,
    /// The first second with a packet lost.
    #[serde(serialize_with = "serialize_known_seconds")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    first_drop: Option<u64>,
    /// The journal ends, or has a gap, before it was calm again.
    pub(crate) open: bool,
}

/// Finds incidents in steps that come in the order of time.
#[derive(Debug, Default)]
pub(crate) struct Finder {
    /// Of each table the incident that may not be over.
    open: BTreeMap<Key, OpenIncident>,
    /// Where each table's last step ended.
    seen: BTreeMap<Key, u64>,
    found: Vec<Incident>,
}

/// An incident that may not be over.
#[derive(Debug)]
struct OpenIncident {
    incident: Incident,
    /// The end of the last sign of it.
    sign: u64,
    /// The end of the last high pressure or loss.
    grave: Option<u64>,
}

impl Incident {
    fn counts(&self) -> bool {
        self.pressure >= Pressure::High || self.drops >= FEW || self.evictions > 0
    }
}

impl Finder {
    /// Takes the next step.
    pub(crate) fn add(&mut self, step: &IncidentStep) {
        let end = step.at + step.seconds;
        let gap = self
            .seen
            .insert(step.key(), end)
            .is_some_and(|seen| step.at > seen + QUIET);
        if gap {
            self.close(step.key(), true);
        }
        let quiet = self
            .open
            .get(&step.key())
            .is_some_and(|open| step.at >= open.sign + QUIET);
        let grave = step.pressure >= Pressure::High || step.drops + step.evictions > 0;
        let lingers = self.open.get(&step.key()).is_some_and(|open| {
            open.grave
                .is_some_and(|last| !grave && step.at >= last + LINGER)
        });
        if quiet || lingers {
            self.close(step.key(), false);
        }
        if step.pressure == Pressure::Calm && step.drops == 0 && step.evictions == 0 {
            return;
        }
        let open = self.open.entry(step.key()).or_insert_with(|| {
            let incident = Incident {
                table: step.table,
                netns: step.netns,
                from: step.at,
                until: end,
                pressure: step.pressure,
                entries: step.entries,
                limit: step.limit,
                drops: 0,
                evictions: 0,
                first_drop: None,
                open: true,
            };
            OpenIncident {
                incident,
                sign: end,
                grave: None,
            }
        });
        open.sign = end;
        let incident = &mut open.incident;
        if grave {
            if open.grave.is_none() {
                incident.from = incident.from.max(step.at.saturating_sub(LINGER));
            }
            open.grave = Some(end);
        }
        incident.until = end;
        incident.pressure = incident.pressure.max(step.pressure);
        if step.entries > incident.entries {
            incident.entries = step.entries;
            incident.limit = step.limit;
        }
        incident.drops += step.drops;
        incident.evictions += step.evictions;
        if step.drops > 0 {
            incident.first_drop = incident.first_drop.or(Some(step.at));
        }
    }

    fn close(&mut self, table: Key, cut: bool) {
        if let Some(OpenIncident { mut incident, .. }) = self.open.remove(&table)
            && incident.counts()
        {
            incident.open = cut;
            self.found.push(incident);
            if self.found.len() >= 2 * MOST {
                self.found.sort_by_key(|incident| incident.from);
                self.found.drain(..MOST);
            }
        }
    }

    /// What was found, the newest first; `end`: the second after the journal's last one.
    pub(crate) fn finish(mut self, end: u64) -> Vec<Incident> {
        let open: Vec<(Key, u64)> = self
            .open
            .iter()
            .map(|(table, open)| (*table, open.sign))
            .collect();
        for (table, sign) in open {
            self.close(table, end < sign + QUIET);
        }
        let mut found = self.found;
        found.sort_by_key(|incident| std::cmp::Reverse((incident.from, incident.table)));
        found.truncate(MOST);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: u64 = 1_772_334_720;

    fn step(at: u64, pressure: Pressure) -> IncidentStep {
        IncidentStep {
            table: 1,
            at: T + at,
            seconds: 1,
            pressure,
            entries: 100 * (pressure as u64 + 1),
            limit: 400,
            ..IncidentStep::default()
        }
    }

    fn find(steps: impl IntoIterator<Item = IncidentStep>, end: u64) -> Vec<Incident> {
        let mut finder = Finder::default();
        for step in steps {
            finder.add(&step);
        }
        finder.finish(T + end)
    }

    #[test]
    fn from_rising_to_calm() {
        let shape = |at| match at {
            200..300 => Pressure::High,
            300..310 => Pressure::Full,
            100..400 => Pressure::Rising,
            _ => Pressure::Calm,
        };
        let found = find((0..1000).map(|at| step(at, shape(at))), 1000);
        assert_eq!(
            found,
            [Incident {
                table: 1,
                netns: NetnsId::default(),
                from: T + 100,
                until: T + 400,
                pressure: Pressure::Full,
                entries: 400,
                limit: 400,
                drops: 0,
                evictions: 0,
                first_drop: None,
                open: false,
            }]
        );
    }

    #[test]
    fn what_only_rises_is_none_unless_something_is_lost() {
        let rising = |at| step(at, Pressure::Rising);
        assert_eq!(find((0..500).map(rising), 500), []);
        let lossy = |at| IncidentStep {
            evictions: u64::from(at == 300),
            ..rising(at)
        };
        assert_eq!(find((0..500).map(lossy), 500).len(), 1);
    }

    #[test]
    fn days_of_a_half_full_table_are_no_part_of_it() {
        let shape = |at| match at {
            5000..5010 => Pressure::High,
            _ => Pressure::Rising,
        };
        let found = find((0..10_000).map(|at| step(at, shape(at))), 10_000);
        let spans: Vec<_> = found
            .iter()
            .map(|one| (one.from - T, one.until - T, one.open))
            .collect();
        assert_eq!(spans, [(5000 - LINGER, 5010 + LINGER, false)]);
    }

    #[test]
    fn packets_lost_in_a_calm_table_are_one_when_they_are_some() {
        let lost = |number| {
            (0..500).map(move |at| IncidentStep {
                drops: u64::from((100..100 + number).contains(&at)),
                ..step(at, Pressure::Calm)
            })
        };
        assert_eq!(find(lost(FEW - 1), 500), []);
        let found = find(lost(FEW), 500);
        assert_eq!(
            (found[0].from, found[0].until, found[0].first_drop),
            (T + 100, T + 105, Some(T + 100))
        );
    }

    #[test]
    fn what_comes_back_soon_is_the_same_one_and_the_newest_is_first() {
        let shape = |at| match at {
            10..20 | 79..90 | 300..301 => Pressure::High,
            _ => Pressure::Calm,
        };
        let found = find((0..500).map(|at| step(at, shape(at))), 500);
        let spans: Vec<_> = found
            .iter()
            .map(|one| (one.from - T, one.until - T))
            .collect();
        assert_eq!(spans, [(300, 301), (10, 90)]);
        let steps = (0..500).map(|at| {
            let pressure = match at {
                10..20 | 80..90 => Pressure::High,
                _ => Pressure::Calm,
            };
            step(at, pressure)
        });
        assert_eq!(find(steps, 500).len(), 2, "a minute apart");
    }

    #[test]
    fn a_gap_and_the_end_of_the_journal_leave_it_open() {
        let high = |at| step(at, Pressure::High);
        let found = find((0..10).chain(200..210).map(high), 210);
        assert_eq!(found.len(), 2);
        assert!(found[0].open && found[1].open, "{found:?}");
        let calm = (0..10)
            .map(high)
            .chain((10..90).map(|at| step(at, Pressure::Calm)));
        assert!(!find(calm, 90)[0].open);
    }

    #[test]
    fn tables_are_told_apart_and_the_number_is_bounded() {
        let steps = (0..10).flat_map(|at| {
            [1, 2].map(|table| IncidentStep {
                table,
                ..step(at, Pressure::High)
            })
        });
        let tables: Vec<_> = find(steps, 10).iter().map(|one| one.table).collect();
        assert_eq!(tables, [2, 1]);
        let many = (0..5000).map(|at| step(at * 100, Pressure::High));
        let found = find(many, 500_000);
        assert_eq!((found.len(), found[0].from), (MOST, T + 499_900));
    }
}
