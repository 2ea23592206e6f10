//! The report for a terminal: at most 80 columns, no colour.

use std::fmt::Write as _;

use ctpressure_journal::{ChangedBy, NetnsId};
use ctpressure_model::words::{
    grouped, lifetime, list, per_second, plural, seconds, share, share_f64, shorten, time,
};

use super::{
    chart,
    document::{Filler, Report, Sufferer, limit_in_words},
    evidence::{NamedDestination, SeenChange},
    incidents::Incident,
    timeline::ReportTimeline,
};

/// Columns of a line at most.
const WIDTH: usize = 80;
/// Columns before a chart.
const LABEL: usize = 20;
/// Lines of the chart of entries.
const HEIGHT: usize = 8;
/// Changes of the limit that are listed.
const CHANGES: usize = 10;

/// The whole report, in lines of 80 columns.
pub fn report(report: &Report) -> String {
    let mut out = String::new();
    let node = if report.node.name.is_empty() {
        "an unknown node".to_owned()
    } else {
        shorten(&report.node.name, 40)
    };
    let _ = writeln!(out, "ctpressure report: {}", report.focus);
    let _ = writeln!(
        out,
        "{node}, Linux {}, table of {}",
        shorten(&report.node.kernel, 30),
        shorten(&report.table.name, 40)
    );
    heading(&mut out, "What happened");
    for sentence in &report.summary {
        wrap(&mut out, sentence, 0);
    }
    heading(&mut out, "Timeline");
    timeline(&mut out, report);
    heading(&mut out, "Who filled it");
    fillers(&mut out, report);
    heading(&mut out, "Who suffered");
    sufferers(&mut out, report);
    heading(&mut out, "Why packets were lost");
    reasons(&mut out, report);
    heading(&mut out, "What to do");
    for (number, advice) in (1..).zip(&report.advice) {
        wrap(&mut out, &format!("{number}. {}", advice.text), 3);
        wrap(&mut out, &format!("   because: {}", advice.evidence), 3);
    }
    if report.advice.is_empty() {
        out += "Nothing.\n";
    }
    if !report.notes.is_empty() {
        heading(&mut out, "Notes");
        for note in &report.notes {
            wrap(&mut out, &format!("- {note}"), 2);
        }
    }
    out
}

fn heading(out: &mut String, title: &str) {
    let _ = writeln!(out, "\n{}", title.to_uppercase());
}

/// In as many lines as it takes; further lines are moved in by `indent`.
fn wrap(out: &mut String, text: &str, indent: usize) {
    let mut line = String::new();
    let lead = text.len() - text.trim_start().len();
    line.push_str(&" ".repeat(lead));
    let mut empty = true;
    for word in text.split_whitespace() {
        let word = shorten(word, WIDTH - indent);
        if !empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            let _ = writeln!(out, "{line}");
            line = " ".repeat(indent);
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(&word);
        empty = false;
    }
    let _ = writeln!(out, "{line}");
}

fn timeline(out: &mut String, report: &Report) {
    let shown = report.timeline.coarser(WIDTH - LABEL);
    let known: Vec<bool> = shown.recorded.iter().map(|seconds| *seconds > 0).collect();
    let most = shown
        .entries
        .iter()
        .chain(&shown.limit)
        .copied()
        .max()
        .unwrap_or(0);
    if shown.is_empty() || !known.contains(&true) {
        out.push_str("Nothing was recorded.\n");
        return;
    }
    let top = most.max(1);
    let rows = chart::bars(&shown.entries, &shown.limit, &known, top, HEIGHT);
    for (at, row) in rows.iter().enumerate() {
        let label = match at {
            0 => grouped(top),
            _ if at == HEIGHT / 2 => grouped(top / 2),
            _ if at + 1 == HEIGHT => "entries, limit ─".to_owned(),
            _ => String::new(),
        };
        let _ = writeln!(out, "{label:>width$} {}", row.trim_end(), width = LABEL - 1);
    }
    axis(out, &shown);
    for series in &shown.inserts {
        spark(
            out,
            &shorten(&series.name, LABEL - 1),
            &series.values,
            &known,
        );
    }
    if !shown.inserts.is_empty() {
        let most = shown.inserts.iter().flat_map(|series| &series.values).max();
        let _ = writeln!(
            out,
            "{:>width$} (opened, each by its own scale: {} in {} at most)",
            "",
            grouped(most.copied().unwrap_or(0)),
            seconds(shown.step),
            width = LABEL - 2
        );
    }
    for (name, values) in [
        ("packets lost", &shown.drops),
        ("evictions", &shown.evictions),
    ] {
        if values.iter().any(|number| *number > 0) {
            spark(out, name, values, &known);
            let _ = writeln!(
                out,
                "{:>width$} (at most {} in {})",
                "",
                grouped(values.iter().copied().max().unwrap_or(0)),
                seconds(shown.step),
                width = LABEL - 2
            );
        }
    }
    for change in report.changes.iter().take(CHANGES) {
        wrap(out, &change_in_words(change, report.focus.from), 2);
    }
    if report.changes.len() > CHANGES {
        let _ = writeln!(out, "(and {} changes more)", report.changes.len() - CHANGES);
    }
}

