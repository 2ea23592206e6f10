//! What is said to people at a terminal: at most [`WIDTH`] columns, colour only where it is wanted. Names and sentences of others are
//! cleaned here.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use ctpressure_model::words::{self, clean, grouped, plural};

use crate::coverage::{Coverage, named, names};

pub(crate) mod doctor;
pub(crate) mod event;
pub(crate) mod incidents;
pub(crate) mod limit;
pub(crate) mod report;
mod table;
pub(crate) mod top;

/// Columns of a line at most.
pub(crate) const WIDTH: usize = 100;
/// Reasons that are listed.
const REASONS: usize = 20;

/// How it is to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) colour: bool,
}

impl Look {
    /// The text in a colour, if that is wanted.
    fn paint(self, text: &str, style: Style) -> String {
        if self.colour {
            format!("{style}{text}{style:#}")
        } else {
            text.to_owned()
        }
    }

    fn heading(self, text: &str) -> String {
        self.paint(text, Style::new().bold())
    }

    /// What is bad: 3 the worst, 0 nothing.
    fn grave(self, text: &str, how: u8) -> String {
        let colour = match how {
            3 => AnsiColor::Red,
            2 => AnsiColor::Yellow,
            1 => AnsiColor::Cyan,
            _ => return text.to_owned(),
        };
        self.paint(text, Style::new().bold().fg_color(Some(colour.into())))
    }
}

/// Writes words into lines, see [`words::wrap`].
pub(crate) fn wrap(out: &mut String, first: &str, text: &str, indent: usize) {
    words::wrap(out, first, text, indent, WIDTH);
}

/// A command line, which is never broken.
fn command(out: &mut String, first: &str, text: &str) {
    let _ = writeln!(out, "{first}{}", clean(text));
}

/// `200 nodes`, or `197 of 200 nodes` where not all answered.
pub(crate) fn answered(coverage: &Coverage) -> String {
    let nodes = plural(coverage.nodes as u64, "node", "nodes");
    if coverage.is_complete() {
        nodes
    } else {
        format!("{} of {nodes}", grouped(coverage.answered as u64))
    }
}

/// Who did not answer and why, and what else is to be known.
pub(crate) fn ending(out: &mut String, coverage: &Coverage, look: Look) {
    if !coverage.notes.is_empty() || !coverage.is_complete() {
        out.push('\n');
    }
    for note in &coverage.notes {
        wrap(out, "note  ", note, 6);
    }
    if coverage.is_complete() {
        return;
    }
    let line = format!(
        "{} of {} did not answer:",
        grouped(coverage.silent.len() as u64),
        plural(coverage.nodes as u64, "node", "nodes")
    );
    let _ = writeln!(out, "{}", look.grave(&line, 2));
    let reasons = coverage.reasons();
    for (why, help, nodes) in reasons.iter().take(REASONS) {
        let help = if help.is_empty() {
            String::new()
        } else {
            format!(" (help: {help})")
        };
        let nodes = names(nodes.iter().copied());
        wrap(out, "  ", &format!("{nodes}: {why}{help}"), 4);
    }
    if let Some(more) = reasons.get(REASONS..).filter(|more| !more.is_empty()) {
        let nodes = more.iter().flat_map(|(_, _, nodes)| nodes.iter().copied());
        let text = format!("{}: other reasons; `-o json` has them", named(nodes, 3));
        wrap(out, "  ", &text, 4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coverage::Silent;

    const PLAIN: Look = Look { colour: false };

    #[test]
    fn who_did_not_answer_is_said_with_the_reason() {
        let silent = |node: &str, why: &str| Silent {
            node: node.to_owned(),
            pod: None,
            why: why.to_owned(),
            help: "look".to_owned(),
        };
        let coverage = Coverage::new(
            8,
            vec![silent("b", "slow"), silent("a", "slow")],
            vec!["nodes can't be listed".to_owned()],
        );
        let mut out = String::new();
        ending(&mut out, &coverage, PLAIN);
        assert_eq!(
            out,
            "\nnote  nodes can't be listed\n2 of 10 nodes did not answer:\n  a, b: slow (help: look)\n"
        );
        let mut out = String::new();
        ending(&mut out, &Coverage::new(8, Vec::new(), Vec::new()), PLAIN);
        assert_eq!(out, "");
    }

    #[test]
    fn lines_are_wrapped_and_clean() {
        let mut out = String::new();
        wrap(
            &mut out,
            "- ",
            &format!("{} \u{1b}[2J", "word ".repeat(40)),
            2,
        );
        assert!(out.lines().count() > 1);
        assert!(
            out.lines().all(|line| line.chars().count() <= WIDTH),
            "{out}"
        );
        assert!(!out.contains('\u{1b}'), "{out}");
    }
}
