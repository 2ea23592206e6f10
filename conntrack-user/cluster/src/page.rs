//! The cluster's report as one HTML file. All text is cleaned and escaped: names of nodes, pods and workloads, and the sentences of
//! agents, are somebody else's words.

use std::fmt::{self, Write as _};

use ctpressure_model::words::{clean, grouped, plural, seconds, share, share_f64, time};
use ctpressure_report::page::{self, Escaped};

use crate::{
    coverage::named,
    shapes::Who,
    view::{
        fold::FoldedIncident,
        report::{ClusterReport, HitNode},
    },
};

const STYLE: &str = include_str!("page.css");
/// Nodes that have a row.
const NODES: usize = 400;
/// Rows of the other tables.
const ROWS: usize = 100;

/// Words of others: what would turn the text around or hide in it is replaced.
struct Said<'a>(&'a str);

impl fmt::Display for Said<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        Escaped(&clean(self.0)).fmt(formatter)
    }
}

/// The whole page.
pub(crate) fn page(report: &ClusterReport) -> String {
    let mut out = String::new();
    let title = format!(
        "conntrack of a cluster, {}",
        time::rfc3339(report.asked.since)
    );
    page::begin(&mut out, &title, STYLE);
    header(&mut out, report);
    figures(&mut out, report);
    if !report.hit.is_empty() {
        section(
            &mut out,
            report,
            "order",
            "Which nodes, in which order",
            order,
        );
        section(&mut out, report, "change", "What to change once", changes);
        section(&mut out, report, "filled", "Who filled tables", culprits);
        section(&mut out, report, "suffered", "Who lost something", victims);
        section(&mut out, report, "incidents", "Incidents", incidents);
        section(&mut out, report, "nodes", "The nodes in numbers", nodes);
    }
    if !report.coverage.is_complete() {
        section(
            &mut out,
            report,
            "silent",
            "Nodes that did not answer",
            silent,
        );
    }
    if !report.coverage.notes.is_empty() {
        section(&mut out, report, "notes", "Notes", notes);
    }
    page::end(&mut out, "the journals of the agents of a cluster");
    out
}

fn section(
    out: &mut String,
    report: &ClusterReport,
    id: &str,
    title: &str,
    fill: fn(&mut String, &ClusterReport),
) {
    let _ = writeln!(out, "<section id=\"{id}\" aria-labelledby=\"{id}-title\">");
    let _ = writeln!(out, "<h2 id=\"{id}-title\">{title}</h2>");
    fill(out, report);
    out.push_str("</section>\n");
}

fn header(out: &mut String, report: &ClusterReport) {
    let asked = report.asked;
    let title = if report.drops > 0 {
        "Packets lost"
    } else if report.evictions > 0 {
        "Live entries evicted"
    } else if report.hit.is_empty() {
        "No incident"
    } else {
        "Tables nearly full"
    };
    let nodes = plural(report.coverage.nodes as u64, "node", "nodes");
    let _ = write!(
        out,
        "<header>\n<p class=\"eyebrow\">Conntrack report of a cluster</p>\n<h1>{title} <span class=\"quiet\">on</span> {} \
         <span class=\"quiet\">of {nodes}</span></h1>\n\
         <p class=\"where\"><time datetime=\"{}\">{} {}</time> to <time datetime=\"{}\">{}</time> UTC ({}) · {} answered</p>\n</header>\n",
        grouped(report.hit.len() as u64),
        time::rfc3339(asked.since),
        time::date(asked.since),
        time::clock(asked.since),
        time::rfc3339(asked.until),
        time::near(asked.until, asked.since),
        seconds(asked.until.saturating_sub(asked.since)),
        plural(report.coverage.answered as u64, "node", "nodes"),
    );
    out.push_str("<dl class=\"summary\">\n");
    for (name, sentence) in ["What", "Who", "Change"].iter().zip(&report.summary) {
        let _ = writeln!(out, "<div><dt>{name}</dt><dd>{}</dd></div>", Said(sentence));
    }
    out.push_str("</dl>\n");
}

/// The numbers that a reader looks for first.
fn figures(out: &mut String, report: &ClusterReport) {
    let silent = report.coverage.silent.len();
    out.push_str("<dl class=\"figures\">\n");
    for (bad, name, value, detail) in [
        (
            !report.hit.is_empty(),
            "Nodes with an incident",
            grouped(report.hit.len() as u64),
            format!("{} had none", grouped(report.quiet as u64)),
        ),
        (
            report.drops > 0,
            "Packets lost",
            grouped(report.drops),
            "on all of them".to_owned(),
        ),
        (
            report.evictions > 0,
            "Live entries evicted",
            grouped(report.evictions),
            "to make room".to_owned(),
        ),
        (
            silent > 0,
            "Nodes without an answer",
            grouped(silent as u64),
            format!("of {}", grouped(report.coverage.nodes as u64)),
        ),
    ] {
        let class = if bad { " class=\"bad\"" } else { "" };
        let _ = writeln!(
            out,
            "<div{class}><dt>{name}</dt><dd>{value} <small>{detail}</small></dd></div>"
        );
    }
    out.push_str("</dl>\n");
}

