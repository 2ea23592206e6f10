//! The end-to-end scenarios: on each kernel a guest that runs all of them.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::arch::Arch;
use crate::cache::Cache;
use crate::groups::Group;
use crate::initramfs::Content;
use crate::kernels::Kernel;
use crate::qemu::{Machine, Qemu};
use crate::test::{QUICK, Tally};
use crate::vm::{Ended, Guest, Outcome};
use crate::{command, project, setup, vm_command};

/// The scenarios send from two CPUs at once.
const CPUS: u32 = 2;
/// Of this machine, for each guest that may share it: half of the time its own are idle.
const CPUS_SHARED: u32 = 1;
const MEMORY_MIB: u32 = 2048;
/// A guest that takes longer hangs: several times of what it takes on an idle machine. Each scenario
/// has a limit of its own that is far below.
const TIMEOUT: Duration = Duration::from_hours(1);

/// Where a folder for each guest is, with what was run in it and what it said.
pub(crate) const FOLDER: &str = "target/guest-tests";
/// What the guest ran.
pub(crate) const SCRIPT: &str = "script";
/// What the script of a guest with a clock of its own begins with if nothing was left out.
pub(crate) const WHOLE: &str = "exec ctpressure-scenario all";
/// What the guest printed.
pub(crate) const OUTPUT: &str = "output";

/// What a guest's clock shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clock {
    /// The host's time.
    Real,
    /// The instructions that it has run: what measures time gives the same figures on a busy host.
    Counted,
}

/// A guest that is to run scenarios.
#[derive(Debug)]
struct Job {
    qemu: Qemu,
    kernel: Kernel,
    clock: Clock,
    /// Those that don't depend on the kernel, too.
    whole: bool,
}

impl Job {
    fn name(&self) -> String {
        let version = self.kernel.version.split("-cloud").next();
        let version = version.unwrap_or(&self.kernel.version);
        match self.clock {
            Clock::Real => version.to_owned(),
            Clock::Counted => format!("{version} counted"),
        }
    }

    /// Whether scenarios with pods of a container runtime are run: they take some minutes.
    fn makes_pods(&self) -> bool {
        let mut numbers = crate::apt::version_numbers(&self.kernel.version).into_iter();
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        self.clock == Clock::Real && matches!(version, (6, 1 | 12) | (7.., _))
    }

    /// Whether another guest may run beside it: what depends on the kernel is exact however slow the
    /// machine is; of the rest some is given a time, and pods are many processes.
    fn may_share(&self) -> bool {
        self.clock == Clock::Real && !self.whole && !self.makes_pods()
    }

    fn script(&self, filter: Option<&str>) -> String {
        let clock = match self.clock {
            Clock::Real => "real",
            Clock::Counted => "counted",
        };
        match filter {
            None if self.clock == Clock::Real => {
                let of_kernel = if self.whole { "" } else { " --of-kernel" };
                let pods = if self.makes_pods() { " --pods" } else { "" };
                format!("{WHOLE}{of_kernel}{pods}\n")
            }
            // Quoted, with every quote in it ended and escaped. Every name has the empty one in it.
            name => format!(
                "exec ctpressure-scenario run --clock {clock} '{}'\n",
                name.unwrap_or_default().replace('\'', r"'\''")
            ),
        }
    }
}

/// What one guest reported, line by line.
#[derive(Debug, Default)]
struct Report {
    partial: Vec<u8>,
    passed: usize,
    failures: Vec<String>,
    /// The number of scenarios that were run, by the guest's own last line.
    announced: Option<usize>,
}

impl Report {
    /// Takes output of the guest; hands back the lines that it completed.
    fn take(&mut self, bytes: &[u8]) -> Vec<String> {
        self.partial.extend_from_slice(bytes);
        let mut lines = Vec::new();
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            self.line(&line);
            lines.push(line);
        }
        lines
    }

    fn line(&mut self, line: &str) {
        if let Some(count) = line.strip_prefix("RESULTS ") {
            self.announced = count.trim().parse().ok();
        } else if let Some(result) = line.strip_prefix("RESULT ") {
            let (name, rest) = result.split_once(' ').unwrap_or((result, ""));
            if rest == "ok" || rest.starts_with("ok ") {
                self.passed += 1;
            } else {
                let message = rest.strip_prefix("FAIL").unwrap_or(rest).trim();
                self.failures.push(format!("{name}: {message}"));
            }
        }
    }

    /// What is wrong besides the scenarios that failed by themselves.
    fn faults(&self, ended: &Ended) -> Vec<String> {
        let reported = self.passed + self.failures.len();
        let mut faults = Vec::new();
        match &ended.outcome {
            Outcome::Exited(0) => {}
            Outcome::Exited(_) if !self.failures.is_empty() => {}
            Outcome::Exited(status) => {
                faults.push(format!(
                    "the scenarios ended with status {status} and named no failure"
                ));
            }
            Outcome::TimedOut => faults.push(format!("the guest hung after {reported} results")),
            Outcome::Died(why) => {
                faults.push(format!("the guest died after {reported} results: {why}"));
            }
        }
        match self.announced {
            Some(announced) if announced != reported => {
                faults.push(format!(
                    "{announced} scenarios were run but {reported} have a result"
                ));
            }
            None if matches!(ended.outcome, Outcome::Exited(_)) => {
                faults.push("the last line (RESULTS and a number) is missing".to_owned());
            }
            _ => {}
        }
        faults
    }
}

