//! Each `ctpressure` command line in the documents, as it is written there: beside the agent that the
//! documents start, while a table is full. What is JSON is held against its schema.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

use super::setting::MANY_BUCKETS;
use crate::{
    documents::{DOCUMENTS, command_lines},
    guest::{
        agent::Mechanism,
        checks::Checks,
        command::{self, HANG, wait_for},
        generator, kernel, net,
    },
    schemas,
};

/// The agent that the others ask: with the journal that `report` reads unless told otherwise.
const AGENT: &str = "run --journal /var/lib/ctpressure";
const JOURNAL: &str = "/var/lib/ctpressure";
const READY: &str = "http://127.0.0.1:9743/readyz";
const LIMIT: u64 = 2_000;
/// What would go on for longer is told to end, as by Ctrl-C.
const PATIENCE: Duration = Duration::from_secs(5);

/// A command line that runs; killed when dropped.
struct Running {
    line: String,
    child: Child,
    /// It is run in this folder.
    folder: TempDir,
}

impl Running {
    fn start(line: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("ctp-line-").tempdir()?;
        let file = |name: &str| File::create(folder.path().join(name));
        let mut command = Command::new("ctpressure");
        command
            .args(line.split_whitespace())
            .current_dir(folder.path());
        command
            .stdin(Stdio::null())
            .stdout(file("out")?)
            .stderr(file("err")?);
        Ok(Self {
            line: line.to_owned(),
            child: command::spawn(&mut command)?,
            folder,
        })
    }

    fn said(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }

    /// Gives it some time, then tells it to end by this signal if it has not; an error unless it ends well. Gives
    /// whether it ended by itself.
    fn finish(&mut self, patience: Duration, signal: Signal) -> Result<bool> {
        let by_itself = command::wait(&mut self.child, patience)?;
        let status = if let Some(status) = by_itself {
            status
        } else {
            let pid = Pid::from_raw(i32::try_from(self.child.id())?);
            kill(pid, signal).with_context(|| format!("send {signal}"))?;
            command::wait_for_end("the command, told to end,", &mut self.child, HANG)?
        };
        // The doctor found something.
        let findings = self.line.starts_with("doctor") && status.code() == Some(1);
        ensure!(
            status.success() || findings,
            "{status}: {}",
            command::one_line(&self.said("err"))
        );
        Ok(by_itself.is_some())
    }

