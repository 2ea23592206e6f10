//! Building what goes into a guest: static binaries of this workspace, in one of two cargo profiles (the root Cargo.toml has them):
//!
//! - `guest`, for trying what was just changed: `cargo xtask vm` and `cargo xtask test`. Crates of the workspace are built
//!   incrementally, in many units and with little optimisation, with overflow checks; dependencies, which are built once, fully optimised.
//! - `release`, where size or speed is the subject, and what people get: `image`, `bench`, `demo`, `container`, `cluster`, and
//!   `cargo xtask test --profile release`, which CI ends with.
//!
//! `docs/developing/measure.md` says how soon an edit is to have its answer, and how that is measured.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cache::Cache;
use crate::{command, cross, files};

/// The packages whose binaries are on PATH in a guest.
const PACKAGES: &[&str] = &["conntrack-user", "ctpressure-tests"];
/// The profile of what is tried while it is worked on.
pub(crate) const GUEST: &str = "guest";
/// The profile of what people get.
pub(crate) const RELEASE: &str = "release";
const INIT: &str = "ctpressure-guest-init";

/// Builds the binaries for guests in a cargo profile and says where they are.
pub(crate) fn binaries(cache: &Cache, profile: &str) -> Result<Vec<PathBuf>> {
    let mut arguments = vec!["--bins"];
    for package in PACKAGES {
        arguments.extend(["--package", package]);
    }
    let binaries = build(cache, profile, &arguments)?;
    if !binaries.iter().any(|path| path.ends_with("ctpressure")) {
        bail!("cargo built no binary named ctpressure");
    }
    Ok(binaries)
}

/// Builds kubectl-ctpressure, which is tried where there is a cluster, and says where it is.
pub(crate) fn plugin(cache: &Cache, profile: &str) -> Result<PathBuf> {
    let binaries = build(
        cache,
        profile,
        &["--bins", "--package", "ctpressure-cluster"],
    )?;
    let mut binaries = binaries.into_iter();
    binaries.next().context("cargo built no kubectl-ctpressure")
}

/// Keeps the figures of a benchmark in target/bench, and says where.
pub(crate) fn keep_figures(name: &str, figures: &Value) -> Result<()> {
    let folder = command::repository().join("target/bench");
    files::folder(&folder)?;
    let path = folder.join(name).with_extension("json");
    files::write(&path, format!("{figures:#}\n"))?;
    command::say(&format!("written to {}", path.display()));
    Ok(())
}

/// Builds the first process of a guest: a package of its own, so that it needs little else.
pub(crate) fn init(cache: &Cache, profile: &str) -> Result<PathBuf> {
    let binaries = build(cache, profile, &["--package", INIT])?;
    binaries
        .into_iter()
        .next()
        .context("cargo built no first process for the guest")
}

fn build(cache: &Cache, profile: &str, arguments: &[&str]) -> Result<Vec<PathBuf>> {
    let mut cargo = command::cargo("build --message-format=json-render-diagnostics");
    cargo
        .args(["--profile", profile, "--target", cache.arch().target()])
        .args(arguments)
        .args(command::quiet("--quiet"));
    cross::prepare(cache, &mut cargo)?;
    let output = command::heard(&mut cargo).context("the build for the guest failed")?;
    let mut binaries = Vec::new();
    for line in output.lines() {
        let message: Value = serde_json::from_str(line).context("read cargo's messages")?;
        if message["reason"] == "compiler-artifact" {
            binaries.extend(message["executable"].as_str().map(PathBuf::from));
        }
    }
    binaries.sort();
    Ok(binaries)
}

/// The name under which a binary is found on PATH.
pub(crate) fn name(binary: &Path) -> Result<&str> {
    binary
        .file_name()
        .and_then(|name| name.to_str())
        .with_context(|| format!("{} has no name", binary.display()))
}
