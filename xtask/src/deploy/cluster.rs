//! `cargo xtask cluster`: a whole cluster in a guest, in which the manifests are applied as deploy/README.md says, with the image that
//! `cargo xtask image` made.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use super::in_guest::{Arguments, Trial};
use super::{folder, image, manifests};
use crate::cache::Cache;
use crate::groups::Group;
use crate::kubernetes::{self, Programs};
use crate::project;

const SCRIPT: &str = concat!(
    include_str!("../../guest/steps.sh"),
    include_str!("../../guest/cluster.sh")
);
/// What is applied one after the other, each in the place of the one before.
const VARIANTS: &[&str] = &[
    "base",
    "overlays/kube-names",
    "overlays/kube-names-limit-controller",
    "overlays/privileged",
    "overlays/least-privilege",
];
/// What a Prometheus needs of ours.
const PROMETHEUS: &[&str] = &[
    "scrape-kubernetes.yaml",
    "records.rules.yaml",
    "alerts.rules.yaml",
];

/// Runs the command; the result is its exit status.
pub(crate) fn run(arguments: &Arguments) -> Result<i32> {
    let cache = Cache::open()?;
    let mut programs = kubernetes::node_programs(&cache)?;
    programs.push(Programs::get(&cache)?.api_server);
    let files = tempfile::tempdir().context("make a folder")?;
    let mut put = Vec::new();
    for program in programs {
        let to = format!("usr/local/bin/{}", project::name(&program)?);
        put.push((program, to));
    }
    for name in PROMETHEUS {
        let from = folder().join("prometheus").join(name);
        put.push((from, format!("prometheus/{name}")));
    }
    for variant in VARIANTS {
        let name = variant_name(variant);
        let file = files.path().join(name);
        fs::write(&file, manifests::kustomized(&cache, variant)?)?;
        put.push((file, format!("manifests/{name}.yaml")));
    }
    let names: Vec<&str> = VARIANTS
        .iter()
        .map(|variant| variant_name(variant))
        .collect();
    let script = format!(
        "variants='{}'\nimage='{}'\n{SCRIPT}",
        names.join(" "),
        image::default_name()
    );
    Trial {
        groups: &[Group::Containers, Group::Kubernetes, Group::Prometheus],
        memory_mib: 6000,
        timeout: Duration::from_mins(45),
        put,
        script: &script,
    }
    .run(&cache, arguments)
}

/// `least-privilege` of `overlays/least-privilege`.
fn variant_name(variant: &str) -> &str {
    variant.rsplit('/').next().unwrap_or(variant)
}
