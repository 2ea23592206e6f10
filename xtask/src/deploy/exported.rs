//! What the agent exports: read from the page that the exporter's own test compares with what it writes, so it is
//! never older than the code.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::Deserializer;

use crate::command;
use crate::files;

/// The page with a sample of every family.
const PAGE: &str = "conntrack-user/src/serve/metrics/expected.prom";

/// A family of metrics.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ExportedFamily {
    pub(crate) kind: String,
    pub(crate) help: String,
    /// Its labels, with the values that are on the page.
    pub(crate) labels: BTreeMap<String, BTreeSet<String>>,
}

/// All families by name.
#[derive(Debug, Default)]
pub(crate) struct Exported(pub(crate) BTreeMap<String, ExportedFamily>);

impl Exported {
    pub(crate) fn read() -> Result<Self> {
        let path = command::repository().join(PAGE);
        let text = files::text(&path)?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self> {
        let mut families: BTreeMap<String, ExportedFamily> = BTreeMap::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').context("HELP has a text")?;
                help.clone_into(&mut families.entry(name.to_owned()).or_default().help);
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').context("TYPE has a type")?;
                kind.clone_into(&mut families.entry(name.to_owned()).or_default().kind);
            } else if !line.is_empty() {
                let (sample, _) = line.rsplit_once(' ').context("a value")?;
                let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
                let family = families
                    .get_mut(name)
                    .with_context(|| format!("{name} has no HELP"))?;
                read_labels(labels, family).with_context(|| format!("not a sample: {line}"))?;
            }
        }
        Ok(Self(families))
    }
}

/// Takes `label="value",other="value"}`: a value is escaped as one of JSON.
fn read_labels(mut text: &str, family: &mut ExportedFamily) -> Result<()> {
    while let Some((label, rest)) = text.split_once('=') {
        let mut value = Deserializer::from_str(rest).into_iter();
        let label = label.trim_start_matches(',').to_owned();
        let values = family.labels.entry(label).or_default();
        values.insert(value.next().context("a label has no value")??);
        text = &rest[value.byte_offset()..];
    }
    Ok(())
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(super) use tests::selectors;