fn spark(out: &mut String, name: &str, values: &[u64], known: &[bool]) {
    let line = chart::spark(values, known);
    let _ = writeln!(out, "{name:>width$} {}", line.trim_end(), width = LABEL - 1);
}

/// First and last time, and one in the middle if there is room.
fn axis(out: &mut String, shown: &ReportTimeline) {
    let first = time::clock(shown.from);
    let last = time::clock(shown.at(shown.len()));
    let mut line = vec![' '; shown.len().max(20)];
    let mut put = |at: usize, text: &str| {
        for (letter, place) in text.chars().zip(at..) {
            if let Some(cell) = line.get_mut(place) {
                *cell = letter;
            }
        }
    };
    put(0, &first);
    if shown.len() >= 40 {
        put(shown.len() / 2, &time::clock(shown.at(shown.len() / 2)));
    }
    put(shown.len().max(20) - last.len(), &last);
    let line: String = line.into_iter().collect();
    let _ = writeln!(out, "{:>width$} {line}", "UTC", width = LABEL - 1);
}

/// `03:12:01 limit 4,000 -> 2,000, by sysctl (seen)`
pub(super) fn change_in_words(change: &SeenChange, day: u64) -> String {
    let mut what = Vec::new();
    let value = |value: Option<u64>| value.map_or_else(|| "?".to_owned(), limit_in_words);
    if change.limit[0] != change.limit[1] {
        what.push(format!(
            "limit {} → {}",
            value(change.limit[0]),
            value(change.limit[1])
        ));
    }
    if change.buckets[0] != change.buckets[1] {
        what.push(format!(
            "buckets {} → {}",
            value(change.buckets[0]),
            value(change.buckets[1])
        ));
    }
    if what.is_empty() {
        what.push("limit and buckets as they are".to_owned());
    }
    let by = match (change.by, change.who.as_str()) {
        (ChangedBy::Other, "") => "somebody else".to_owned(),
        (ChangedBy::Unknown, "") => "somebody".to_owned(),
        (ChangedBy::Other | ChangedBy::Unknown, who) => who.to_owned(),
        (by, "") => format!("ctpressure ({by})"),
        (by, who) => format!("ctpressure ({by}, {who})"),
    };
    let reason = if change.reason.is_empty() {
        String::new()
    } else {
        format!(": {}", change.reason)
    };
    format!(
        "{} {}, by {by}, {}{reason}",
        time::near(change.at, day),
        list(&what),
        change.result
    )
}

fn fillers(out: &mut String, report: &Report) {
    if report.filled_by.is_empty() {
        out.push_str("Nobody had entries.\n");
        return;
    }
    let _ = writeln!(
        out,
        "{:<28} {:>6} {:>9} {:>9} {:>9} {:>12}",
        "owner", "share", "at peak", "before", "opened/s", "lifetime"
    );
    for owner in &report.filled_by {
        filler(out, owner);
    }
    let (owners, entries) = report.other_fillers;
    if owners > 0 {
        let _ = writeln!(out, "({} more with {} entries)", owners, grouped(entries));
    }
    if let Some((entries, share)) = report.held {
        let _ = writeln!(
            out,
            "{:<28} {:>6} {:>9}",
            "(held, in no list)",
            share_f64(share),
            grouped(entries)
        );
    }
}

fn filler(out: &mut String, owner: &Filler) {
    let _ = writeln!(
        out,
        "{:<28} {:>6} {:>9} {:>9} {:>9} {:>12}",
        shorten(&owner.owner, 28),
        share_f64(owner.share),
        grouped(owner.entries),
        grouped(owner.entries_before),
        per_second(owner.per_second),
        lifetime(owner.lifetime)
    );
    if !owner.destinations.is_empty() {
        wrap(
            out,
            &format!("   to {}", destinations(&owner.destinations)),
            6,
        );
    }
    if !owner.states.is_empty() {
        wrap(out, &format!("   states {}", states(&owner.states)), 6);
    }
}

/// `10.0.0.1:80/tcp (62 %, new), 10.0.0.2:80/tcp (20 %)`
pub(super) fn destinations(destinations: &[NamedDestination]) -> String {
    let words: Vec<String> = destinations
        .iter()
        .map(|one| {
            let new = if one.new { ", new" } else { "" };
            format!("{} ({}{new})", one.name, share_f64(one.share))
        })
        .collect();
    words.join(", ")
}

