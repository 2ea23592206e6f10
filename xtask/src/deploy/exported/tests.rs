//! Whether a query asks for what there is.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use super::{Exported, ExportedFamily};

mod promql;

use promql::Selector;

/// Labels that Prometheus adds to what it scrapes.
const TARGET_LABELS: &[&str] = &["cluster", "node", "instance", "job"];

/// Metrics of others that rules may ask for: Prometheus itself, kube-state-metrics.
const FOREIGN: &[&str] = &["up", "kube_node_info"];

/// Labels whose values are few and all on the page, so a value that is not there is a mistake.
const CLOSED: &[&str] = &[
    "direction",
    "kind",
    "owner_kind",
    "reason",
    "role",
    "stat",
    "state",
];

impl Exported {
    /// Checks that all that a query asks for is exported, or recorded by a rule.
    pub(crate) fn check(&self, query: &str, recorded: &BTreeSet<String>) -> Result<()> {
        for selector in promql::selectors(query)? {
            if let Some(family) = self.0.get(&selector.name) {
                check_matchers(&selector, family)?;
            } else if !recorded.contains(&selector.name)
                && !FOREIGN.contains(&selector.name.as_str())
            {
                bail!("nobody exports {}: {query}", selector.name);
            }
        }
        Ok(())
    }
}

/// Each selector of a query, as `name label=value ...`.
pub(crate) fn selectors(query: &str) -> Vec<String> {
    let found = promql::selectors(query).unwrap();
    let shown = |selector: Selector| {
        let matchers = selector.matchers.into_iter();
        let matchers = matchers.map(|it| format!(" {}={}", it.label, it.value));
        std::iter::once(selector.name).chain(matchers).collect()
    };
    found.into_iter().map(shown).collect()
}

fn check_matchers(selector: &Selector, family: &ExportedFamily) -> Result<()> {
    for matcher in &selector.matchers {
        let (name, label) = (&selector.name, &matcher.label);
        let Some(values) = family.labels.get(label) else {
            if TARGET_LABELS.contains(&label.as_str()) {
                continue;
            }
            bail!("{name} has no label {label}");
        };
        // A dashboard's variable may be anything.
        if !CLOSED.contains(&label.as_str()) || matcher.value.contains('$') {
            continue;
        }
        for value in matcher.value.split('|') {
            if !values.contains(value) {
                bail!("{name} never has {label}=\"{value}\"");
            }
        }
    }
    Ok(())
}

#[test]
fn what_nobody_exports_is_an_error() {
    let exported = Exported::read().unwrap();
    let recorded = BTreeSet::from(["node:x:sum".to_owned()]);
    for good in [
        "sum by (node) (rate(ctpressure_drops_total{reason=\"table_full\",node=\"$node\"}[5m])) > 0",
        "node:x:sum / on (node) group_left () ctpressure_table_limit",
        "ctpressure_drops_total{reason=~\"clash|table_full\"}",
        "up{job=\"ctpressure\"} == 0",
    ] {
        exported.check(good, &recorded).unwrap();
    }
    for wrong in [
        "ctpressure_drop_total",
        "node:y:sum",
        "ctpressure_drops_total{cause=\"table_full\"}",
        "ctpressure_drops_total{reason=\"full\"}",
        "rate(ctpressure_drops_total{reason=~\"clash|full\"}[5m])",
    ] {
        assert!(exported.check(wrong, &recorded).is_err(), "{wrong}");
    }
}

#[test]
fn labels_and_values_are_read() {
    let exported = Exported::read().unwrap();
    let pressure = &exported.0["ctpressure_table_pressure"];
    assert_eq!(pressure.kind, "gauge");
    assert!(pressure.help.starts_with("1 for the state"));
    assert!(pressure.labels["netns"].contains("a\"b\\c"));
    assert_eq!(pressure.labels["state"].len(), 4);
}
