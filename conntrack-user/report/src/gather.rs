//! From a journal to what a report is made from.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ctpressure_journal::{
    ALLOWANCE_EXCEEDED, Fact, JournalError, KernelGrowth, NetnsId, OwnerId, Reader, RecordedNetns,
    Recording, TablePoint,
};
use ctpressure_model::{
    pressure::as_count,
    verdict::{TableVerdicts, Verdict, VerdictKind},
    words::{self, time::unix},
};

use super::{
    evidence::{
        Evidence, EvidencePoint, ExceededAllowance, NodeFacts, OtherTable, OwnerEvidence,
        SeenChange, Span, TableName,
    },
    incidents::{Finder, Incident, IncidentStep},
};

/// Bytes that are kept of somebody else's words.
const LONGEST: usize = 1000;

/// Somebody else's words, fit to be shown.
fn clean(text: &str) -> String {
    words::clean_within(text, LONGEST)
}

mod flows;
mod owners;

/// Steps that a report shows at most.
const STEPS: usize = 360;
/// Seconds shown before what a report is about: as long as it was itself, within these.
const BEFORE: [u64; 2] = [60, 600];
/// Seconds shown after it: half as long, within these.
const AFTER: [u64; 2] = [30, 300];
/// Seconds before the focus in which destinations count as known.
const KNOWN: u64 = 900;
/// Changes of the limit that are read at most.
const CHANGES: usize = 1000;
/// Messages of the agent that are read at most.
const MESSAGES: usize = 200;
/// Tables that are named besides the one that it is about.
const OTHERS: usize = 5;

/// The time that a journal covers; `None`: nothing was recorded.
///
/// # Errors
/// If the journal can't be read.
pub(crate) fn covered(reader: &Reader) -> Result<Option<Span>, JournalError> {
    let coverage = reader.coverage()?;
    Ok(coverage.map(|coverage| Span {
        from: unix(coverage.since),
        until: unix(coverage.until + Duration::from_nanos(999_999_999)),
    }))
}

/// The incidents in a span of time, the newest first, and the names of their tables.
///
/// # Errors
/// If the journal can't be read.
pub(crate) fn incidents(
    reader: &Reader,
    span: Span,
) -> Result<(Vec<Incident>, BTreeMap<NetnsId, String>), JournalError> {
    let recording = reader.read(time(span.from), time(span.until))?;
    let namespaces = recording.namespaces()?;
    let second = Duration::from_secs(1);
    let host = namespaces
        .iter()
        .find(|(_, netns)| netns.name == "host")
        .map(|(id, _)| *id);
    // What was lost, by the second and table.
    let mut lost: BTreeMap<(u64, NetnsId), (u64, u64)> = BTreeMap::new();
    let mut by_table: BTreeMap<u64, bool> = BTreeMap::new();
    for point in recording.kernel_points(second)? {
        let drops = sane(point.growth.drop) + sane(point.growth.chain_too_long);
        let evictions = sane(point.growth.early_drop);
        if drops + evictions > 0 {
            lost.insert((unix(point.at), point.netns), (drops, evictions));
            by_table.insert(unix(point.at), true);
        }
    }
    for point in recording.total_points(second)? {
        let at = unix(point.at);
        // The kernel's statistics may come a sample before or after the probes' counts.
        let told = (at.saturating_sub(1)..=at + 1).any(|at| by_table.contains_key(&at));
        let (drops, evictions) = (sane(point.drops), sane(point.evictions));
        if let Some(host) = host.filter(|_| !told && drops + evictions > 0) {
            lost.insert((at, host), (drops, evictions));
        }
    }
    let mut finder = Finder::default();
    let mut end = span.from;
    recording.each_table_sample(|sample| {
        let ends = unix(
            sample.at + Duration::from_secs_f64(sample.seconds.max(0.001))
                - Duration::from_millis(1),
        );
        let (drops, evictions) = lost.remove(&(ends, sample.netns)).unwrap_or_default();
        let Some(netns) = namespaces.get(&sample.netns) else {
            return;
        };
        let begins = unix(sample.at);
        end = end.max(ends + 1);
        finder.add(&IncidentStep {
            table: netns.inode,
            netns: sample.netns,
            // A sample of one second is the second that it ends in, as in the points of a report.
            at: if ends <= begins + 1 { ends } else { begins },
            seconds: if ends <= begins + 1 {
                1
            } else {
                ends + 1 - begins
            },
            pressure: sample.pressure,
            entries: sane(sample.entries_max),
            limit: sane(sample.limit.unwrap_or(0)),
            drops,
            evictions,
        });
    })?;
    let names = namespaces
        .into_iter()
        .map(|(id, netns)| (id, clean(&netns.name)))
        .collect();
    Ok((finder.finish(end), names))
}

