//! The view as text, for `--once`: at most 80 columns, no colour.

use std::fmt::Write as _;

use ctpressure_model::{
    pressure::{destinations::Top, lifetime::Bound, rate::Rates},
    words::{
        column, grouped, shorten,
        time::{clock, unix},
    },
};

use super::figures::{
    Sort, address, figure, header, held_rows, of_nobody, reasons, refused, row, sorted, until_full,
};
use crate::{
    agent::{AgentState, Bounds},
    serve::top::{OwnerRow, TopSample, TopTable},
};

/// Columns of a line at most.
pub(super) const WIDTH: usize = 80;
/// Tables that are shown.
const TABLES: usize = 10;
/// Owners whose destinations are shown.
const DETAILED: usize = 3;
const DESTINATIONS: usize = 3;
/// Owners that lose packets, at most.
const LOSERS: usize = 10;

/// The whole view; `count` owners by `sort`.
pub(super) fn view(sample: &TopSample, sort: Sort, count: usize) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{} UTC, {}, Linux {}, watched for {}",
        clock(unix(sample.time.0)),
        state_name(sample.state),
        shorten(&sample.kernel, 30),
        column::seconds(sample.uptime_seconds),
    );
    if let Some(reason) = &sample.reason {
        wrapped(&mut out, &format!("note: {reason}"));
    }
    tables(&mut out, sample);
    let totals = &sample.totals;
    let _ = writeln!(
        out,
        "inserts {}/s, deletes {}/s, drops {}/s; so far: drops {}, evicted {}",
        figure(totals.inserts_per_second, column::per_second),
        figure(totals.deletes_per_second, column::per_second),
        figure(totals.drops_per_second, column::per_second),
        figure(sample.drops(), column::count),
        figure(totals.evictions, column::count),
    );
    for more in [of_nobody(&sample.node_losses), refused(totals.refused)] {
        if !more.is_empty() {
            wrapped(&mut out, &more);
        }
    }
    if !sample.census && sample.state != AgentState::Waiting {
        out += "note: entries from before ctpressure began are not charged to owners yet\n";
    }
    let owners = sorted(sample, sort);
    if owners.iter().any(|owner| owner.found.is_some()) {
        out +=
            "note: entries are those of the last census; what came and went since is not counted\n";
    }
    if !owners.is_empty() {
        let _ = writeln!(out, "\nowners by {} (rates over 10 s)", sort.name());
        let _ = writeln!(out, "{}", header(WIDTH));
        for owner in owners.iter().take(count) {
            let _ = writeln!(out, "{}", row(owner, WIDTH).trim_end());
        }
        for row in held_rows(sample, WIDTH) {
            let _ = writeln!(out, "{row}");
        }
        let more = owners.len().saturating_sub(count) as u64 + sample.other_owners.number;
        if more > 0 {
            let rest = owners.iter().skip(count).map(|owner| owner.entries());
            let rest: Option<u64> = rest.chain([sample.other_owners.live]).sum();
            let _ = writeln!(
                out,
                "(and {} more with {} entries)",
                grouped(more),
                figure(rest, grouped)
            );
        }
    }
    for owner in owners.iter().take(count.min(DETAILED)) {
        destinations(&mut out, owner);
    }
    losers(&mut out, sample);
    out
}

pub(super) const fn state_name(state: AgentState) -> &'static str {
    match state {
        AgentState::Waiting => "waiting for conntrack",
        AgentState::Attached => "attached",
        AgentState::Degraded => "degraded: not everything is seen",
    }
}

