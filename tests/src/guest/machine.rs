//! When this machine was away: an emulated CPU shares its host with others, and the host may leave
//! it for longer than what is to be measured.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Result, anyhow};
use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

use crate::traffic::send::pin_to_cpu;

/// How often each CPU is looked at.
const PERIOD: Duration = Duration::from_millis(1);
/// What a timer may be late on a machine that is there all the time.
const ON_TIME: Duration = Duration::from_millis(1);

/// A stretch of time in which a CPU did nothing, not even run the thread that goes before all others.
type Away = (SystemTime, SystemTime);

/// Looks at each CPU a thousand times a second, by a sleeper of the highest priority (`SCHED_FIFO`):
/// whatever else this machine has to do, it can't keep that one waiting. So a sleeper that wakes up
/// late says that the CPU was not there.
#[derive(Debug)]
pub struct MachineWatch {
    end: Arc<AtomicBool>,
    sleepers: Vec<JoinHandle<Result<Vec<Away>>>>,
}

impl MachineWatch {
    /// Begins to look.
    pub fn start() -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        let sleepers = (0..cpus)
            .map(|cpu| {
                let end = Arc::clone(&end);
                thread::spawn(move || sleep_and_look(cpu, &end))
            })
            .collect();
        Self { end, sleepers }
    }

    /// What was seen until now.
    ///
    /// # Errors
    ///
    /// When a sleeper could not have its CPU or its priority.
    pub fn stop(self) -> Result<Absences> {
        self.end.store(true, Ordering::Relaxed);
        let mut away = Vec::new();
        for sleeper in self.sleepers {
            away.extend(
                sleeper
                    .join()
                    .map_err(|_| anyhow!("a thread that watches a CPU panicked"))??,
            );
        }
        Ok(Absences::new(away))
    }
}

fn sleep_and_look(cpu: usize, end: &AtomicBool) -> Result<Vec<Away>> {
    pin_to_cpu(cpu)?;
    set_thread_priority_and_policy(
        thread_native_id(),
        ThreadPriority::Crossplatform(50.try_into().map_err(|error| anyhow!("{error}"))?),
        ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo),
    )
    .map_err(|error| anyhow!("SCHED_FIFO can't be had: {error}"))?;
    let mut away = Vec::new();
    while !end.load(Ordering::Relaxed) {
        let before = Instant::now();
        thread::sleep(PERIOD);
        let late = before.elapsed().saturating_sub(PERIOD);
        if late > ON_TIME {
            let now = SystemTime::now();
            away.push((now - late, now));
        }
    }
    Ok(away)
}

/// When at least one CPU was away, in order and without overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Absences(Vec<Away>);

impl Absences {
    fn new(mut away: Vec<Away>) -> Self {
        away.sort_unstable();
        let mut merged: Vec<Away> = Vec::with_capacity(away.len());
        for (from, to) in away {
            match merged.last_mut() {
                Some((_, end)) if from <= *end => *end = to.max(*end),
                _ => merged.push((from, to)),
            }
        }
        Self(merged)
    }

    /// How much of the time between two moments.
    pub fn within(&self, from: SystemTime, to: SystemTime) -> Duration {
        let first = self.0.partition_point(|(_, end)| *end <= from);
        self.0[first..]
            .iter()
            .take_while(|(start, _)| *start < to)
            .map(|(start, end)| {
                (*end.min(&to))
                    .duration_since(*start.max(&from))
                    .unwrap_or_default()
            })
            .sum()
    }

    /// All of them together.
    pub fn total(&self) -> Duration {
        self.lengths().sum()
    }

    fn lengths(&self) -> impl Iterator<Item = Duration> {
        self.0
            .iter()
            .filter_map(|(start, end)| end.duration_since(*start).ok())
    }

    /// The longest one.
    pub fn longest(&self) -> Duration {
        self.lengths().max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds)
    }

    #[test]
    fn two_cpus_that_are_away_at_once_are_one_absence() {
        let absences = Absences::new(vec![
            (at(50), at(60)),
            (at(10), at(20)),
            (at(15), at(30)),
            (at(16), at(18)),
        ]);
        assert_eq!(absences, Absences(vec![(at(10), at(30)), (at(50), at(60))]));
        assert_eq!(absences.longest(), Duration::from_millis(20));
        assert_eq!(absences.total(), Duration::from_millis(30));
        assert_eq!(Absences::default().longest(), Duration::ZERO);
    }

    #[test]
    fn only_the_part_in_between_counts() {
        let absences = Absences::new(vec![(at(10), at(30)), (at(50), at(60)), (at(70), at(90))]);
        for (from, to, milliseconds) in [
            (0, 100, 50),
            (0, 10, 0),
            (30, 50, 0),
            (12, 15, 3),
            (20, 55, 15),
            (55, 80, 15),
            (95, 99, 0),
        ] {
            assert_eq!(
                absences.within(at(from), at(to)),
                Duration::from_millis(milliseconds),
                "{from} to {to}"
            );
        }
    }
}
