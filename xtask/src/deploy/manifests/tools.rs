//! kubectl, of this machine where it is, else Debian's; and Helm with the chart.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::apt::Apt;
use crate::cache::Cache;
use crate::deploy::chart::{Chart, objects};
use crate::groups::SUITE;
use crate::{command, files, helm};

pub(super) struct Tools {
    pub(super) kubectl: PathBuf,
    pub(super) chart: Chart,
}

impl Tools {
    /// Brings what is not there.
    pub(super) fn get(cache: &Cache) -> Result<Self> {
        Ok(Self {
            kubectl: kubectl(cache)?,
            chart: Chart::new(helm::get(cache)?)?,
        })
    }

    /// The objects that kustomize makes of a folder.
    pub(super) fn kustomize(&self, folder: &Path) -> Result<Vec<Value>> {
        let text = command::output(Command::new(&self.kubectl).arg("kustomize").arg(folder))?;
        objects(&text)
    }

    /// The same of a variant with a component besides, as somebody would combine them; both are folders of `deploy/kubernetes`.
    pub(super) fn with_component(&self, variant: &str, component: &str) -> Result<Vec<Value>> {
        // kustomize takes no folder by an absolute path.
        let target = command::repository().join("target");
        files::folder(&target)?;
        let here = tempfile::tempdir_in(target).context("make a folder for a kustomization")?;
        let kustomization = json!({
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [format!("../../deploy/kubernetes/{variant}")],
            "components": [format!("../../deploy/kubernetes/{component}")],
        });
        let file = here.path().join("kustomization.yaml");
        files::write(&file, kustomization.to_string())?;
        self.kustomize(here.path())
    }
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
