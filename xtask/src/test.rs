//! `cargo xtask test`: every test there is. All of them are run whatever fails, and all failures are shown at the end.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::arch::Arch;
use crate::cache::Cache;
use crate::deploy::cluster;
use crate::{command, guest_tests, kernels, kubernetes, setup};

/// What `--quick` boots: the kernel that most of the work is done with.
pub(crate) const QUICK: &str = "6.12";

/// What `cargo xtask test` takes.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Boot only this kernel; may be given several times [default: the whole matrix]
    #[arg(long = "kernel", value_name = "PREFIX")]
    kernels: Vec<String>,
    /// Only unit tests and scenarios with this in their name; no lints, no docs
    #[arg(long, value_name = "NAME")]
    filter: Option<String>,
    /// Boot only 6.12, on which every scenario is run
    #[arg(long, conflicts_with = "kernels")]
    quick: bool,
    /// Boot nothing: format, lints, docs, unit tests, licences
    #[arg(long, conflicts_with_all = ["kernels", "quick"])]
    host: bool,
    /// Only this: lints and tests of `--kube` against a real API server; manifests and chart; the image in clusters with a real kubelet, on
    /// each kernel, in guests. Takes more than an hour; the programs of Kubernetes are built first, once
    #[arg(long, conflicts_with_all = ["filter", "kernels", "quick", "host"])]
    kubernetes: bool,
    /// Architecture of the guests; with arm64 only the scenarios that depend on the kernel, on 6.12 unless told otherwise
    #[arg(long, value_enum, default_value_t, conflicts_with_all = ["quick", "host", "kubernetes"])]
    arch: Arch,
}

/// What passed and what failed.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    passed: usize,
    failures: Vec<String>,
}

impl Tally {
    /// Counts tests that passed.
    pub(crate) fn pass(&mut self, tests: usize) {
        self.passed += tests;
    }

    /// Counts one failure; the text says which test and why.
    pub(crate) fn fail(&mut self, failure: String) {
        self.failures.push(failure);
    }

    /// Takes over what another one counted.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failures.extend(other.failures);
    }
}

/// Runs the command; the exit status is 1 when anything failed.
pub(crate) fn run(arguments: &Arguments) -> Result<i32> {
    let cache = Cache::open()?;
    let started = Instant::now();
    let mut tally = Tally::default();
    setup::ensure(
        &cache,
        &setup::steps_for_tests(arguments.filter.is_none() && !arguments.kubernetes),
    )?;
    if arguments.kubernetes {
        let test = kubernetes::Test::prepare(&cache)?;
        check("lints with --kube", kubernetes::lints(), &mut tally);
        check("unit tests of --kube", kubernetes::unit_tests(), &mut tally);
        check("--kube against an API server", test.command(), &mut tally);
        check("manifests and chart", own("manifests")?, &mut tally);
        check("image", own("image --check")?, &mut tally);
        for trial in cluster::TRIALS {
            let name = format!("cluster {trial}");
            check(&name, own(&name)?, &mut tally);
        }
        return Ok(finish(&tally, started));
    }
    let filter = arguments.filter.as_deref();
    let on_host = || {
        let mut tally = Tally::default();
        if filter.is_none() {
            checks(&cache, &mut tally);
        }
        unit_tests(&cache, filter, &mut tally).map(|()| tally)
    };
    if arguments.host {
        tally.add(on_host()?);
    } else if arguments.arch != Arch::Amd64 {
        let prefixes = match &arguments.kernels[..] {
            [] => &[QUICK.to_owned()],
            some => some,
        };
        let nothing = || Ok(Tally::default());
        let cache = cache.of(arguments.arch);
        tally.add(guest_tests::run(&cache, prefixes, filter, nothing)?);
    } else {
        let prefixes = if arguments.quick {
            vec![QUICK.to_owned()]
        } else if arguments.kernels.is_empty() {
            kernels::MATRIX
                .iter()
                .map(|prefix| (*prefix).to_owned())
                .collect()
        } else {
            arguments.kernels.clone()
        };
        tally.add(guest_tests::run(&cache, &prefixes, filter, on_host)?);
    }
    if tally.passed + tally.failures.len() == 0 {
        bail!(
            "no test has {} in its name",
            arguments.filter.as_deref().unwrap_or_default()
        );
    }
    Ok(finish(&tally, started))
}

