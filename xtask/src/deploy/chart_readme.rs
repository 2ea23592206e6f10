//! The chart's README, made from its values as helm-docs has it: a value is described by the comment above it that begins with `# --`.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// A value with its description.
struct Described {
    /// The keys that lead to it, with dots between them.
    path: String,
    words: String,
}

/// What README.md has to hold.
pub(super) fn readme(chart: &str, values: &str) -> Result<String> {
    let chart: Value = serde_saphyr::from_str(chart).context("read Chart.yaml")?;
    let defaults: Value = serde_saphyr::from_str(values).context("read values.yaml")?;
    let field = |name: &str| chart[name].as_str().unwrap_or_default();
    let mut text = format!(
        "# {}\n\n<!-- Made by `cargo xtask generate` from Chart.yaml and values.yaml. -->\n\n{}.\n\nChart {}, ctpressure {}, Kubernetes {}. What changed: \
         [CHANGELOG.md](CHANGELOG.md).\n\n    helm install ctpressure deploy/helm/ctpressure --namespace ctpressure --create-namespace --set image.repository=REGISTRY/ctpressure\n    \
         helm test ctpressure --namespace ctpressure\n\nWith rules and dashboard: the chart that `cargo xtask chart` packs.\n\n## Values\n\n\
         | key | type | default | description |\n|---|---|---|---|\n",
        field("name"),
        field("description"),
        field("version"),
        field("appVersion"),
        field("kubeVersion").replace("-0", ""),
    );
    let described = described(values);
    let mut leaves = Vec::new();
    for Described { path, words } in &described {
        let pointer = format!("/{}", path.replace('.', "/"));
        let default = defaults.pointer(&pointer);
        let default = default.with_context(|| format!("no value {path}"))?;
        leaves.push(pointer);
        let shown = default.to_string().replace('|', "\\|");
        let words = words.replace('|', "\\|");
        writeln!(text, "| {path} | {} | `{shown}` | {words} |", kind(default))?;
    }
    if let Some(missing) = undescribed(&defaults, "", &leaves) {
        bail!("{missing} has no description: `# -- ...` above it in values.yaml");
    }
    Ok(text)
}

/// As helm-docs calls them.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Array(_) => "list",
        Value::Bool(_) => "bool",
        Value::Number(_) => "int",
        Value::Object(_) => "object",
        Value::Null | Value::String(_) => "string",
    }
}

/// All values that have a description, in their order.
fn described(values: &str) -> Vec<Described> {
    let mut found = Vec::new();
    let mut parents: Vec<(usize, &str)> = Vec::new();
    let mut words: Option<String> = None;
    for line in values.lines() {
        let bare = line.trim_start();
        let depth = line.len() - bare.len();
        if let Some(comment) = bare.strip_prefix('#') {
            match (comment.trim().strip_prefix("-- "), &mut words) {
                (Some(first), _) => words = Some(first.to_owned()),
                (None, Some(words)) => {
                    words.push(' ');
                    words.push_str(comment.trim());
                }
                (None, None) => {}
            }
            continue;
        }
        let Some((name, _)) = bare.split_once(':') else {
            words = None;
            continue;
        };
        while parents.last().is_some_and(|(other, _)| *other >= depth) {
            parents.pop();
        }
        parents.push((depth, name));
        if let Some(words) = words.take() {
            let names: Vec<&str> = parents.iter().map(|(_, name)| *name).collect();
            let path = names.join(".");
            found.push(Described { path, words });
        }
    }
    found
}

/// A value that nothing describes.
fn undescribed(value: &Value, at: &str, described: &[String]) -> Option<String> {
    if described.iter().any(|path| path == at) {
        return None;
    }
    match value {
        Value::Object(fields) if !fields.is_empty() => fields
            .iter()
            .find_map(|(name, value)| undescribed(value, &format!("{at}/{name}"), described)),
        _ => Some(at.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_described_by_the_comment_above_them() {
        let chart = "name: a\n";
        let values = "# no description\na:\n  # -- One.\n  b: 1\n  # -- Two,\n  # in two lines | three.\n  c: [x]\n# -- Whole.\nd:\n  e: true\n";
        let text = readme(chart, values).unwrap();
        for line in [
            "| a.b | int | `1` | One. |\n",
            "| a.c | list | `[\"x\"]` | Two, in two lines \\| three. |\n",
            "| d | object | `{\"e\":true}` | Whole. |\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        let error = readme(chart, "a:\n  b: 1\n").unwrap_err().to_string();
        assert!(error.contains("/a/b"), "{error}");
    }
}
