//! The command: `ctpressure report`, and `ctpressure-report` where there is no agent.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use clap::Args;
use ctpressure_journal::{NetnsId, Reader};
use ctpressure_model::{
    command_line::{Failure, Output, OutputArgs, print},
    words::time::{self, Moment},
};
use serde::Serialize;

use crate::{document::Report, evidence::Span, file, gather, html, incidents::Incident, text};

/// Where the agent keeps its journal in the deployments that come with it.
const JOURNAL: &str = "/var/lib/ctpressure";

/// Report what happened: who filled a table, who lost packets, why, and what to do
///
/// Reads the journal of the running agent (`ctpressure run --journal`), or a file copied from another
/// node, for which no privileges are needed. Without a time: lists the incidents, the newest first.
///
/// Times are UTC: RFC 3339 (2026-03-01T03:12:00Z), HH:MM (the last one that the journal has), or a time
/// before the journal's end (-2h).
#[derive(Args, Debug)]
pub struct ReportCommand {
    /// Folder of the journal, or a file copied from there
    #[arg(long, env = "CTPRESSURE_JOURNAL", value_name = "PATH", default_value = JOURNAL)]
    journal: PathBuf,
    /// Start of the time to report
    #[arg(long, value_name = "TIME", value_parser = time::parse, allow_hyphen_values = true, group = "what")]
    since: Option<Moment>,
    /// End of the time to report [default: the journal's end]
    #[arg(
        long,
        value_name = "TIME",
        value_parser = time::parse,
        allow_hyphen_values = true,
        requires = "since"
    )]
    until: Option<Moment>,
    /// The incident with this number in the list; 1 is the newest
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), group = "what")]
    incident: Option<u32>,
    /// Write one self-contained HTML file; `-` prints it
    #[arg(long, value_name = "FILE", requires = "what")]
    html: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

/// The list as JSON.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct List<'a> {
    since: String,
    until: String,
    incidents: Vec<IncidentRow<'a>>,
}

/// An incident with its number and names.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct IncidentRow<'a> {
    number: usize,
    table_name: &'a str,
    began: String,
    ended: String,
    #[serde(flatten)]
    incident: &'a Incident,
}

impl ReportCommand {
    /// Reads the journal, and prints or writes what was asked for.
    ///
    /// # Errors
    /// A [`Failure`], or a [`JournalError`](ctpressure_journal::JournalError): both say what to do.
    pub fn run(self) -> anyhow::Result<()> {
        let reader = Reader::open(&self.journal)?;
        let Some(covered) = gather::covered(&reader)? else {
            return Err(failure(
                format!("nothing was recorded yet in {}", reader.path().display()),
                "the agent writes its first second when conntrack is loaded and its probes are attached",
            ));
        };
        let document = match (self.incident, self.since) {
            (Some(number), _) => Self::of_incident(&reader, covered, number)?,
            (None, Some(since)) => self.of_span(&reader, covered, since)?,
            (None, None) => {
                let (incidents, names) = gather::incidents(&reader, covered)?;
                return Ok(print(&self.list(&incidents, &names, covered)?)?);
            }
        };
        let page = self.html.as_ref().map(|path| (path, html::page(&document)));
        let page = match page {
            // A container may have no place to write to, and no way to fetch a file.
            Some((path, page)) if path == Path::new("-") => return Ok(print(&page)?),
            page => page,
        };
        let printed = match (self.output.output, &self.html) {
            (Output::Json, _) => format!("{}\n", serde_json::to_string(&document)?),
            (Output::Text, None) => text::report(&document),
            (Output::Text, Some(path)) => {
                format!(
                    "{}\n\nThe report is in {}.\n",
                    document.summary.join("\n"),
                    path.display()
                )
            }
        };
        if let Some((path, page)) = page {
            file::write_whole(path, &page)?;
        }
        Ok(print(&printed)?)
    }

