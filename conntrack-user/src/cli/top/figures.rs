//! The rows of the table of owners. ASCII only, so that any terminal can show it.

use std::fmt::Write as _;

use ctpressure_model::{
    pressure::{as_count, as_f64, destinations::Destination, rate::Rates},
    words::{column, grouped, plural, shorten},
};

use crate::{
    agent::NodeLosses,
    serve::top::{OwnerRow, TopSample, rate},
};

/// What owners are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Sort {
    /// Who holds most entries
    #[default]
    Live,
    /// Who opens most connections now
    Inserts,
    /// Who loses most packets now, then who has lost most
    Drops,
}

impl Sort {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Live => "live entries",
            Self::Inserts => "inserts",
            Self::Drops => "drops",
        }
    }

    pub(super) const fn next(self) -> Self {
        match self {
            Self::Live => Self::Inserts,
            Self::Inserts => Self::Drops,
            Self::Drops => Self::Live,
        }
    }
}

/// Owners that ever had anything, in this order; equals by live entries, then by slot.
pub(super) fn sorted(sample: &TopSample, sort: Sort) -> Vec<&OwnerRow> {
    let mut owners: Vec<_> = sample
        .owners
        .iter()
        .filter(|row| {
            [
                row.entries(),
                row.inserts,
                row.deletes,
                row.drops,
                row.victims,
            ]
            .iter()
            .any(|count| count.unwrap_or(0) > 0)
                || !row.drops_by_reason.is_empty()
        })
        .collect();
    owners.sort_by(|one, other| {
        let order = match sort {
            Sort::Live => std::cmp::Ordering::Equal,
            Sort::Inserts => {
                rate(&other.inserts_per_second).total_cmp(&rate(&one.inserts_per_second))
            }
            Sort::Drops => rate(&other.drops_per_second)
                .total_cmp(&rate(&one.drops_per_second))
                .then(other.drops.cmp(&one.drops)),
        };
        order
            .then(other.entries().cmp(&one.entries()))
            .then(one.slot.cmp(&other.slot))
    });
    owners
}

/// When a table will be full, in words; empty: it is not filling.
pub(super) fn until_full(until: Option<f64>) -> String {
    match until {
        None => String::new(),
        Some(until) if until < 0.5 => "is full".to_owned(),
        Some(until) => format!("full in {}", column::seconds(until)),
    }
}

/// `[####....]`, `width` columns in all.
pub(super) fn bar(part: f64, width: usize) -> String {
    let room = width.saturating_sub(2);
    let filled = usize::try_from(as_count(part.clamp(0.0, 1.0) * as_f64(room as u64)))
        .unwrap_or(room)
        .min(room);
    format!("[{}{}]", "#".repeat(filled), ".".repeat(room - filled))
}

pub(super) fn address(destination: &Destination) -> String {
    let protocol = &destination.protocol;
    match destination.port {
        None => format!("{} {protocol}", destination.address),
        Some(port) => format!(
            "{} {protocol}",
            std::net::SocketAddr::new(destination.address, port)
        ),
    }
}

/// The columns behind the owner's name, and how wide they are.
const COLUMNS: [(&str, usize); 11] = [
    ("KIND", 6),
    ("LIVE", 7),
    ("SHARE", 5),
    ("INS/S", 5),
    ("DEL/S", 5),
    ("DROP/S", 6),
    ("DROPS", 5),
    ("EVICT", 5),
    ("LIFE", 5),
    ("INSERT", 6),
    ("CAUSED", 6),
];
/// From this width on the totals of inserts and of evictions for its sake, the last two, are shown too.
const WIDE: usize = 110;

fn line(name: &str, figures: [&str; COLUMNS.len()], width: usize) -> String {
    let shown = COLUMNS.len() - if width >= WIDE { 0 } else { 2 };
    let columns = &COLUMNS[..shown];
    let taken: usize = columns.iter().map(|(_, width)| 1 + width).sum();
    let room = width.saturating_sub(taken);
    let mut line = format!("{:<room$} {:<6}", shorten(name, room), figures[0]);
    for ((_, width), figure) in columns.iter().zip(figures).skip(1) {
        let _ = write!(line, " {figure:>width$}");
    }
    line
}

/// The titles of the columns of [`row`].
pub(super) fn header(width: usize) -> String {
    line("OWNER", COLUMNS.map(|(title, _)| title), width)
}

