//! Which nodes answered, and why the others did not.

use std::{cmp::Ordering, collections::BTreeMap};

use ctpressure_model::words::{clean, clean_within};
use serde::Serialize;

/// Bytes that are kept of what somebody else said.
const WORDS: usize = 300;
/// Nodes that a line names.
const NAMED: usize = 4;

/// A node that did not answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Silent {
    pub(crate) node: String,
    /// The agent's pod there; null: there is none.
    pub(crate) pod: Option<String>,
    pub(crate) why: String,
    /// What to do about it; empty: nothing that is known.
    pub(crate) help: String,
}

/// Why an agent did not answer, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Why {
    pub(crate) why: String,
    pub(crate) help: String,
}

impl Why {
    /// Words of others are cleaned, and cut.
    pub(crate) fn new(why: &str, help: &str) -> Self {
        Self {
            why: clean_within(why.trim(), WORDS),
            help: clean_within(help.trim(), WORDS),
        }
    }
}

/// Who was asked, and who answered: a part of every `-o json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Coverage {
    /// Nodes that there are, as far as that is known.
    pub(crate) nodes: usize,
    pub(crate) answered: usize,
    /// Those that did not, by name.
    pub(crate) silent: Vec<Silent>,
    /// What to know about what was asked.
    pub(crate) notes: Vec<String>,
}

impl Coverage {
    pub(crate) fn new(answered: usize, mut silent: Vec<Silent>, notes: Vec<String>) -> Self {
        silent.sort_by(|a, b| by_name(&a.node, &b.node));
        Self {
            nodes: answered + silent.len(),
            answered,
            silent,
            notes,
        }
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.silent.is_empty()
    }

    /// Why nodes did not answer, the most frequent first: why, what to do, which nodes.
    pub(crate) fn reasons(&self) -> Vec<(&str, &str, Vec<&str>)> {
        let mut reasons: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
        for silent in &self.silent {
            let nodes = reasons.entry((&silent.why, &silent.help)).or_default();
            nodes.push(&silent.node);
        }
        let mut reasons: Vec<_> = reasons
            .into_iter()
            .map(|((why, help), nodes)| (why, help, nodes))
            .collect();
        reasons.sort_by_key(|(_, _, nodes)| std::cmp::Reverse(nodes.len()));
        reasons
    }
}

/// `node-1, node-2 and 9 more`
pub(crate) fn names<'a>(nodes: impl IntoIterator<Item = &'a str>) -> String {
    named(nodes, NAMED)
}

/// The same with as many names as there is room for.
pub(crate) fn named<'a>(nodes: impl IntoIterator<Item = &'a str>, most: usize) -> String {
    let nodes: Vec<_> = nodes.into_iter().map(clean).collect();
    if nodes.len() <= most + 1 {
        return nodes.join(", ");
    }
    format!(
        "{} and {} more",
        nodes[..most].join(", "),
        nodes.len() - most
    )
}

/// By name, where numbers in names count as numbers: `node-9` is before `node-10`.
pub(crate) fn by_name(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a, b);
    loop {
        let (Some(x), Some(y)) = (left.chars().next(), right.chars().next()) else {
            return left.len().cmp(&right.len()).then_with(|| a.cmp(b));
        };
        if x.is_ascii_digit() && y.is_ascii_digit() {
            let (number, rest) = leading_digits(left);
            let (other, other_rest) = leading_digits(right);
            let order = number.len().cmp(&other.len()).then(number.cmp(other));
            if order.is_ne() {
                return order;
            }
            (left, right) = (rest, other_rest);
        } else if x == y {
            (left, right) = (&left[x.len_utf8()..], &right[y.len_utf8()..]);
        } else {
            return x.cmp(&y);
        }
    }
}

/// The digits that it begins with, without zeros before them, and the rest.
fn leading_digits(text: &str) -> (&str, &str) {
    let end = text.find(|letter: char| !letter.is_ascii_digit());
    let (digits, rest) = text.split_at(end.unwrap_or(text.len()));
    (digits.trim_start_matches('0'), rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn silent(node: &str, why: &str) -> Silent {
        Silent {
            node: node.to_owned(),
            pod: None,
            why: why.to_owned(),
            help: String::new(),
        }
    }

    #[test]
    fn numbers_in_names_count_as_numbers() {
        let mut names = ["n-10", "n-9", "n-09", "m", "n", "n-9b", "ü-1", "n-10-2"];
        names.sort_by(|a, b| by_name(a, b));
        assert_eq!(
            names,
            ["m", "n", "n-09", "n-9", "n-9b", "n-10", "n-10-2", "ü-1"]
        );
    }

    #[test]
    fn the_same_reason_is_said_once() {
        let silent = vec![
            silent("n-10", "slow"),
            silent("n-9", "slow"),
            silent("n-1", "gone"),
        ];
        let coverage = Coverage::new(7, silent, Vec::new());
        assert_eq!((coverage.nodes, coverage.is_complete()), (10, false));
        assert_eq!(
            coverage.reasons(),
            [("slow", "", vec!["n-9", "n-10"]), ("gone", "", vec!["n-1"])]
        );
    }

    #[test]
    fn names_are_clean_and_few() {
        assert_eq!(names(["a\u{1b}[2J", "b"]), "a\u{fffd}[2J, b");
        assert_eq!(names(["a", "b", "c", "d", "e"]), "a, b, c, d, e");
        assert_eq!(
            names(["a", "b", "c", "d", "e", "f"]),
            "a, b, c, d and 2 more"
        );
    }
}