/// Where a second is in what is shown, in per cent.
struct Scale {
    from: u64,
    seconds: u64,
}

impl Scale {
    /// From the first incident to the end of the last.
    fn new(hit: &[HitNode]) -> Self {
        let from = hit.iter().map(|it| it.began).min().unwrap_or(0);
        let until = hit.iter().map(|it| it.ended).max().unwrap_or(0);
        Self {
            from,
            seconds: until.saturating_sub(from).max(1),
        }
    }

    /// `12.34%`
    fn at(&self, second: u64) -> String {
        let part = u128::from(second.saturating_sub(self.from)) * 10_000 / u128::from(self.seconds);
        format!("{}.{:02}%", part / 100, part % 100)
    }

    fn length(&self, from: u64, until: u64) -> String {
        self.at(self.from + until.saturating_sub(from))
    }
}

/// The incidents of each node over the time, one row a node.
fn order(out: &mut String, report: &ClusterReport) {
    let scale = Scale::new(&report.hit);
    let middle = scale.from + scale.seconds / 2;
    let end = scale.from + scale.seconds;
    let _ = writeln!(
        out,
        "<div class=\"axis\"><div></div><div><span>{}</span><span>{}</span><span>{}</span></div><div>packets lost</div></div>",
        time::near(scale.from, report.asked.until),
        time::near(middle, scale.from),
        time::near(end, scale.from)
    );
    out.push_str("<ol class=\"order\">\n");
    for node in report.hit.iter().take(NODES) {
        let _ = write!(
            out,
            "<li><span class=\"name\">{}</span><span class=\"track\">",
            Said(&node.node)
        );
        for (from, until, first_drop) in &node.spans {
            let class = if first_drop.is_some() {
                " class=\"lost\""
            } else {
                ""
            };
            let _ = write!(
                out,
                "<i{class} style=\"left:{};width:{}\" title=\"{}\"></i>",
                scale.at(*from),
                scale.length(*from, *until),
                time::between(*from, *until, report.asked.until)
            );
            if let Some(first) = first_drop {
                let _ = write!(out, "<b style=\"left:{}\"></b>", scale.at(*first));
            }
        }
        let class = if node.drops > 0 {
            "number bad"
        } else {
            "number"
        };
        let _ = writeln!(
            out,
            "</span><span class=\"{class}\">{}</span></li>",
            grouped(node.drops)
        );
    }
    out.push_str("</ol>\n");
    more(out, report.hit.len(), NODES);
    out.push_str(
        "<ul class=\"key\"><li><i class=\"lost\"></i>an incident that lost packets</li><li><i></i>one that lost none</li>\
         <li><i class=\"first\"></i>the first packet lost</li></ul>\n",
    );
}

fn more(out: &mut String, all: usize, shown: usize) {
    if all > shown {
        let _ = writeln!(out, "<p class=\"quiet\">And {} more.</p>", all - shown);
    }
}

fn changes(out: &mut String, report: &ClusterReport) {
    if report.changes.is_empty() {
        out.push_str("<p>Nothing is advised.</p>\n");
        return;
    }
    out.push_str("<ol class=\"advice\">\n");
    for change in &report.changes {
        let nodes = named(change.nodes.iter().map(String::as_str), 8);
        let _ = writeln!(
            out,
            "<li><p><b>{}</b></p><p>On {}: {}</p><p class=\"quiet\">Nodes: {}. Lost there: {}.</p>",
            Said(&change.what),
            Said(&change.said_by),
            Said(&change.said),
            Said(&nodes),
            plural(change.lost, "packet or entry", "packets and entries"),
        );
        if let Some((name, least, most)) = &change.set
            && least == most
        {
            let _ = writeln!(out, "<pre>net.netfilter.{} = {most}</pre>", Said(name));
        }
        out.push_str("</li>\n");
    }
    out.push_str("</ol>\n");
}

/// The head of a table that may be wider than the screen.
fn head(out: &mut String, columns: &[&str]) {
    out.push_str("<div class=\"scroll\" tabindex=\"0\">\n<table>\n<thead><tr>");
    for column in columns {
        let class = match *column {
            "who" | "why" => " class=\"words\"",
            _ => "",
        };
        let _ = write!(out, "<th scope=\"col\"{class}>{column}</th>");
    }
    out.push_str("</tr></thead>\n<tbody>\n");
}

fn foot(out: &mut String, all: usize, shown: usize) {
    out.push_str("</tbody>\n</table>\n</div>\n");
    more(out, all, shown);
}