/// The number in words; `-`: nothing counts it.
pub(super) fn figure<T>(counted: Option<T>, words: impl FnOnce(T) -> String) -> String {
    counted.map_or_else(|| "-".to_owned(), words)
}

/// A rate over ten seconds of what is counted.
fn rate_figure(counted: Option<u64>, rates: &Rates) -> String {
    figure(counted.map(|_| rate(rates)), column::per_second)
}

/// An owner in `width` columns.
pub(super) fn row(owner: &OwnerRow, width: usize) -> String {
    let name = if owner.present {
        owner.name.clone()
    } else {
        format!("{} (gone)", owner.name)
    };
    let kind = owner.kind.label();
    let figures = [
        if kind == owner.name { "-" } else { kind },
        &figure(owner.entries(), column::entries),
        &figure(owner.live_share, column::share),
        &rate_figure(owner.inserts, &owner.inserts_per_second),
        &rate_figure(owner.deletes, &owner.deletes_per_second),
        &rate_figure(owner.drops, &owner.drops_per_second),
        &figure(owner.drops, column::count),
        &figure(owner.victims, column::count),
        &column::lifetime(owner.lifetime),
        &figure(owner.inserts, column::count),
        &figure(owner.causes, column::count),
    ];
    line(&name, figures, width)
}

/// What is counted and in no table, and whose it may be; empty: nothing that matters.
pub(super) fn held_rows(sample: &TopSample, width: usize) -> Vec<String> {
    let counted: u64 = sample.tables.iter().map(|table| table.entries).sum();
    let counted = counted + sample.other_tables.entries;
    let Some(held) = sample
        .held
        .filter(|held| *held > 0 && held.saturating_mul(HELD) >= counted)
    else {
        return Vec::new();
    };
    let nothing = || ["-", "", "", "", "", "", "", "", "", "", ""];
    let mut figures = nothing();
    let (live, part) = (
        column::entries(held),
        column::share(as_f64(held) / as_f64(counted.max(1))),
    );
    (figures[1], figures[2]) = (&live, &part);
    let mut rows = vec![
        line("(held, in no list)", figures, width)
            .trim_end()
            .to_owned(),
    ];
    let mut owners: Vec<_> = sample.owners.iter().collect();
    owners.retain(|owner| owner.held_at_most.saturating_mul(HELD) >= held);
    owners.sort_by_key(|owner| std::cmp::Reverse(owner.held_at_most));
    rows.extend(owners.into_iter().take(HOLDERS).map(|owner| {
        let live = column::entries(owner.held_at_most);
        let mut figures = nothing();
        (figures[0], figures[1]) = (owner.kind.label(), &live);
        let row = line(&format!("  {}", owner.name), figures, width);
        format!("{} at most", row.trim_end())
    }));
    rows
}

/// What is held matters from one in so many on.
const HELD: u64 = 100;
/// Owners that may hold it, at most.
const HOLDERS: usize = 3;

/// Requests that were refused, in words; empty: none.
pub(super) fn refused(refused: Option<u64>) -> String {
    match refused {
        None | Some(0) => String::new(),
        Some(refused) => format!(
            "refused {} to programs (ctnetlink, BPF), for which no packet was lost",
            plural(refused, "entry", "entries")
        ),
    }
}

/// What only the kernel counted, which no owner is charged with; empty: nothing, or probes count it.
pub(super) fn of_nobody(node: &NodeLosses) -> String {
    let parts: Vec<_> = [
        (node.drops, "packets dropped"),
        (node.chain_too_long, "refused by long chains"),
        (node.evictions, "entries evicted"),
    ]
    .into_iter()
    .filter_map(|(number, what)| Some(format!("{} {what}", grouped(number?))))
    .collect();
    if parts.is_empty() {
        return String::new();
    }
    format!("counted by the kernel only: {}", parts.join(", "))
}

/// `table_full 170, clash 7`
pub(super) fn reasons(drops: &std::collections::BTreeMap<String, u64>) -> String {
    let mut drops: Vec<_> = drops.iter().collect();
    drops.sort_by_key(|(_, number)| std::cmp::Reverse(**number));
    let parts: Vec<_> = drops
        .iter()
        .map(|(reason, number)| format!("{reason} {}", grouped(**number)))
        .collect();
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars() {
        assert_eq!(bar(0.5, 10), "[####....]");
        assert_eq!(bar(7.0, 4), "[##]");
        assert_eq!(bar(0.5, 1), "[]");
    }
}
