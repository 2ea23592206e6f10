//! What is in the chart and in `deploy/kubernetes` has one source, the chart: `cargo xtask generate` renders the files of the base from it, and makes
//! the patches of overlays and components from what a value changes in the `DaemonSet`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use super::{folder, kubernetes_versions};
use crate::command;

/// Objects as the chart makes them: the file below `deploy/kubernetes`, the template, and values.
const OBJECTS: &[(&str, &str, &str)] = &[
    ("base/serviceaccount.yaml", "serviceaccount", ""),
    ("base/priorityclass.yaml", "priorityclass", ""),
    ("base/daemonset.yaml", "daemonset", ""),
    (
        "overlays/kube-names/rbac.yaml",
        "rbac",
        "kubeNames.enabled=true",
    ),
    (
        "components/network-policy/networkpolicy.yaml",
        "networkpolicy",
        "networkPolicy.enabled=true",
    ),
    (
        "monitoring/podmonitor.yaml",
        "podmonitor",
        "podMonitor.enabled=true",
    ),
];

/// Patches of the `DaemonSet`: the file below `deploy/kubernetes`, the server, and the values that make the difference.
const PATCHES: &[(&str, &str, &str)] = &[
    (
        "overlays/least-privilege/capabilities.yaml",
        kubernetes_versions::NEWEST,
        "security=least-privilege",
    ),
    (
        "overlays/least-privilege-before-5.11/capabilities.yaml",
        kubernetes_versions::NEWEST,
        "security=least-privilege-before-5.11",
    ),
    (
        "overlays/privileged/privileged.yaml",
        kubernetes_versions::NEWEST,
        "security=privileged",
    ),
    (
        "overlays/kube-names/token.yaml",
        kubernetes_versions::NEWEST,
        "kubeNames.enabled=true",
    ),
    (
        "components/limit-controller/controller.yaml",
        kubernetes_versions::NEWEST,
        "limitController=dry-run",
    ),
    (
        "components/http-access/access.yaml",
        kubernetes_versions::NEWEST,
        "httpAccess.tlsSecret=ctpressure-tls,httpAccess.tokenSecret=ctpressure-token",
    ),
    (
        "components/before-kubernetes-1.30/apparmor.yaml",
        kubernetes_versions::OLDEST,
        "",
    ),
];

/// Labels that tell one release of a chart from another: kustomize has no releases. (The selector of a `DaemonSet` can't be changed.)
const OF_A_RELEASE: &[&str] = &[
    "app.kubernetes.io/instance:",
    "app.kubernetes.io/managed-by:",
    "app.kubernetes.io/version:",
    "helm.sh/chart:",
];

/// Each file, by its path below `deploy`, with what it has to hold.
pub(super) fn files(helm: &Path) -> Result<Vec<(String, String)>> {
    let mut made = Vec::new();
    for (file, template, values) in OBJECTS {
        let text = text_of(&render(
            helm,
            template,
            values,
            kubernetes_versions::NEWEST,
        )?);
        made.push((format!("kubernetes/{file}"), format!("{HEADER}{text}")));
    }
    let daemon_set = |values: &str, server: &str| -> Result<Value> {
        let text = text_of(&render(helm, "daemonset", values, server)?);
        serde_saphyr::from_str(&text).context("read the chart's DaemonSet")
    };
    let base = daemon_set("", kubernetes_versions::NEWEST)?;
    for (file, server, values) in PATCHES {
        let patch = patch(&base, &daemon_set(values, server)?);
        let patch = patch.with_context(|| format!("make {file}"))?;
        let patch = patch.with_context(|| format!("{values} changes nothing"))?;
        let mut object = json!({
            "apiVersion": base["apiVersion"],
            "kind": base["kind"],
            "metadata": { "name": base["metadata"]["name"], "namespace": base["metadata"]["namespace"] },
        });
        object["spec"] = patch["spec"].clone();
        let text = serde_saphyr::to_string(&object).context("write a patch")?;
        made.push((
            format!("kubernetes/{file}"),
            format!("{HEADER}{}\n", text.trim_end()),
        ));
    }
    Ok(made)
}

const HEADER: &str = "# Made by `cargo xtask generate` from helm/ctpressure.\n";

