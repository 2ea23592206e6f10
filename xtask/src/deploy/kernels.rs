//! The table of kernels, from what the scenarios reported on each.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::apt::version_numbers;
use crate::arch::Arch;
use crate::command;
use crate::files;
use crate::guest_jobs::{AGAIN, COUNTED, Clock, FOLDER, OUTPUT, SCRIPT, WHOLE};
use crate::guest_report::Report;
use crate::kernels::MATRIX;
use crate::project;
use crate::stolen::Share;

/// Results on one kernel: whether each scenario passed, by its name with the mechanism.
#[derive(Debug, Default, PartialEq, Eq)]
struct KernelResults(BTreeMap<String, bool>);

impl KernelResults {
    /// Takes what a guest printed: `RESULT name[mechanism] ok seconds`, or `FAIL why`. What was tried again counts as it then
    /// ended.
    fn take(&mut self, output: &str) {
        for line in output.lines() {
            let result = line.strip_prefix("RESULT ");
            if let Some((name, rest)) = result.and_then(|line| line.split_once(' ')) {
                let passed = rest == "ok" || rest.starts_with("ok ");
                self.0.insert(name.to_owned(), passed);
            }
        }
    }

    /// How many passed with this in their names.
    fn passed_with(&self, mechanism: &str) -> usize {
        let with = |(name, passed): &(&String, &bool)| **passed && name.contains(mechanism);
        self.0.iter().filter(with).count()
    }

    fn failed(&self) -> Vec<&str> {
        let failed = self.0.iter().filter(|(_, passed)| !**passed);
        failed.map(|(name, _)| name.as_str()).collect()
    }
}

/// The document; an error if the whole suite was not run here on each kernel.
///
/// `before` is the document as it is: what it says of another architecture stays if nothing was run there.
pub(super) fn document(before: &str) -> Result<String> {
    let results = read(&command::repository().join(FOLDER))
        .context("run `cargo xtask test` first, whose results the table shows")?;
    let mut text = table(&results)?;
    text += &kept(before, &results);
    Ok(text)
}

/// Rows of kernels of another architecture, of which there are no results.
fn kept(before: &str, results: &[(String, KernelResults)]) -> String {
    let flavour = Arch::Arm64.flavour();
    let is_other = |name: &str| name.ends_with(&flavour);
    if results.iter().any(|(name, _)| is_other(name)) {
        return String::new();
    }
    let rows = before.split_inclusive('\n').filter(|line| {
        let name = line.split('|').nth(1).map(str::trim);
        name.is_some_and(is_other)
    });
    rows.collect()
}

/// The results on the newest kernel of each prefix in the matrix, and on those of another architecture that were run.
fn read(folder: &Path) -> Result<Vec<(String, KernelResults)>> {
    let mut kernels: BTreeMap<Vec<u64>, String> = BTreeMap::new();
    let mut others: BTreeMap<Vec<u64>, String> = BTreeMap::new();
    for entry in files::list(folder)? {
        let name = project::name(&entry)?.to_owned();
        if name.ends_with(&Arch::Arm64.flavour()) {
            others.insert(version_numbers(&name), name);
        } else if !name.ends_with(COUNTED) && !name.ends_with(AGAIN) {
            kernels.insert(version_numbers(&name), name);
        }
    }
    let results = |version: &String| {
        let mut results = KernelResults::default();
        let guest = folder.join(version);
        let again = again(&folder.join(format!("{version}{AGAIN}")))?;
        results.take(&whole(&guest, &again)?);
        // The others were run in a second guest.
        if files::text(&guest.join(SCRIPT))?.contains(Clock::Real.flag()) {
            results.take(&whole(&folder.join(format!("{version}{COUNTED}")), "")?);
        }
        results.take(&again);
        Ok((version.clone(), results))
    };
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
        found.push(results(version)?);
    }
    let others = others.values().map(results);
    found.extend(others.collect::<Result<Vec<_>>>()?);
    Ok(found)
}

/// What a guest printed in which some were tried again, if there was one.
fn again(guest: &Path) -> Result<String> {
    if guest.is_dir() {
        files::text(&guest.join(OUTPUT))
    } else {
        Ok(String::new())
    }
}

/// What a guest printed, if it ran all scenarios to the end, or another one did that took over from it.
fn whole(guest: &Path, again: &str) -> Result<String> {
    if !files::text(&guest.join(SCRIPT))?.starts_with(WHOLE) {
        bail!("{}: only some scenarios were run", guest.display());
    }
    let output = files::text(&guest.join(OUTPUT))?;
    let lines = |prefix: &str| {
        output
            .lines()
            .filter(|line| line.starts_with(prefix))
            .count()
    };
    if lines("RESULT ") == 0 || lines("RESULTS ") == 0 && !has_rest(&output, again) {
        bail!("{}: the guest did not come to the end", guest.display());
    }
    Ok(output)
}

