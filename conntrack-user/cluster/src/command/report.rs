//! `report`: of one node, which its own agent makes; or of the whole cluster.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{ArgGroup, Args};
use ctpressure_model::{
    command_line::{Failure, Output, print},
    words::clean_lines,
};
use ctpressure_report::write_whole;

use super::{Common, REPORT, journals, since, status};
use crate::{answer::Ran, coverage::Why, page::page, text, view::report::ClusterReport};

/// Either a node, whose agent makes the report, or the whole cluster, whose report is made here of the nodes' own. Each node has 30 s.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("whose").required(true).args(["node", "cluster_wide"]))]
pub struct ReportCommand {
    /// Of this node; alone: the list of its incidents
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Of the whole cluster: which nodes, in which order, caused by which workload, and what to change once instead of node by node
    #[arg(long = "cluster")]
    cluster_wide: bool,
    /// The incident with this number in the node's list; 1 is the newest
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), conflicts_with_all = ["cluster_wide", "since"])]
    incident: Option<u32>,
    /// Start: 24h or -24h (ago), RFC 3339, or HH:MM (UTC) [default with --cluster: 24h]
    #[arg(long, value_name = "TIME", value_parser = checked, allow_hyphen_values = true)]
    since: Option<String>,
    /// End [default: now]
    #[arg(long, value_name = "TIME", value_parser = checked, allow_hyphen_values = true, conflicts_with = "incident")]
    until: Option<String>,
    /// Write one self-contained HTML file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

/// A time, kept as it was written: a node's agent takes it by its own clock and journal.
fn checked(text: &str) -> Result<String, String> {
    since::parse(text).map_err(|error| error.to_string())?;
    let is_age = humantime::parse_duration(text.trim()).is_ok();
    Ok(if is_age {
        format!("-{}", text.trim())
    } else {
        text.to_owned()
    })
}

impl ReportCommand {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        match &self.node {
            Some(node) => self.of_node(node).await,
            None => self.of_cluster().await,
        }
    }

    /// The page of a node is made by its agent, and printed there: its container has no place to write to.
    async fn of_node(&self, node: &str) -> anyhow::Result<ExitCode> {
        let is_list = self.incident.is_none() && self.since.is_none();
        if is_list && self.html.is_some() {
            return Err(failure(
                "a page is of one incident, or of a time",
                "give --incident, or --since and --until too",
            ));
        }
        let reached = self.common.reach(&[node.to_owned()], REPORT).await?;
        let Some(agent) = reached.fleet.agents.first() else {
            let silent = reached.fleet.silent.first();
            let (why, help) = silent.map_or(("no agent is there", ""), |it| (&it.why, &it.help));
            return Err(failure(&format!("{node}: {why}"), help));
        };
        let ask = |form: &[&str]| vec![(agent, self.question(form))];
        let is_json = self.common.output.output == Output::Json;
        let form: &[&str] = if is_json {
            &["--output", "json"]
        } else {
            &["--output", "text"]
        };
        let mut said = reached
            .crowd
            .ask(ask(form), if is_json { json } else { Ran::text })
            .await;
        let printed = said
            .remove(0)
            .answer
            .map_err(|why| failure(&format!("{node}: {}", why.why), &why.help))?;
        let Some(path) = &self.html else {
            print(&clean_lines(&printed))?;
            return Ok(ExitCode::SUCCESS);
        };
        let mut pages = reached.crowd.ask(ask(&["--html", "-"]), Ran::text).await;
        let made = pages
            .remove(0)
            .answer
            .map_err(|why| failure(&format!("{node}: {}", why.why), &why.help))?;
        if !made.starts_with("<!doctype html>") {
            return Err(failure(
                &format!("{node}: its agent does not print a page"),
                "agents of before this version can't: update it, or copy its journal and use ctpressure-report",
            ));
        }
        write_whole(path, &made)?;
        self.print_written(path, &clean_lines(&printed))?;
        Ok(ExitCode::SUCCESS)
    }

    fn question(&self, form: &[&str]) -> Vec<String> {
        let mut question = vec!["report".to_owned()];
        let incident = self.incident.map(|number| number.to_string());
        for (name, value) in [
            ("incident", &incident),
            ("since", &self.since),
            ("until", &self.until),
        ] {
            question.extend(value.iter().map(|value| format!("--{name}={value}")));
        }
        question.extend(form.iter().map(|word| (*word).to_owned()));
        question
    }

    async fn of_cluster(&self) -> anyhow::Result<ExitCode> {
        let moment = |text: &Option<String>| text.as_deref().map(since::parse).transpose();
        let time = since::TimeArgs::new(moment(&self.since)?, moment(&self.until)?);
        let asked = time.asked()?;
        let reached = self.common.reach(&[], REPORT).await?;
        let (coverage, journals) = journals::read(&reached, asked).await?;
        let report = ClusterReport::new(coverage, asked, journals);
        let Some(path) = &self.html else {
            return self
                .common
                .print(&report, &report.coverage, text::report::report);
        };
        write_whole(path, &page(&report))?;
        let printed = match self.common.output.output {
            Output::Json => format!("{}\n", serde_json::to_string(&report)?),
            Output::Text => {
                let mut out = String::new();
                for sentence in &report.summary {
                    text::wrap(&mut out, "", sentence, 0);
                }
                text::ending(&mut out, &report.coverage, super::look());
                out
            }
        };
        self.print_written(path, &printed)?;
        Ok(status(&report.coverage))
    }

    fn print_written(&self, path: &Path, printed: &str) -> anyhow::Result<()> {
        let place = match self.common.output.output {
            Output::Json => String::new(),
            Output::Text => format!("\nThe report is in {}.\n", path.display()),
        };
        Ok(print(&format!("{printed}{place}"))?)
    }
}

/// An answer that is JSON, as it is.
fn json(ran: &Ran) -> Result<String, Why> {
    let value: serde_json::Value = ran.json()?;
    Ok(format!("{value}\n"))
}

fn failure(what: &str, help: &str) -> anyhow::Error {
    let help = if help.is_empty() {
        "see `kubectl ctpressure doctor`"
    } else {
        help
    };
    Failure {
        what: clean_lines(what).into_owned(),
        help: help.to_owned(),
    }
    .into()
}
