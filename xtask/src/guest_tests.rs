//! The end-to-end scenarios: on each kernel guests that run all of them.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::arch::Arch;
use crate::cache::Cache;
use crate::groups::Group;
use crate::guest_jobs::{AGAIN, CONSOLE, Clock, FOLDER, Job, OUTPUT, SCRIPT, prepare};
use crate::guest_queue::Queue;
use crate::guest_report::{Report, Scenario};
use crate::initramfs::Content;
use crate::qemu::Machine;
use crate::stolen::{Reading, Share};
use crate::tally::Tally;
use crate::times::{Ending, Timed, What};
use crate::vm::{Ended, Guest, GuestOutcome, Stream};
use crate::{command, files, project};

/// The scenarios that need the host's time send from two CPUs at once.
const CPUS: u32 = 2;
const MEMORY_MIB: u32 = 2048;
/// A guest that takes longer hangs: several times of what it takes on an idle machine. Each scenario
/// has a limit of its own that is far below.
const TIMEOUT: Duration = Duration::from_hours(1);

/// Runs the scenarios on each kernel, as many guests at once as there are CPUs; `meanwhile` is run beside the builds for them and,
/// before the others, beside one of those whose clock does not care how busy this machine is.
pub(crate) fn run(
    cache: &Cache,
    prefixes: &[String],
    filter: Option<&str>,
    profile: &str,
    meanwhile: impl FnOnce() -> Result<Tally> + Send,
) -> Result<Tally> {
    let queue = Queue::new();
    let busy = queue.host_is_busy();
    thread::scope(|scope| {
        let of_host = scope.spawn(move || {
            let _busy = busy;
            meanwhile()
        });
        let mut tally = of_guests(cache, prefixes, filter, profile, &queue);
        match of_host.join() {
            Ok(of_host) => tally.add(of_host?),
            Err(_) => bail!("the stage of the host panicked"),
        }
        Ok(tally)
    })
}

/// Builds what the guests need, and runs them.
fn of_guests(
    cache: &Cache,
    prefixes: &[String],
    filter: Option<&str>,
    profile: &str,
    queue: &Queue,
) -> Tally {
    let prepared = prepare(cache, prefixes).and_then(|(jobs, tally)| {
        let init = project::init(cache, profile)?;
        Ok((jobs, tally, init, project::binaries(cache, profile)?))
    });
    let (jobs, mut tally, init, binaries) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            let mut tally = Tally::default();
            tally.fail(format!("no guest: {error:#}"));
            return tally;
        }
    };
    // A program of this machine.
    let promtool = cache
        .program("promtool")
        .filter(|_| cache.arch() == Arch::Amd64);
    let put: Vec<(PathBuf, String)> = promtool
        .into_iter()
        .map(|path| (path, "usr/local/bin/promtool".to_owned()))
        .collect();
    let content = Content {
        script: &[],
        init: &init,
        binaries: &binaries,
        root: None,
        groups: &[],
        put: &put,
        fetch: &[],
    };
    queue.add(
        jobs.into_iter()
            .filter(|job| job.has_any(filter, &binaries)),
    );
    let guests = Guests {
        cache,
        filter,
        content,
    };
    let (of_guests, again) = guests.each_in(queue);
    tally.add(of_guests);
    // What says nothing because its guest was kept waiting, or ended by its emulator: one at a time, with nothing else.
    for job in again {
        command::say(&format!(
            "[{}] once more: {}",
            job.name(),
            job.again.join(" ")
        ));
        tally.add(guests.one(&job).0);
    }
    tally
}

/// What every guest has in common.
struct Guests<'a> {
    cache: &'a Cache,
    filter: Option<&'a str>,
    content: Content<'a>,
}

