//! `cargo xtask container`: the image in a real container runtime in a guest, with the rights that the manifests give it, scraped by a
//! real Prometheus that has our rules.

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::in_guest::{Arguments, Trial};
use super::{dashboard, folder, image};
use crate::cache::Cache;
use crate::files;
use crate::groups::Group;

const SCRIPT: &str = concat!(
    include_str!("../../guest/steps.sh"),
    include_str!("../../guest/container.sh")
);
/// Where the manifests are that name capabilities, and the level of `perf_event_paranoid` that each variant is for.
const VARIANTS: &[(&str, &str, u32)] = &[
    (
        "least-privilege",
        "kubernetes/overlays/least-privilege/capabilities.yaml",
        2,
    ),
    ("base", "kubernetes/base/daemonset.yaml", 3),
];

/// Runs the command; the result is its exit status.
pub(crate) fn run(arguments: &Arguments) -> Result<i32> {
    let files = tempfile::tempdir().context("make a folder")?;
    let queries = files.path().join("queries");
    fs::write(&queries, encoded_queries()?)?;
    let at = |name: &str| folder().join("prometheus").join(name);
    let put = [
        (at("prometheus.yaml"), "prometheus/prometheus.yaml"),
        (at("records.rules.yaml"), "prometheus/records.rules.yaml"),
        (at("alerts.rules.yaml"), "prometheus/alerts.rules.yaml"),
        (at("alertmanager.yaml"), "prometheus/alertmanager.yaml"),
        (queries, "prometheus/queries"),
    ]
    .map(|(from, to)| (from, to.to_owned()));
    Trial {
        groups: &[Group::CONTAINERS, Group::PROMETHEUS],
        memory_mib: 3072,
        timeout: Duration::from_mins(20),
        put: put.into(),
        script: &script()?,
    }
    .run(Cache::open()?, arguments)
}

/// The script with what it takes from the manifests.
fn script() -> Result<String> {
    let mut variants = Vec::new();
    for (name, path, paranoid) in VARIANTS {
        let capabilities = capabilities(path)?.join(",");
        variants.push(format!("{name}:{paranoid}:{capabilities}"));
    }
    Ok(format!(
        "variants='{}'\nimage='{}'\n{SCRIPT}",
        variants.join(" "),
        image::default_name()
    ))
}

/// The capabilities that a manifest adds.
fn capabilities(path: &str) -> Result<Vec<String>> {
    let path = folder().join(path);
    let text = files::text(&path)?;
    let manifest: Value =
        serde_saphyr::from_str(&text).with_context(|| format!("read {}", path.display()))?;
    let added =
        manifest.pointer("/spec/template/spec/containers/0/securityContext/capabilities/add");
    let added = added.and_then(Value::as_array).context("capabilities")?;
    Ok(added
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect())
}

/// The dashboard's queries, with everything chosen, as they are written in an address; one a line.
fn encoded_queries() -> Result<String> {
    let mut text = String::new();
    for query in dashboard::queries()? {
        let query = query
            .replace("$__rate_interval", "1m")
            .replace("$cluster", ".*")
            .replace("$node", ".*")
            .replace("$owner", ".*");
        for byte in query.bytes() {
            if byte.is_ascii_alphanumeric() {
                text.push(char::from(byte));
            } else {
                let _ = write!(text, "%{byte:02X}");
            }
        }
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_gets_the_capabilities_of_the_manifests() {
        let script = script().unwrap();
        let first = script.lines().next().unwrap();
        assert_eq!(
            first,
            "variants='least-privilege:2:BPF,PERFMON,SYS_PTRACE,DAC_READ_SEARCH,SETPCAP \
             base:3:BPF,PERFMON,SYS_ADMIN,SYS_PTRACE,NET_ADMIN,DAC_READ_SEARCH,SYSLOG,SYS_RESOURCE,SYS_NICE,SETPCAP'"
        );
        assert!(!encoded_queries().unwrap().contains('$'));
    }
}
