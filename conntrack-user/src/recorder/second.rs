//! What is written for one sample: how it differs from the last one that was written.
//!
//! Pure functions. Whatever could not be written is in the difference that comes next, so that no
//! count is ever missing, only its second.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::SystemTime,
};

use conntrack_ebpf::owner::Direction;
use ctpressure_journal::{LimitChange, Loss, milliseconds, seconds};
use ctpressure_model::{
    pressure::{destinations::Destination, state::Pressure},
    verdict::{TableVerdicts, Verdict},
};

use super::detail::{Parties, SecondDetail};
use crate::{
    agent::{AgentState, Snapshot, Table},
    kernel::stats::KernelStats,
    owners::Owner,
};

mod owners;

/// How often everything that has entries is written, also if it did not change, in recorded time.
const KEYFRAME_MS: i64 = 60_000;
/// How often destinations are written.
const DESTINATIONS_MS: i64 = 10_000;
/// How often it is written what a table is still full of, in uptime: a report looks back for a quarter of an hour.
const SAID_AGAIN_MS: u64 = 600_000;
/// A clock that is off by less was slewed, not set.
const CLOCK_SET_MS: i64 = 2_000;

/// A row of `flow`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FlowRow {
    pub(super) owner: Owner,
    pub(super) direction: Direction,
    pub(super) inserts: u64,
    pub(super) deletes: u64,
    pub(super) live: u64,
}

/// A row of `loss`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LossRow {
    pub(super) owner: Owner,
    pub(super) direction: Direction,
    pub(super) what: Loss,
    pub(super) number: u64,
}

/// A row of `destination`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct DestinationRow {
    pub(super) owner: Owner,
    pub(super) what: i64,
    pub(super) destination: Destination,
}

