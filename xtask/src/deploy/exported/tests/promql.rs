//! Which series a query asks for. Whether the query is a valid one, promtool says; this finds the names in it.

use anyhow::{Result, bail};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Selector {
    pub(super) name: String,
    pub(super) matchers: Vec<Matcher>,
}

/// `label="value"`, or with another operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Matcher {
    pub(super) label: String,
    pub(super) value: String,
}

/// Words that are followed by a list of labels.
const BEFORE_LABELS: &[&str] = &[
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
];
const OPERATORS: &[&str] = &["and", "or", "unless", "bool", "offset", "atan2"];

#[derive(Debug, PartialEq, Eq)]
enum PromqlToken {
    Word(String),
    Text(String),
    Sign(char),
}

/// All selectors of a query, in its order. (None is left out because something else is wrong.)
pub(super) fn selectors(query: &str) -> Result<Vec<Selector>> {
    let tokens = tokens(query)?;
    let mut found: Vec<Selector> = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        at += 1;
        let PromqlToken::Word(word) = token else {
            // A range such as [5m] holds no names.
            if *token == PromqlToken::Sign('[') {
                at = end(&tokens, at, ']')?;
            }
            continue;
        };
        let opens = tokens.get(at) == Some(&PromqlToken::Sign('('));
        if BEFORE_LABELS.contains(&word.as_str()) {
            if opens {
                at = end(&tokens, at, ')')?;
            }
        } else if opens || is_aggregation(&tokens, at) || OPERATORS.contains(&word.as_str()) {
            // A function or an operator.
        } else if word.starts_with(|first: char| first.is_ascii_digit()) {
            // A number or a duration.
        } else {
            let mut matchers = Vec::new();
            if tokens.get(at) == Some(&PromqlToken::Sign('{')) {
                let after = end(&tokens, at, '}')?;
                matchers = self::matchers(&tokens[at + 1..after - 1])?;
                at = after;
            }
            found.push(Selector {
                name: word.clone(),
                matchers,
            });
        }
    }
    Ok(found)
}

/// `sum by (...)`: the word before is no metric.
fn is_aggregation(tokens: &[PromqlToken], at: usize) -> bool {
    matches!(tokens.get(at), Some(PromqlToken::Word(word)) if word == "by" || word == "without")
}

/// The place after the next such sign.
fn end(tokens: &[PromqlToken], from: usize, sign: char) -> Result<usize> {
    let rest = tokens.get(from..).unwrap_or_default();
    match rest
        .iter()
        .position(|token| *token == PromqlToken::Sign(sign))
    {
        Some(position) => Ok(from + position + 1),
        None => bail!("no {sign} where one is needed"),
    }
}

fn matchers(tokens: &[PromqlToken]) -> Result<Vec<Matcher>> {
    tokens
        .split(|token| *token == PromqlToken::Sign(','))
        .filter(|part| !part.is_empty())
        .map(|part| match (part.first(), part.last()) {
            (Some(PromqlToken::Word(label)), Some(PromqlToken::Text(value))) => Ok(Matcher {
                label: label.clone(),
                value: value.clone(),
            }),
            _ => bail!("not a matcher of a label: {part:?}"),
        })
        .collect()
}

fn tokens(query: &str) -> Result<Vec<PromqlToken>> {
    let mut tokens = Vec::new();
    let mut rest = query.chars().peekable();
    let of_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '.' | '$');
    while let Some(c) = rest.next() {
        if c == '"' {
            let mut text = String::new();
            loop {
                match rest.next() {
                    Some('"') => break,
                    Some('\\') => text.extend(rest.next()),
                    Some(c) => text.push(c),
                    None => bail!("a text has no end: {query}"),
                }
            }
            tokens.push(PromqlToken::Text(text));
        } else if of_word(c) {
            let mut word = String::from(c);
            while let Some(next) = rest.next_if(|next| of_word(*next)) {
                word.push(next);
            }
            tokens.push(PromqlToken::Word(word));
        } else if !c.is_whitespace() {
            tokens.push(PromqlToken::Sign(c));
        }
    }
    Ok(tokens)
}

fn names(query: &str) -> Vec<String> {
    let found = selectors(query).unwrap();
    found.into_iter().map(|selector| selector.name).collect()
}

#[test]
fn names_are_found_wherever_they_stand() {
    for (query, expected) in [
        ("a", vec!["a"]),
        (
            "a > bool 0.5 and on (node, netns) b:c:d * 1e3",
            vec!["a", "b:c:d"],
        ),
        ("sum by (a) (rate(b{c=\"}\"}[5m] offset 1h))", vec!["b"]),
        (
            "topk by (n) (1, x) / on () group_left () (max(y) > 0)",
            vec!["x", "y"],
        ),
        ("sum(x) without (y) + z[1h:5m]", vec!["x", "z"]),
        (
            "label_replace(a, \"b\", \"$1\", \"c\", \"(.+)\")",
            vec!["a"],
        ),
    ] {
        assert_eq!(names(query), expected, "{query}");
    }
}

#[test]
fn matchers_have_their_values() {
    let found = selectors(r#"a{b=~"c|d",e!="f\"g",}"#).unwrap();
    let matchers: Vec<_> = found[0]
        .matchers
        .iter()
        .map(|matcher| (matcher.label.as_str(), matcher.value.as_str()))
        .collect();
    assert_eq!(matchers, [("b", "c|d"), ("e", "f\"g")]);
    assert!(selectors("a{b").is_err());
    assert!(selectors("a{b=\"c}").is_err());
}