impl Guests<'_> {
    /// Runs all of them, one for each CPU of this machine; what came of them, and which have to be tried once more.
    fn each_in(&self, queue: &Queue) -> (Tally, Vec<Job>) {
        let work = || {
            let mut tally = Tally::default();
            let mut once_more = Vec::new();
            while let Some(taken) = queue.take() {
                let (of_guest, again) = self.one(&taken.job);
                tally.add(of_guest);
                once_more.extend(again);
            }
            (tally, once_more)
        };
        let cores = thread::available_parallelism().map_or(1, usize::from);
        thread::scope(|scope| {
            let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
            let mut tally = Tally::default();
            let mut once_more = Vec::new();
            for worker in workers {
                if let Ok((of_worker, again)) = worker.join() {
                    tally.add(of_worker);
                    once_more.extend(again);
                } else {
                    tally.fail("the thread of a guest panicked".to_owned());
                }
            }
            (tally, once_more)
        })
    }

    /// Runs one guest; what came of it, and what of it has to be tried once more.
    fn one(&self, job: &Job) -> (Tally, Option<Job>) {
        let mut tally = Tally::default();
        let short = &job.name();
        let mut report = Report::default();
        command::say(&format!("[{short}] booting"));
        let started = Instant::now();
        let mut whole = Share::default();
        let is_again = !job.again.is_empty();
        let mut lost = Vec::new();
        match self.guest(job, short, &mut report, &mut whole) {
            Ok((ended, folder)) => {
                let console = fs::read(folder.join(CONSOLE)).unwrap_or_default();
                lost = report.lost(&ended, is_again, &String::from_utf8_lossy(&console));
                let faults = if lost.is_empty() {
                    report.faults(&ended)
                } else {
                    command::say(&format!(
                        "[{short}] the EMULATOR ended the guest: its kernel met an INT3 that is not in memory; tried once more: {}; all that it said: {}",
                        lost.join(" "),
                        folder.display()
                    ));
                    Vec::new()
                };
                for mut fault in faults {
                    if !matches!(ended.outcome, GuestOutcome::Exited(_)) {
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
        let kernel = &job.kernel.version;
        let mut titles = count(short, kernel, is_again, report.scenarios(), &mut tally);
        let seconds = started.elapsed().as_secs_f64();
        if let Some(title) = lost.first() {
            // The one that the guest was in; what it got of this machine nobody could ask.
            tally.times.push(Timed {
                what: What::Test,
                stage: short.clone(),
                kernel: Some(kernel.clone()),
                test: Some(title.clone()),
                share: Share {
                    seconds: seconds - whole.seconds,
                    ..Share::default()
                },
                ending: Ending::Emulator,
            });
        }
        whole.seconds = seconds;
        tally.times.push(Timed {
            what: What::Stage,
            stage: short.clone(),
            kernel: Some(job.kernel.version.clone()),
            test: None,
            share: whole,
            ending: match Ending::of(tally.failures.is_empty()) {
                Ending::Passed if !lost.is_empty() => Ending::Emulator,
                ending => ending,
            },
        });
        titles.extend(lost);
        let again = (!titles.is_empty()).then(|| Job {
            again: titles,
            ..job.clone()
        });
        (tally, again)
    }

    fn guest(
        &self,
        job: &Job,
        short: &str,
        report: &mut Report,
        whole: &mut Share,
    ) -> Result<(Ended, PathBuf)> {
        let folder = command::repository().join(FOLDER).join(format!(
            "{}{}",
            job.kernel.version,
            job.suffix()
        ));
        files::folder(&folder)?;
        if job.again.is_empty() && job.clock == Clock::Real {
            // Of an earlier run.
            let again = folder.with_file_name(format!("{}{AGAIN}", job.kernel.version));
            if again.is_dir() {
                fs::remove_dir_all(&again)
                    .with_context(|| format!("remove {}", again.display()))?;
            }
        }
        let console = folder.join(CONSOLE);
        let script = job.script(self.filter);
        // Whoever reads the results later can tell a whole run from one of a few scenarios.
        let path = folder.join(SCRIPT);
        files::write(&path, &script)?;
        let path = folder.join(OUTPUT);
        let mut log = File::create(&path).with_context(|| format!("write {}", path.display()))?;
        let containers = job.makes_pods() || self.filter.is_some();
        let guest = Guest {
            qemu: &job.qemu,
            kernel: &job.kernel,
            machine: match job.clock {
                Clock::Real => Machine::new(CPUS, MEMORY_MIB),
                Clock::Counted => Machine {
                    icount: true,
                    ..Machine::new(1, MEMORY_MIB)
                },
            },
            timeout: TIMEOUT,
            content: Content {
                script: script.as_bytes(),
                groups: if containers {
                    &[Group::CONTAINERS]
                } else {
                    &[]
                },
                ..self.content
            },
            fetch_to: &[],
            console: Some(&console),
        };
        let before = Reading::before_start();
        let mut last: Option<Reading> = None;
        let ended = guest.run(self.cache, &mut |stream, bytes, process| {
            log.write_all(bytes).context("write the log of a guest")?;
            if stream != Stream::Out {
                return Ok(());
            }
            // Its first words are that the first scenario begins.
            let last = last.get_or_insert_with(|| Reading::take(process));
            let lines = report.take(bytes, || {
                let now = Reading::take(process);
                let share = job.share(&now, last);
                *last = now;
                share
            });
            for line in lines {
                eprintln!("[{short}] {line}");
            }
            Ok(())
        })?;
        if let Some(last) = last {
            *whole = job.share(&last, &before);
        }
        Ok((ended, folder))
    }
}

/// Counts what a guest reported, with the times; gives the titles of what has to be tried once more: only once, then it fails.
fn count(
    stage: &str,
    kernel: &str,
    is_again: bool,
    scenarios: &[Scenario],
    tally: &mut Tally,
) -> Vec<String> {
    let mut again = Vec::new();
    for scenario in scenarios {
        let title = &scenario.title;
        let mut ending = scenario.ending;
        match ending {
            Ending::Passed => tally.passed += 1,
            Ending::Starved if !is_again => again.push(title.clone()),
            Ending::Starved | Ending::Emulator | Ending::Failed => {
                ending = Ending::Failed;
                let stolen = scenario.share.describe();
                let stolen = stolen.map_or_else(String::new, |stolen| format!(" ({stolen})"));
                tally.fail(format!("[{stage}] {title}: {}{stolen}", scenario.message));
            }
        }
        tally.times.push(Timed {
            what: What::Test,
            stage: stage.to_owned(),
            kernel: Some(kernel.to_owned()),
            test: Some(title.clone()),
            share: scenario.share,
            ending,
        });
    }
    again
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(title: &str, ending: Ending) -> Scenario {
        Scenario {
            title: title.to_owned(),
            ending,
            message: "waited 120 s".to_owned(),
            share: Share {
                seconds: 200.0,
                processor: 9.0,
                stolen: Some(150.0),
            },
        }
    }

    #[test]
    fn what_starved_is_tried_once_more_and_never_passes_in_silence() {
        let all = [
            scenario("fine", Ending::Passed),
            scenario("late[kprobe]", Ending::Starved),
            scenario("wrong", Ending::Failed),
        ];
        let mut tally = Tally::default();
        let again = count("6.12", "6.12.1-cloud", false, &all, &mut tally);
        assert_eq!(again, ["late[kprobe]"]);
        assert_eq!((tally.passed, tally.failures.len()), (1, 1));
        let kept: Vec<Ending> = tally.times.iter().map(|timed| timed.ending).collect();
        assert_eq!(kept, [Ending::Passed, Ending::Starved, Ending::Failed]);

        let mut second = Tally::default();
        let again = count("6.12-again", "6.12.1-cloud", true, &all[1..2], &mut second);
        assert!(again.is_empty() && second.passed == 0);
        assert_eq!(
            second.failures,
            ["[6.12-again] late[kprobe]: waited 120 s (150 s of 200 s stolen by the host)"]
        );
        let mut passed = Tally::default();
        let all = [scenario("late[kprobe]", Ending::Passed)];
        count("6.12-again", "6.12.1-cloud", true, &all, &mut passed);
        assert_eq!((passed.passed, passed.failures.len()), (1, 0));
    }
}
