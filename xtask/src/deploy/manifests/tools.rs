//! kubectl and Helm: programs of this machine where they are, else Debian's kubectl and the Helm engine of a Python package.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::parsed;
use crate::apt::Apt;
use crate::cache::{Cache, Staged};
use crate::command;

/// The package that has Helm's engine as a library, since nobody packages the program.
const HELM: &str = "helm-python-sdk==0.2.2";
/// Renders a chart, or checks it; prints JSON.
const RENDER: &str = r#"
import json, sys
from helm_python import chart
task, path, values = sys.argv[1:4]
if task == "lint":
    print(json.dumps(chart.lint(path, json.loads(values), strict=True)))
else:
    files = chart.Chart.load(path).render(json.loads(values), name="ctpressure", namespace="ctpressure")
    print(json.dumps([text for name, text in sorted(files.items()) if name.endswith(".yaml")]))
"#;

/// The programs.
#[derive(Debug)]
pub(super) struct Tools {
    pub(super) kubectl: PathBuf,
    helm: PathBuf,
}

impl Tools {
    /// Brings what is not there.
    pub(super) fn get(cache: &Cache) -> Result<Self> {
        let kubectl = kubectl(cache)?;
        let helm = cache.tools().join("helm");
        if !helm.is_dir() {
            bring_helm(cache, &helm)?;
        }
        Ok(Self { kubectl, helm })
    }

    /// The objects that kustomize makes of a folder.
    pub(super) fn kustomize(&self, folder: &Path) -> Result<Vec<Value>> {
        let text = command::output(Command::new(&self.kubectl).arg("kustomize").arg(folder))?;
        objects(&text)
    }

    /// The objects that the chart makes with these values.
    pub(super) fn helm(&self, chart: &Path, values: &str) -> Result<Vec<Value>> {
        let files = parsed(&mut self.engine("render", chart, values)?)?;
        let files = files.as_array().context("a list of files")?;
        let texts: Vec<&str> = files.iter().filter_map(Value::as_str).collect();
        objects(&texts.join("\n---\n"))
    }

    /// Helm's own check.
    pub(super) fn lint(&self, chart: &Path) -> Result<()> {
        let said = parsed(&mut self.engine("lint", chart, "{}")?)?;
        let messages = said["messages"].as_array().context("messages")?;
        // 1 is advice (it would like an icon).
        if let Some(worse) = messages
            .iter()
            .find(|message| message["severity"].as_u64().unwrap_or(9) > 1)
        {
            bail!("Helm's lint: {worse}");
        }
        Ok(())
    }

    fn engine(&self, task: &str, chart: &Path, values: &str) -> Result<Command> {
        let mut python = command::required("python3", "python3", "runs the Helm engine")?;
        python.env("PYTHONPATH", &self.helm).arg("-c").arg(RENDER);
        python.arg(task).arg(chart).arg(values);
        Ok(python)
    }
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
    let own = cache.programs().join("kubectl");
    match command::find("kubectl") {
        Some(kubectl) => Ok(kubectl),
        None if own.is_file() => Ok(own),
        None => bring_kubectl(cache, &own),
    }
}

fn bring_kubectl(cache: &Cache, target: &Path) -> Result<PathBuf> {
    command::say("kubectl: renders and applies the manifests");
    let _lock = cache.lock()?;
    let apt = Apt::for_guests(cache)?;
    apt.update(false)?;
    let folder = tempfile::tempdir().context("make a folder")?;
    apt.unpack_only(&["kubectl/trixie".to_owned()], folder.path())?;
    let staged = Staged::new(target)?;
    fs::copy(folder.path().join("usr/bin/kubectl"), staged.path()).context("copy kubectl")?;
    staged.publish()?;
    Ok(target.to_owned())
}

fn bring_helm(cache: &Cache, target: &Path) -> Result<()> {
    command::say("Helm's engine: renders the chart (75 MB)");
    let _lock = cache.lock()?;
    let staged = Staged::new(target)?;
    let mut pip = command::required("python3", "python3-pip", "brings the Helm engine")?;
    pip.args(["-m", "pip", "install", "--no-deps"]);
    if !command::watched() {
        pip.arg("--quiet");
    }
    command::run(pip.arg("--target").arg(staged.path()).arg(HELM))
        .context("by hand: python3 -m pip install into a folder, see the error")?;
    staged.publish()
}
