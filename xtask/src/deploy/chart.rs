//! `cargo xtask chart`: the chart as people get it, with the rules and the dashboard, which stand elsewhere in the repository.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::Value;
use tempfile::NamedTempFile;

use super::folder;
use crate::cache::Cache;
use crate::{command, files, helm};

/// What a chart needs of the rest of `deploy`, since it can't read what is outside of it.
const COPIED: &[&str] = &[
    "prometheus/records.rules.yaml",
    "prometheus/alerts.rules.yaml",
    "grafana/ctpressure.json",
];

/// What `cargo xtask chart` takes.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Where the packed chart goes
    #[arg(long, value_name = "FOLDER", default_value = "target/chart")]
    output: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> Result<i32> {
    let helm = helm::get(&Cache::open()?)?;
    let staged = Staged::new()?;
    let output = command::repository().join(&arguments.output);
    files::folder(&output)?;
    let mut package = Command::new(helm);
    package.arg("package").arg(staged.path());
    command::run(package.arg("--destination").arg(&output))?;
    command::say(&format!("the chart is in {}", output.display()));
    Ok(0)
}

/// The chart as people get it, and what renders it.
pub(super) struct Chart {
    helm: PathBuf,
    staged: Staged,
}

impl Chart {
    /// With this Helm.
    pub(super) fn new(helm: PathBuf) -> Result<Self> {
        let staged = Staged::new()?;
        Ok(Self { helm, staged })
    }

    /// The objects that it makes with these values (JSON) for a server of this version.
    pub(super) fn render(&self, values: &str, server: &str) -> Result<Vec<Value>> {
        render(&self.helm, &self.staged.path(), values, server)
    }

    /// Whether Helm's lint finds nothing.
    pub(super) fn lint(&self) -> Result<()> {
        let mut helm = Command::new(&self.helm);
        helm.args(["lint", "--strict"]);
        command::output(helm.arg(self.staged.path())).map(drop)
    }
}

fn render(helm: &Path, chart: &Path, values: &str, server: &str) -> Result<Vec<Value>> {
    let mut file = NamedTempFile::new().context("make a file of values")?;
    file.write_all(values.as_bytes())
        .context("write the values")?;
    let mut helm = Command::new(helm);
    helm.args(["template", "ctpressure"]).arg(chart);
    helm.args(["--kube-version", server, "--namespace", "ctpressure"]);
    helm.arg("--values");
    objects(&command::output(helm.arg(file.path()))?)
}

/// The documents of a YAML text.
pub(super) fn objects(text: &str) -> Result<Vec<Value>> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).context("read the rendered YAML")?;
    Ok(documents
        .into_iter()
        .filter(|document| !document.is_null())
        .collect())
}

/// The chart with what is copied into it; it goes with the value.
struct Staged(tempfile::TempDir);

impl Staged {
    fn new() -> Result<Self> {
        let staged = Self(tempfile::tempdir().context("make a folder for the chart")?);
        let source = folder().join("helm/ctpressure");
        for file in files::below(&source)? {
            staged.add(&file, file.strip_prefix(&source)?)?;
        }
        for copied in COPIED {
            let file = folder().join(copied);
            let name = file.file_name().context("a file has a name")?;
            staged.add(&file, &Path::new("files").join(name))?;
        }
        Ok(staged)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("ctpressure")
    }

    fn add(&self, file: &Path, to: &Path) -> Result<()> {
        let to = self.path().join(to);
        files::folder(to.parent().context("a file has a folder")?)?;
        files::copy(file, &to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::kubernetes_versions::NEWEST;

    /// Who takes the chart out of the repository is told what is missing, and how to come by it.
    #[test]
    fn a_chart_that_was_not_packed_says_so() {
        let helm = Cache::open().unwrap().program("helm");
        let helm = helm.expect("helm is missing: run `cargo xtask setup`");
        let source = folder().join("helm/ctpressure");
        for value in ["prometheusRule", "dashboard"] {
            let values = format!(r#"{{"{value}":{{"enabled":true}}}}"#);
            let error = render(&helm, &source, &values, NEWEST).unwrap_err();
            assert!(error.to_string().contains("cargo xtask chart"), "{error}");
        }
        assert!(!render(&helm, &source, "{}", NEWEST).unwrap().is_empty());
    }
}
