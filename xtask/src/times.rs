//! How long each part of a run took: shown at its end, longest first, and kept for programs.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::files;
use crate::stolen::Share;

/// Where the last run's times are, below the repository.
pub(crate) const FILE: &str = "target/test-times.json";

/// What a time is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A whole part of the run: the checks of the host, or a guest from its start to its end.
    Stage,
    /// A check of the host, or a scenario in a guest.
    Test,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Passed,
    Failed,
    /// It missed a time limit while its guest was kept waiting: it is tried once more.
    Starved,
    /// A fault of the emulator ended its guest: it is tried once more.
    Emulator,
}

impl Ending {
    pub(crate) fn of(passed: bool) -> Self {
        if passed { Self::Passed } else { Self::Failed }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Starved => "starved",
            Self::Emulator => "emulator",
        }
    }
}

/// How long one part took.
#[derive(Clone, Debug)]
pub(crate) struct Timed {
    pub(crate) what: What,
    /// The stage that it belongs to (or is): `host`, or what the guest is called.
    pub(crate) stage: String,
    /// Version of the guest's kernel.
    pub(crate) kernel: Option<String>,
    /// Of a test: its name.
    pub(crate) test: Option<String>,
    pub(crate) share: Share,
    pub(crate) ending: Ending,
}

/// The table, of stages and then of tests.
pub(crate) fn table(times: &[Timed]) -> String {
    let mut text = String::new();
    for (what, title) in [(What::Stage, "stages"), (What::Test, "tests")] {
        let mut rows: Vec<&Timed> = times.iter().filter(|timed| timed.what == what).collect();
        if rows.is_empty() {
            continue;
        }
        rows.sort_by(|one, other| other.share.seconds.total_cmp(&one.share.seconds));
        // Writing to a text can't fail.
        let _ = writeln!(
            text,
            "\n{title}, longest first: seconds, those on a CPU of the host, those that the host kept a guest's CPU waiting"
        );
        for timed in rows {
            let of_guest = timed.kernel.is_some();
            let processor = of_guest.then(|| format!("{:.1}", timed.share.processor));
            let stolen = timed.share.stolen.map(|stolen| format!("{stolen:.1}"));
            let ending = match timed.ending {
                Ending::Passed => "",
                other => other.word(),
            };
            let line = format!(
                "{:>8.1} {:>8} {:>8}  {:<24} {} {ending}",
                timed.share.seconds,
                processor.as_deref().unwrap_or("-"),
                stolen.as_deref().unwrap_or("-"),
                timed.stage,
                timed.test.as_deref().unwrap_or(""),
            );
            let _ = writeln!(text, "{}", line.trim_end());
        }
    }
    text
}

/// Keeps them: what could not be seen is null. `filter`: by which only some tests were run.
pub(crate) fn write(
    path: &Path,
    filter: Option<&str>,
    seconds: f64,
    times: &[Timed],
) -> Result<()> {
    let rows = |what: What| -> Vec<Value> {
        let rows = times.iter().filter(|timed| timed.what == what);
        rows.map(row).collect()
    };
    let document = json!({
        "filter": filter,
        "seconds": rounded(seconds),
        "stages": rows(What::Stage),
        "tests": rows(What::Test),
    });
    let text = serde_json::to_string_pretty(&document).context("write the times as JSON")?;
    if let Some(folder) = path.parent() {
        files::folder(folder)?;
    }
    files::write(path, text + "\n")
}

fn row(timed: &Timed) -> Value {
    let of_guest = timed.kernel.is_some();
    let mut row = json!({
        "stage": timed.stage,
        "kernel": timed.kernel,
        "seconds": rounded(timed.share.seconds),
        "processor_seconds": of_guest.then(|| rounded(timed.share.processor)),
        "stolen_seconds": timed.share.stolen.map(rounded),
        "result": timed.ending.word(),
    });
    if let Some(test) = &timed.test {
        row["scenario"] = test.as_str().into();
    }
    row
}

fn rounded(seconds: f64) -> f64 {
    (seconds * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn times() -> Vec<Timed> {
        let timed = |what, test: Option<&str>, seconds, stolen, ending| Timed {
            what,
            stage: "6.12.118 pods".to_owned(),
            kernel: Some("6.12.118-cloud".to_owned()),
            test: test.map(str::to_owned),
            share: Share {
                seconds,
                processor: 1.5,
                stolen,
            },
            ending,
        };
        vec![
            timed(What::Test, Some("short"), 2.0, Some(0.0), Ending::Passed),
            timed(What::Test, Some("long"), 20.0, Some(9.0), Ending::Starved),
            timed(What::Stage, None, 25.0, None, Ending::Passed),
            Timed {
                stage: "host".to_owned(),
                kernel: None,
                ..timed(What::Test, Some("lints"), 7.0, None, Ending::Failed)
            },
        ]
    }

    #[test]
    fn the_longest_comes_first_and_nothing_is_made_up() {
        let table = table(&times());
        let found: Vec<&str> = ["25.0", "long", "lints", "short"]
            .into_iter()
            .filter(|word| table.contains(word))
            .collect();
        assert_eq!(found.len(), 4, "{table}");
        let at = |word: &str| table.find(word).unwrap();
        assert!(at("25.0") < at("long starved"), "{table}");
        assert!(at("long") < at("lints failed") && at("lints") < at("short"));
        assert!(table.contains("7.0        -        -  host"), "{table}");
    }

    #[test]
    fn what_is_kept_has_each_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made/times.json");
        write(&path, Some("o"), 60.1234, &times()).unwrap();
        let kept: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(kept["seconds"], 60.123);
        assert_eq!(kept["filter"], "o");
        assert_eq!(kept["stages"].as_array().map(Vec::len), Some(1));
        let long = &kept["tests"][1];
        assert_eq!(long["scenario"], "long");
        assert_eq!(long["result"], "starved");
        assert_eq!(long["stolen_seconds"], 9.0);
        assert!(kept["tests"][2]["stolen_seconds"].is_null());
        assert!(kept["tests"][2]["kernel"].is_null());
    }
}
