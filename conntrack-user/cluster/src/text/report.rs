//! `report --cluster` for people.

use std::fmt::Write as _;

use ctpressure_model::words::{column, grouped, plural, share, share_f64, time};

use super::{
    Look, answered, ending,
    incidents::asked,
    table::{Row, left, right, table},
    wrap,
};
use crate::{shapes::Who, view::report::ClusterReport};

/// Rows of each table.
const ROWS: usize = 20;

pub(crate) fn report(report: &ClusterReport, look: Look) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "cluster report: {}, {}",
        answered(&report.coverage),
        asked(report.asked)
    );
    out.push('\n');
    for sentence in &report.summary {
        wrap(&mut out, "", sentence, 0);
    }
    if !report.hit.is_empty() {
        heading(&mut out, look, "Which nodes, in which order");
        nodes(&mut out, report, look);
        heading(&mut out, look, "Who filled tables");
        culprits(&mut out, report, look);
        heading(&mut out, look, "Who lost something");
        victims(&mut out, report, look);
        heading(&mut out, look, "What to change once");
        changes(&mut out, report);
    }
    ending(&mut out, &report.coverage, look);
    out
}

fn heading(out: &mut String, look: Look, text: &str) {
    let _ = writeln!(out, "\n{}", look.heading(&text.to_uppercase()));
}

fn more(out: &mut String, all: usize) {
    if all > ROWS {
        let _ = writeln!(
            out,
            "and {} more: `-o json` and --html have them",
            all - ROWS
        );
    }
}

fn nodes(out: &mut String, report: &ClusterReport, look: Look) {
    let columns = [
        left("node", 26),
        left("began (UTC)", 19),
        left("first lost", 10),
        right("full", 5),
        right("lost", 6),
        right("evicted", 7),
        left("who", 23),
    ];
    let cells: Vec<Row<7>> = report
        .hit
        .iter()
        .take(ROWS)
        .map(|node| Row {
            cells: [
                node.node.clone(),
                time::near(node.began, report.asked.until),
                node.first_drop.map_or_else(|| "-".to_owned(), time::clock),
                match node.limit {
                    0 => "-".to_owned(),
                    limit => share(node.entries, limit).replace(' ', ""),
                },
                column::count(node.drops),
                column::count(node.evictions),
                node.who
                    .as_ref()
                    .map_or_else(|| "?".to_owned(), Who::in_words),
            ],
            grave: if node.drops > 0 { 3 } else { 2 },
        })
        .collect();
    table(out, look, &columns, &cells);
    more(out, report.hit.len());
}

fn culprits(out: &mut String, report: &ClusterReport, look: Look) {
    let columns = [
        left("workload", 40),
        right("nodes", 5),
        right("incidents", 9),
        right("at most", 7),
        left("on", 20),
        right("lost then", 9),
    ];
    let cells: Vec<Row<6>> = report
        .filled_by
        .iter()
        .take(ROWS)
        .map(|it| Row {
            cells: [
                it.who.in_words(),
                grouped(it.nodes as u64),
                grouped(it.incidents as u64),
                share_f64(it.share),
                it.share_on.clone(),
                column::count(it.lost),
            ],
            grave: 0,
        })
        .collect();
    table(out, look, &columns, &cells);
    more(out, report.filled_by.len());
}

fn victims(out: &mut String, report: &ClusterReport, look: Look) {
    let columns = [
        left("workload", 50),
        right("nodes", 5),
        right("packets", 9),
        right("entries evicted", 15),
    ];
    let cells: Vec<Row<4>> = report
        .suffered
        .iter()
        .take(ROWS)
        .map(|it| Row {
            cells: [
                it.who.in_words(),
                grouped(it.nodes as u64),
                column::entries(it.drops),
                column::entries(it.evicted),
            ],
            grave: 0,
        })
        .collect();
    table(out, look, &columns, &cells);
    more(out, report.suffered.len());
}

fn changes(out: &mut String, report: &ClusterReport) {
    if report.changes.is_empty() {
        out.push_str("Nothing is advised.\n");
    }
    for (number, change) in (1..).zip(&report.changes) {
        wrap(out, &format!("{number}. "), &change.what, 3);
        wrap(
            out,
            "   ",
            &format!("{}: {}", change.said_by, change.said),
            3,
        );
        if change.nodes.len() > 1 {
            let lost = plural(change.lost, "packet or entry", "packets and entries");
            wrap(
                out,
                "   ",
                &format!("({} nodes, {lost} lost there)", change.nodes.len()),
                3,
            );
        }
    }
}
