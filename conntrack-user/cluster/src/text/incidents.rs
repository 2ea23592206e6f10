//! `incidents` for people.

use std::fmt::Write as _;

use ctpressure_model::words::{clean, column, grouped, plural, seconds, shorten, time};

use super::{
    Look, answered, ending,
    table::{Row, left, right, table},
    wrap,
};
use crate::{
    coverage::named,
    shapes::pressure,
    view::{
        fold::FoldedIncident,
        incidents::IncidentsView,
        journal::{Asked, NodeIncident},
    },
};

/// Incidents of which all is told.
const DETAILED: usize = 5;

pub(crate) fn incidents(view: &IncidentsView, rows: usize, look: Look) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{}: {} {}",
        answered(&view.coverage),
        match view.incidents.len() {
            0 => "no incident".to_owned(),
            many => plural(many as u64, "incident", "different incidents"),
        },
        asked(view.asked)
    );
    if !view.incidents.is_empty() {
        out.push('\n');
        list(&mut out, &view.incidents, rows, view.asked.until, look);
        for incident in view.incidents.iter().take(rows.min(DETAILED)) {
            out.push('\n');
            detail(&mut out, incident, look);
        }
    }
    ending(&mut out, &view.coverage, look);
    out
}

pub(super) fn asked(asked: Asked) -> String {
    format!("from {}", time::between(asked.since, asked.until, 0))
}

/// The incidents as rows, with the nodes of each.
pub(super) fn list(
    out: &mut String,
    incidents: &[FoldedIncident],
    rows: usize,
    day: u64,
    look: Look,
) {
    let columns = [
        right("", 3),
        left("began (UTC)", 19),
        right("lasted", 9),
        right("nodes", 5),
        right("lost", 6),
        right("evicted", 7),
        left("who", 37),
    ];
    let cells: Vec<Row<7>> = incidents
        .iter()
        .take(rows)
        .map(|incident| {
            let lasted = seconds(incident.ended.saturating_sub(incident.began));
            let open = if incident.open { ">" } else { "" };
            Row {
                cells: [
                    incident.number.to_string(),
                    time::near(incident.began, day),
                    format!("{open}{lasted}"),
                    grouped(incident.nodes as u64),
                    column::count(incident.drops),
                    column::count(incident.evictions),
                    incident
                        .who
                        .as_ref()
                        .map_or_else(|| "?".to_owned(), crate::shapes::Who::in_words),
                ],
                grave: pressure(incident.pressure.as_deref()),
            }
        })
        .collect();
    table(out, look, &columns, &cells);
    if incidents.len() > rows {
        let _ = writeln!(out, "and {} more: --top shows them", incidents.len() - rows);
    }
}

fn detail(out: &mut String, incident: &FoldedIncident, look: Look) {
    let table = shorten(&incident.table, 40);
    let head = format!("{}  table of {table}", incident.number);
    let _ = writeln!(out, "{}", look.heading(&head));
    if let Some(why) = &incident.why {
        wrap(out, "   why    ", why, 10);
    }
    let mut order: Vec<&str> = Vec::new();
    for it in &incident.on {
        if !order.contains(&it.node.as_str()) {
            order.push(&it.node);
        }
    }
    let lead = if order.len() > 1 { "first on " } else { "on " };
    wrap(out, "   nodes  ", &format!("{lead}{}", named(order, 6)), 10);
    if let Some(NodeIncident { node, number, .. }) =
        incident.on.iter().max_by_key(|it| it.gravity())
    {
        let line = format!("   more   kubectl ctpressure report --node {node} --incident {number}");
        let _ = writeln!(out, "{}", clean(&line));
    }
}