/// The rows of one tick.
#[derive(Clone, Debug, Default)]
pub(super) struct Second {
    pub(super) at: i64,
    /// Milliseconds since the last one.
    pub(super) span: i64,
    pub(super) state: i64,
    pub(super) limit: Option<u64>,
    pub(super) buckets: Option<u64>,
    pub(super) table_bytes: Option<u64>,
    /// Inserts, deletes, evictions, packets lost.
    pub(super) totals: [u64; 4],
    pub(super) tables: Vec<Table>,
    /// Of each table what its statistics grew by.
    pub(super) kernel: Vec<(Table, KernelStats)>,
    pub(super) flows: Vec<FlowRow>,
    pub(super) losses: Vec<LossRow>,
    pub(super) states: Vec<(Owner, String, u64)>,
    pub(super) destinations: Vec<DestinationRow>,
    pub(super) lost: Vec<(&'static str, u64)>,
    pub(super) life: Vec<(&'static str, String)>,
    pub(super) detail: SecondDetail,
    pub(super) parties: Parties,
    /// Limit and buckets before, if either changed.
    pub(super) limit_before: Option<(u64, u64)>,
}

/// One second, as the agent saw it.
#[derive(Debug)]
pub(super) struct Observed {
    pub(super) snapshot: Arc<Snapshot>,
    /// What happened in it.
    pub(super) detail: SecondDetail,
    /// A limit controller acts: it tells who changed the limit.
    pub(super) controlled: bool,
}

/// Remembers what was written.
#[derive(Debug, Default)]
pub(super) struct Differ {
    before: Option<(Arc<Snapshot>, i64)>,
    /// Statistics that each table had, by inode.
    stats: HashMap<u32, KernelStats>,
    /// Limit and buckets that are known last.
    limit: Option<(u64, u64)>,
    /// What somebody who changed them said that they are now.
    told: Option<(u64, u64)>,
    /// Recorded time since the last keyframe, and since destinations were written.
    since_keyframe: i64,
    since_destinations: i64,
}

impl Differ {
    /// The rows for what was seen, at this time of day; `None`: it was written already.
    pub(super) fn difference(&self, observed: Observed, at: SystemTime) -> Option<Second> {
        let Observed {
            snapshot,
            detail,
            controlled,
        } = observed;
        let now = &*snapshot;
        let at = milliseconds(at);
        let before = self
            .before
            .as_ref()
            .map(|(snapshot, at)| (&**snapshot, *at));
        if before.is_some_and(|(before, _)| before.at >= now.at) {
            return None;
        }
        let span = before.map_or_else(
            || i64::try_from(ms(now.uptime_seconds)).unwrap_or(0),
            |(before, _)| {
                i64::try_from(now.at.duration_since(before.at).as_millis()).unwrap_or(i64::MAX)
            },
        );
        let mut second = Second {
            at,
            span,
            state: now.state as i64,
            limit: now.tables.limit,
            buckets: now.tables.buckets,
            table_bytes: now.tables.table_bytes,
            ..Second::default()
        };
        if let Some((_, before)) = before {
            let set = at - before - span;
            if set.abs() >= CLOCK_SET_MS {
                second.life.push((
                    "clock",
                    format!("the clock was set by {:+.1} s", seconds(set)),
                ));
            }
        }
        let before = before.map(|(before, _)| before);
        let keyframe = before.is_none() || self.since_keyframe.saturating_add(span) >= KEYFRAME_MS;
        totals(before, now, &mut second);
        tables(before, now, keyframe, &mut second);
        self.kernel(now, &mut second);
        owners::owners(before, now, keyframe, &mut second);
        if before.is_none_or(|before| before.owners.census.times != now.owners.census.times) {
            owners::mixes(now, &mut second);
        }
        if self.since_destinations.saturating_add(span) >= DESTINATIONS_MS {
            owners::destinations(now, &mut second);
        }
        life(before, now, &mut second);
        let limit = now.tables.limit.zip(now.tables.buckets);
        let known = |limit| limit == self.limit || limit == self.told;
        // A controller that acts tells what others did too, a moment later and with more about it.
        second.limit_before = self
            .limit
            .filter(|_| !controlled && limit.is_some() && !known(limit));
        if !detail.is_empty() {
            second.parties = Parties::new(before, now);
        }
        second.detail = detail;
        Some(second)
    }

    /// `second` was written, which came of `now`.
    pub(super) fn written(&mut self, now: Arc<Snapshot>, second: &Second) {
        let next = |since: i64, every: i64, span: i64| {
            let since = since.saturating_add(span);
            if since >= every { 0 } else { since }
        };
        let first = self.before.is_none();
        self.since_keyframe = if first {
            0
        } else {
            next(self.since_keyframe, KEYFRAME_MS, second.span)
        };
        self.since_destinations = next(self.since_destinations, DESTINATIONS_MS, second.span);
        if !now.tables.list.is_empty() {
            // A table that could not be read this once goes on from where it was.
            let present: BTreeSet<u32> = now.tables.list.iter().map(|table| table.netns).collect();
            self.stats.retain(|netns, _| present.contains(netns));
        }
        for table in &now.tables.list {
            if let Some(stats) = table.stats {
                self.stats.insert(table.netns, stats);
            }
        }
        if let Some(limit) = now.tables.limit.zip(now.tables.buckets) {
            self.limit = Some(limit);
            self.told = self.told.filter(|told| *told != limit);
        }
        self.before = Some((now, second.at));
    }

    /// Somebody reports this change: what it makes of the limit is not a change by somebody else.
    pub(super) fn told(&mut self, change: &LimitChange) {
        if change.result.happened()
            && let Some((limit, buckets)) = self.told.or(self.limit)
        {
            self.told = Some((
                change.limit_after.unwrap_or(limit),
                change.buckets_after.unwrap_or(buckets),
            ));
        }
    }

    /// A new file begins: everything that has entries is written next.
    pub(super) const fn begin_anew(&mut self) {
        self.since_keyframe = KEYFRAME_MS;
    }

    /// How much the kernel's statistics grew. What a table shows first was counted before.
    fn kernel(&self, now: &Snapshot, second: &mut Second) {
        for table in &now.tables.list {
            let (Some(stats), Some(before)) = (table.stats, self.stats.get(&table.netns)) else {
                continue;
            };
            let grown = stats.since(before);
            if is_something(&grown) {
                second.kernel.push((table.clone(), grown));
            }
        }
    }
}

/// What no probe counts has no column for that: it is 0, and the hooks in `life` say that it was not counted.
fn totals(before: Option<&Snapshot>, now: &Snapshot, second: &mut Second) {
    let sums = |snapshot: &Snapshot| {
        let totals = &snapshot.probes.totals;
        let drops = &totals.drops;
        [
            totals.inserts.unwrap_or(0),
            totals.deletes.unwrap_or(0),
            totals.evictions.unwrap_or(0),
            [
                drops.table_full,
                drops.clash,
                drops.chain_too_long,
                drops.dying,
            ]
            .iter()
            .flatten()
            .sum(),
        ]
    };
    let (now_sums, before_sums) = (sums(now), before.map(sums).unwrap_or_default());
    for ((grown, now), before) in second.totals.iter_mut().zip(now_sums).zip(before_sums) {
        *grown = now.saturating_sub(before);
    }
    let lost_before = before.map(Snapshot::losses);
    for (index, (kind, number)) in now.losses().into_iter().enumerate() {
        let grown = number.saturating_sub(lost_before.map_or(0, |lost| lost[index].1));
        if grown > 0 {
            second.lost.push((kind, grown));
        }
    }
}

fn tables(before: Option<&Snapshot>, now: &Snapshot, keyframe: bool, second: &mut Second) {
    let was = |netns: u32| {
        before.and_then(|before| before.tables.list.iter().find(|table| table.netns == netns))
    };
    for table in &now.tables.list {
        let same = was(table.netns).is_some_and(|was| {
            (was.entries, was.pressure, &was.name) == (table.entries, table.pressure, &table.name)
        });
        if keyframe || !same {
            second.tables.push(table.clone());
        }
    }
    // None at all: they could not be read, unless conntrack is gone.
    if now.tables.list.is_empty() && now.state != AgentState::Waiting {
        return;
    }
    for gone in before.iter().flat_map(|before| &before.tables.list) {
        if !now
            .tables
            .list
            .iter()
            .any(|table| (table.netns, &table.name) == (gone.netns, &gone.name))
        {
            second.tables.push(Table {
                entries: 0,
                pressure: Pressure::Calm,
                ..gone.clone()
            });
        }
    }
}

/// Whether anything grew that the journal has a column for.
fn is_something(grown: &KernelStats) -> bool {
    grown.named().into_iter().any(|(name, number)| {
        name != "insert" && !name.starts_with("expect_") && number.unwrap_or(0) > 0
    })
}

fn life(before: Option<&Snapshot>, now: &Snapshot, second: &mut Second) {
    if before.is_none_or(|before| before.state != now.state || before.reason != now.reason) {
        let kind = match now.state {
            AgentState::Waiting => "waiting",
            AgentState::Attached => "attached",
            AgentState::Degraded => "degraded",
        };
        second
            .life
            .push((kind, now.reason.clone().unwrap_or_default()));
    }
    if before.is_none_or(|before| before.probes.status.hooks != now.probes.status.hooks) {
        for hook in &now.probes.status.hooks {
            // Strings and numbers: this can't fail.
            second
                .life
                .push(("hook", serde_json::to_string(hook).unwrap_or_default()));
        }
    }
    let turn = |snapshot: &Snapshot| ms(snapshot.uptime_seconds) / SAID_AGAIN_MS;
    for table in &now.tables.list {
        let tables = before.iter().flat_map(|before| &before.tables.list);
        let mut earlier = tables.filter(|earlier| earlier.netns == table.netns);
        let which =
            |table: &Table| -> Vec<String> { table.verdicts.iter().map(Verdict::which).collect() };
        let told = earlier.next().map(which).unwrap_or_default();
        let is_due = before.is_some_and(|before| turn(before) != turn(now));
        if which(table) != told || is_due && !told.is_empty() {
            let said = TableVerdicts {
                netns: table.netns,
                verdicts: table.verdicts.clone(),
            };
            let said = serde_json::to_string(&said).unwrap_or_default();
            second.life.push(("verdict", said));
        }
    }
    let known = before.map_or(&[][..], |before| &before.problems);
    for problem in now
        .problems
        .iter()
        .filter(|problem| !known.contains(problem))
    {
        second.life.push(("problem", problem.clone()));
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "seconds of an uptime"
)]
fn ms(seconds: f64) -> u64 {
    (seconds * 1000.0) as u64
}

#[cfg(test)]
mod tests {
    use ctpressure_model::verdict::VerdictKind;

    use super::*;
    use crate::agent::Tables;

    #[test]
    fn what_a_table_is_full_of_is_said_again_while_it_is() {
        let seen = |uptime_seconds: f64, is_full: bool| {
            let held = Verdict {
                kind: VerdictKind::Held,
                entries: 800,
                of: 1_000,
            };
            let table = Table {
                netns: 7,
                verdicts: is_full.then_some(held).into_iter().collect(),
                ..Table::default()
            };
            Snapshot {
                uptime_seconds,
                tables: Tables {
                    list: vec![table],
                    ..Tables::default()
                },
                ..Snapshot::default()
            }
        };
        let said = |before: &Snapshot, now: &Snapshot| {
            let mut second = Second::default();
            life(Some(before), now, &mut second);
            let verdicts = second.life.iter().filter(|(kind, _)| *kind == "verdict");
            verdicts.count()
        };
        assert_eq!(said(&seen(598.0, false), &seen(599.0, true)), 1, "begins");
        assert_eq!(said(&seen(598.0, true), &seen(599.0, true)), 0);
        assert_eq!(said(&seen(599.0, true), &seen(600.0, true)), 1, "goes on");
        assert_eq!(said(&seen(598.0, true), &seen(599.0, false)), 1, "ends");
        assert_eq!(said(&seen(599.0, false), &seen(600.0, false)), 0);
    }
}
