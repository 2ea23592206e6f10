//! A census for people: at most [`WIDTH`] columns, no colour.

use std::fmt::Write as _;

use ctpressure_model::{
    events::{direction_name, text},
    protocol::protocol_name,
    words::{clean, grouped, share, shorten},
};

use super::groups::Counts;
use super::key::{Part, Span};
use super::summary::{Group, Summary, event_tuple, nat_name};
use super::vacant::translated;
use super::{By, Labels};
use crate::kernel::entries::{EntryState, TableEntry};
use crate::sys::netns::Inode;

/// Columns of a line at most; the lines of a list of entries are as long as their addresses.
pub(crate) const WIDTH: usize = 80;
/// Columns of the numbers of a row.
const NUMBERS: usize = 33;

/// The states, each with its number, in as many lines as they need.
pub(crate) fn states(summary: &Summary) -> String {
    let mut out = String::new();
    let mut line = String::from("states:");
    for (place, count) in summary.states.iter().enumerate() {
        let name = state_label(count.state);
        let comma = if place + 1 < summary.states.len() {
            ","
        } else {
            ""
        };
        let word = format!(" {name} {}{comma}", grouped(count.entries));
        if line.chars().count() + word.chars().count() > WIDTH {
            out += line.trim_end();
            out.push('\n');
            "       ".clone_into(&mut line);
        }
        line += &word;
    }
    out += &line;
    out.push('\n');
    out
}

/// The rows of one grouping, what is not in them, what is `held` and in no list, and the total of all.
pub(crate) fn group(group: &Group, totals: Counts, held: u64, labels: &Labels<'_>) -> String {
    let totals = Counts {
        entries: totals.entries + held,
        ..totals
    };
    let names: Vec<String> = group.by.iter().map(|by| title(*by)).collect();
    let mut out = row(
        &format!("by {}", names.join(", ")),
        ["entries", "share", "evictable"].map(str::to_owned),
    );
    let mut line = |name: &str, counts: Counts| {
        let numbers = [
            grouped(counts.entries),
            share(counts.entries, totals.entries),
            share(counts.evictable, counts.entries),
        ];
        out += &row(name, numbers);
    };
    for row in &group.rows {
        let parts: Vec<String> = row.key.iter().map(|part| label(*part, labels)).collect();
        line(&parts.join("  "), row.counts);
    }
    if group.others.counts.entries > 0 {
        let more = if group.untold > 0 { "more than " } else { "" };
        let name = format!("({more}{} others)", grouped(group.others.keys));
        line(&name, group.others.counts);
    }
    if held > 0 {
        let counts = Counts {
            entries: held,
            evictable: 0,
        };
        line("(held, in no list)", counts);
    }
    line("total", totals);
    if group.untold > 0 {
        let _ = writeln!(
            out,
            "note: too many different keys to count each; one that is not shown has at\n      \
             most {} entries",
            grouped(
                group
                    .untold
                    .max(group.rows.last().map_or(0, |row| row.counts.entries))
            )
        );
    }
    if group.too_low_by > 0 {
        let _ = writeln!(
            out,
            "note: a row may be too low by {} entries at most",
            grouped(group.too_low_by)
        );
    }
    out
}

fn row(name: &str, [entries, share, evictable]: [String; 3]) -> String {
    let room = WIDTH - NUMBERS;
    let name = &*clean(name);
    // A long name has a line of its own.
    let (above, name) = if name.chars().count() > room {
        (shorten(name, WIDTH) + "\n", "")
    } else {
        (String::new(), name)
    };
    format!("{above}{name:<room$} {entries:>13} {share:>7} {evictable:>10}\n")
}

fn title(by: By) -> String {
    match by {
        By::Netns => "network namespace".to_owned(),
        By::Nat => "NAT".to_owned(),
        by => by.name(),
    }
}

/// The state, and the protocol where that is not plain.
fn state_label(state: EntryState) -> String {
    match state.protocol() {
        None | Some("tcp") => state.label(),
        Some(protocol) => format!("{protocol} {}", state.label()),
    }
}

/// A part of a key in words.
pub(crate) fn label(part: Part, labels: &Labels<'_>) -> String {
    match part {
        Part::Owner(slot) => labels.owners.name(slot),
        Part::Workload(slot) => labels.owners.workload_name(slot),
        Part::Direction(direction) => direction_name(direction).to_owned(),
        Part::Netns(inode) => labels.netns(inode),
        Part::Destination(endpoint) => match labels.owners.vacant(endpoint.address) {
            Some(vacant) => format!("{endpoint} ({vacant})"),
            None => endpoint.to_string(),
        },
        Part::Service(Some(endpoint)) => endpoint.to_string(),
        Part::Service(None) => "(no service: opened by the server's address)".to_owned(),
        Part::Source(address) => address.to_string(),
        Part::Protocol(number) => protocol_name(number).into_owned(),
        Part::State(state) => state_label(state),
        Part::Age(age) => match age.span {
            Span::Since => format!("age {}", age.range()),
            Span::Left => format!("expires in {}", age.range()),
            Span::Unknown => "offloaded".to_owned(),
        },
        Part::Evictable(true) => "evictable".to_owned(),
        Part::Evictable(false) => "assured".to_owned(),
        Part::Nat(nat) => match nat_name(nat) {
            "none" => "no NAT".to_owned(),
            name => name.to_owned(),
        },
        Part::Zone(zone) => format!("zone {zone}"),
    }
}

/// One entry in one line, without its end; the network namespace only when there may be several.
pub(crate) fn line(netns: Option<Inode>, entry: &TableEntry, labels: &Labels<'_>) -> String {
    let mut line = String::new();
    if let Some(inode) = netns {
        let _ = write!(line, "{:<10} ", shorten(&labels.netns(inode), 10));
    }
    let flow = text::flow(Some(&event_tuple(&entry.original)), usize::MAX);
    let _ = write!(
        line,
        "{:<6} {:<11} {flow}",
        protocol_name(entry.original.protocol),
        entry.state.label(),
    );
    if let Some(left) = entry.timeout {
        let _ = write!(line, " expires {left}s");
    }
    let answered = entry.status.seen_reply();
    for (said, word) in [
        (entry.status.assured(), " assured"),
        (!answered, " unreplied"),
        (entry.status.offloaded(), " offloaded"),
        (entry.status.dying(), " dying"),
    ] {
        if said {
            line += word;
        }
    }
    if entry.zone != 0 {
        let _ = write!(line, " zone {}", entry.zone);
    }
    if entry.mark != 0 {
        let _ = write!(line, " mark {}", entry.mark);
    }
    if entry.source_translated() || entry.destination_translated() {
        let reply = text::flow(Some(&event_tuple(&entry.reply)), usize::MAX);
        let _ = write!(line, " reply {reply}");
    }
    for address in translated(entry) {
        if let Some(vacant) = labels.owners.vacant(address) {
            let _ = write!(line, " ({address}: {vacant})");
        }
    }
    line
}
