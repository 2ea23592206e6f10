//! The table of kernels, from what the scenarios reported on each.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result, bail};

use crate::apt::version_numbers;
use crate::command;

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

/// The document; an error if no scenarios were run here.
pub(super) fn document() -> Result<String> {
    let folder = command::repository().join("target/guest-tests");
    let mut kernels: BTreeMap<Vec<u64>, (String, Results)> = BTreeMap::new();
    let entries = fs::read_dir(&folder).with_context(|| {
        format!(
            "{}: run `cargo xtask test` first, whose results the table shows",
            folder.display()
        )
    })?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let version = name.strip_suffix("-counted").unwrap_or(&name).to_owned();
        let output = fs::read_to_string(entry.path().join("output")).unwrap_or_default();
        let kernel = kernels.entry(version_numbers(&version)).or_default();
        kernel.0 = version;
        kernel.1.take(&output);
    }
    if kernels.is_empty() {
        bail!("no results in {}", folder.display());
    }
    table(kernels.values())
}

fn table<'a>(kernels: impl IntoIterator<Item = &'a (String, Results)>) -> Result<String> {
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
        let text = table([&kernel]).unwrap();
        assert!(
            text.ends_with("| 6.12.118 | 1 | 1 | 1 | life[fentry] |\n"),
            "{text}"
        );
    }
}
