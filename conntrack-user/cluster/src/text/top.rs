//! `top` for people.

use std::fmt::Write as _;

use ctpressure_model::words::{
    clean,
    column::{self, per_second, seconds, share},
    grouped, plural,
};

use super::{
    Look, answered, ending,
    table::{Row, left, right, table},
};
use crate::{
    coverage::names,
    shapes::pressure,
    view::top::{NodeRow, OwnerRow, TopView, WorkloadRow},
};

/// The view, with as many rows of each kind.
pub(crate) fn top(view: &TopView, rows: usize, look: Look) -> String {
    let mut out = String::new();
    let totals = &view.totals;
    let _ = writeln!(
        out,
        "{}: {}, {} opened a second, {} packets lost a second",
        answered(&view.coverage),
        plural(totals.entries, "entry", "entries"),
        per_second(totals.inserts_per_second),
        per_second(totals.drops_per_second),
    );
    let _ = writeln!(
        out,
        "since the agents began: {} lost, {} evicted",
        plural(totals.drops, "packet", "packets"),
        plural(totals.evictions, "live entry", "live entries")
    );
    if !totals.not_counted.is_empty() {
        let nodes = names(totals.not_counted.iter().map(String::as_str));
        let _ = writeln!(out, "not all of it is counted on {nodes}");
    }
    heading(
        &mut out,
        look,
        "Nodes, the one that is full first",
        view.nodes_by_time.len(),
        rows,
    );
    nodes(&mut out, look, &view.nodes_by_time, rows);
    heading(
        &mut out,
        look,
        "Workloads, most entries first",
        view.workloads.len(),
        rows,
    );
    workloads(&mut out, look, &view.workloads, rows);
    heading(
        &mut out,
        look,
        "Owners of single nodes, most entries first",
        view.owners.len(),
        rows,
    );
    owners(&mut out, look, &view.owners, rows);
    degraded(&mut out, &view.nodes_by_time);
    ending(&mut out, &view.coverage, look);
    out
}

fn heading(out: &mut String, look: Look, what: &str, all: usize, rows: usize) {
    let of = if all > rows {
        format!(" ({rows} of {})", grouped(all as u64))
    } else {
        String::new()
    };
    let _ = writeln!(
        out,
        "\n{}",
        look.heading(&format!("{}{of}", what.to_uppercase()))
    );
}

const UNKNOWN: &str = "-";

fn known<T>(value: Option<T>, words: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), words)
}

fn limit(limit: Option<u64>) -> String {
    known(limit, |limit| match limit {
        0 => "none".to_owned(),
        limit => column::entries(limit),
    })
}

fn nodes(out: &mut String, look: Look, all: &[NodeRow], most: usize) {
    let columns = [
        left("node", 28),
        right("full in", 7),
        left("table", 18),
        right("entries", 7),
        right("limit", 7),
        right("full", 5),
        right("opened/s", 8),
        right("lost/s", 6),
    ];
    let rows: Vec<Row<8>> = all
        .iter()
        .take(most)
        .map(|row| {
            let table = row.table.as_ref();
            let word = table.and_then(|table| table.pressure.as_deref());
            let full_in = match table.and_then(|table| table.seconds_to_full) {
                _ if word == Some("full") => "full".to_owned(),
                left => known(left, seconds),
            };
            Row {
                cells: [
                    row.node.clone(),
                    full_in,
                    known(table, |table| match table.verdicts.as_slice() {
                        [] => table.name.clone(),
                        verdicts => format!("{} ({})", table.name, verdicts.join(", ")),
                    }),
                    known(table, |table| column::entries(table.entries)),
                    limit(row.limit),
                    known(table.and_then(|table| table.occupancy), share),
                    known(row.inserts_per_second, per_second),
                    known(row.drops_per_second, per_second),
                ],
                grave: pressure(word),
            }
        })
        .collect();
    table(out, look, &columns, &rows);
}

fn workloads(out: &mut String, look: Look, all: &[WorkloadRow], most: usize) {
    let columns = [
        left("workload", 40),
        right("nodes", 5),
        right("owners", 6),
        right("entries", 8),
        right("opened/s", 8),
        right("lost/s", 6),
        left("most on", 15),
    ];
    let rows: Vec<Row<7>> = all
        .iter()
        .take(most)
        .map(|row| Row {
            cells: [
                row.who.in_words(),
                grouped(row.nodes as u64),
                grouped(row.owners as u64),
                known(row.entries, |entries| {
                    // Of some of its owners nothing is known.
                    let at_least = if row.entries_unknown > 0 { ">" } else { "" };
                    format!("{at_least}{}", column::entries(entries))
                }),
                per_second(row.inserts_per_second),
                per_second(row.drops_per_second),
                known(row.most.as_ref(), |(node, _)| node.clone()),
            ],
            grave: lost(row.drops_per_second),
        })
        .collect();
    table(out, look, &columns, &rows);
}

fn owners(out: &mut String, look: Look, all: &[OwnerRow], most: usize) {
    let columns = [
        left("owner", 36),
        left("node", 22),
        right("entries", 7),
        right("of limit", 8),
        right("opened/s", 8),
        right("lost/s", 6),
    ];
    let rows: Vec<Row<6>> = all
        .iter()
        .take(most)
        .map(|row| Row {
            cells: [
                row.name.clone(),
                row.node.clone(),
                known(row.entries, column::entries),
                known(row.limit_share, share),
                known(row.inserts_per_second, per_second),
                known(row.drops_per_second, per_second),
            ],
            grave: row.drops_per_second.map_or(0, lost),
        })
        .collect();
    table(out, look, &columns, &rows);
}

const fn lost(per_second: f64) -> u8 {
    if per_second > 0.0 { 3 } else { 0 }
}

/// Agents that do not see everything.
fn degraded(out: &mut String, nodes: &[NodeRow]) {
    let mut said: Vec<(&str, &str, Vec<&str>)> = Vec::new();
    for row in nodes {
        let (Some(state), reason) = (row.state.as_deref(), row.reason.as_deref()) else {
            continue;
        };
        if state == "attached" {
            continue;
        }
        let reason = reason.unwrap_or("no reason is told");
        match said
            .iter_mut()
            .find(|(it, why, _)| *it == state && *why == reason)
        {
            Some((_, _, on)) => on.push(&row.node),
            None => said.push((state, reason, vec![&row.node])),
        }
    }
    if !said.is_empty() {
        out.push('\n');
    }
    for (state, reason, on) in said {
        super::wrap(
            out,
            "note  ",
            &format!("{} {}: {reason}", names(on), clean(state)),
            6,
        );
    }
}