/// Runs the scenarios on each kernel, as many guests at once as there is room for; and `meanwhile` besides those whose
/// clock does not care how busy this machine is, before the others.
pub(crate) fn run(
    cache: &Cache,
    prefixes: &[String],
    filter: Option<&str>,
    meanwhile: impl FnOnce() -> Result<Tally>,
) -> Result<Tally> {
    let prepared = prepare(cache, prefixes).and_then(|(jobs, tally)| {
        let init = project::init(cache)?;
        Ok((jobs, tally, init, project::binaries(cache, "release")?))
    });
    let (jobs, mut tally, init, binaries) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            let mut tally = meanwhile()?;
            tally.fail(format!("no guest: {error:#}"));
            return Ok(tally);
        }
    };
    // A program of this machine.
    let promtool = setup::promtool(cache).filter(|_| cache.arch() == Arch::Amd64);
    let put: Vec<(PathBuf, String)> = promtool
        .into_iter()
        .map(|path| (path, "usr/local/bin/promtool".to_owned()))
        .collect();
    let content = Content {
        script: &[],
        init: &init,
        binaries: &binaries,
        groups: &[],
        put: &put,
        fetch: &[],
    };
    let (counted, real): (VecDeque<Job>, VecDeque<Job>) = jobs
        .into_iter()
        .partition(|job| job.clock == Clock::Counted);
    let (of_host, of_counted) = thread::scope(|scope| {
        let guests = scope.spawn(|| all(cache, counted, CPUS, filter, &content));
        (meanwhile(), guests.join())
    });
    tally.add(of_host?);
    tally.add(of_counted.map_err(|_| anyhow!("the thread of a guest panicked"))?);
    let (sharing, alone): (VecDeque<Job>, VecDeque<Job>) =
        real.into_iter().partition(Job::may_share);
    for (jobs, for_each) in [(sharing, CPUS_SHARED), (alone, CPUS)] {
        tally.add(all(cache, jobs, for_each, filter, &content));
    }
    Ok(tally)
}

/// The guests that there are to be, and what failed already.
fn prepare(cache: &Cache, prefixes: &[String]) -> Result<(Vec<Job>, Tally)> {
    setup::ensure(cache, &setup::steps_for_guests(cache.arch(), true))?;
    setup::ensure(cache, &[setup::Step::Containers])?;
    let mut tally = Tally::default();
    let mut jobs = Vec::new();
    for prefix in prefixes {
        match vm_command::prepare(cache, prefix, true) {
            Ok((qemu, kernel)) => {
                // What does not depend on the kernel is shown on one, or the whole run takes too long.
                let whole = cache.arch() == Arch::Amd64
                    && (prefixes.len() == 1 || kernel.version.starts_with(QUICK));
                let clocks: &[Clock] = if whole {
                    &[Clock::Real, Clock::Counted]
                } else {
                    &[Clock::Real]
                };
                jobs.extend(clocks.iter().map(|clock| Job {
                    qemu: qemu.clone(),
                    kernel: kernel.clone(),
                    clock: *clock,
                    whole,
                }));
            }
            Err(error) => tally.fail(format!("[{prefix}] no guest: {error:#}")),
        }
    }
    Ok((jobs, tally))
}

