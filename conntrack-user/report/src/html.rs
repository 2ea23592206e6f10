//! The report as one HTML file.

use std::fmt::Write as _;

use ctpressure_model::{
    pressure::state::Pressure,
    words::{grouped, seconds, time},
};

use super::{
    document::{Report, limit_in_words},
    page::{self, Escaped},
    text::change_in_words,
    timeline::ReportTimeline,
};

mod charts;
mod owners;

/// Rows of the table of the timeline.
const ROWS: usize = 24;
/// Changes of the limit that are listed.
const CHANGES: usize = 20;

pub(crate) fn page(report: &Report) -> String {
    let mut out = String::new();
    let node = if report.node.name.is_empty() {
        "unknown node"
    } else {
        &report.node.name
    };
    let title = format!("conntrack on {node}, {}", report.time[0]);
    page::begin(&mut out, &title, "");
    header(&mut out, report, node);
    figures(&mut out, report);
    section(&mut out, report, "timeline", "Timeline", timeline);
    section(&mut out, report, "filled", "Who filled it", owners::filled);
    section(
        &mut out,
        report,
        "suffered",
        "Who suffered",
        owners::suffered,
    );
    section(&mut out, report, "why", "Why packets were lost", reasons);
    section(&mut out, report, "advice", "What to do", advice);
    if !report.notes.is_empty() {
        section(&mut out, report, "notes", "Notes", notes);
    }
    page::end(&mut out, &format!("the journal of {node}"));
    out
}

fn section(
    out: &mut String,
    report: &Report,
    id: &str,
    title: &str,
    fill: fn(&mut String, &Report),
) {
    let _ = writeln!(out, "<section id=\"{id}\" aria-labelledby=\"{id}-title\">");
    let _ = writeln!(out, "<h2 id=\"{id}-title\">{title}</h2>");
    fill(out, report);
    out.push_str("</section>\n");
}

fn header(out: &mut String, report: &Report, node: &str) {
    let focus = report.focus;
    let _ = write!(
        out,
        "<header>\n<p class=\"eyebrow\">Conntrack incident report</p>\n<h1>{} <span class=\"quiet\">on</span> {}</h1>\n\
         <p class=\"where\"><time datetime=\"{}\">{} {}</time> to <time datetime=\"{}\">{}</time> UTC ({}) · table \
         <b>{}</b> · Linux {}</p>\n</header>\n",
        Escaped(title(report)),
        Escaped(node),
        report.time[0],
        time::date(focus.from),
        time::clock(focus.from),
        report.time[1],
        time::near(focus.until, focus.from),
        seconds(focus.seconds()),
        Escaped(if report.table.name.is_empty() {
            "host"
        } else {
            &report.table.name
        }),
        Escaped(&report.node.kernel)
    );
    out.push_str("<dl class=\"summary\">\n");
    for (name, sentence) in ["Cause", "Owner", "Remedy"].iter().zip(&report.summary) {
        let _ = writeln!(
            out,
            "<div><dt>{name}</dt><dd>{}</dd></div>",
            Escaped(sentence)
        );
    }
    out.push_str("</dl>\n");
}

const fn title(report: &Report) -> &'static str {
    if report.losses.packets > 0 {
        "Packets lost"
    } else if report.losses.evictions > 0 {
        "Live entries evicted"
    } else if matches!(report.peak.pressure, Pressure::Calm | Pressure::Rising) {
        "No loss"
    } else {
        "A table nearly full"
    }
}

/// The numbers that a reader looks for first.
fn figures(out: &mut String, report: &Report) {
    let first = report.losses.first_drop.map_or_else(
        || "in this time".to_owned(),
        |first| format!("the first at {}", time::clock(first)),
    );
    let room = grouped(report.limit_that_holds);
    let room = match report.limit_that_may_hold {
        Some(least) => format!("{} to {room}", grouped(least)),
        None => room,
    };
    let takes = report.limit_that_holds_bytes;
    let (holds, memory) = if report.cause.kind.is_flood() {
        (
            "Limit that this flood needs",
            "a larger one fills it as well".to_owned(),
        )
    } else {
        let takes = takes.map(|bytes| format!("{} when full", bytes.in_words()));
        ("Limit that would have held", takes.unwrap_or_default())
    };
    let peak = format!(
        "limit {}, at {}",
        limit_in_words(report.peak.limit),
        time::clock(report.peak.time)
    );
    let evictions = report.losses.evictions;
    out.push_str("<dl class=\"figures\">\n");
    for (bad, name, value, detail) in [
        (
            report.losses.packets > 0,
            "Packets lost",
            grouped(report.losses.packets),
            first,
        ),
        (
            evictions > 0,
            "Live entries evicted",
            grouped(evictions),
            "to make room".to_owned(),
        ),
        (
            false,
            "Entries at the peak",
            grouped(report.peak.entries),
            peak,
        ),
        (false, holds, room, memory),
    ] {
        let class = if bad { " class=\"bad\"" } else { "" };
        let _ = writeln!(
            out,
            "<div{class}><dt>{name}</dt><dd>{} <small>{}</small></dd></div>",
            value,
            Escaped(&detail)
        );
    }
    out.push_str("</dl>\n");
}

