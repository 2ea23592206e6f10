//! Time that this machine stole from a guest: while a CPU of it wanted to run and something else ran.
//!
//! The kernel counts for each thread how long it waited in a run queue (`schedstat`); what a hypervisor below this machine
//! took is in `/proc/stat`. A guest whose CPUs had to wait is late with everything, and a time limit that it then misses
//! says nothing about what was tested.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

/// Of the time of a scenario, from this share on a missed time limit is put down to the host: what a quiet machine steals
/// is below a hundredth.
const STARVED: f64 = 0.1;

/// What the threads of a guest had used and waited for at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    at: Instant,
    /// By thread: on a CPU, and in a run queue.
    threads: BTreeMap<u32, (Duration, Duration)>,
    /// What the hypervisor below took from each CPU of this machine.
    below: Duration,
}

/// What a guest got between two readings.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Share {
    /// Seconds on the clock.
    pub(crate) seconds: f64,
    /// Seconds that its threads ran, all together.
    pub(crate) processor: f64,
    /// Seconds that the CPU of it that waited most was kept waiting. `None`: this kernel does not count it.
    pub(crate) stolen: Option<f64>,
}

impl Share {
    /// Whether the host kept it waiting so long that its being late means nothing.
    pub(crate) fn starved(&self) -> bool {
        self.stolen
            .is_some_and(|stolen| stolen >= STARVED * self.seconds)
    }

    /// What a person reads: nothing where nothing is known.
    pub(crate) fn describe(&self) -> Option<String> {
        let stolen = self.stolen?;
        Some(format!(
            "{stolen:.0} s of {:.0} s stolen by the host",
            self.seconds
        ))
    }
}

impl Reading {
    /// What a process has that is only about to start.
    pub(crate) fn before_start() -> Self {
        Self {
            at: Instant::now(),
            threads: BTreeMap::new(),
            below: below(),
        }
    }

    /// Reads what the kernel has counted for a process.
    pub(crate) fn take(process: u32) -> Self {
        let mut threads = BTreeMap::new();
        let folder = format!("/proc/{process}/task");
        // A process that has ended has none.
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().parse();
            let text = fs::read_to_string(entry.path().join("schedstat"));
            if let (Ok(thread), Ok(text)) = (name, text)
                && let Some(times) = schedstat(&text)
            {
                threads.insert(thread, times);
            }
        }
        Self {
            at: Instant::now(),
            threads,
            below: below(),
        }
    }

    /// What there was since an earlier one.
    pub(crate) fn since(&self, earlier: &Self) -> Share {
        let seconds = self.at.duration_since(earlier.at).as_secs_f64();
        let mut processor = Duration::ZERO;
        let mut longest = None;
        for (thread, (ran, waited)) in &self.threads {
            let before = earlier.threads.get(thread).copied().unwrap_or_default();
            processor += ran.saturating_sub(before.0);
            longest = longest.max(Some(waited.saturating_sub(before.1)));
        }
        let below = self.below.saturating_sub(earlier.below);
        Share {
            seconds,
            processor: processor.as_secs_f64(),
            stolen: longest.map(|waited| (waited + below).as_secs_f64().min(seconds)),
        }
    }
}

/// What the hypervisor below took so far; nothing where there is none.
fn below() -> Duration {
    let text = fs::read_to_string("/proc/stat");
    text.ok()
        .and_then(|text| stolen_below(&text))
        .unwrap_or_default()
}

/// Time on a CPU and in a run queue: `1234 567 89`, nanoseconds.
fn schedstat(text: &str) -> Option<(Duration, Duration)> {
    let mut numbers = text.split_whitespace().map(str::parse);
    let (ran, waited) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some((Duration::from_nanos(ran), Duration::from_nanos(waited)))
}

