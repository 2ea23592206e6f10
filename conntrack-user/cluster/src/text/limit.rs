//! `limit` for people.

use std::fmt::Write as _;

use ctpressure_model::words::{bytes, column, grouped, plural, share};

use super::{
    Look, answered, ending,
    table::{Row, left, right, table},
    wrap,
};
use crate::{
    coverage::names,
    view::limit::{LimitGroup, LimitView},
};

fn limit_in_words(limit: Option<u64>) -> String {
    match limit {
        None => "not known".to_owned(),
        Some(0) => "none".to_owned(),
        Some(limit) => grouped(limit),
    }
}

pub(crate) fn limit(view: &LimitView, rows: usize, look: Look) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{}: {}",
        answered(&view.coverage),
        match view.limits.len() {
            1 => "the same limit on all of them".to_owned(),
            many => format!("{many} different pairs of limit and buckets"),
        }
    );
    for LimitGroup { limit, buckets, on } in &view.limits {
        let nodes = plural(on.len() as u64, "node", "nodes");
        let text = format!(
            "limit {}, buckets {}: {nodes} ({})",
            limit_in_words(*limit),
            limit_in_words(*buckets),
            names(on.iter().map(String::as_str))
        );
        wrap(&mut out, "  ", &text, 4);
    }
    let all = view.by_share.len();
    let of = if all > rows {
        format!(" ({rows} of {})", grouped(all as u64))
    } else {
        String::new()
    };
    let heading = format!("NODES, THE ONE WITH THE FULLEST TABLE FIRST{of}");
    let _ = writeln!(out, "\n{}", look.heading(&heading));
    let columns = [
        left("node", 28),
        right("limit", 9),
        right("entries", 9),
        right("full", 6),
        left("fullest table", 20),
        right("takes", 9),
        left("controller", 10),
    ];
    let unknown = || "-".to_owned();
    let cells: Vec<Row<7>> = view
        .by_share
        .iter()
        .take(rows)
        .map(|row| Row {
            cells: [
                row.node.clone(),
                limit_in_words(row.limit),
                row.entries.map_or_else(unknown, column::entries),
                match (row.entries, row.limit) {
                    (Some(entries), Some(limit)) if limit > 0 => share(entries, limit),
                    _ => unknown(),
                },
                row.fullest.clone().unwrap_or_else(unknown),
                row.bytes_when_full.map_or_else(unknown, bytes),
                row.controller.clone().unwrap_or_else(|| "none".to_owned()),
            ],
            grave: 0,
        })
        .collect();
    table(&mut out, look, &columns, &cells);
    let raised: Vec<&str> = view
        .by_share
        .iter()
        .filter(|row| row.raised_from.is_some())
        .map(|row| row.node.as_str())
        .collect();
    if !raised.is_empty() {
        out.push('\n');
        wrap(
            &mut out,
            "note  ",
            &format!("The limit controller has raised it on {}.", names(raised)),
            6,
        );
    }
    ending(&mut out, &view.coverage, look);
    out
}