/// What is shown for a focus: some time before and after it, as far as the journal goes.
pub(crate) fn around(focus: Span, covered: Span) -> Span {
    let length = focus.seconds();
    let before = length.clamp(BEFORE[0], BEFORE[1]);
    let after = (length / 2).clamp(AFTER[0], AFTER[1]);
    Span {
        from: focus
            .from
            .saturating_sub(before)
            .max(covered.from)
            .min(focus.from),
        until: (focus.until + after).min(covered.until).max(focus.until),
    }
}

/// All that a report about `focus` needs. `table`: number of its namespace in the journal; `None`: the host's.
///
/// # Errors
/// If the journal can't be read.
pub(crate) fn evidence(
    reader: &Reader,
    focus: Span,
    shown: Span,
    table: Option<NetnsId>,
) -> Result<Evidence, JournalError> {
    let (mut evidence, mut owners, tables) = shown_in(reader, focus, shown, table)?;
    // What is known of before; a reader gives one recording at a time.
    let (known, mut standing) = {
        let before = reader.read(time(focus.from.saturating_sub(KNOWN)), time(focus.from))?;
        (owners::known(&before)?, standing_verdicts(&before)?)
    };
    {
        let within = reader.read(time(focus.from), time(focus.until))?;
        let id = id_of(&within, &evidence.table)?;
        evidence.kernel = growth(&within, id, focus)?;
        evidence.lost = lost(&within)?;
        let told = within.life(MESSAGES)?.into_iter();
        evidence.problems = told
            .filter(|life| life.kind == "degraded" || life.kind == "problem")
            .map(|life| clean(&life.detail))
            .collect();
        evidence.problems.dedup();
        let inode = id.and_then(|id| Some(within.namespaces().ok()?.get(&id)?.inode));
        let standing = inode.and_then(|inode| standing.remove(&inode));
        evidence.verdicts = verdicts(&within, inode, standing.unwrap_or_default())?;
        node(&mut evidence, &within, &tables)?;
        owners::add_focus(focus, &mut owners, &within, &known)?;
    }
    flows::add(&mut evidence, reader, &mut owners)?;
    evidence.owners = owners.into_values().collect();
    evidence
        .owners
        .sort_by_key(|owner| std::cmp::Reverse((owner.live_at_peak, owner.inserts)));
    Ok(evidence)
}

/// What was said of tables, the first thing first.
fn told_of_tables(recording: &Recording<'_>) -> Result<Vec<TableVerdicts>, JournalError> {
    let told = recording.life(MESSAGES)?.into_iter();
    let told = told.filter(|life| life.kind == "verdict");
    Ok(told
        .filter_map(|life| serde_json::from_str(&life.detail).ok())
        .collect())
}

/// What had been said last, by network namespace.
fn standing_verdicts(before: &Recording<'_>) -> Result<BTreeMap<u32, Vec<Verdict>>, JournalError> {
    let told = told_of_tables(before)?.into_iter();
    Ok(told.map(|told| (told.netns, told.verdicts)).collect())
}

/// What was said of this table, or had been and stood, each with the most entries that it was said of.
fn verdicts(
    within: &Recording<'_>,
    inode: Option<u32>,
    standing: Vec<Verdict>,
) -> Result<Vec<Verdict>, JournalError> {
    let mut found: Vec<Verdict> = Vec::new();
    let told = told_of_tables(within)?.into_iter();
    let told = told.filter(|told| Some(told.netns) == inode);
    for verdicts in [standing].into_iter().chain(told.map(|told| told.verdicts)) {
        for mut verdict in verdicts {
            if let VerdictKind::Flood { who } = &mut verdict.kind {
                *who = clean(who);
            }
            match found
                .iter_mut()
                .find(|known| known.which() == verdict.which())
            {
                Some(known) if known.entries < verdict.entries => *known = verdict,
                Some(_) => {}
                None => found.push(verdict),
            }
        }
    }
    found.sort_by_key(|verdict| std::cmp::Reverse(verdict.entries));
    Ok(found)
}

