//! `cargo xtask test`: every test there is. All of them are run whatever fails, and all failures are shown at the end.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::arch::Arch;
use crate::cache::Cache;
use crate::deploy::cluster;
use crate::guest_jobs::QUICK;
use crate::stolen::Share;
use crate::tally::Tally;
use crate::times::{self, Ending, Timed, What};
use crate::{command, guest_tests, kernels, kubernetes, named_tests, project, setup};

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
    /// Boot nothing: format, lints, docs, unit tests, licences, the report program for other systems
    #[arg(long, conflicts_with_all = ["kernels", "quick"])]
    host: bool,
    /// Only this: lints and tests of `--kube` against a real API server; manifests and chart; packages in a Debian 12 and 13; the image in
    /// clusters with a real kubelet, on each kernel, in guests. Takes more than an hour; the programs of Kubernetes are built first, once
    #[arg(long, conflicts_with_all = ["filter", "kernels", "quick", "host"])]
    kubernetes: bool,
    /// Architecture of the guests; with arm64 only the scenarios that depend on the kernel, on 6.12 unless told otherwise
    #[arg(long, value_enum, default_value_t, conflicts_with_all = ["quick", "host", "kubernetes"])]
    arch: Arch,
    /// Cargo profile of the binaries in the guests: `guest` is quick to build after an edit, `release` is what people get
    #[arg(long, value_name = "NAME", default_value = project::GUEST)]
    profile: String,
}

/// Runs the command; the exit status is 1 when anything failed.
pub(crate) fn run(arguments: &Arguments) -> Result<i32> {
    let cache = Cache::open()?;
    let started = Instant::now();
    let mut tally = Tally::default();
    let filter = arguments.filter.as_deref();
    let steps = setup::steps_for_tests(filter.is_none() && !arguments.kubernetes);
    setup::ensure(&cache, &steps)?;
    if arguments.kubernetes {
        let (test, _folder) = kubernetes::api_server_test(&cache)?;
        check("lints with --kube", kubernetes::lints(), &mut tally);
        check("--kube against an API server", test, &mut tally);
        check("manifests and chart", own("manifests")?, &mut tally);
        check("image", own("image --check")?, &mut tally);
        check("packages", own("package --check")?, &mut tally);
        for trial in cluster::TRIALS {
            let name = format!("cluster {trial}");
            check(&name, own(&name)?, &mut tally);
        }
        return finish(&tally, filter, started);
    }
    let profile = &arguments.profile;
    let is_own = arguments.arch == Arch::Amd64;
    if arguments.host {
        tally.add(host(&cache, filter)?);
    } else {
        let quick = arguments.quick || !is_own;
        let prefixes = match &arguments.kernels[..] {
            [] if quick => vec![QUICK.to_owned()],
            [] => kernels::MATRIX.map(str::to_owned).into(),
            some => some.to_owned(),
        };
        let meanwhile = || {
            if is_own {
                host(&cache, filter)
            } else {
                Ok(Tally::default())
            }
        };
        let guests = cache.of(arguments.arch);
        tally.add(guest_tests::run(
            &guests, &prefixes, filter, profile, meanwhile,
        )?);
    }
    if tally.passed + tally.failures.len() == 0 {
        bail!("no test has {} in its name", filter.unwrap_or_default());
    }
    finish(&tally, filter, started)
}

/// This program, with these words.
fn own(words: &str) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("find this program")?);
    command.current_dir(command::repository());
    command.args(words.split_whitespace());
    Ok(command)
}

/// Says how it went and how long each part took; the exit status.
fn finish(tally: &Tally, filter: Option<&str>, started: Instant) -> Result<i32> {
    let seconds = started.elapsed().as_secs_f64();
    eprint!("{}", times::table(&tally.times));
    let path = command::repository().join(times::FILE);
    times::write(&path, filter, seconds, &tally.times)?;
    let failures = &tally.failures;
    if !failures.is_empty() {
        println!("\nfailures:");
        for failure in failures {
            println!("  {}", failure.replace('\n', "\n    "));
        }
        println!();
    }
    command::say(&format!("took {seconds:.0} s; times: {}", times::FILE));
    println!("{} passed, {} failed", tally.passed, failures.len());
    Ok(i32::from(!failures.is_empty()))
}

