//! `cargo xtask manifests`: what `kubectl kustomize` makes of the base and each overlay, and what Helm makes of the chart, is taken by a
//! real API server (dry run); chart and overlays say the same, and grant the same rights.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use super::folder;
use crate::cache::Cache;
use crate::command;

mod server;
mod tools;

use server::ApiServer;
use tools::Tools;
pub(super) use tools::helm;

/// Each variant: where kustomize has it, and the values with which the chart is the same.
const VARIANTS: &[(&str, &str)] = &[
    ("base", "{}"),
    (
        "overlays/least-privilege",
        r#"{"security":"least-privilege"}"#,
    ),
    (
        "overlays/least-privilege-before-5.11",
        r#"{"security":"least-privilege-before-5.11"}"#,
    ),
    ("overlays/privileged", r#"{"security":"privileged"}"#),
    ("overlays/kube-names", r#"{"kubeNames":{"enabled":true}}"#),
    (
        "overlays/limit-controller",
        r#"{"limitController":"dry-run"}"#,
    ),
    (
        "overlays/network-policy",
        r#"{"networkPolicy":{"enabled":true}}"#,
    ),
    (
        "overlays/http-access",
        r#"{"httpAccess":{"tlsSecret":"ctpressure-tls","tokenSecret":"ctpressure-token"}}"#,
    ),
    (
        "overlays/kube-names-limit-controller",
        r#"{"kubeNames":{"enabled":true},"limitController":"dry-run"}"#,
    ),
];

/// Values that the chart's schema has to refuse.
const REFUSED: &[&str] = &[
    r#"{"limitControler":"on"}"#,
    r#"{"security":"root"}"#,
    r#"{"image":{"digest":"latest"}}"#,
    r#"{"journal":"relative"}"#,
    r#"{"httpAccess":{"clientCertificates":true}}"#,
    r#"{"networkPolicy":{"from":[]}}"#,
];

/// What `cargo xtask manifests` takes.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Leave out the API server: only render and compare
    #[arg(long)]
    no_server: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<i32> {
    let cache = Cache::open()?;
    let tools = Tools::get(&cache)?;
    let mut rendered = Vec::new();
    for (variant, values) in VARIANTS {
        let ours = tools.kustomize(&folder().join("kubernetes").join(variant))?;
        let charts = tools.helm(values)?;
        same_pods(&ours, &charts).with_context(|| format!("{variant} and the chart differ"))?;
        if rights(&ours) != rights(&charts) {
            bail!("{variant} and the chart grant different rights");
        }
        if policies(&ours) != policies(&charts) {
            bail!("{variant} and the chart have different network policies");
        }
        command::say(&format!(
            "{variant}: the chart with {values} makes the same pods, with the same rights"
        ));
        rendered.push((format!("kustomize {variant}"), ours));
        rendered.push((format!("chart {values}"), charts));
    }
    for values in REFUSED {
        if tools.helm(values).is_ok() {
            bail!("the chart takes {values}");
        }
    }
    tools.lint()?;
    command::say("the chart refuses values that make no sense, and Helm's lint finds nothing");
    monitoring(&tools)?;
    if !arguments.no_server {
        let server = ApiServer::start(&cache)?;
        for (name, objects) in &rendered {
            let taken = server.dry_run(&tools.kubectl, objects);
            let taken = taken.with_context(|| format!("the API server refuses: {name}"))?;
            command::say(&format!("{name}: the API server takes {taken} objects"));
        }
    }
    Ok(0)
}

/// What the roles grant.
fn rights(objects: &[Value]) -> Vec<&Value> {
    let roles = objects.iter().filter(|object| {
        object["kind"]
            .as_str()
            .is_some_and(|kind| matches!(kind, "ClusterRole" | "Role"))
    });
    roles.map(|role| &role["rules"]).collect()
}

/// Who may reach the pods.
fn policies(objects: &[Value]) -> Vec<Value> {
    let of_kind = |object: &&Value| object["kind"] == "NetworkPolicy";
    let specs = objects.iter().filter(of_kind).map(|object| &object["spec"]);
    specs
        .map(|spec| without_release(spec.clone(), "/podSelector/matchLabels"))
        .collect()
}

/// Without the label by which the chart tells one release of several.
fn without_release(mut spec: Value, labels: &str) -> Value {
    let labels = spec.pointer_mut(labels);
    if let Some(labels) = labels.and_then(Value::as_object_mut) {
        labels.remove("app.kubernetes.io/instance");
    }
    sorted(spec)
}

/// The objects of the Prometheus Operator: their rules are the files that promtool tests.
fn monitoring(tools: &Tools) -> Result<()> {
    let values = r#"{"podMonitor":{"enabled":true},"prometheusRule":{"enabled":true},"dashboard":{"enabled":true}}"#;
    let chart = tools.helm(values)?;
    let ours = tools.kustomize(&folder().join("kubernetes/monitoring"))?;
    for kind in ["PodMonitor", "PrometheusRule"] {
        let spec = |objects: &[Value]| {
            let mut found = objects.iter().filter(|object| object["kind"] == kind);
            let spec = found.next().map(|object| object["spec"].clone());
            spec.map(|spec| without_release(spec, "/selector/matchLabels"))
        };
        let of_chart = spec(&chart).with_context(|| format!("the chart has no {kind}"))?;
        if Some(of_chart) != spec(&ours) {
            bail!("{kind} of the chart and of kubernetes/monitoring differ");
        }
    }
    command::say("monitoring: the chart and kubernetes/monitoring say the same");
    Ok(())
}

/// Whether both make the same pods.
fn same_pods(ours: &[Value], charts: &[Value]) -> Result<()> {
    let pods = |objects: &[Value]| -> Result<Value> {
        let mut found = objects
            .iter()
            .filter(|object| object["kind"] == "DaemonSet");
        let spec = &found.next().context("no DaemonSet")?["spec"];
        Ok(sorted(json!({
            "pod": spec["template"]["spec"],
            "update": spec["updateStrategy"],
            "annotations": spec["template"]["metadata"]["annotations"],
        })))
    };
    let (ours, charts) = (pods(ours)?, pods(charts)?);
    if ours == charts {
        return Ok(());
    }
    let lines = |value: &Value| -> BTreeSet<String> {
        let text = serde_json::to_string_pretty(value).unwrap_or_default();
        text.lines().map(|line| line.trim().to_owned()).collect()
    };
    let (ours, charts) = (lines(&ours), lines(&charts));
    let only = |one: &BTreeSet<String>, other: &BTreeSet<String>| {
        one.difference(other)
            .cloned()
            .collect::<Vec<_>>()
            .join("; ")
    };
    bail!(
        "only kustomize: {}; only the chart: {}",
        only(&ours, &charts),
        only(&charts, &ours)
    )
}

/// Without nulls, and with lists in an order that does not depend on who wrote them.
fn sorted(value: Value) -> Value {
    match value {
        Value::Array(items) => {
            let mut items: Vec<Value> = items.into_iter().map(sorted).collect();
            items.sort_by_key(ToString::to_string);
            Value::Array(items)
        }
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name, sorted(value)))
            .collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests;