    /// An error unless it printed what it should have.
    fn check_output(&self) -> Result<()> {
        let said = self.said("out");
        let lines = said.lines().filter(|line| !line.trim().is_empty());
        let words: Vec<&str> = self.line.split_whitespace().collect();
        if let Some(form) = schemas::form(&words) {
            let mut printed = 0;
            for value in serde_json::Deserializer::from_str(&said).into_iter::<Value>() {
                let value =
                    value.with_context(|| format!("no JSON: {}", command::one_line(&said)))?;
                if let Some(fault) = schemas::fault(form, &value)? {
                    bail!("not as deploy/schemas/{form}.json has it: {fault}");
                }
                printed += 1;
            }
            // A list that a document asks for by a filter may have no line: of entries in a state that none is in just now.
            let may_be_empty =
                !OF_EACH_FORM.contains(&&*self.line) && ["table-list", "watch"].contains(&form);
            ensure!(printed > 0 || may_be_empty, "it printed no JSON");
        } else if !self.line.starts_with("watch") {
            ensure!(lines.count() > 0, "it printed nothing");
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Either it is already gone, or it is to be.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// An agent, ready.
fn agent(line: &str) -> Result<Running> {
    let mut running = Running::start(line)?;
    wait_for("the agent to be ready", HANG, || {
        if let Some(status) = running.child.try_wait()? {
            anyhow::bail!("{status}: {}", command::one_line(&running.said("err")));
        }
        let answer = minreq::get(READY).with_timeout(HANG.as_secs()).send();
        Ok(answer
            .is_ok_and(|answer| answer.status_code == 200)
            .then_some(()))
    })?;
    Ok(running)
}

/// What stands in the documents for something else: a folder, and times of which there is no journal here.
const STANDS_FOR: &[(&str, &str)] = &[
    (" DIR", " /var/lib/ctpressure"),
    ("03:00", "-1m"),
    ("03:30", "-1s"),
];

/// Of each form of JSON one line at least, whatever the documents have.
const OF_EACH_FORM: &[&str] = &[
    "contain --list -o json",
    "doctor -o json",
    "health -o json",
    "health --ready -o json",
    "limit -o json",
    "report -o json",
    "report --incident 1 -o json",
    "status",
    "table --by owner,destination,state,age,nat,zone,netns -o json",
    "table --census ctnetlink -o json",
    "table --list -o json",
    "top --once -o json",
    "watch --inserts --count 500 -o json",
];

/// All lines of the documents, once each. What asks the API of Kubernetes is left to the clusters.
fn lines() -> BTreeSet<String> {
    let of_documents = DOCUMENTS.iter();
    of_documents
        .flat_map(|(_, text)| command_lines(text, "ctpressure"))
        .chain(OF_EACH_FORM.iter().map(|line| (*line).to_owned()))
        .filter(|line| !line.contains("--kube"))
        .map(|line| {
            let replace = |line: String, (from, to): &(&str, &str)| line.replace(from, to);
            STANDS_FOR.iter().fold(line, replace)
        })
        // There is no pod here: the scenario `contain` has some.
        .map(|line| match line.strip_prefix("contain ") {
            Some(rest) if !rest.contains("--list") => "contain --list".to_owned(),
            _ => line,
        })
        .collect()
}

fn note(checks: &mut Checks, line: &str, result: Result<()>) {
    if let Err(error) = result {
        checks.holds(false, || format!("`ctpressure {line}`: {error:#}"));
    }
}

pub(super) fn command_lines_run(_: Option<Mechanism>) -> Result<()> {
    kernel::never_expire()?;
    kernel::set_sysctl("nf_conntrack_buckets", MANY_BUCKETS)?;
    kernel::set_limit(LIMIT)?;
    net::track_into_dead_end(None)?;
    // Every system has the folder that it is made in.
    fs::create_dir_all(JOURNAL)?;
    fs::remove_dir_all(JOURNAL)?;
    let (agents, others): (Vec<String>, Vec<String>) = lines()
        .into_iter()
        .partition(|line| line.starts_with("run"));
    let (endless, others): (Vec<String>, Vec<String>) = others
        .into_iter()
        .partition(|line| line.starts_with("watch") || line == "top");
    let mut checks = Checks::new();
    let mut first = agent(AGENT)?;
    let traffic = generator::start(None, "--flows 1000000 --rate 300 --destination-ports 53")?;
    wait_for("an incident in the journal", HANG, || {
        Ok(command::output("ctpressure", &["report", "--incident", "1"]).ok())
    })?;
    let mut running: Vec<Running> = endless
        .iter()
        .map(|line| Running::start(line))
        .collect::<Result<_>>()?;
    thread::sleep(PATIENCE);
    let mut counted = 0;
    for watch in &mut running {
        let ended = watch.finish(Duration::ZERO, Signal::SIGINT);
        counted += usize::from(*ended.as_ref().unwrap_or(&false));
        note(
            &mut checks,
            &watch.line,
            ended.and_then(|_| watch.check_output()),
        );
    }
    for line in &others {
        let mut running = Running::start(line)?;
        let ended = running.finish(HANG, Signal::SIGINT);
        note(
            &mut checks,
            line,
            ended.and_then(|_| running.check_output()),
        );
        // Some lines set it.
        kernel::set_limit(LIMIT)?;
    }
    drop(traffic);
    note(
        &mut checks,
        AGENT,
        first.finish(Duration::ZERO, Signal::SIGTERM).map(drop),
    );

    for line in agents.iter().filter(|line| *line != AGENT) {
        let result = if line.contains("--help") {
            Running::start(line)?.finish(HANG, Signal::SIGINT).map(drop)
        } else {
            agent(line)
                .and_then(|mut agent| agent.finish(Duration::ZERO, Signal::SIGTERM).map(drop))
        };
        note(&mut checks, line, result);
    }
    println!(
        "{} command lines, {counted} watches that ended by themselves",
        agents.len() + endless.len() + others.len()
    );
    checks.at_least("watches that had enough", counted as u64, 2);
    drop(fs::remove_dir_all(JOURNAL));
    checks.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_of_json_is_printed() {
        let printed: BTreeSet<&str> = OF_EACH_FORM
            .iter()
            .filter_map(|line| schemas::form(&line.split_whitespace().collect::<Vec<_>>()))
            .collect();
        assert_eq!(printed, schemas::forms().collect());
    }
}