/// What is shown of the table, the owners, and all tables.
type Shown = (Evidence, BTreeMap<OwnerId, OwnerEvidence>, Vec<TablePoint>);

/// What is shown step by step.
fn shown_in(
    reader: &Reader,
    focus: Span,
    shown: Span,
    table: Option<NetnsId>,
) -> Result<Shown, JournalError> {
    let recording = reader.read(time(shown.from), time(shown.until))?;
    let namespaces = recording.namespaces()?;
    let of_table = |(id, netns): &(&NetnsId, &RecordedNetns)| match table {
        Some(table) => **id == table,
        None => netns.name == "host",
    };
    let netns = namespaces.iter().rfind(of_table);
    let bucket = recording.bucket(STEPS);
    let step = bucket.as_secs().max(1);
    let number = usize::try_from(shown.seconds().div_ceil(step)).unwrap_or(0);
    let mut evidence = Evidence {
        table: netns
            .map(|(_, netns)| table_name(netns))
            .unwrap_or_default(),
        focus,
        shown,
        step,
        points: vec![EvidencePoint::default(); number],
        ..Evidence::default()
    };
    let id = netns.map(|(id, _)| *id);
    let tables = recording.table_points(bucket)?;
    add_table(&mut evidence, &tables, id);
    evidence.other_tables = others(&tables, id, &namespaces, focus);
    for point in recording.total_points(bucket)? {
        if let Some(to) = evidence.point_at(point.at) {
            to.seconds = whole_seconds(point.seconds);
            to.inserts = sane(point.inserts);
            to.evictions = sane(point.evictions);
        }
    }
    add_changes(&mut evidence, &recording)?;
    evidence.gaps = gaps(&evidence);
    let owners = owners::shown(&mut evidence, &recording)?;
    Ok((evidence, owners, tables))
}

/// The number of a table in the journal.
fn id_of(within: &Recording<'_>, table: &TableName) -> Result<Option<NetnsId>, JournalError> {
    let namespaces = within.namespaces()?;
    let found = namespaces
        .into_iter()
        .rfind(|(_, netns)| table_name(netns) == *table);
    Ok(found.map(|(id, _)| id))
}

fn lost(within: &Recording<'_>) -> Result<u64, JournalError> {
    let (drops, evictions) = within.event_counts()?;
    let on_the_way: u64 = within
        .events_lost()?
        .iter()
        .filter(|(kind, _)| kind.starts_with("drop") || kind.starts_with("eviction"))
        .map(|(_, number)| number)
        .fold(0, |sum, number| sum.saturating_add(*number));
    Ok(on_the_way
        .saturating_add(drops.not_recorded)
        .saturating_add(evictions.not_recorded))
}

fn add_table(evidence: &mut Evidence, tables: &[TablePoint], id: Option<NetnsId>) {
    for point in tables.iter().filter(|point| Some(point.netns) == id) {
        if let Some(to) = evidence.point_at(point.at) {
            to.entries_most = sane(point.entries_max);
            to.limit = sane(point.limit.unwrap_or(0));
            to.pressure = point.pressure;
        }
    }
}

/// The fullest of the other tables.
fn others(
    tables: &[TablePoint],
    id: Option<NetnsId>,
    namespaces: &BTreeMap<NetnsId, RecordedNetns>,
    focus: Span,
) -> Vec<OtherTable> {
    let mut most: BTreeMap<NetnsId, u64> = BTreeMap::new();
    let in_focus = |point: &&TablePoint| focus.contains(unix(point.at));
    for point in tables.iter().filter(in_focus) {
        let entries = most.entry(point.netns).or_default();
        *entries = sane(point.entries_max).max(*entries);
    }
    let mut others: Vec<OtherTable> = most
        .into_iter()
        .filter(|(netns, entries)| Some(*netns) != id && *entries > 0)
        .filter_map(|(netns, entries)| {
            let netns = namespaces.get(&netns)?;
            let name = table_name(netns);
            Some(OtherTable { name, entries })
        })
        .collect();
    others.sort_by_key(|other| std::cmp::Reverse(other.entries));
    others.truncate(OTHERS);
    others
}