fn timeline(out: &mut String, report: &Report) {
    let timeline = &report.timeline;
    if timeline.is_empty() || timeline.recorded.iter().all(|seconds| *seconds == 0) {
        out.push_str("<p>Nothing was recorded in this time.</p>\n");
        return;
    }
    charts::all(out, report);
    if !report.changes.is_empty() {
        out.push_str("<h3>Changes of the limit</h3>\n<ol class=\"changes\">\n");
        for change in report.changes.iter().take(CHANGES) {
            let _ = writeln!(
                out,
                "<li>{}</li>",
                Escaped(&change_in_words(change, report.focus.from))
            );
        }
        out.push_str("</ol>\n");
        if report.changes.len() > CHANGES {
            let _ = writeln!(out, "<p>And {} more.</p>", report.changes.len() - CHANGES);
        }
    }
    numbers(out, &timeline.coarser(ROWS));
}

/// The charts in numbers.
fn numbers(out: &mut String, shown: &ReportTimeline) {
    let _ = write!(
        out,
        "<h3>The same in numbers</h3>\n<p class=\"quiet\">In steps of {}: most entries, lowest limit, and sums.</p>\n\
         <div class=\"scroll\" tabindex=\"0\">\n<table class=\"numbers\">\n<thead><tr><th scope=\"col\">from (UTC)</th>\
         <th scope=\"col\">entries</th><th scope=\"col\">limit</th>",
        seconds(shown.step)
    );
    for series in &shown.inserts {
        let _ = write!(
            out,
            "<th scope=\"col\" class=\"who\">opened: {}</th>",
            Escaped(&series.name)
        );
    }
    out.push_str(
        "<th scope=\"col\">lost</th><th scope=\"col\">evicted</th></tr></thead>\n<tbody>\n",
    );
    for at in 0..shown.len() {
        let _ = write!(
            out,
            "<tr><th scope=\"row\">{}</th>",
            time::clock(shown.at(at))
        );
        if shown.recorded[at] == 0 {
            let _ = writeln!(
                out,
                "<td colspan=\"{}\">nothing recorded</td></tr>",
                shown.inserts.len() + 4
            );
            continue;
        }
        let _ = write!(
            out,
            "<td>{}</td><td>{}</td>",
            grouped(shown.entries[at]),
            limit_in_words(shown.limit[at])
        );
        for series in &shown.inserts {
            let _ = write!(out, "<td>{}</td>", grouped(series.values[at]));
        }
        for value in [shown.drops[at], shown.evictions[at]] {
            let class = if value > 0 { " class=\"bad\"" } else { "" };
            let _ = write!(out, "<td{class}>{}</td>", grouped(value));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody>\n</table>\n</div>\n");
}

fn reasons(out: &mut String, report: &Report) {
    if report.losses.reasons.is_empty() {
        out.push_str("<p>None was lost by conntrack.</p>\n");
    } else {
        out.push_str("<dl class=\"reasons\">\n");
        for reason in &report.losses.reasons {
            let _ = writeln!(
                out,
                "<div><dt><b>{}</b> {}</dt><dd>{}</dd></div>",
                grouped(reason.packets),
                reason.reason,
                reason.meaning
            );
        }
        out.push_str("</dl>\n");
    }
    let _ = writeln!(
        out,
        "<p class=\"quiet\">Told by: {}.</p>",
        Escaped(&report.cause.evidence)
    );
}

fn advice(out: &mut String, report: &Report) {
    if report.advice.is_empty() {
        out.push_str("<p>Nothing.</p>\n");
        return;
    }
    out.push_str("<ol class=\"advice\">\n");
    for advice in &report.advice {
        let _ = write!(
            out,
            "<li><p>{}</p><p class=\"quiet\">Because: {}.</p>",
            Escaped(&advice.text),
            Escaped(advice.evidence.trim_end_matches('.'))
        );
        if let Some((name, value)) = &advice.set {
            let _ = write!(
                out,
                "<pre>sysctl -w net.netfilter.{}={value}</pre>",
                Escaped(name)
            );
        }
        out.push_str("</li>\n");
    }
    out.push_str("</ol>\n");
}

fn notes(out: &mut String, report: &Report) {
    out.push_str("<ul>\n");
    for note in &report.notes {
        let _ = writeln!(out, "<li>{}</li>", Escaped(note));
    }
    out.push_str("</ul>\n");
}