/// Boots them all, as many at once as there are CPUs for if each is given `for_each`.
fn all(
    cache: &Cache,
    jobs: VecDeque<Job>,
    for_each: u32,
    filter: Option<&str>,
    content: &Content<'_>,
) -> Tally {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let at_once = (cores / for_each as usize).clamp(1, jobs.len().max(1));
    let queue = Mutex::new(jobs);
    let tally = Mutex::new(Tally::default());
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let next = queue
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .pop_front();
                    let Some(job) = next else {
                        return;
                    };
                    let script = job.script(filter);
                    let content = Content {
                        script: script.as_bytes(),
                        groups: if job.makes_pods() || filter.is_some() {
                            &[Group::Containers]
                        } else {
                            &[]
                        },
                        ..*content
                    };
                    let result = one(cache, &job, &content);
                    tally
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .add(result);
                }
            });
        }
    });
    tally.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn one(cache: &Cache, job: &Job, content: &Content<'_>) -> Tally {
    let mut tally = Tally::default();
    let short = &job.name();
    let mut report = Report::default();
    command::say(&format!("[{short}] booting"));
    match guest(cache, job, content, short, &mut report) {
        Ok((ended, folder)) => {
            tally.pass(report.passed);
            for failure in &report.failures {
                tally.fail(format!("[{short}] {failure}"));
            }
            for mut fault in report.faults(&ended) {
                if !matches!(ended.outcome, Outcome::Exited(_)) {
                    let tail = ended.console_tail.join("\n  ");
                    fault = format!("{fault}\nthe end of its console:\n  {tail}");
                }
                tally.fail(format!(
                    "[{short}] {fault}\nall that it said: {}",
                    folder.display()
                ));
            }
        }
        Err(error) => tally.fail(format!("[{short}] no guest: {error:#}")),
    }
    tally
}

fn guest(
    cache: &Cache,
    job: &Job,
    content: &Content<'_>,
    short: &str,
    report: &mut Report,
) -> Result<(Ended, PathBuf)> {
    let folder = command::repository().join(FOLDER).join(match job.clock {
        Clock::Real => job.kernel.version.clone(),
        Clock::Counted => format!("{}-counted", job.kernel.version),
    });
    crate::test::folder(&folder)?;
    let console = folder.join("console");
    // Whoever reads the results later can tell a whole run from one of a few scenarios.
    let path = folder.join(SCRIPT);
    fs::write(&path, content.script).with_context(|| format!("write {}", path.display()))?;
    let path = folder.join(OUTPUT);
    let mut log = File::create(&path).with_context(|| format!("write {}", path.display()))?;
    let guest = Guest {
        qemu: &job.qemu,
        kernel: &job.kernel,
        machine: Machine {
            cpus: match job.clock {
                Clock::Real => CPUS,
                Clock::Counted => 1,
            },
            memory_mib: MEMORY_MIB,
            icount: job.clock == Clock::Counted,
        },
        timeout: TIMEOUT,
        content: *content,
        fetch_to: &[],
        console: Some(&console),
    };
    let ended = guest.run(cache, &mut |stream, bytes| {
        log.write_all(bytes).context("write the log of a guest")?;
        if stream == crate::vm::Stream::Out {
            for line in report.take(bytes) {
                eprintln!("[{short}] {line}");
            }
        }
        Ok(())
    })?;
    Ok((ended, folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(outcome: Outcome) -> Ended {
        Ended {
            outcome,
            console_tail: Vec::new(),
            missing: Vec::new(),
        }
    }

    fn report(text: &str) -> Report {
        let mut report = Report::default();
        // In pieces, as a guest sends it.
        for piece in text.as_bytes().chunks(7) {
            report.take(piece);
        }
        report
    }

    #[test]
    fn a_whole_run_has_no_faults() {
        let report = report("noise\nRESULT a ok 1.2\nRESULT b ok 3\nRESULTS 2\n");
        assert_eq!(report.passed, 2);
        assert!(report.faults(&ended(Outcome::Exited(0))).is_empty());
    }

    #[test]
    fn a_failed_scenario_is_reported_once() {
        let report = report("RESULT a FAIL counts differ\nRESULTS 1\n");
        assert_eq!(report.failures, ["a: counts differ"]);
        assert!(report.faults(&ended(Outcome::Exited(1))).is_empty());
    }

    #[test]
    fn what_is_missing_is_a_fault() {
        let died = Outcome::Died("Kernel panic".into());
        for (text, outcome) in [
            ("RESULT a ok 1\n", Outcome::Exited(0)),
            ("RESULT a ok 1\nRESULTS 2\n", Outcome::Exited(0)),
            ("RESULT a ok 1\nRESULTS 1\n", Outcome::Exited(3)),
            ("RESULT a ok 1\n", Outcome::TimedOut),
            ("RESULT a ok 1\nRESULTS 1\n", died),
        ] {
            assert!(!report(text).faults(&ended(outcome)).is_empty(), "{text}");
        }
    }
}