fn add_changes(evidence: &mut Evidence, recording: &Recording<'_>) -> Result<(), JournalError> {
    for change in recording.limit_changes(CHANGES)? {
        evidence.changes.push(SeenChange {
            at: unix(change.at),
            limit: [change.limit_before, change.limit_after].map(|limit| limit.map(sane)),
            buckets: [change.buckets_before, change.buckets_after].map(|buckets| buckets.map(sane)),
            by: change.by,
            who: clean(&change.who.unwrap_or_default()),
            result: change.result,
            reason: clean(&change.reason),
        });
    }
    Ok(())
}

/// Steps that the journal has nothing of, side by side.
fn gaps(evidence: &Evidence) -> Vec<Span> {
    let mut gaps: Vec<Span> = Vec::new();
    for (at, point) in evidence.points.iter().enumerate() {
        if point.seconds > 0 {
            continue;
        }
        let (from, until) = (evidence.at(at), evidence.at(at + 1));
        match gaps.last_mut() {
            Some(last) if last.until == from => last.until = until,
            _ => gaps.push(Span { from, until }),
        }
    }
    // One late sample is none.
    gaps.retain(|gap| gap.seconds() > (2 * evidence.step).min(5));
    gaps
}

fn growth(
    within: &Recording<'_>,
    id: Option<NetnsId>,
    focus: Span,
) -> Result<KernelGrowth, JournalError> {
    let all = Duration::from_secs(focus.seconds().max(1));
    let points = within.kernel_points(all)?;
    let found = points.iter().find(|point| Some(point.netns) == id);
    let mut growth = found.map(|point| point.growth).unwrap_or_default();
    for count in growth.counts() {
        *count = sane(*count);
    }
    Ok(growth)
}

fn node(
    evidence: &mut Evidence,
    within: &Recording<'_>,
    tables: &[TablePoint],
) -> Result<(), JournalError> {
    if let Some(run) = within.runs()?.pop() {
        evidence.node = NodeFacts {
            name: clean(&run.node),
            kernel: clean(&run.kernel),
            agent: clean(&run.version),
            ram_bytes: run.ram_bytes,
            ..NodeFacts::default()
        };
    }
    let facts = within.facts()?;
    evidence.node.allowances = exceeded(&facts);
    for fact in facts {
        if !fact.name.starts_with(ALLOWANCE_EXCEEDED) {
            let (name, value) = (clean(&fact.name), clean(&fact.value));
            evidence.node.facts.insert(name, value);
        }
    }
    let peak = evidence.at(evidence.peak());
    for point in tables {
        if unix(point.at) == peak {
            evidence.node.buckets = point.buckets.map(sane).or(evidence.node.buckets);
            evidence.node.table_bytes = point.table_bytes.or(evidence.node.table_bytes);
            evidence.node.all_entries += sane(point.entries_max);
        }
    }
    Ok(())
}

/// What came to what the instance had dropped before; of what was first seen in this time it is not known since when.
fn exceeded(facts: &[Fact]) -> Vec<ExceededAllowance> {
    let mut found: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for fact in facts {
        let (Some(of), Ok(value)) = (
            fact.name.strip_prefix(ALLOWANCE_EXCEEDED),
            fact.value.parse(),
        ) else {
            continue;
        };
        let (last, sum) = found.entry(of).or_insert((value, 0));
        // A driver that was loaded anew begins at 0.
        *sum = sane(sum.saturating_add(value.checked_sub(*last).unwrap_or(value)));
        *last = value;
    }
    found
        .into_iter()
        .filter(|(_, (_, packets))| *packets > 0)
        .filter_map(|(of, (_, packets))| {
            // A VLAN's interface has a dot in its name.
            let (interface, allowance) = of.rsplit_once('.')?;
            Some(ExceededAllowance {
                interface: clean(interface),
                allowance: clean(allowance),
                packets,
            })
        })
        .collect()
}

fn table_name(netns: &RecordedNetns) -> TableName {
    TableName {
        netns: netns.inode,
        name: clean(&netns.name),
    }
}

/// A count that can be multiplied and summed up: no second of a kernel has more, but a damaged file may.
fn sane(count: u64) -> u64 {
    count.min(u64::from(u32::MAX))
}

fn time(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds.min(1 << 40))
}

/// What is recorded at all is a second at least.
fn whole_seconds(seconds: f64) -> u64 {
    if seconds > 0.0 {
        as_count(seconds).max(1)
    } else {
        0
    }
}
