//! A census for people: at most [`WIDTH`] columns, no colour.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::By;
use super::groups::Counts;
use super::key::{Endpoint, Part, Span};
use super::owners::Labels;
use super::summary::{Group, Summary, direction_name, event_tuple, nat_name};
use crate::events::{protocol_name, text};
use crate::kernel::entries::Entry;
use crate::sys::netns::Inode;

/// Columns of a line at most; the lines of a list of entries are as long as their addresses.
pub const WIDTH: usize = 80;
/// Columns of the numbers of a row.
const NUMBERS: usize = 33;

/// A number with a comma before each group of three digits.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A share in per cent, rounded down: only all of it is 100 %, and `<1 %` is not nothing.
pub fn share(part: u64, whole: u64) -> String {
    if whole == 0 || part == 0 {
        return if part == 0 && whole > 0 { "0 %" } else { "-" }.to_owned();
    }
    match u128::from(part) * 100 / u128::from(whole) {
        0 => "<1 %".to_owned(),
        share => format!("{share} %"),
    }
}

/// The states, each with its number, in as many lines as they need.
pub fn states(summary: &Summary) -> String {
    let mut out = String::new();
    let mut line = String::from("states:");
    for (place, count) in summary.states.iter().enumerate() {
        let state = count.state;
        let name = match state.protocol() {
            None | Some("tcp") => state.label(),
            Some(protocol) => format!("{protocol} {}", state.label()),
        };
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

/// The rows of one grouping, what is not in them, and the total.
pub fn group(group: &Group, totals: Counts, labels: &Labels<'_>) -> String {
    let names: Vec<&str> = group.by.iter().map(|by| title(*by)).collect();
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
    // A long name has a line of its own.
    let (above, name) = if name.chars().count() > room {
        (text::shorten(name, WIDTH) + "\n", "")
    } else {
        (String::new(), name)
    };
    format!("{above}{name:<room$} {entries:>13} {share:>7} {evictable:>10}\n")
}

fn title(by: By) -> &'static str {
    match by {
        By::Owner => "owner",
        By::Workload => "workload",
        By::Direction => "direction",
        By::Netns => "network namespace",
        By::Destination => "destination",
        By::Service => "service",
        By::Source => "source",
        By::Protocol => "protocol",
        By::State => "state",
        By::Age => "age",
        By::Evictable => "evictable",
        By::Nat => "NAT",
        By::Zone => "zone",
    }
}

fn endpoint(endpoint: Endpoint) -> String {
    let protocol = protocol_name(endpoint.protocol);
    match (endpoint.address, endpoint.port) {
        (address, None) => format!("{address} {protocol}"),
        (IpAddr::V4(address), Some(port)) => format!("{address}:{port} {protocol}"),
        (IpAddr::V6(address), Some(port)) => format!("[{address}]:{port} {protocol}"),
    }
}

/// A part of a key in words.
pub fn label(part: Part, labels: &Labels<'_>) -> String {
    match part {
        Part::Owner(None) | Part::Workload(None) => "unknown".to_owned(),
        Part::Owner(Some(slot)) => labels.owner(slot),
        Part::Workload(Some(slot)) => labels.workload(slot),
        Part::Direction(None) => "-".to_owned(),
        Part::Direction(Some(direction)) => direction_name(direction).to_owned(),
        Part::Netns(inode) => labels.netns(inode),
        Part::Destination(it) | Part::Service(Some(it)) => endpoint(it),
        Part::Service(None) => "(no service: opened by the server's address)".to_owned(),
        Part::Source(address) => address.to_string(),
        Part::Protocol(number) => protocol_name(number).into_owned(),
        Part::State(state) => match state.protocol() {
            None | Some("tcp") => state.label(),
            Some(protocol) => format!("{protocol} {}", state.label()),
        },
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
pub fn line(netns: Option<Inode>, entry: &Entry, labels: &Labels<'_>) -> String {
    let mut line = String::new();
    if let Some(inode) = netns {
        let _ = write!(line, "{:<10} ", text::shorten(&labels.netns(inode), 10));
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
    line
}
