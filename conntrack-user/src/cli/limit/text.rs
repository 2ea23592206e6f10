//! `ctpressure limit` for people.

use std::fmt::Write as _;

use ctpressure_model::{
    cost::MemoryRange,
    words::{self, clean, grouped, seconds, time::of_clock},
};

use crate::{
    limit::{
        Change, Mode, Report,
        change::{ChangeOutcome, Purpose},
        report::Standing,
    },
    serve::limit::LimitView,
};

/// Changes that are shown.
const CHANGES: usize = 12;

/// The whole text; `runs`: an agent was asked.
pub(super) fn of(view: &LimitView, runs: bool) -> String {
    let mut text = String::new();
    // Writing to a string can't fail.
    let _: Result<(), std::fmt::Error> = write(&mut text, view, runs);
    text
}

fn write(text: &mut String, view: &LimitView, runs: bool) -> std::fmt::Result {
    if let Some(Ok(set)) = &view.set {
        for change in &set.changes {
            writeln!(text, "set         {}", what(change))?;
        }
        for guard in &set.overridden {
            writeln!(text, "overridden  {guard}")?;
        }
    }
    let number = |number: Option<u64>| number.map_or_else(|| "?".to_owned(), grouped);
    let limit = match view.limit {
        Some(0) => "unlimited".to_owned(),
        limit => format!("{} entries a table", number(limit)),
    };
    let report = view.controller.as_ref();
    let from = report.and_then(|report| report.raised_from);
    let from = from.map_or_else(String::new, |from| {
        format!(", raised by ctpressure from {}", grouped(from))
    });
    writeln!(
        text,
        "limit       {limit}{from}; {} buckets",
        number(view.buckets)
    )?;
    if let Some(fullest) = &view.fullest {
        let share = match view.limit {
            Some(limit) if limit > 0 => {
                format!(", {} of the limit", words::share(fullest.entries, limit))
            }
            _ => String::new(),
        };
        writeln!(
            text,
            "fullest     {}: {} entries{share}",
            clean(&fullest.name),
            grouped(fullest.entries)
        )?;
    }
    let Some(report) = report else {
        return writeln!(
            text,
            "controller  off (the agent runs without --limit-controller)"
        );
    };
    let full = |least: Option<u64>, most: Option<u64>| {
        least.zip(most).map_or_else(
            || "?".to_owned(),
            |(least, most)| MemoryRange { least, most }.of_memory(report.memory_bytes),
        )
    };
    let when_full = match view.limit {
        Some(0) => "no table is ever full".to_owned(),
        _ => format!(
            "{} when full",
            full(report.bytes_when_full_least, report.bytes_when_full)
        ),
    };
    writeln!(
        text,
        "memory      {} now, without extensions; {when_full}",
        view.table_bytes
            .map_or_else(|| "?".to_owned(), words::bytes)
    )?;
    writeln!(
        text,
        "ceiling     {} ({}); {} when full",
        number(report.ceiling),
        report.ceiling_reason.as_deref().unwrap_or("?"),
        full(report.bytes_at_ceiling_least, report.bytes_at_ceiling)
    )?;
    tables(text, report)?;
    writeln!(text, "controller  {}", controller(report, runs))?;
    if !report.now.is_empty() {
        writeln!(text, "now         {}", report.now)?;
    }
    if let Some(timeout) = &report.shortened {
        writeln!(
            text,
            "timeout     {}: {}, shortened by ctpressure from {} for a while",
            timeout.name,
            seconds(timeout.to),
            seconds(timeout.from)
        )?;
    }
    if let Some(fight) = &report.fight {
        let state = if fight.given_up { ", given up" } else { "" };
        let who = fight.who.as_deref().unwrap_or("nobody who is known");
        writeln!(
            text,
            "fight       lowered {} times below what the traffic needs{state}; by {who}",
            fight.rounds
        )?;
    }
    for advice in &report.advice {
        writeln!(text, "advice      {advice}")?;
    }
    history(text, &report.changes)
}

/// For which tables the limit is raised, and what all of them could take.
fn tables(text: &mut String, report: &Report) -> std::fmt::Result {
    write!(text, "raises for  host")?;
    for name in &report.raise_netns {
        write!(text, ", {}", clean(name))?;
    }
    writeln!(text)?;
    let Some(bytes) = report
        .bytes_if_all_full
        .filter(|_| report.tables_in_all > 1)
    else {
        return Ok(());
    };
    let share = report.memory_bytes.map_or_else(String::new, |memory| {
        format!(" ({})", words::share(bytes, memory))
    });
    writeln!(
        text,
        "all tables  {}, of which {} are in use; {}{share} if each of them was filled",
        grouped(report.tables_in_all),
        grouped(report.tables_in_use),
        words::bytes(bytes)
    )
}

fn controller(report: &Report, runs: bool) -> String {
    let mode = match (runs, report.mode) {
        (false, _) => "no agent running; sampled for one second".to_owned(),
        (true, Mode::Off) => "off".to_owned(),
        (true, Mode::DryRun) => "dry run: says what it would do".to_owned(),
        (true, Mode::On) => "on".to_owned(),
    };
    match &report.standing {
        Standing::Acting => mode,
        Standing::Starting => format!("{mode}, starting"),
        Standing::Standby(why) => format!("{mode}, but {why}: this one stands by"),
        Standing::Blocked(why) => format!("{mode}, but it can't act: {why}"),
    }
}

fn history(text: &mut String, changes: &[Change]) -> std::fmt::Result {
    if changes.is_empty() {
        return writeln!(text, "history     none");
    }
    let shown = &changes[changes.len().saturating_sub(CHANGES)..];
    writeln!(
        text,
        "history     the last {} of {} changes",
        shown.len(),
        changes.last().map_or(0, |change| change.sequence)
    )?;
    for change in shown {
        let time = of_clock(change.time.0);
        let who = change.who.as_deref();
        let who = who.map_or_else(String::new, |who| format!(" ({who})"));
        writeln!(
            text,
            "  {time}  {}{who}: {}\n      {}",
            change.by,
            what(change),
            change.reason
        )?;
    }
    Ok(())
}

/// What was changed, and what came of it.
fn what(change: &Change) -> String {
    let Change {
        before,
        after,
        outcome,
        purpose,
        ..
    } = change;
    let numbers = match (change.timeout(), purpose) {
        (Some(timeout), _) => timeout,
        (None, Purpose::Buckets) => format!(
            "buckets {} -> {}",
            grouped(before.buckets),
            grouped(after.buckets)
        ),
        (None, _) => format!("{} -> {}", grouped(before.limit), grouped(after.limit)),
    };
    match outcome {
        ChangeOutcome::Applied => numbers,
        ChangeOutcome::DryRun => format!("{numbers} (dry run: not done)"),
        ChangeOutcome::Refused => format!("{} stays (refused)", grouped(before.limit)),
        ChangeOutcome::Failed => format!("{numbers} (failed)"),
    }
}