/// The host's table, then the fullest; and a line on those that are not among them. Of 250 pods' tables most are empty.
pub(super) fn chosen(sample: &TopSample, count: usize) -> (Vec<&TopTable>, Option<String>) {
    let mut tables: Vec<_> = sample.tables.iter().collect();
    if let Some((_, others)) = tables.split_first_mut() {
        others.sort_by_key(|table| std::cmp::Reverse(table.entries));
    }
    let others = sample.other_tables;
    let shown = tables.iter().enumerate();
    let shown = shown.take_while(|(place, table)| *place == 0 || table.has_something());
    let shown = shown.count().min(count);
    let rest = tables.split_off(shown);
    let empty = rest.iter().filter(|table| !table.has_something()).count() as u64 + others.empty;
    let fewer = (rest.len() as u64 + others.number).saturating_sub(empty);
    let tables_of = |number: u64, what: &str| {
        let s = if number == 1 { "" } else { "s" };
        format!("{} {what}table{s}", grouped(number))
    };
    let line = match (fewer, empty) {
        (0, 0) => None,
        (0, empty) => Some(format!("(and {})", tables_of(empty, "empty "))),
        (fewer, 0) => Some(format!("(and {} with fewer entries)", tables_of(fewer, ""))),
        (fewer, empty) => Some(format!(
            "(and {} with fewer entries, {})",
            tables_of(fewer, ""),
            tables_of(empty, "empty ")
        )),
    };
    (tables, line)
}

fn tables(out: &mut String, sample: &TopSample) {
    let (tables, left) = chosen(sample, TABLES);
    for table in tables {
        let of = match sample.limit {
            Some(limit) if limit > 0 => format!("of {}", column::entries(limit)),
            Some(_) => "no limit".to_owned(),
            None => String::new(),
        };
        let line = format!(
            "table {:<24} {:>7} {of:<10} {:>5} {:<6} {}",
            shorten(&table.name, 24),
            column::entries(table.entries),
            table.occupancy.map_or_else(String::new, column::share),
            table.pressure.name(),
            until_full(table.seconds_to_full)
        );
        let _ = writeln!(out, "{}", line.trim_end());
        for verdict in &table.verdicts {
            wrapped(out, &format!("  full of: {}", verdict.advice()));
        }
    }
    if let Some(left) = left {
        let _ = writeln!(out, "{left}");
    }
}

/// In as many lines as it takes, at most 80 columns each.
fn wrapped(out: &mut String, text: &str) {
    let mut line = String::new();
    for word in text.split(' ') {
        let word = shorten(word, WIDTH - 6);
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > WIDTH {
            let _ = writeln!(out, "{line}");
            "     ".clone_into(&mut line);
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&word);
    }
    let _ = writeln!(out, "{line}");
}

/// The lines of some destinations: name, rate, share, and how sure that is.
pub(super) fn top_lines(top: &Top, count: usize, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = top
        .destinations
        .iter()
        .take(count)
        .map(|destination| {
            let room = width.saturating_sub(33);
            let sure = if destination.count > 0.0 && destination.error > 0.0 {
                let error = destination.error / destination.count;
                format!("error {}", column::share(error))
            } else {
                String::new()
            };
            let line = format!(
                "  {:<room$} {:>5}/s {:>5} {sure}",
                shorten(&address(destination), room),
                column::per_second(destination.per_second),
                column::share(destination.share),
            );
            line.trim_end().to_owned()
        })
        .collect();
    if top.destinations.len() < count || top.others_at_most <= 0.0 {
        return lines;
    }
    lines.push(format!(
        "  any other: {} at most",
        column::share(top.others_at_most / top.total.max(1.0)),
    ));
    lines
}

fn destinations(out: &mut String, owner: &OwnerRow) {
    let Some(tops) = &owner.destinations else {
        return;
    };
    for (top, what) in [
        (&tops.inserts, "opens connections to"),
        (&tops.services, "by way of the services"),
    ] {
        if top.destinations.is_empty() {
            continue;
        }
        let _ = writeln!(
            out,
            "\n{} {what} (last {}):",
            shorten(&owner.name, 40),
            column::seconds(top.window_seconds)
        );
        for line in top_lines(top, DESTINATIONS, WIDTH) {
            let _ = writeln!(out, "{line}");
        }
    }
}

