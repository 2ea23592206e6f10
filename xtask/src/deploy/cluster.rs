//! `cargo xtask cluster`: a whole cluster in a guest, in which the manifests are applied as docs/installation.md says, with the image that
//! `cargo xtask image` made. With systemd as the first process the agent is tried as its service too, and with `base` the
//! chart as Helm's release.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::image;
use super::in_guest::{self, Trial};
use crate::cache::Cache;
use crate::groups::Group;
use crate::kubernetes::{self, Programs};
use crate::{command, files, helm, project};

const SCRIPT: &str = concat!(
    include_str!("../../guest/steps.sh"),
    include_str!("../../guest/cluster.sh")
);
/// What is applied one after the other, each in the place of the one before: folders below deploy/kubernetes.
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
/// What the guest has of the repository, in the same places below its root: what is applied, what a Prometheus needs, the unit of systemd, and
/// documents whose command lines are run.
const OURS: &[&str] = &[
    "README.md",
    "docs/installation.md",
    "deploy/ctpressure.service",
    "deploy/helm",
    "deploy/kubernetes",
    "deploy/prometheus/alertmanager.yaml",
    "deploy/prometheus/alerts.rules.yaml",
    "deploy/prometheus/records.rules.yaml",
    "deploy/prometheus/scrape-kubernetes.yaml",
    "deploy/runbooks/README.md",
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
    let of_node = kubernetes::node_programs(&cache)?;
    let others = [Programs::get(&cache)?.api_server, helm::get(&cache)?];
    let plugin = project::plugin(&cache, project::GUEST)?;
    let mut put = Vec::new();
    for program in of_node.into_iter().chain(others).chain([plugin]) {
        let to = format!("usr/local/bin/{}", project::name(&program)?);
        put.push((program, to));
    }
    for ours in OURS {
        add(ours, &mut put)?;
    }
    let is_wanted = |variant: &&&str| {
        let name = variant_name(variant);
        arguments.variant.is_empty() || arguments.variant.iter().any(|wanted| wanted == name)
    };
    let variants: Vec<&str> = VARIANTS.iter().filter(is_wanted).copied().collect();
    let mut groups = vec![Group::CONTAINERS, Group::KUBERNETES, Group::PROMETHEUS];
    let driver = match arguments.cgroup_driver {
        CgroupDriver::Cgroupfs => "cgroupfs",
        CgroupDriver::Systemd => {
            groups.push(Group::SYSTEMD);
            "systemd"
        }
    };
    let script = format!(
        "variants='{}'\nimage='{}'\ndriver={driver}\n{SCRIPT}",
        variants.join(" "),
        image::default_name()
    );
    Trial {
        groups: &groups,
        memory_mib: 6000,
        timeout: Duration::from_mins(45),
        put,
        script: &script,
    }
    .run(cache, &arguments.guest)
}

/// Puts a file or folder of the repository into the guest.
fn add(path: &str, put: &mut Vec<(PathBuf, String)>) -> Result<()> {
    let from = command::repository().join(path);
    if !from.is_dir() {
        put.push((from, path.to_owned()));
        return Ok(());
    }
    for file in files::below(&from)? {
        let below = file.strip_prefix(&from)?.display();
        put.push((file.clone(), format!("{path}/{below}")));
    }
    Ok(())
}

/// The names of all variants.
fn names() -> Vec<&'static str> {
    VARIANTS.iter().copied().map(variant_name).collect()
}

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