    fn of_incident(reader: &Reader, covered: Span, number: u32) -> anyhow::Result<Report> {
        let (incidents, _) = gather::incidents(reader, covered)?;
        // The first one is number 1.
        let chosen = incidents.iter().zip(1..).find(|(_, at)| *at == number);
        let Some((incident, _)) = chosen else {
            return Err(failure(
                match incidents.len() {
                    0 => "the journal has no incident".to_owned(),
                    1 => format!("there is no incident {number}: the journal has one"),
                    several => format!("there is no incident {number}: the journal has {several}"),
                },
                "`ctpressure report` lists them; --since and --until report about any time",
            ));
        };
        let focus = Span {
            from: incident.from,
            until: incident.until,
        };
        let shown = gather::around(focus, covered);
        Ok(Report::new(&gather::evidence(
            reader,
            focus,
            shown,
            Some(incident.netns),
        )?))
    }

    fn of_span(&self, reader: &Reader, covered: Span, since: Moment) -> anyhow::Result<Report> {
        let end = covered.until;
        let asked = Span {
            from: since.resolve(end),
            until: self.until.map_or(end, |until| until.resolve(end)),
        };
        if self.until.is_some() && asked.until <= asked.from {
            return Err(failure(
                format!(
                    "--until ({}) is not after --since ({})",
                    time::rfc3339(asked.until),
                    time::rfc3339(asked.from)
                ),
                "times are UTC; HH:MM is the last such time that the journal has",
            ));
        }
        let span = Span {
            from: asked.from.max(covered.from),
            until: asked.until.min(covered.until),
        };
        if span.until <= span.from {
            return Err(failure(
                format!("the journal has nothing from {asked}"),
                &format!("it has {covered} (UTC)"),
            ));
        }
        let (incidents, names) = gather::incidents(reader, span)?;
        let worst = incidents
            .iter()
            .max_by_key(|one| (one.drops + one.evictions, one.pressure, one.entries));
        let Some(worst) = worst else {
            return Ok(Report::new(&gather::evidence(reader, span, span, None)?));
        };
        let focus = Span {
            from: worst.from.max(span.from),
            until: worst.until.min(span.until),
        };
        let shown = gather::around(focus, span);
        let evidence = gather::evidence(reader, focus, shown, Some(worst.netns))?;
        let mut document = Report::new(&evidence);
        document.notes.extend(others(&incidents, worst, &names));
        Ok(document)
    }

    fn list(
        &self,
        incidents: &[Incident],
        names: &BTreeMap<NetnsId, String>,
        covered: Span,
    ) -> anyhow::Result<String> {
        if self.output.output == Output::Text {
            return Ok(text::incidents(incidents, names, covered));
        }
        let list = List {
            since: time::rfc3339(covered.from),
            until: time::rfc3339(covered.until),
            incidents: (1..)
                .zip(incidents)
                .map(|(number, incident)| IncidentRow {
                    number,
                    table_name: names.get(&incident.netns).map_or("", String::as_str),
                    began: time::rfc3339(incident.from),
                    ended: time::rfc3339(incident.until),
                    incident,
                })
                .collect(),
        };
        Ok(format!("{}\n", serde_json::to_string(&list)?))
    }
}

/// The other incidents of the time that was asked for.
fn others(
    incidents: &[Incident],
    worst: &Incident,
    names: &BTreeMap<NetnsId, String>,
) -> Vec<String> {
    const SHOWN: usize = 5;
    let others: Vec<&Incident> = incidents.iter().filter(|one| *one != worst).collect();
    let mut notes: Vec<String> = others
        .iter()
        .take(SHOWN)
        .map(|one| {
            format!(
                "Another incident in the time that was asked for: {} UTC, table {}, {} packets lost, {} entries \
                 evicted.",
                time::between(one.from, one.until, worst.from),
                names.get(&one.netns).map_or("?", String::as_str),
                one.drops,
                one.evictions
            )
        })
        .collect();
    if others.len() > SHOWN {
        notes.push(format!("And {} incidents more.", others.len() - SHOWN));
    }
    notes
}

fn failure(what: String, help: &str) -> anyhow::Error {
    Failure {
        what,
        help: help.to_owned(),
    }
    .into()
}

#[cfg(test)]
mod tests {
    use ctpressure_tests::schemas;
    use schemars::generate::SchemaSettings;

    use super::*;

    #[test]
    fn the_schemas_are_those_of_the_output() {
        let generator = || {
            SchemaSettings::draft2020_12()
                .for_serialize()
                .into_generator()
        };
        let report = generator().into_root_schema_for::<Report>();
        schemas::hold("report", report.to_value());
        let list = generator().into_root_schema_for::<List<'_>>();
        schemas::hold("incidents", list.to_value());
    }
}
