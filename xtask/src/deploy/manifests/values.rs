//! What each value of the chart does: rendered by Helm, and looked at.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use crate::command;
use crate::deploy::chart::Chart;
use crate::deploy::kubernetes_versions::{NEWEST, OLDEST};

/// Values that the chart has to refuse, by its schema or by what it says itself.
const REFUSED: &[&str] = &[
    r#"{"limitControler":"on"}"#,
    r#"{"security":"root"}"#,
    r#"{"image":{"digest":"latest"}}"#,
    r#"{"journal":"relative"}"#,
    r#"{"httpAccess":{"clientCertificates":true}}"#,
    r#"{"networkPolicy":{"from":[]}}"#,
    r#"{"serviceAccount":{"create":false}}"#,
    r#"{"podSecurityContext":{"runAsUser":1000}}"#,
    r#"{"podMonitor":{"sampleLimit":-1}}"#,
    r#"{"nameOverride":"Not a name"}"#,
    r#"{"prometheusRule":{"runbookBase":"deploy/runbooks"}}"#,
];

const CASES: &str = include_str!("values.yaml");

/// Values, and what they make.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    values: Value,
    /// For the oldest server that the chart takes.
    #[serde(default)]
    old: bool,
    /// Of an object: its kind, a place in it, and what is there; null: nothing.
    #[serde(default)]
    expected: Vec<(String, String, Value)>,
    /// Kinds of which there is none.
    #[serde(default)]
    absent: Vec<String>,
}

/// Looks at all of them; hands back what was rendered for servers of today.
pub(super) fn check(chart: &Chart) -> Result<BTreeMap<String, Vec<Value>>> {
    let mut rendered = BTreeMap::new();
    let cases: Vec<Case> = serde_saphyr::from_str(CASES).context("read values.yaml")?;
    for case in &cases {
        let values = &case.values;
        let server = if case.old { OLDEST } else { NEWEST };
        let name = format!("chart for {server} with {values}");
        let objects = chart
            .render(&values.to_string(), server)
            .context(name.clone())?;
        for (kind, place, value) in &case.expected {
            let object = objects
                .iter()
                .find(|object| object["kind"] == kind.as_str());
            let object = object.with_context(|| format!("{name}: there is no {kind}"))?;
            let found = object.pointer(place).unwrap_or(&Value::Null);
            if found != value {
                bail!("{name}: {kind} has {found} at {place}, and not {value}");
            }
        }
        for kind in &case.absent {
            if objects.iter().any(|object| object["kind"] == kind.as_str()) {
                bail!("{name}: there is a {kind}");
            }
        }
        if !case.old {
            rendered.insert(name, objects);
        }
    }
    for values in REFUSED {
        if chart.render(values, NEWEST).is_ok() {
            bail!("the chart takes {values}");
        }
    }
    command::say(&format!(
        "{} sets of values make what they should",
        cases.len()
    ));
    Ok(rendered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Cache;

    #[test]
    fn each_value_makes_what_it_should_and_nonsense_is_refused() {
        let helm = Cache::open().unwrap().program("helm");
        let helm = helm.expect("helm is missing: run `cargo xtask setup`");
        check(&Chart::new(helm).unwrap()).unwrap();
    }
}