/// The eighth number of the first line of `/proc/stat`, in hundredths of a second, for each CPU.
fn stolen_below(text: &str) -> Option<Duration> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let ticks: u32 = line.split_whitespace().nth(7)?.parse().ok()?;
    let is_cpu = |line: &&str| {
        line.strip_prefix("cpu")
            .is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
    };
    let cpus = u32::try_from(text.lines().filter(is_cpu).count()).ok()?;
    Duration::from_millis(10)
        .checked_mul(ticks)?
        .checked_div(cpus)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};
    use std::thread;

    use super::*;

    fn share(seconds: f64, stolen: Option<f64>) -> Share {
        Share {
            seconds,
            processor: 1.0,
            stolen,
        }
    }

    #[test]
    fn a_guest_is_starved_from_a_share_on_and_never_by_a_guess() {
        assert!(share(100.0, Some(10.0)).starved());
        assert!(!share(100.0, Some(9.0)).starved());
        assert!(!share(100.0, None).starved());
        let said = share(120.4, Some(60.2)).describe();
        assert_eq!(said.as_deref(), Some("60 s of 120 s stolen by the host"));
        assert_eq!(share(1.0, None).describe(), None);
    }

    #[test]
    fn the_cpu_that_waited_most_counts_and_what_came_between() {
        let second = Duration::from_secs(1);
        let earlier = Reading {
            at: Instant::now(),
            threads: BTreeMap::from([(1, (second, second)), (2, (second, second))]),
            below: second,
        };
        let later = Reading {
            at: earlier.at + 20 * second,
            threads: BTreeMap::from([
                (1, (5 * second, 3 * second)),
                (2, (second, 6 * second)),
                (3, (second, second)),
            ]),
            below: 2 * second,
        };
        let share = later.since(&earlier);
        assert!((share.processor - 5.0).abs() < 1e-9);
        assert_eq!(share.stolen, Some(6.0));
        // It can't wait longer than there was.
        let soon = Reading {
            at: earlier.at + second,
            ..later
        };
        assert_eq!(soon.since(&earlier).stolen, Some(1.0));
        let nothing = Reading {
            threads: BTreeMap::new(),
            ..soon
        };
        assert_eq!(nothing.since(&earlier).stolen, None);
    }

    #[test]
    fn the_kernels_numbers_are_read() {
        let read = schedstat("2000000000 500000000 7\n");
        assert_eq!(
            read,
            Some((Duration::from_secs(2), Duration::from_millis(500)))
        );
        assert_eq!(schedstat(""), None);
        let text = "cpu  1 2 3 4 5 6 7 800 9 10\ncpu0 1 2 3\ncpu1 1 2 3\nintr 1\n";
        assert_eq!(stolen_below(text), Some(Duration::from_secs(4)));
        assert_eq!(stolen_below("cpu  1 2\n"), None);
    }

    /// A child that keeps one CPU busy; killed when dropped.
    struct Busy(Child);

    impl Busy {
        fn on(cpu: &str) -> Self {
            let mut command = Command::new("taskset");
            command.args(["--cpu-list", cpu, "sh", "-c", "while :; do :; done"]);
            Self(command.spawn().unwrap())
        }
    }

    impl Drop for Busy {
        fn drop(&mut self) {
            self.0.kill().ok();
            self.0.wait().ok();
        }
    }

    #[test]
    fn a_process_beside_busy_loops_is_seen_to_starve() {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let mut lines = status.lines();
        let allowed = lines.find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let cpu = allowed.unwrap().trim().split(['-', ',']).next().unwrap();
        let starved = Busy::on(cpu);
        let _beside = [Busy::on(cpu), Busy::on(cpu)];
        let before = Reading::take(starved.0.id());
        let share = loop {
            thread::sleep(Duration::from_millis(200));
            let share = Reading::take(starved.0.id()).since(&before);
            // It is to have run, too.
            if share.seconds > 1.0 && share.processor > 0.1 {
                break share;
            }
            assert!(share.seconds < 60.0, "{share:?}");
        };
        assert!(share.starved(), "{share:?}");
    }
}