/// The stage of the host, as the times call it.
const HOST: &str = "host";

/// What needs no guest.
fn host(cache: &Cache, filter: Option<&str>) -> Result<Tally> {
    let started = Instant::now();
    let mut tally = Tally::default();
    if filter.is_none() {
        checks(cache, &mut tally);
    }
    unit_tests(cache, filter, &mut tally)?;
    let failed = !tally.failures.is_empty();
    tally
        .times
        .push(on_host(What::Stage, None, started, failed));
    Ok(tally)
}

fn on_host(what: What, test: Option<&str>, started: Instant, failed: bool) -> Timed {
    Timed {
        what,
        stage: HOST.to_owned(),
        kernel: None,
        test: test.map(str::to_owned),
        share: Share {
            seconds: started.elapsed().as_secs_f64(),
            ..Share::default()
        },
        ending: Ending::of(!failed),
    }
}

/// What is checked without running anything: each is one test.
fn checks(cache: &Cache, tally: &mut Tally) {
    let mut docs = command::cargo("doc --workspace --no-deps --quiet");
    docs.env("RUSTDOCFLAGS", "-D warnings");
    let lints = command::cargo("clippy --workspace --all-targets --quiet -- -D warnings");
    check("format", command::cargo("fmt --all --check"), tally);
    check("lints", lints, tally);
    check("docs", docs, tally);
    for (name, command) in [
        ("licences and sources of dependencies", deny(cache)),
        (
            "report for Windows and macOS",
            own("report-program --profile dev"),
        ),
    ] {
        match command {
            Ok(command) => check(name, command, tally),
            Err(error) => tally.fail(format!("{name}: {error:#}")),
        }
    }
}

fn check(name: &str, mut command: Command, tally: &mut Tally) {
    command::say(name);
    let started = Instant::now();
    let result = command::run(&mut command);
    tally
        .times
        .push(on_host(What::Test, Some(name), started, result.is_err()));
    match result {
        Ok(()) => tally.passed += 1,
        Err(error) => tally.fail(format!("{name}: {error:#}")),
    }
}

fn deny(cache: &Cache) -> Result<Command> {
    let program = cache
        .program("cargo-deny")
        .context("cargo-deny is missing: run `cargo xtask setup`")?;
    let mut deny = Command::new(program);
    // Not the advisories: they change from day to day and need the network.
    deny.current_dir(command::repository());
    deny.args("--log-level warn check bans licenses sources".split(' '));
    Ok(deny)
}

/// `cargo test`; its results are read from what it prints.
fn unit_tests(cache: &Cache, filter: Option<&str>, tally: &mut Tally) -> Result<()> {
    const NAME: &str = "unit and doc tests";
    command::say(NAME);
    let started = Instant::now();
    let mut cargo = command::cargo("test --no-fail-fast");
    if let Some(filter) = filter {
        let packages = named_tests::packages(filter)?;
        if packages.is_empty() {
            return Ok(());
        }
        for package in &packages {
            cargo.args(["--package", package]);
        }
        // What has no named tests need not be built: examples and the documentation's pieces of code.
        cargo.args(["--tests", filter]);
    } else {
        cargo.arg("--workspace");
    }
    if let Some(promtool) = cache.program("promtool") {
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
            tally.passed += passed;
        } else if let Some(name) = failed_test(&line) {
            tally.fail(format!("unit test {name}"));
        }
    }
    let status = child.wait().context("wait for cargo test")?;
    tally
        .times
        .push(on_host(What::Test, Some(NAME), started, !status.success()));
    if !status.success() && tally.failures.len() == before {
        tally.fail(format!("{NAME}: cargo test ended with {status}"));
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
