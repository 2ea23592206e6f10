//! What is in `deploy/`: files that are made from others (dashboard, metrics reference, manifests), the image, and
//! the tests that hold all of it against what the agent really exports.
//!
//! * [`exported`]: what the agent exports, from the page that its own test checks;
//! * [`dashboard`]: the Grafana dashboard;
//! * [`generate`]: `cargo xtask generate`;
//! * [`rendered`]: manifests, made from the chart;
//! * [`runbooks`]: where alerts link to;
//! * [`chart`]: `cargo xtask chart`; [`chart_readme`]: its table of values;
//! * [`kubernetes_versions`]: which servers all of it is for;
//! * [`kernels`]: the table of kernels, from the results of the scenarios;
//! * [`image`]: `cargo xtask image`;
//! * [`package`]: `cargo xtask package`;
//! * [`container`]: `cargo xtask container`: the image in a container runtime, and Prometheus;
//! * [`cluster`]: `cargo xtask cluster`: the manifests applied to a whole cluster in a guest;
//! * [`in_guest`]: what both boot;
//! * [`manifests`]: `cargo xtask manifests`: manifests and chart against real programs.

use std::path::PathBuf;

use crate::command;

pub(crate) mod chart;
mod chart_readme;
pub(crate) mod cluster;
pub(crate) mod container;
pub(crate) mod dashboard;
pub(crate) mod exported;
pub(crate) mod generate;
pub(crate) mod image;
pub(crate) mod in_guest;
pub(crate) mod kernels;
mod kubernetes_versions;
pub(crate) mod manifests;
pub(crate) mod package;
mod rendered;
mod runbooks;
#[cfg(test)]
mod tests;

pub(crate) fn folder() -> PathBuf {
    command::repository().join("deploy")
}