/// `ESTABLISHED 90 %, TIME_WAIT 10 %`
pub(super) fn states(states: &[(String, u64)]) -> String {
    let all: u64 = states.iter().map(|(_, number)| number).sum();
    let words: Vec<String> = states
        .iter()
        .map(|(state, number)| format!("{state} {}", share(*number, all)))
        .collect();
    words.join(", ")
}

fn sufferers(out: &mut String, report: &Report) {
    if report.suffered.is_empty() {
        out.push_str("Nobody: no packet was lost and no live entry was evicted.\n");
        return;
    }
    let _ = writeln!(
        out,
        "{:<28} {:>9} {:>11} {:>9}  {:<18}",
        "owner", "lost", "connections", "evicted", "first lost (UTC)"
    );
    for owner in &report.suffered {
        sufferer(out, owner);
    }
    let (owners, packets) = report.other_sufferers;
    if owners > 0 {
        let _ = writeln!(out, "({} more lost {} packets)", owners, grouped(packets));
    }
}

fn sufferer(out: &mut String, owner: &Sufferer) {
    let lost: u64 = packets(owner);
    let line = format!(
        "{:<28} {:>9} {:>11} {:>9}  {}",
        shorten(&owner.owner, 28),
        grouped(lost),
        if owner.connections > 0 {
            grouped(owner.connections)
        } else {
            "-".to_owned()
        },
        grouped(owner.evicted),
        owner.first_drop.map_or_else(|| "-".to_owned(), time::clock),
    );
    let _ = writeln!(out, "{}", line.trim_end());
    // Most lose packets to a full table only.
    let reasons = owner.drops.len() > 1 || owner.drops.keys().any(|reason| *reason != "table_full");
    for detail in details(owner, reasons) {
        wrap(out, &format!("   {detail}"), 6);
    }
}

/// What else there is to say of somebody who lost something; `reasons`: also for which reasons packets were lost.
pub(super) fn details(owner: &Sufferer, reasons: bool) -> Vec<String> {
    let mut details = Vec::new();
    if reasons && !owner.drops.is_empty() {
        let drops: Vec<String> = owner
            .drops
            .iter()
            .map(|(reason, number)| format!("{reason} {}", grouped(*number)))
            .collect();
        details.push(drops.join(", "));
    }
    if owner.from_others > 0 {
        details.push(format!(
            "{} came in to it",
            plural(owner.from_others, "packet", "packets")
        ));
    }
    if !owner.failed.is_empty() {
        details.push(format!("failed: {}", destinations(&owner.failed)));
    }
    details
}

/// Packets that an owner lost, for any reason.
pub(super) fn packets(owner: &Sufferer) -> u64 {
    owner
        .drops
        .iter()
        .filter(|(reason, _)| **reason != "table_full_request")
        .map(|(_, number)| number)
        .sum()
}

fn reasons(out: &mut String, report: &Report) {
    if report.losses.reasons.is_empty() {
        out.push_str("None was lost by conntrack.\n");
    }
    for reason in &report.losses.reasons {
        wrap(
            out,
            &format!(
                "{} {}: {}",
                grouped(reason.packets),
                reason.reason,
                reason.meaning
            ),
            3,
        );
    }
    wrap(out, &format!("Told by: {}.", report.cause.evidence), 3);
}

/// The incidents of a journal, the newest first.
pub(crate) fn incidents(
    incidents: &[Incident],
    names: &std::collections::BTreeMap<NetnsId, String>,
    covered: super::evidence::Span,
) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "The journal has {covered}.");
    if incidents.is_empty() {
        out.push_str("No incident: no table came near its limit, and nothing was lost.\n");
        return out;
    }
    let _ = writeln!(
        out,
        "\n{:>4} {:<20} {:>10} {:<14} {:<6} {:>5} {:>7} {:>7}",
        "N", "began (UTC)", "took", "table", "most", "full", "lost", "evicted"
    );
    for (number, incident) in (1..).zip(incidents) {
        let took = seconds(incident.until.saturating_sub(incident.from));
        let name = names.get(&incident.netns).map_or("?", String::as_str);
        let full = super::reading::ratio(incident.entries, incident.limit);
        let line = format!(
            "{number:>4} {} {:>10} {:<14} {:<6} {:>5} {:>7} {:>7}",
            time::rfc3339(incident.from),
            if incident.open {
                format!("{took}+")
            } else {
                took
            },
            shorten(name, 14),
            incident.pressure.name(),
            if incident.limit == 0 {
                "-".to_owned()
            } else {
                share_f64(full)
            },
            grouped(incident.drops),
            grouped(incident.evictions),
        );
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out.push_str("\n`ctpressure report --incident N` tells what happened.\n");
    out
}
