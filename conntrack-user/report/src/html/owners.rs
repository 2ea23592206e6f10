//! Tables of owners: who filled the table, and who suffered.

use std::fmt::Write as _;

use ctpressure_model::{
    owner::OwnerKind,
    words::{grouped, lifetime, per_second, plural, share_f64, time},
};

use super::{
    super::{
        document::{Filler, Report, Sufferer},
        text::{destinations, details, packets, states},
    },
    Escaped,
};

/// Who had entries at the peak.
pub(super) fn filled(out: &mut String, report: &Report) {
    if report.filled_by.is_empty() {
        out.push_str("<p>Nobody had entries.</p>\n");
        return;
    }
    let columns = [
        "owner",
        "share",
        "at the peak",
        "before",
        "opened a second",
        "lifetime",
    ];
    table(out, &columns, &report.filled_by, filler);
    let (owners, entries) = report.other_fillers;
    if owners > 0 {
        let entries = plural(entries, "entry", "entries");
        let _ = writeln!(
            out,
            "<p class=\"quiet\">And {owners} more with {entries}.</p>"
        );
    }
    held(out, report);
}

/// What no owner had.
fn held(out: &mut String, report: &Report) {
    if let Some((entries, share)) = report.held {
        let _ = writeln!(
            out,
            "<p>Held by packets that waited, in no list: {} ({}).</p>",
            plural(entries, "entry", "entries"),
            share_f64(share)
        );
    }
}

/// Who lost packets or entries.
pub(super) fn suffered(out: &mut String, report: &Report) {
    if report.suffered.is_empty() {
        out.push_str("<p>Nobody: no packet was lost and no live entry was evicted.</p>\n");
        return;
    }
    let columns = [
        "owner",
        "packets lost",
        "connections",
        "entries evicted",
        "first lost",
    ];
    table(out, &columns, &report.suffered, sufferer);
    let (owners, packets) = report.other_sufferers;
    if owners > 0 {
        let packets = plural(packets, "packet", "packets");
        let _ = writeln!(
            out,
            "<p class=\"quiet\">And {owners} more, which lost {packets}.</p>"
        );
    }
}

/// A table that scrolls by itself where the page is narrow.
fn table<T>(out: &mut String, columns: &[&str], rows: &[T], row: fn(&mut String, &T)) {
    out.push_str("<div class=\"scroll\" tabindex=\"0\">\n<table>\n<thead><tr>");
    for column in columns {
        let _ = write!(out, "<th scope=\"col\">{column}</th>");
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for one in rows {
        row(out, one);
    }
    out.push_str("</tbody>\n</table>\n</div>\n");
}

/// The first cell of a row: the owner, and a paragraph for each thing more to say.
fn name(out: &mut String, owner: &str, kind: OwnerKind, more: impl IntoIterator<Item = String>) {
    let _ = write!(
        out,
        "<tr><th scope=\"row\">{}<span class=\"kind\">{kind}</span>",
        Escaped(owner)
    );
    for words in more {
        let _ = write!(out, "<p>{}</p>", Escaped(&words));
    }
    out.push_str("</th>");
}

fn filler(out: &mut String, owner: &Filler) {
    let to = (!owner.destinations.is_empty())
        .then(|| format!("to {}", destinations(&owner.destinations)));
    let states = (!owner.states.is_empty()).then(|| format!("states: {}", states(&owner.states)));
    name(out, &owner.owner, owner.kind, to.into_iter().chain(states));
    let _ = writeln!(
        out,
        "<td><span class=\"meter\" style=\"--part:{:.1}%\"></span>{}</td><td>{}</td><td>{}</td><td>{}</td>\
         <td>{}</td></tr>",
        owner.share * 100.0,
        Escaped(&share_f64(owner.share)),
        grouped(owner.entries),
        grouped(owner.entries_before),
        per_second(owner.per_second),
        Escaped(&lifetime(owner.lifetime))
    );
}

fn sufferer(out: &mut String, owner: &Sufferer) {
    name(out, &owner.owner, owner.kind, details(owner, true));
    let connections = if owner.connections > 0 {
        grouped(owner.connections)
    } else {
        "–".to_owned()
    };
    let _ = writeln!(
        out,
        "<td>{}</td><td>{connections}</td><td>{}</td><td>{}</td></tr>",
        grouped(packets(owner)),
        grouped(owner.evicted),
        owner.first_drop.map_or_else(|| "–".to_owned(), time::clock)
    );
}
