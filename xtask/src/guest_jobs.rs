//! Guests that are to run scenarios: on which kernel, by which clock, and which of the scenarios.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::arch::Arch;
use crate::cache::Cache;
use crate::kernels::Kernel;
use crate::qemu::Qemu;
use crate::stolen::{Reading, Share};
use crate::tally::Tally;
use crate::{command, setup, torture_seed, vm_command};

/// What `--quick` boots: the kernel that most of the work is done with.
pub(crate) const QUICK: &str = "6.12";

/// Where a folder for each guest is, with what was run in it and what it said.
pub(crate) const FOLDER: &str = "target/guest-tests";
/// What the guest ran.
pub(crate) const SCRIPT: &str = "script";
/// What the script of a guest begins with if nothing was left out.
pub(crate) const WHOLE: &str = "exec ctpressure-scenario all";
/// What its kernel said.
pub(crate) const CONSOLE: &str = "console";
/// What the guest printed.
pub(crate) const OUTPUT: &str = "output";
/// What the name of a guest's folder ends in if its clock counted instructions.
pub(crate) const COUNTED: &str = "-counted";
/// The same of a guest in which scenarios were tried once more.
pub(crate) const AGAIN: &str = "-again";

/// Torture of every whole run: by a schedule that is the same each time, and by one that never was; so long each.
const TORTURE_SEED: u64 = 1;
const TORTURE_MINUTES: f64 = 2.5;
/// Entries that every census meets besides.
const TORTURE_CROWD: u64 = 20_000;
const TORTURE: &str = "torture";

/// What a guest's clock shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clock {
    Real,
    /// The instructions that it has run: what measures time gives the same figures on a busy host, and it can't be starved.
    Counted,
}

impl Clock {
    /// What the program with the scenarios takes, to run only those that are for this clock.
    pub(crate) const fn flag(self) -> &'static str {
        match self {
            Self::Real => " --clock real",
            Self::Counted => " --clock counted",
        }
    }
}

/// A guest that is to run scenarios.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) qemu: Qemu,
    pub(crate) kernel: Kernel,
    pub(crate) clock: Clock,
    /// Those that don't depend on the kernel, too.
    pub(crate) whole: bool,
    /// Just these: what is tried once more. Of torture it is the whole.
    pub(crate) again: Vec<String>,
    /// Not scenarios, but torture with this seed.
    pub(crate) torture: Option<u64>,
}

impl Job {
    pub(crate) fn name(&self) -> String {
        let version = self.kernel.version.split("-cloud").next();
        format!("{}{}", version.unwrap_or_default(), self.suffix())
    }

    pub(crate) fn suffix(&self) -> String {
        let torture = self.torture.map(|seed| format!("-torture-{seed}"));
        let clock = match self.clock {
            _ if !self.again.is_empty() => AGAIN,
            Clock::Real => "",
            Clock::Counted => COUNTED,
        };
        format!("{}{clock}", torture.unwrap_or_default())
    }

    /// Whether scenarios with pods of a container runtime are run: they take some minutes.
    pub(crate) fn makes_pods(&self) -> bool {
        let mut numbers = crate::apt::version_numbers(&self.kernel.version).into_iter();
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        self.torture.is_none()
            && self.clock == Clock::Real
            && matches!(version, (6, 1 | 12) | (7.., _))
    }

    /// What tells the scenarios which of them are for this guest.
    fn clock_flag(&self) -> &'static str {
        // Elsewhere all are run in one.
        if self.whole { self.clock.flag() } else { "" }
    }

    /// Whether it has something to do, by the names that the program with the scenarios lists: another architecture's does
    /// not run here, and a guest is booted to see.
    pub(crate) fn has_any(&self, filter: Option<&str>, binaries: &[PathBuf]) -> bool {
        if self.torture.is_some() {
            return filter.is_none_or(|filter| TORTURE.contains(filter));
        }
        let is_program = |path: &&PathBuf| path.ends_with("ctpressure-scenario");
        let (Some(filter), Some(program)) = (filter, binaries.iter().find(is_program)) else {
            return true;
        };
        let mut list = Command::new(program);
        list.arg("list").args(self.clock_flag().split_whitespace());
        command::output(&mut list).map_or(true, |names| {
            let mut names = names
                .lines()
                .filter_map(|line| line.split_whitespace().next());
            names.any(|name| name.contains(filter))
        })
    }

    /// What this guest got between two readings.
    pub(crate) fn share(&self, now: &Reading, earlier: &Reading) -> Share {
        let mut share = now.since(earlier);
        if self.clock == Clock::Counted {
            // Its time stands still while it waits.
            share.stolen = None;
        }
        share
    }

    pub(crate) fn script(&self, filter: Option<&str>) -> String {
        if let Some(seed) = self.torture {
            return torture_seed::of_seed(seed, TORTURE_MINUTES, TORTURE_CROWD);
        }
        let clock = self.clock_flag();
        let of_kernel = if self.whole || filter.is_some() {
            ""
        } else {
            " --of-kernel"
        };
        if !self.again.is_empty() {
            let titles: Vec<String> = self.again.iter().map(|title| quoted(title)).collect();
            let titles = titles.join(" ");
            return format!("exec ctpressure-scenario turns{of_kernel} {titles}\n");
        }
        if let Some(name) = filter {
            return format!("exec ctpressure-scenario run{clock} {}\n", quoted(name));
        }
        let pods = if self.makes_pods() { " --pods" } else { "" };
        format!("{WHOLE}{clock}{of_kernel}{pods}\n")
    }
}

/// As one word of the shell: every quote in it ended and escaped.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The guests that there are to be, and what failed already.
pub(crate) fn prepare(cache: &Cache, prefixes: &[String]) -> Result<(Vec<Job>, Tally)> {
    setup::ensure(cache, &setup::steps_for_guests(cache.arch(), true))?;
    setup::ensure(cache, &[setup::SetupStep::Containers])?;
    let mut tally = Tally::default();
    let mut jobs = Vec::new();
    for prefix in prefixes {
        match vm_command::prepare(cache, prefix, true) {
            Ok((qemu, kernel)) => {
                // What does not depend on the kernel is shown on one, or the whole run takes too long.
                let whole = cache.arch() == Arch::Amd64
                    && (prefixes.len() == 1 || kernel.version.starts_with(QUICK));
                // To count takes the host twice as long: what depends on the kernel only is not worth it, if it is shown on one so.
                let clocks: &[Clock] = if whole {
                    &[Clock::Counted, Clock::Real]
                } else {
                    &[Clock::Real]
                };
                let job = |clock, torture| Job {
                    qemu: qemu.clone(),
                    kernel: kernel.clone(),
                    clock,
                    whole,
                    again: Vec::new(),
                    torture,
                };
                jobs.extend(clocks.iter().map(|clock| job(*clock, None)));
                if whole {
                    let seeds = [TORTURE_SEED, torture_seed::new_seed()?];
                    jobs.extend(seeds.map(|seed| job(Clock::Real, Some(seed))));
                }
            }
            Err(error) => tally.fail(format!("[{prefix}] no guest: {error:#}")),
        }
    }
    // The longest first: the last ones end together.
    jobs.sort_by_key(|job| (job.torture.is_some(), !job.whole, !job.makes_pods()));
    Ok((jobs, tally))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_the_shell_stays_one() {
        assert_eq!(quoted("counts[kprobe]"), "'counts[kprobe]'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