/// Whether what a guest did not come to was all run in a second one.
fn has_rest(output: &str, again: &str) -> bool {
    let (mut report, mut rest) = (Report::default(), Report::default());
    report.take(output.as_bytes(), Share::default);
    rest.take(again.as_bytes(), Share::default);
    let left = report.left();
    let is_run = |title: &String| rest.scenarios().iter().any(|one| one.title == *title);
    !left.is_empty() && left.iter().all(is_run)
}

fn table(kernels: &[(String, KernelResults)]) -> Result<String> {
    let mut text = String::from(
        "# Kernels\n\nMade by `cargo xtask generate --kernels` from the results of the last `cargo xtask test`: how many scenarios passed on each kernel, by \
         the mechanism that they were run with. Scenarios that do not depend on the kernel are run on one. The row of another architecture is of the last \
         run there.\n\n\
         | kernel | fentry/fexit | kprobe/kretprobe | both or neither | failed |\n|---|---|---|---|---|\n",
    );
    for (version, results) in kernels {
        let failed = match &results.failed()[..] {
            [] => "none".to_owned(),
            some => some.join(", "),
        };
        let [all, fentry, kprobe] =
            ["", "fentry", "kprobe"].map(|mechanism| results.passed_with(mechanism));
        writeln!(
            text,
            "| {version} | {fentry} | {kprobe} | {} | {failed} |",
            all - fentry - kprobe
        )
        .context("write to a text")?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn results_are_counted_by_mechanism() {
        let mut results = KernelResults::default();
        results.take("noise\nRESULT counts[kprobe] ok 1.2\nRESULT counts[fentry] ok 3\n");
        results.take("RESULT top ok\nRESULT life[fentry] FAIL it hung\nRESULTS 4\n");
        results.take("RESULT slow LATE waited\nRESULTS 1\n");
        let passed = |mechanism| results.passed_with(mechanism);
        assert_eq!([passed(""), passed("fentry"), passed("kprobe")], [3, 1, 1]);
        assert_eq!(results.failed(), ["life[fentry]", "slow"]);
        results.take("RESULT slow ok 12\nRESULTS 1\n");
        assert_eq!(results.failed(), ["life[fentry]"]);
        let kernel = ("6.12.118".to_owned(), results);
        let text = table(&[kernel]).unwrap();
        assert!(
            text.ends_with("| 6.12.118 | 1 | 1 | 2 | life[fentry] |\n"),
            "{text}"
        );
    }

    #[test]
    fn a_row_of_another_architecture_stays_until_it_is_run_again() {
        let row = format!("| 6.12.1{} | 5 | 6 | 7 | none |\n", Arch::Arm64.flavour());
        let before = format!("# Kernels\n\n| 6.12.1-cloud-amd64 | 1 | 2 | 3 | none |\n{row}");
        let of = |name: String| [(name, KernelResults::default())];
        let here = of("6.12.2-cloud-amd64".to_owned());
        assert_eq!(kept(&before, &here), row);
        let there = of(format!("6.12.2{}", Arch::Arm64.flavour()));
        assert_eq!(kept(&before, &there), "");
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
        assert_eq!(read(folder.path()).unwrap().len(), MATRIX.len());
        let part = format!("{WHOLE} --clock real --pods\n");
        guest("6.12.3-cloud-amd64", &part, done);
        refused("counted");
        guest(&format!("6.12.3-cloud-amd64{COUNTED}"), &all, done);
        let found = read(folder.path()).unwrap();
        assert_eq!(found.len(), MATRIX.len());
        let counts = |results: &KernelResults| results.passed_with("kprobe");
        assert!(found.iter().all(|(_, results)| counts(results) == 1));
        guest("6.12.3-cloud-arm64", &all, done);
        let found = read(folder.path()).unwrap();
        assert_eq!(found.len(), MATRIX.len() + 1);
        assert!(found.iter().all(|(_, results)| results.failed().is_empty()));
        let newer = "6.12.10-cloud-amd64";
        guest(newer, "exec ctpressure-scenario run 'top'\n", done);
        refused("only some scenarios");
        guest(newer, &all, "RESULT counts[kprobe] ok 1\n");
        refused("did not come to the end");
        let begun = "SCENARIOS 2: counts[kprobe] top\nRESULT counts[kprobe] ok 1\n";
        guest(newer, &all, begun);
        let again = |output| guest(&format!("{newer}{AGAIN}"), "", output);
        again("RESULT counts[kprobe] ok 1\nRESULTS 1\n");
        refused("did not come to the end");
        again("RESULT top ok 1\nRESULTS 1\n");
        let found = read(folder.path()).unwrap();
        assert!(
            found
                .iter()
                .any(|(_, results)| results.passed_with("") == 2)
        );
        fs::remove_dir_all(folder.path().join("5.10.3-cloud-amd64")).unwrap();
        refused("no results on Linux 5.10");
    }
}
