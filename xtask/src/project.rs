//! Building what goes into a guest: static binaries of this workspace.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cache::Cache;
use crate::{command, cross};

/// The packages whose binaries are on PATH in a guest.
const PACKAGES: &[&str] = &["conntrack-user", "ctpressure-tests"];
const INIT: &str = "ctpressure-guest-init";

/// Builds the binaries for guests in a cargo profile and says where they are.
pub(crate) fn binaries(cache: &Cache, profile: &str) -> Result<Vec<PathBuf>> {
    let mut arguments = vec!["--bins"];
    for package in PACKAGES {
        arguments.extend(["--package", package]);
    }
    let binaries = build(cache, profile, &arguments)?;
    if !binaries
        .iter()
        .any(|path| path.file_name().is_some_and(|name| name == "ctpressure"))
    {
        bail!("cargo built no binary named ctpressure");
    }
    Ok(binaries)
}

/// Builds the first process of a guest.
pub(crate) fn init(cache: &Cache) -> Result<PathBuf> {
    let binaries = build(cache, "release", &["--package", "xtask", "--bin", INIT])?;
    binaries
        .into_iter()
        .next()
        .context("cargo built no first process for the guest")
}

fn build(cache: &Cache, profile: &str, arguments: &[&str]) -> Result<Vec<PathBuf>> {
    let mut cargo = command::cargo();
    cargo
        .args(["build", "--profile", profile, "--target"])
        .arg(cache.arch().target())
        .args(arguments);
    cross::prepare(cache, &mut cargo)?;
    cargo.arg("--message-format=json-render-diagnostics");
    if !command::watched() {
        cargo.arg("--quiet");
    }
    let output = cargo
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("start `{}`", command::shown(&cargo)))?;
    if !output.status.success() {
        bail!(
            "the build for the guest failed (`{}`)",
            command::shown(&cargo)
        );
    }
    let mut binaries = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
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
