//! `cargo xtask manifests`: what `kubectl kustomize` makes of the base and each overlay, and what Helm makes of the chart, has no field that
//! the newest types of Kubernetes do not know (`xtask/objects`), and as it is for old servers it is taken by a real one (dry run); chart and
//! overlays say the same, and grant the same rights.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use super::{folder, kubernetes_versions};
use crate::cache::Cache;
use crate::{command, files};

mod server;
mod tools;
mod values;

use server::ApiServer;
use tools::Tools;

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

/// What every variant has besides, for servers before 1.30.
const FOR_OLD_SERVERS: &str = "components/before-kubernetes-1.30";

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
    let mut of_today = BTreeMap::new();
    let mut for_old_servers = BTreeMap::new();
    for (variant, values) in VARIANTS {
        let ours = tools.kustomize(&folder().join("kubernetes").join(variant))?;
        let charts = tools.chart.render(values, kubernetes_versions::NEWEST)?;
        same(variant, &ours, &charts)?;
        let old = tools.with_component(variant, FOR_OLD_SERVERS)?;
        let old_charts = tools.chart.render(values, kubernetes_versions::OLDEST)?;
        same(&format!("{variant} for old servers"), &old, &old_charts)?;
        command::say(&format!(
            "{variant}: the chart with {values} makes the same pods, with the same rights"
        ));
        for (rendered, ours, charts) in [
            (&mut of_today, ours, charts),
            (&mut for_old_servers, old, old_charts),
        ] {
            rendered.insert(format!("kustomize {variant}"), ours);
            rendered.insert(format!("chart {values}"), charts);
        }
    }
    of_today.extend(values::check(&tools.chart)?);
    tools.chart.lint()?;
    command::say("the chart refuses values that make no sense, and Helm's lint finds nothing");
    monitoring(&tools, &mut of_today)?;
    known(&of_today)?;
    if !arguments.no_server {
        let server = ApiServer::start(&cache)?;
        for (name, objects) in &for_old_servers {
            let taken = server.dry_run(&tools.kubectl, objects);
            let taken = taken.with_context(|| format!("the API server refuses: {name}"))?;
            command::say(&format!("{name}: the API server takes {taken} objects"));
        }
    }
    Ok(0)
}

/// Whether kustomize and the chart make the same of a variant.
fn same(variant: &str, ours: &[Value], charts: &[Value]) -> Result<()> {
    same_pods(ours, charts).with_context(|| format!("{variant} and the chart differ"))?;
    if rights(ours) != rights(charts) {
        bail!("{variant} and the chart grant different rights");
    }
    if policies(ours) != policies(charts) {
        bail!("{variant} and the chart have different network policies");
    }
    Ok(())
}

/// Whether the newest types of Kubernetes know every field.
fn known(rendered: &BTreeMap<String, Vec<Value>>) -> Result<()> {
    let folder = tempfile::tempdir().context("make a folder for objects")?;
    let file = folder.path().join("objects.json");
    files::write(&file, serde_json::to_string(rendered)?)?;
    let mut objects = command::cargo("run --quiet --package ctpressure-objects --");
    command::run(objects.arg(&file)).context("fields that Kubernetes does not know")
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
fn monitoring(tools: &Tools, rendered: &mut BTreeMap<String, Vec<Value>>) -> Result<()> {
    let values = r#"{"podMonitor":{"enabled":true},"prometheusRule":{"enabled":true},"dashboard":{"enabled":true}}"#;
    let chart = tools.chart.render(values, kubernetes_versions::NEWEST)?;
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
    rendered.insert("kustomize monitoring".to_owned(), ours);
    rendered.insert(format!("chart {values}"), chart);
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
