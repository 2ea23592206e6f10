//! `doctor` for people: each finding as a node's own doctor says it, with the nodes that have it.

use std::fmt::Write as _;

use ctpressure_model::words::{clean, plural};

use super::{Look, answered, command, ending, wrap};
use crate::{
    coverage::names,
    shapes::severity,
    view::doctor::{DoctorView, FoldedFinding},
};

/// Columns in front of what a finding says.
const INDENT: usize = 10;
/// Remedies that are told where they differ from node to node.
const REMEDIES: usize = 3;

pub(crate) fn doctor(view: &DoctorView, look: Look) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{} looked at: {}; {} without one",
        answered(&view.coverage),
        match view.findings.len() {
            0 => "no finding".to_owned(),
            many => plural(many as u64, "finding", "different findings"),
        },
        plural(view.healthy as u64, "node", "nodes")
    );
    for finding in &view.findings {
        out.push('\n');
        write_finding(&mut out, finding, view.coverage.answered, look);
    }
    for unseen in &view.could_not_look {
        out.push('\n');
        let help = if unseen.help.is_empty() {
            String::new()
        } else {
            format!(" (help: {})", unseen.help)
        };
        let on = names(unseen.on.iter().map(String::as_str));
        let text = format!("{} on {on}: {}{help}", unseen.what, unseen.because);
        wrap(&mut out, "not seen  ", &text, INDENT);
    }
    ending(&mut out, &view.coverage, look);
    out
}

fn write_finding(out: &mut String, finding: &FoldedFinding, answered: usize, look: Look) {
    let word = clean(&finding.severity).to_uppercase();
    let mut head = String::new();
    wrap(
        &mut head,
        &format!("{word:<INDENT$}"),
        &finding.title,
        INDENT,
    );
    // The word alone is coloured, so the line is wrapped without the colour.
    let painted = look.grave(&word, severity(&finding.severity));
    let _ = write!(
        out,
        "{painted}{}",
        head.get(word.len()..).unwrap_or_default()
    );
    let mut part = |name: &str, text: &str| {
        if !text.is_empty() {
            wrap(out, &format!("  {name:<8}"), text, INDENT);
        }
    };
    let nodes = names(finding.on.iter().map(|it| it.node.as_str()));
    part(
        "nodes",
        &format!("{} of {answered}: {nodes}", finding.on.len()),
    );
    if let Some(worst) = finding.on.first() {
        let same = finding.on.iter().all(|it| it.evidence == worst.evidence);
        let lead = if same {
            String::new()
        } else {
            format!("on {}: ", worst.node)
        };
        part("seen", &format!("{lead}{}", worst.evidence));
    }
    part("means", &finding.consequence);
    let several = finding.remedies.len() > 1;
    for remedy in finding.remedies.iter().take(REMEDIES) {
        let mut name = "  fix     ";
        if several {
            let on = names(remedy.nodes.iter().map(String::as_str));
            wrap(out, name, &format!("on {on}:"), INDENT);
            name = "          ";
        }
        for line in &remedy.fix {
            command(out, name, line);
            name = "          ";
        }
        if !remedy.advice.is_empty() {
            wrap(out, name, &remedy.advice, INDENT);
        }
        if !remedy.cost.is_empty() {
            wrap(out, "  cost    ", &remedy.cost, INDENT);
        }
    }
    if let Some(more) = finding
        .remedies
        .get(REMEDIES..)
        .filter(|more| !more.is_empty())
    {
        let text = format!(
            "{} more fixes for other nodes: `-o json` has them",
            more.len()
        );
        wrap(out, "          ", &text, INDENT);
    }
    wrap(out, "  id      ", &finding.id, INDENT);
}