fn losers(out: &mut String, sample: &TopSample) {
    let lost: u64 = sample.totals.drops.values().sum();
    if lost == 0 && sample.totals.evictions.unwrap_or(0) == 0 {
        return;
    }
    let mut losers: Vec<_> = sorted(sample, Sort::Drops)
        .into_iter()
        .filter(|owner| owner.victims.unwrap_or(0) > 0 || !owner.drops_by_reason.is_empty())
        .collect();
    losers.sort_by_key(|owner| std::cmp::Reverse((owner.drops, owner.victims)));
    out.push_str("\nwho loses packets\n");
    for owner in losers.iter().take(LOSERS) {
        let lost = format!(
            "{} packets lost ({}/s), {} entries evicted",
            figure(owner.drops, column::count),
            figure(owner.drops_per_second.ten_seconds, column::per_second),
            figure(owner.victims, column::count)
        );
        let _ = writeln!(out, "  {:<26} {lost}", shorten(&owner.name, 26));
        if !owner.drops_by_reason.is_empty() {
            let _ = writeln!(
                out,
                "    {}",
                shorten(&reasons(&owner.drops_by_reason), WIDTH - 4)
            );
        }
        if let Some(tops) = &owner.destinations {
            for line in top_lines(&tops.drops, DESTINATIONS, WIDTH - 4) {
                let _ = writeln!(out, "  {line}");
            }
        }
    }
    if losers.len() > LOSERS {
        let _ = writeln!(out, "  (and {} more)", losers.len() - LOSERS);
    }
    let charged = losers.iter().map(|owner| owner.drops);
    let charged: Option<u64> = charged.chain([sample.other_owners.drops]).sum();
    let all = sample.drops().zip(charged);
    let rest = all.map_or(0, |(all, charged)| all.saturating_sub(charged));
    if rest > 0 {
        let _ = writeln!(
            out,
            "  and {} packets of nobody that is known",
            grouped(rest)
        );
    }
}

/// The lines of one owner: what it holds and does, its states.
pub(super) fn owner_lines(owner: &OwnerRow) -> Vec<String> {
    let over = |rates: &Rates| {
        let text = |rate: Option<f64>| rate.map_or_else(|| "-".to_owned(), column::per_second);
        format!(
            "{:>5} {:>5} {:>5}",
            text(rates.second),
            text(rates.ten_seconds),
            text(rates.minute)
        )
    };
    let limit = owner.limit_share.map_or_else(String::new, |share| {
        format!(", {} of the limit", column::share(share))
    });
    let life = match owner.lifetime {
        None => "not known: too few inserts".to_owned(),
        Some(life) => {
            let words = match life.is {
                Bound::About => "about",
                Bound::AtLeast => "at least",
                Bound::AtMost => "at most",
            };
            format!(
                "{words} {} (error {})",
                column::lifetime(Some(life)).trim_start_matches(['<', '>']),
                column::share(life.error)
            )
        }
    };
    let mut lines = vec![
        format!(
            "live {}{} ({} of all{limit}): {} opened by it, {} to it",
            figure(owner.entries(), column::entries),
            between(owner.live_bounds),
            figure(owner.live_share, column::share),
            figure(owner.live_egress, column::count),
            figure(owner.live_ingress, column::count)
        ),
        format!("lifetime {life}"),
        "a second, over     1s   10s   60s   in all".to_owned(),
        format!(
            "  inserts       {}   {}",
            over(&owner.inserts_per_second),
            figure(owner.inserts, grouped)
        ),
        format!(
            "  deletes       {}   {}",
            over(&owner.deletes_per_second),
            figure(owner.deletes, grouped)
        ),
        format!(
            "  drops         {}   {} {}",
            over(&owner.drops_per_second),
            figure(owner.drops, grouped),
            reasons(&owner.drops_by_reason)
        ),
        format!(
            "refused {} of its entries to programs, without a lost packet",
            figure(owner.refused, grouped)
        ),
        format!(
            "evicted {} of its entries; {} of anybody for its sake",
            figure(owner.victims, grouped),
            figure(owner.causes, grouped)
        ),
    ];
    match &owner.states {
        Some(states) if !states.is_empty() => {
            let states: Vec<_> = states
                .iter()
                .map(|(state, number)| format!("{state} {}", grouped(*number)))
                .collect();
            lines.push(format!("states {}", states.join(", ")));
        }
        Some(_) => {}
        None => lines.push("states and destinations: not among the foremost owners".to_owned()),
    }
    lines
}

/// What is certain of a number that is not known exactly.
fn between(bounds: Option<Bounds>) -> String {
    match bounds.filter(|bounds| bounds.width() > 0) {
        Some(Bounds { lower, upper }) => {
            format!(" (between {} and {})", grouped(lower), grouped(upper))
        }
        None => String::new(),
    }
}