/// What a template of the chart makes.
fn render(helm: &Path, template: &str, values: &str, server: &str) -> Result<String> {
    let mut helm = Command::new(helm);
    helm.args(["template", "ctpressure"]);
    helm.arg(folder().join("helm/ctpressure"));
    helm.args(["--namespace", "ctpressure", "--kube-version", server]);
    helm.arg(format!("--show-only=templates/{template}.yaml"));
    if !values.is_empty() {
        helm.args(["--set", values]);
    }
    command::output(&mut helm)
}

/// The text as kustomize has it: comments stay, what is of Helm and of a release goes, and the image has the name that kustomizations
/// replace.
fn text_of(rendered: &str) -> String {
    let mut text = String::new();
    for line in rendered.lines() {
        let word = line.trim_start();
        let of_helm = word.starts_with("# Source: ");
        let of_a_release = OF_A_RELEASE.iter().any(|label| word.starts_with(label));
        // The first document needs no beginning.
        if of_helm || of_a_release || (text.is_empty() && line == "---") {
            continue;
        }
        if word.starts_with("image: ") {
            let (before, _) = line.split_at(line.len() - word.len());
            text.push_str(before);
            text.push_str("image: ctpressure\n");
            continue;
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// The strategic merge patch that makes `new` of `old`; `None`: they are the same.
///
/// # Errors
/// If something is taken from a list whose items have names, which no variant does.
fn patch(old: &Value, new: &Value) -> Result<Option<Value>> {
    if old == new {
        return Ok(None);
    }
    Ok(Some(match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let mut fields = Map::new();
            for (name, value) in new {
                let before = old.get(name).unwrap_or(&Value::Null);
                if let Some(change) = patch(before, value)? {
                    fields.insert(name.clone(), change);
                }
            }
            for name in old.keys().filter(|name| !new.contains_key(*name)) {
                fields.insert(name.clone(), Value::Null);
            }
            fields.into()
        }
        (Value::Array(before), Value::Array(after)) if before.iter().chain(after).all(has_key) => {
            let same = |item: &Value, other: &Value| key(item) == key(other);
            if let Some(gone) = before
                .iter()
                .find(|item| !after.iter().any(|other| same(item, other)))
            {
                bail!("{gone} is taken away, which a patch can't say");
            }
            let mut items = Vec::new();
            for item in after {
                let before = before.iter().find(|other| same(item, other));
                let change = match before {
                    Some(before) => patch(before, item)?.map(|change| named(change, item)),
                    None => Some(item.clone()),
                };
                items.extend(change);
            }
            items.into()
        }
        _ => new.clone(),
    }))
}

/// By what Kubernetes tells the items of lists apart: of mounts, of ports, of all others.
const KEYS: &[&str] = &["mountPath", "containerPort", "name"];

fn key(item: &Value) -> Option<(&'static str, &Value)> {
    let has = |key: &&'static str| item.get(*key).map(|value| (*key, value));
    KEYS.iter().find_map(has)
}

fn has_key(item: &Value) -> bool {
    key(item).is_some()
}

/// A change of an item, with what tells it from others. (Of ports that is the protocol too, with its number.)
fn named(mut change: Value, item: &Value) -> Value {
    if let Some((key, value)) = key(item) {
        change[key] = value.clone();
    }
    if let Some(protocol) = item.get("protocol") {
        change["protocol"] = protocol.clone();
    }
    change
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_has_what_changes_and_no_more() {
        let old = json!({ "a": 1, "b": { "c": 2, "d": 3 }, "e": [{ "name": "x", "f": 1, "g": 2 }], "h": ["i"] });
        let new = json!({ "a": 1, "b": { "c": 5 }, "e": [{ "name": "x", "f": 7, "g": 2 }, { "name": "y" }], "h": ["j", "i"] });
        assert_eq!(
            patch(&old, &new).unwrap().unwrap(),
            json!({ "b": { "c": 5, "d": null }, "e": [{ "name": "x", "f": 7 }, { "name": "y" }], "h": ["j", "i"] })
        );
        assert_eq!(patch(&old, &old).unwrap(), None);
        assert!(patch(&new, &old).is_err(), "y can't be taken away");
    }

    #[test]
    fn comments_stay_and_what_is_of_a_release_goes() {
        let rendered = "---\n# Source: ctpressure/templates/a.yaml\nlabels:\n  app.kubernetes.io/name: a\n  app.kubernetes.io/instance: b\n  helm.sh/chart: c\n  # why\n  image: \"a:1\"\n---\nkind: B\n";
        assert_eq!(
            text_of(rendered),
            "labels:\n  app.kubernetes.io/name: a\n  # why\n  image: ctpressure\n---\nkind: B\n"
        );
    }
}