fn who_cell(out: &mut String, who: &Who) {
    let _ = write!(
        out,
        "<tr><th scope=\"row\">{}<span class=\"kind\">{}</span></th>",
        Said(&who.name),
        Said(&who.kind)
    );
}

fn culprits(out: &mut String, report: &ClusterReport) {
    if report.filled_by.is_empty() {
        out.push_str("<p>That is not told.</p>\n");
        return;
    }
    head(
        out,
        &[
            "workload",
            "nodes",
            "incidents",
            "of a table, at most",
            "lost then",
            "why",
        ],
    );
    for it in report.filled_by.iter().take(ROWS) {
        who_cell(out, &it.who);
        let _ = writeln!(
            out,
            "<td>{}</td><td>{}</td><td>{} on {}</td><td>{}</td><td class=\"words\">{}</td></tr>",
            grouped(it.nodes as u64),
            grouped(it.incidents as u64),
            share_f64(it.share),
            Said(&it.share_on),
            grouped(it.lost),
            Said(&it.why)
        );
    }
    foot(out, report.filled_by.len(), ROWS);
}

fn victims(out: &mut String, report: &ClusterReport) {
    if report.suffered.is_empty() {
        out.push_str("<p>Nobody, as far as that is told.</p>\n");
        return;
    }
    head(
        out,
        &["workload", "nodes", "packets lost", "entries evicted"],
    );
    for it in report.suffered.iter().take(ROWS) {
        who_cell(out, &it.who);
        let _ = writeln!(
            out,
            "<td>{}</td><td>{}</td><td>{}</td></tr>",
            grouped(it.nodes as u64),
            grouped(it.drops),
            grouped(it.evicted)
        );
    }
    foot(out, report.suffered.len(), ROWS);
}

fn incidents(out: &mut String, report: &ClusterReport) {
    head(
        out,
        &[
            "began (UTC)",
            "lasted",
            "nodes",
            "lost",
            "evicted",
            "who",
            "why",
        ],
    );
    for incident in report.incidents.iter().take(ROWS) {
        row_of_incident(out, incident, report.asked.until);
    }
    foot(out, report.incidents.len(), ROWS);
}

fn row_of_incident(out: &mut String, incident: &FoldedIncident, day: u64) {
    let nodes = named(incident.on.iter().map(|it| it.node.as_str()), 2);
    let who = incident
        .who
        .as_ref()
        .map_or_else(|| "?".to_owned(), Who::in_words);
    let _ = writeln!(
        out,
        "<tr><th scope=\"row\">{}<p>{}</p></th><td>{}{}</td><td>{}</td><td{}>{}</td><td>{}</td><td class=\"words\">{}</td>\
         <td class=\"words\">{}</td></tr>",
        time::near(incident.began, day),
        Said(&nodes),
        if incident.open { "&gt; " } else { "" },
        seconds(incident.ended.saturating_sub(incident.began)),
        grouped(incident.nodes as u64),
        if incident.drops > 0 {
            " class=\"bad\""
        } else {
            ""
        },
        grouped(incident.drops),
        grouped(incident.evictions),
        Said(&who),
        Said(incident.why.as_deref().unwrap_or("not told"))
    );
}

fn nodes(out: &mut String, report: &ClusterReport) {
    head(
        out,
        &[
            "node",
            "began (UTC)",
            "first lost",
            "entries at most",
            "of the limit",
            "lost",
            "evicted",
            "incidents",
        ],
    );
    for node in report.hit.iter().take(NODES) {
        let _ = writeln!(
            out,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            Said(&node.node),
            time::near(node.began, report.asked.until),
            node.first_drop.map_or_else(|| "-".to_owned(), time::clock),
            grouped(node.entries),
            if node.limit == 0 {
                "no limit".to_owned()
            } else {
                share(node.entries, node.limit)
            },
            grouped(node.drops),
            grouped(node.evictions),
            node.incidents
        );
    }
    foot(out, report.hit.len(), NODES);
    let _ = writeln!(
        out,
        "<p class=\"quiet\">The page of one node: <code>kubectl ctpressure report --node NODE --incident N --html FILE</code></p>"
    );
}

fn silent(out: &mut String, report: &ClusterReport) {
    out.push_str("<ul class=\"silent\">\n");
    for (why, help, nodes) in report.coverage.reasons() {
        let help = if help.is_empty() {
            String::new()
        } else {
            format!(" ({help})")
        };
        let _ = writeln!(
            out,
            "<li><b>{}</b>: {}{}</li>",
            Said(&named(nodes, 12)),
            Said(why),
            Said(&help)
        );
    }
    out.push_str("</ul>\n");
}

fn notes(out: &mut String, report: &ClusterReport) {
    out.push_str("<ul>\n");
    for note in &report.coverage.notes {
        let _ = writeln!(out, "<li>{}</li>", Said(note));
    }
    out.push_str("</ul>\n");
}
