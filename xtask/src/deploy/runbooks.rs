//! Where the runbooks are, as alerts link to them: one base, in the chart's values, from which `cargo xtask generate` writes every link.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

use super::folder;
use crate::files;

/// What a link stands behind.
const FIELD: &str = "runbook_url: ";

/// What every link begins with.
pub(super) struct Base(String);

impl Base {
    /// From the chart's values.
    pub(super) fn read() -> Result<Self> {
        let path = folder().join("helm/ctpressure/values.yaml");
        let values: Value = serde_saphyr::from_str(&files::text(&path)?)
            .with_context(|| format!("read {}", path.display()))?;
        let base = values.pointer("/prometheusRule/runbookBase");
        let base = base.and_then(Value::as_str);
        let base = base.context("the chart's values have no prometheusRule.runbookBase")?;
        Ok(Self(base.trim_end_matches('/').to_owned()))
    }

    /// The link to an alert's page.
    pub(super) fn link(&self, alert: &str) -> String {
        format!("{}/{alert}.md", self.0)
    }

    /// A text with every link of it written anew: each goes to the page of the alert that stands above it.
    pub(super) fn written_into(&self, text: &str) -> String {
        let mut alert = "";
        let mut written = String::with_capacity(text.len());
        for line in text.split_inclusive('\n') {
            for field in ["- alert: ", "- alertname: "] {
                if let Some(name) = line.trim_start().strip_prefix(field) {
                    alert = name.trim_end();
                }
            }
            match line.split_once(FIELD) {
                Some((before, _)) if before.trim().is_empty() => {
                    written.push_str(before);
                    written.push_str(FIELD);
                    written.push_str(&self.link(alert));
                    written.push('\n');
                }
                _ => written.push_str(line),
            }
        }
        written
    }
}

/// The tests of the alerts, which have the links too.
pub(super) fn tests() -> Result<Vec<PathBuf>> {
    let mut tests = files::list(&folder().join("prometheus/tests"))?;
    tests.sort();
    Ok(tests)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_link_is_written_anew_and_goes_to_its_alert() {
        let base = Base("https://a.example/b".to_owned());
        let text = "  - alert: X\n    annotations:\n      runbook_url: old\n  - alertname: Y\n      runbook_url: \n# runbook_url: none\n";
        assert_eq!(
            base.written_into(text),
            "  - alert: X\n    annotations:\n      runbook_url: https://a.example/b/X.md\n  - alertname: Y\n      runbook_url: https://a.example/b/Y.md\n# runbook_url: none\n"
        );
    }
}
