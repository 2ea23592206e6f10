//! The charts: inline SVG that stretches, with its labels as text around it, so that they are as large
//! on a phone as on a desk.

use std::fmt::Write as _;

use ctpressure_model::{
    pressure::as_f64,
    words::{grouped, seconds, time},
};

use super::{
    super::{demand::round_up, document::Report, timeline::ReportTimeline},
    Escaped,
};

/// Height of a chart in its own units; its width is the number of steps.
const HEIGHT: u64 = 1000;
/// Labels of the time axis.
const TICKS: usize = 4;

/// All charts, one below the other on one axis of time.
pub(super) fn all(out: &mut String, report: &Report) {
    let timeline = &report.timeline;
    out.push_str("<div class=\"charts\">\n");
    entries(out, report);
    if !timeline.inserts.is_empty() {
        inserts(out, report);
    }
    for (name, class, values) in [
        ("Packets lost", "lost", &timeline.drops),
        ("Live entries evicted", "evicted", &timeline.evictions),
    ] {
        if values.iter().any(|value| *value > 0) {
            let sum = grouped(values.iter().sum());
            let top = round_up(values.iter().copied().max().unwrap_or(0));
            let path = bars(values, &vec![0; values.len()], top);
            let drawing = format!("<path class=\"{class}\" d=\"{path}\"/>");
            let about = format!("{sum} in all; {}", per_step(timeline));
            chart(out, report, name, &about, top, &drawing, &[]);
        }
    }
    out.push_str("</div>\n");
}

fn per_step(timeline: &ReportTimeline) -> String {
    if timeline.step == 1 {
        "each second".to_owned()
    } else {
        format!("each {}", seconds(timeline.step))
    }
}

fn entries(out: &mut String, report: &Report) {
    let timeline = &report.timeline;
    let most = timeline.entries.iter().copied().max().unwrap_or(0);
    // A limit far above all entries would leave them at the bottom.
    let limit = timeline.limit.iter().copied().max().unwrap_or(0);
    let shown = if limit > most.saturating_mul(20) {
        most
    } else {
        most.max(limit)
    };
    let top = round_up(shown + shown / 12 + 1);
    let drawing = format!(
        "<path class=\"entries\" d=\"{}\"/><path class=\"limit\" d=\"{}\"/>",
        area(&timeline.entries, &timeline.recorded, top),
        steps(&timeline.limit, top)
    );
    let mut legend = vec![
        (
            "entries".to_owned(),
            format!("entries, {} at most", grouped(most)),
        ),
        (
            "limit".to_owned(),
            if limit == 0 { "no limit" } else { "limit" }.to_owned(),
        ),
    ];
    if report.losses.first_drop.is_some() {
        legend.push(("first".to_owned(), "first packet lost".to_owned()));
    }
    if report.focus.seconds() < timeline.len() as u64 * timeline.step {
        legend.push(("focus".to_owned(), "what this report is about".to_owned()));
    }
    let title = "Entries against the limit";
    let about = format!("table of {}", report.table.name);
    chart(out, report, title, &about, top, &drawing, &legend);
}

fn inserts(out: &mut String, report: &Report) {
    let timeline = &report.timeline;
    let mut below = vec![0_u64; timeline.len()];
    let sums: Vec<u64> = (0..timeline.len())
        .map(|at| {
            timeline
                .inserts
                .iter()
                .map(|series| series.values[at])
                .sum()
        })
        .collect();
    let top = round_up(sums.iter().copied().max().unwrap_or(0).max(1));
    let (mut drawing, mut legend) = (String::new(), Vec::new());
    for (number, series) in timeline.inserts.iter().enumerate() {
        let class = if series.name == "others" && number + 1 == timeline.inserts.len() {
            "owner others".to_owned()
        } else {
            format!("owner o{number}")
        };
        let _ = write!(
            drawing,
            "<path class=\"{class}\" d=\"{}\"/>",
            bars(&series.values, &below, top)
        );
        for (below, value) in below.iter_mut().zip(&series.values) {
            *below += value;
        }
        let sum = grouped(series.values.iter().sum());
        legend.push((class, format!("{}: {sum}", series.name)));
    }
    let (title, about) = ("Connections opened, by owner", per_step(timeline));
    chart(out, report, title, &about, top, &drawing, &legend);
}

/// One chart. `about`: what it shows, in words; `top`: the value at its upper edge; `legend`: the class of each sample, and its
/// name. One without a legend is small.
fn chart(
    out: &mut String,
    report: &Report,
    title: &str,
    about: &str,
    top: u64,
    drawing: &str,
    legend: &[(String, String)],
) {
    let timeline = &report.timeline;
    let class = if legend.is_empty() { "small" } else { "large" };
    let _ = write!(
        out,
        "<figure class=\"{class}\">\n<figcaption><b>{title}</b> <span class=\"quiet\">{}</span></figcaption>\n\
         <div class=\"plot\">\n<div class=\"y\"><span>{}</span><span>{}</span><span>0</span></div>\n\
         <div class=\"area\">\n<svg viewBox=\"0 0 {} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\" \
         aria-label=\"{title}: the numbers are in the table below\">",
        Escaped(about),
        grouped(top),
        grouped(top / 2),
        timeline.len()
    );
    let _ = write!(
        out,
        "<rect class=\"focus\" x=\"{}\" y=\"0\" width=\"{}\" height=\"{HEIGHT}\"/>\
         <path class=\"grid\" d=\"M0 0H{width}M0 {half}H{width}\"/>",
        place(timeline, report.focus.from, 1.0),
        place(timeline, timeline.from + report.focus.seconds(), 1.0),
        width = timeline.len(),
        half = HEIGHT / 2
    );
    gaps(out, timeline);
    out.push_str(drawing);
    out.push_str("</svg>\n");
    markers(out, report);
    out.push_str("</div>\n<div class=\"x\">");
    for tick in 0..=TICKS {
        let at = timeline.from + timeline.len() as u64 * timeline.step * tick as u64 / TICKS as u64;
        let _ = write!(out, "<span>{}</span>", time::clock(at));
    }
    out.push_str("</div>\n</div>\n");
    if !legend.is_empty() {
        out.push_str("<ul class=\"legend\">");
        for (class, name) in legend {
            let _ = write!(out, "<li><i class=\"{class}\"></i>{}</li>", Escaped(name));
        }
        out.push_str("</ul>\n");
    }
    out.push_str("</figure>\n");
}