/// This program, with these words.
fn own(words: &str) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("find this program")?);
    command.current_dir(command::repository());
    command.args(words.split_whitespace());
    Ok(command)
}

/// Says how it went; the exit status.
fn finish(tally: &Tally, started: Instant) -> i32 {
    if !tally.failures.is_empty() {
        println!("\nfailures:");
        for failure in &tally.failures {
            println!("  {}", failure.replace('\n', "\n    "));
        }
        println!();
    }
    command::say(&format!("took {} s", started.elapsed().as_secs()));
    println!("{} passed, {} failed", tally.passed, tally.failures.len());
    i32::from(!tally.failures.is_empty())
}

/// What is checked without running anything: each is one test.
fn checks(cache: &Cache, tally: &mut Tally) {
    let cargo = |arguments: &[&str]| {
        let mut cargo = command::cargo();
        cargo.args(arguments);
        cargo
    };
    let mut docs = cargo(&["doc", "--workspace", "--no-deps", "--quiet"]);
    docs.env("RUSTDOCFLAGS", "-D warnings");
    let lints = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ]
    .as_slice();
    check("format", cargo(&["fmt", "--all", "--check"]), tally);
    check("lints", cargo(lints), tally);
    check("docs", docs, tally);
    match deny(cache) {
        Ok(command) => check("licences and sources of dependencies", command, tally),
        Err(error) => tally.fail(format!("licences and sources of dependencies: {error:#}")),
    }
}

fn check(name: &str, mut command: Command, tally: &mut Tally) {
    command::say(name);
    match command::run(&mut command) {
        Ok(()) => tally.pass(1),
        Err(error) => tally.fail(format!("{name}: {error:#}")),
    }
}

fn deny(cache: &Cache) -> Result<Command> {
    let own = cache.programs().join("cargo-deny");
    let program = if own.is_file() {
        Some(own)
    } else {
        command::find("cargo-deny")
    };
    let program = program.context("cargo-deny is missing: run `cargo xtask setup`")?;
    let mut deny = Command::new(program);
    // Not the advisories: they change from day to day and need the network.
    deny.current_dir(command::repository());
    deny.args([
        "--log-level",
        "warn",
        "check",
        "bans",
        "licenses",
        "sources",
    ]);
    Ok(deny)
}

/// `cargo test`; its results are read from what it prints.
fn unit_tests(cache: &Cache, filter: Option<&str>, tally: &mut Tally) -> Result<()> {
    command::say("unit and doc tests");
    let mut cargo = command::cargo();
    cargo
        .args(["test", "--workspace", "--no-fail-fast"])
        .args(filter);
    if let Some(promtool) = setup::promtool(cache) {
        cargo.env("CTPRESSURE_PROMTOOL", promtool);
    }
    let mut child = cargo
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start cargo test")?;
    let output = child.stdout.take().context("the output of cargo test")?;
    let before = tally.failures.len();
    for line in BufReader::new(output).lines() {
        let line = line.context("read the output of cargo test")?;
        eprintln!("{line}");
        if let Some(passed) = passed(&line) {
            tally.pass(passed);
        } else if let Some(name) = failed_test(&line) {
            tally.fail(format!("unit test {name}"));
        }
    }
    let status = child.wait().context("wait for cargo test")?;
    if !status.success() && tally.failures.len() == before {
        tally.fail(format!(
            "unit and doc tests: cargo test ended with {status}"
        ));
    }
    Ok(())
}

/// The count in `test result: ok. 12 passed; 0 failed; ...`.
fn passed(line: &str) -> Option<usize> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    counts.split_once(" passed")?.0.parse().ok()
}

/// The name in `test some::name ... FAILED`.
fn failed_test(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ... FAILED")
}

/// Makes a folder for what tests leave behind.
pub(crate) fn folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_cargo_test_are_read() {
        let line = "test result: FAILED. 12 passed; 2 failed; 0 ignored; finished in 0.1s";
        assert_eq!(passed(line), Some(12));
        assert_eq!(passed("test result of something else"), None);
        assert_eq!(failed_test("test a::b ... FAILED"), Some("a::b"));
        assert_eq!(failed_test("test a::b ... ok"), None);
    }
}
