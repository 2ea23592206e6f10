//! `cargo xtask generate`: writes the files that are made from others. A test says when one is not current.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use super::exported::Exported;
use super::{chart_readme, dashboard, folder, kernels, rendered, runbooks};
use crate::cache::Cache;
use crate::command;
use crate::files;

/// What `cargo xtask generate` takes.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Write nothing; the exit status is 1 when a file is not what would be written
    #[arg(long)]
    check: bool,
    /// The table of kernels too, from the results of the last `cargo xtask test`
    #[arg(long)]
    kernels: bool,
}

/// A file that is made.
struct Made {
    path: PathBuf,
    content: String,
}

impl Made {
    fn is_current(&self) -> bool {
        fs::read_to_string(&self.path).is_ok_and(|found| found == self.content)
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<i32> {
    let mut stale = 0;
    let mut made = all()?;
    if arguments.kernels {
        let path = documents().join("kernels.md");
        let content = kernels::document(&files::text(&path)?)?;
        made.push(Made { path, content });
    }
    for made in made {
        if made.is_current() {
            continue;
        }
        let path = made.path.display();
        if arguments.check {
            eprintln!("xtask: {path} is not current");
            stale += 1;
        } else {
            let parent = made.path.parent().context("a file has a folder")?;
            files::folder(parent)?;
            fs::write(&made.path, &made.content).with_context(|| format!("write {path}"))?;
            command::say(&format!("wrote {path}"));
        }
    }
    if stale > 0 {
        eprintln!("help: `cargo xtask generate` writes them");
    }
    Ok(i32::from(stale > 0))
}

/// Everything that is made.
fn all() -> Result<Vec<Made>> {
    let made = |path: &str, content: String| Made {
        path: folder().join(path),
        content,
    };
    let read = |path: &str| files::text(&folder().join(path));
    let helm = Cache::open()?.program("helm");
    let helm = helm.context("helm is missing: run `cargo xtask setup`")?;
    let records = read("prometheus/records.rules.yaml")?;
    let pages = runbooks::Base::read()?;
    let alerts = pages.written_into(&read("prometheus/alerts.rules.yaml")?);
    let chart = read("helm/ctpressure/Chart.yaml")?;
    let values = read("helm/ctpressure/values.yaml")?;
    let mut all = vec![
        made("grafana/ctpressure.json", dashboard::json()?),
        made(
            "helm/ctpressure/README.md",
            chart_readme::readme(&chart, &values)?,
        ),
        made(
            "kubernetes/monitoring/prometheusrule.yaml",
            rule_object(&records, &alerts),
        ),
        made("prometheus/alerts.rules.yaml", alerts),
        Made {
            path: documents().join("metrics.md"),
            content: metrics(&Exported::read()?)?,
        },
    ];
    for (path, content) in rendered::files(&helm)? {
        all.push(made(&path, content));
    }
    for path in runbooks::tests()? {
        let content = pages.written_into(&files::text(&path)?);
        all.push(Made { path, content });
    }
    Ok(all)
}

/// Where the documents are.
fn documents() -> PathBuf {
    command::repository().join("docs")
}

/// The rules as an object of the Prometheus Operator.
fn rule_object(records: &str, alerts: &str) -> String {
    let mut text = String::from(
        "# Made by `cargo xtask generate` from prometheus/*.rules.yaml.\n\
         apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: ctpressure\n  labels:\n    \
         app.kubernetes.io/name: ctpressure\nspec:\n  groups:\n",
    );
    for rules in [records, alerts] {
        let groups = rules.lines().skip_while(|line| *line != "groups:").skip(1);
        for line in groups {
            if !line.is_empty() {
                text.push_str("  ");
                text.push_str(line);
            }
            text.push('\n');
        }
    }
    text
}

/// The reference of the metrics.
fn metrics(exported: &Exported) -> Result<String> {
    let mut text = String::from(
        "# Metrics\n\n\
         Made by `cargo xtask generate` from what the exporter writes. Owner labels are `owner_kind` (`pod`, `cgroup`, `host`, `unknown`) \
         and, as far as they apply, `namespace`, `pod`, `unit`; `netns` is what a table is called: `host`, whose it is (`shop/web`, with the owner's `namespace`, `pod` or `unit` to join by), else what its network namespace is kept as, or its inode number. Prometheus adds `node` \
         (see `deploy/prometheus/`).\n\n\
         | metric | type | labels | what it says |\n|---|---|---|---|\n",
    );
    for (name, family) in &exported.0 {
        let labels: Vec<String> = family
            .labels
            .iter()
            .map(|(label, values)| {
                let closed = matches!(
                    label.as_str(),
                    "direction" | "kind" | "owner_kind" | "reason" | "role" | "stat" | "state"
                );
                if closed {
                    let values: Vec<&str> = values.iter().map(String::as_str).collect();
                    format!("`{label}`: {}", values.join(", "))
                } else {
                    format!("`{label}`")
                }
            })
            .collect();
        let help = family.help.replace('|', "\\|");
        writeln!(
            text,
            "| `{name}` | {} | {} | {help} |",
            family.kind,
            labels.join("; ")
        )
        .context("write to a text")?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_from_other_files_is_current() {
        for made in all().unwrap() {
            assert!(
                made.is_current(),
                "{} is not current: `cargo xtask generate`",
                made.path.display()
            );
        }
    }
}