/// A time as a place from 0 to the number of steps, times `unit`.
fn place(timeline: &ReportTimeline, second: u64, unit: f64) -> String {
    let since = as_f64(second.saturating_sub(timeline.from));
    let steps = since / as_f64(timeline.step.max(1));
    format!("{:.2}", steps * unit)
}

/// Where the limit changed, by number, and where the first packet was lost.
fn markers(out: &mut String, report: &Report) {
    let timeline = &report.timeline;
    let percent = 100.0 / as_f64((timeline.len() as u64).max(1));
    for (number, change) in (1..).zip(report.changes.iter().take(super::CHANGES)) {
        if change.happened() {
            let _ = writeln!(
                out,
                "<span class=\"mark\" style=\"left:{}%\"><b>{number}</b></span>",
                place(timeline, change.at, percent)
            );
        }
    }
    if let Some(first) = report.losses.first_drop {
        let _ = writeln!(
            out,
            "<span class=\"mark first\" style=\"left:{}%\"></span>",
            place(timeline, first, percent)
        );
    }
}

/// Times without any record.
fn gaps(out: &mut String, timeline: &ReportTimeline) {
    let mut at = 0;
    while at < timeline.len() {
        let until = (at..timeline.len())
            .find(|step| timeline.recorded[*step] > 0)
            .unwrap_or(timeline.len());
        if until > at {
            let _ = write!(
                out,
                "<rect class=\"gap\" x=\"{at}\" y=\"0\" width=\"{}\" height=\"{HEIGHT}\"/>",
                until - at
            );
        }
        at = until + 1;
    }
}

/// From the top: where a value is.
fn height(value: u64, top: u64) -> u64 {
    let scaled = u128::from(value.min(top)) * u128::from(HEIGHT) / u128::from(top.max(1));
    HEIGHT - u64::try_from(scaled).unwrap_or(HEIGHT)
}

/// A filled line, in pieces between gaps.
fn area(values: &[u64], recorded: &[u64], top: u64) -> String {
    let mut path = String::new();
    let mut begun = false;
    for (at, value) in values.iter().enumerate() {
        let known = recorded.get(at).is_some_and(|seconds| *seconds > 0);
        if known {
            let y = height(*value, top);
            if begun {
                let _ = write!(path, "V{y}H{}", at + 1);
            } else {
                let _ = write!(path, "M{at} {HEIGHT}V{y}H{}", at + 1);
            }
        } else if begun {
            let _ = write!(path, "V{HEIGHT}Z");
        }
        begun = known;
    }
    if begun {
        let _ = write!(path, "V{HEIGHT}Z");
    }
    path
}

/// A line of steps; none where there is no value, or one beyond the top.
fn steps(values: &[u64], top: u64) -> String {
    let mut path = String::new();
    let mut before = None;
    for (at, value) in values.iter().enumerate() {
        let shown = (*value > 0 && *value <= top).then(|| height(*value, top));
        match (before, shown) {
            (Some(last), Some(y)) if last == y => {
                let _ = write!(path, "H{}", at + 1);
            }
            (Some(_), Some(y)) => {
                let _ = write!(path, "V{y}H{}", at + 1);
            }
            (None, Some(y)) => {
                let _ = write!(path, "M{at} {y}H{}", at + 1);
            }
            (_, None) => {}
        }
        before = shown;
    }
    path
}

/// Bars of these values, each upon what is below it.
fn bars(values: &[u64], below: &[u64], top: u64) -> String {
    let mut path = String::new();
    for (at, (value, below)) in values.iter().zip(below).enumerate() {
        if *value == 0 {
            continue;
        }
        let bottom = height(*below, top);
        // What is not nothing is seen.
        let upper = height(below.saturating_add(*value), top).min(bottom.saturating_sub(4));
        let _ = write!(path, "M{at} {bottom}V{upper}H{}V{bottom}Z", at + 1);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        assert_eq!(
            area(&[0, 50, 0, 100], &[1, 1, 0, 1], 100),
            "M0 1000V1000H1V500H2V1000ZM3 1000V0H4V1000Z"
        );
        assert_eq!(steps(&[0, 50, 50, 100, 500], 100), "M1 500H2H3V0H4");
        assert_eq!(
            bars(&[0, 50, 1], &[0, 50, 0], 100),
            "M1 500V0H2V500ZM2 1000V990H3V1000Z"
        );
        assert_eq!(bars(&[1], &[0], 1_000_000), "M0 1000V996H1V1000Z");
        assert_eq!(height(u64::MAX, u64::MAX), 0);
    }
}
