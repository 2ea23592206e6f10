//! `cargo xtask cluster`: a whole cluster in a guest, in which the manifests are applied as deploy/README.md says, with the image that
//! `cargo xtask image` made.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use super::in_guest::{self, Trial};
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
    "overlays/limit-controller",
    "overlays/privileged",
    "overlays/least-privilege",
    "overlays/least-privilege-before-5.11",
];
/// The clusters of `cargo xtask test --kubernetes`: each variant on one kernel, the other driver, and the least privilege that is enough on
/// every kernel.
pub(crate) const TRIALS: &[&str] = &[
    "--kernel 6.12",
    "--kernel 6.12 --cgroup-driver systemd --variant base --variant kube-names",
    "--kernel 5.10 --variant least-privilege-before-5.11",
    "--kernel 6.1 --variant least-privilege",
    "--kernel 6.18 --variant least-privilege",
    "--kernel 7 --variant least-privilege",
];
/// What a Prometheus needs of ours.
const PROMETHEUS: &[&str] = &[
    "scrape-kubernetes.yaml",
    "records.rules.yaml",
    "alerts.rules.yaml",
];

/// What `cargo xtask cluster` takes.
#[derive(Args, Debug)]
#[group(id = "cluster")]
pub(crate) struct Arguments {
    #[command(flatten)]
    guest: in_guest::Arguments,
    /// Apply only this variant (may be repeated), such as `base` or `least-privilege` [default: each]
    #[arg(long, value_name = "NAME", value_parser = names())]
    variant: Vec<String>,
    /// Who makes the control groups of pods; with `systemd` it is the guest's first process
    #[arg(long, value_enum, default_value_t)]
    cgroup_driver: CgroupDriver,
}

/// The two that a kubelet knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum CgroupDriver {
    #[default]
    Cgroupfs,
    Systemd,
}

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
    let mut names = Vec::new();
    for variant in VARIANTS {
        let name = variant_name(variant);
        if !arguments.variant.is_empty() && !arguments.variant.iter().any(|wanted| wanted == name) {
            continue;
        }
        names.push(name);
        let file = files.path().join(name);
        fs::write(&file, manifests::kustomized(&cache, variant)?)?;
        put.push((file, format!("manifests/{name}.yaml")));
    }
    let mut groups = vec![Group::Containers, Group::Kubernetes, Group::Prometheus];
    let driver = match arguments.cgroup_driver {
        CgroupDriver::Cgroupfs => "cgroupfs",
        CgroupDriver::Systemd => {
            groups.push(Group::Systemd);
            "systemd"
        }
    };
    let script = format!(
        "variants='{}'\nimage='{}'\ndriver={driver}\n{SCRIPT}",
        names.join(" "),
        image::default_name()
    );
    Trial {
        groups: &groups,
        memory_mib: 6000,
        timeout: Duration::from_mins(45),
        put,
        script: &script,
    }
    .run(&cache, &arguments.guest)
}

/// The names of all variants.
fn names() -> Vec<&'static str> {
    VARIANTS.iter().copied().map(variant_name).collect()
}

/// `least-privilege` of `overlays/least-privilege`.
fn variant_name(variant: &str) -> &str {
    variant.rsplit('/').next().unwrap_or(variant)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::kernels::MATRIX;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn the_trials_can_be_asked_for_and_are_on_each_kernel() {
        for trial in TRIALS {
            let words = std::iter::once("cluster").chain(trial.split_whitespace());
            let line = Line::try_parse_from(words).unwrap();
            // Without one: each.
            let asked = !line.arguments.variant.is_empty();
            assert_eq!(asked, trial.contains("--variant"), "{trial}");
        }
        for kernel in MATRIX {
            let on = format!("--kernel {kernel}");
            let is_there = |trial: &&str| *trial == on || trial.starts_with(&format!("{on} "));
            assert!(TRIALS.iter().any(is_there), "{kernel}");
        }
    }
}
