//! The table of kernels, from what the scenarios reported on each.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::apt::version_numbers;
use crate::arch::Arch;
use crate::command;
use crate::guest_tests::{self, OUTPUT, SCRIPT, WHOLE};
use crate::kernels::MATRIX;
use crate::test::QUICK;

/// What the name of a guest's folder ends in if its clock counted instructions.
const COUNTED: &str = "-counted";

/// Results on one kernel, by the mechanism in the scenario's name.
#[derive(Debug, Default, PartialEq, Eq)]
struct Results {
    fentry: usize,
    kprobe: usize,
    other: usize,
    failed: Vec<String>,
}

impl Results {
    /// Takes what a guest printed: `RESULT name[mechanism] ok seconds`, or `FAIL why`.
    fn take(&mut self, output: &str) {
        for line in output.lines() {
            let Some((name, rest)) = line
                .strip_prefix("RESULT ")
                .and_then(|line| line.split_once(' '))
            else {
                continue;
            };
            if rest != "ok" && !rest.starts_with("ok ") {
                self.failed.push(name.to_owned());
            } else if name.contains("fentry") {
                self.fentry += 1;
            } else if name.contains("kprobe") {
                self.kprobe += 1;
            } else {
                self.other += 1;
            }
        }
    }
}

/// The document; an error if the whole suite was not run here on each kernel.
pub(super) fn document() -> Result<String> {
    let results = read(&command::repository().join(guest_tests::FOLDER));
    table(&results.context("run `cargo xtask test` first, whose results the table shows")?)
}

/// The results on the newest kernel of each prefix in the matrix, and on those of another architecture that were run.
fn read(folder: &Path) -> Result<Vec<(String, Results)>> {
    let entries = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    let mut kernels: BTreeMap<Vec<u64>, String> = BTreeMap::new();
    let mut others: BTreeMap<Vec<u64>, String> = BTreeMap::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(&Arch::Arm64.flavour()) {
            others.insert(version_numbers(&name), name);
        } else if !name.ends_with(COUNTED) {
            kernels.insert(version_numbers(&name), name);
        }
    }
    let mut found = Vec::new();
    for prefix in MATRIX {
        let of = version_numbers(prefix);
        // The newest one: others were left by earlier runs.
        let newest = kernels
            .iter()
            .rev()
            .find(|(version, _)| version.starts_with(&of));
        let (_, version) = newest
            .with_context(|| format!("no results on Linux {prefix} in {}", folder.display()))?;
        let mut results = Results::default();
        results.take(&whole(&folder.join(version))?);
        let counted = folder.join(format!("{version}{COUNTED}"));
        if *prefix == QUICK {
            let output = fs::read_to_string(counted.join(OUTPUT));
            results.take(&output.with_context(|| format!("read {}", counted.display()))?);
        }
        found.push((version.clone(), results));
    }
    for version in others.into_values() {
        let mut results = Results::default();
        results.take(&whole(&folder.join(&version))?);
        found.push((version, results));
    }
    Ok(found)
}

/// What a guest printed, if it ran all scenarios to the end.
fn whole(guest: &Path) -> Result<String> {
    let read = |name: &str| {
        let path = guest.join(name);
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    };
    if !read(SCRIPT)?.starts_with(WHOLE) {
        bail!("{}: only some scenarios were run", guest.display());
    }
    let output = read(OUTPUT)?;
    let lines = |prefix: &str| {
        output
            .lines()
            .filter(|line| line.starts_with(prefix))
            .count()
    };
    if lines("RESULTS ") == 0 || lines("RESULT ") == 0 {
        bail!("{}: the guest did not come to the end", guest.display());
    }
    Ok(output)
}

fn table(kernels: &[(String, Results)]) -> Result<String> {
    let mut text = String::from(
        "# Kernels\n\nMade by `cargo xtask generate --kernels` from the results of the last `cargo xtask test`: how many scenarios passed on each kernel, by \
         the mechanism that they were run with. Scenarios that do not depend on the kernel are run on one.\n\n\
         | kernel | fentry/fexit | kprobe/kretprobe | both or neither | failed |\n|---|---|---|---|---|\n",
    );
    for (version, results) in kernels {
        let failed = if results.failed.is_empty() {
            "none".to_owned()
        } else {
            results.failed.join(", ")
        };
        writeln!(
            text,
            "| {version} | {} | {} | {} | {failed} |",
            results.fentry, results.kprobe, results.other
        )
        .context("write to a text")?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_counted_by_mechanism() {
        let mut results = Results::default();
        results.take("noise\nRESULT counts[kprobe] ok 1.2\nRESULT counts[fentry] ok 3\n");
        results.take("RESULT top ok\nRESULT life[fentry] FAIL it hung\nRESULTS 4\n");
        assert_eq!((results.fentry, results.kprobe, results.other), (1, 1, 1));
        assert_eq!(results.failed, ["life[fentry]"]);
        let kernel = ("6.12.118".to_owned(), results);
        let text = table(&[kernel]).unwrap();
        assert!(
            text.ends_with("| 6.12.118 | 1 | 1 | 1 | life[fentry] |\n"),
            "{text}"
        );
    }

    #[test]
    fn only_whole_runs_are_shown() {
        let folder = tempfile::tempdir().unwrap();
        let guest = |name: &str, script: &str, output: &str| {
            let guest = folder.path().join(name);
            fs::create_dir_all(&guest).unwrap();
            fs::write(guest.join(SCRIPT), script).unwrap();
            fs::write(guest.join(OUTPUT), output).unwrap();
        };
        let all = format!("{WHOLE} --pods\n");
        let done = "RESULT counts[kprobe] ok 1\nRESULTS 1\n";
        for prefix in MATRIX {
            guest(&format!("{prefix}.3-cloud-amd64"), &all, done);
        }
        let refused = |what: &str| {
            let error = format!("{:#}", read(folder.path()).unwrap_err());
            assert!(error.contains(what), "{error}");
        };
        refused("counted");
        guest(
            &format!("{QUICK}.3-cloud-amd64{COUNTED}"),
            "",
            "RESULT top ok\n",
        );
        let found = read(folder.path()).unwrap();
        assert_eq!(found.len(), MATRIX.len());
        assert!(found.iter().all(|(_, results)| results.kprobe == 1));
        guest(&format!("{QUICK}.3-cloud-arm64"), &all, done);
        let found = read(folder.path()).unwrap();
        assert_eq!(found.len(), MATRIX.len() + 1);
        assert!(found.iter().all(|(_, results)| results.failed.is_empty()));
        let newer = format!("{QUICK}.10-cloud-amd64");
        guest(&newer, "exec ctpressure-scenario run 'top'\n", done);
        refused("only some scenarios");
        guest(&newer, &all, "RESULT counts[kprobe] ok 1\n");
        refused("did not come to the end");
        fs::remove_dir_all(folder.path().join("5.10.3-cloud-amd64")).unwrap();
        refused("no results on Linux 5.10");
    }
}
