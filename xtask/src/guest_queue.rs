//! Which guest is booted next, and when.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::guest_jobs::{Clock, Job};

/// Guests that wait for a CPU of this machine.
#[derive(Debug)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    /// Taken, and not ended yet.
    running: usize,
    /// The stage of the host has this machine.
    host_is_busy: bool,
}

impl Waiting {
    /// The next of those that may run now; `None` when nothing may.
    fn next(&mut self) -> Option<Job> {
        let clocks: Vec<Clock> = self.jobs.iter().map(|job| job.clock).collect();
        self.jobs
            .remove(next(&clocks, self.running, self.host_is_busy)?)
    }
}

/// Which of the guests with these clocks may run now; the first comes first, of its clock.
fn next(waiting: &[Clock], running: usize, host_is_busy: bool) -> Option<usize> {
    let first = |clock| waiting.iter().position(|one| *one == clock);
    match (host_is_busy, running) {
        (false, _) => first(Clock::Real).or_else(|| first(Clock::Counted)),
        // Whose clock counts instructions does not care; one leaves the host's stage a CPU.
        (true, 0) => first(Clock::Counted),
        (true, _) => None,
    }
}

/// The stage of the host has this machine until this is dropped.
#[derive(Debug)]
pub(crate) struct HostIsBusy<'a>(&'a Queue);

impl Drop for HostIsBusy<'_> {
    fn drop(&mut self) {
        self.0.lock().host_is_busy = false;
        self.0.changed.notify_all();
    }
}

/// A guest that runs until this is dropped.
#[derive(Debug)]
pub(crate) struct Taken<'a> {
    pub(crate) job: Job,
    queue: &'a Queue,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.queue.lock().running -= 1;
        self.queue.changed.notify_all();
    }
}

impl Queue {
    pub(crate) fn new() -> Self {
        Self {
            waiting: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Says that the stage of the host runs.
    pub(crate) fn host_is_busy(&self) -> HostIsBusy<'_> {
        self.lock().host_is_busy = true;
        HostIsBusy(self)
    }

    /// The first comes first, of its clock.
    pub(crate) fn add(&self, jobs: impl IntoIterator<Item = Job>) {
        self.lock().jobs.extend(jobs);
        self.changed.notify_all();
    }

    /// Waits until one may run; `None` when none is left.
    pub(crate) fn take(&self) -> Option<Taken<'_>> {
        let mut waiting = self.lock();
        while !waiting.jobs.is_empty() {
            if let Some(job) = waiting.next() {
                waiting.running += 1;
                return Some(Taken { job, queue: self });
            }
            let changed = self.changed.wait(waiting);
            waiting = changed.unwrap_or_else(PoisonError::into_inner);
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beside_the_host_s_stage_runs_one_guest_whose_clock_does_not_care() {
        let waiting = [Clock::Real, Clock::Counted, Clock::Counted];
        assert_eq!(next(&waiting, 0, true), Some(1));
        assert_eq!(next(&waiting, 1, true), None);
        assert_eq!(next(&waiting[..1], 0, true), None);
        assert_eq!(next(&waiting, 1, false), Some(0));
        assert_eq!(next(&waiting[1..], 1, false), Some(0));
        assert_eq!(next(&[], 0, false), None);
    }
}
