//! Threads that others go before.

use std::{io, thread, time::Duration};

use nix::time::{ClockId, clock_gettime};

/// How much lower the priority of such threads is (`nice(1)`): about a quarter of the CPU's time when
/// both want it, enough to get on with the work on a machine that is never idle.
pub(crate) const NICE: i32 = 5;

/// Starts a thread whose priority is lower by [`NICE`]: events go first. (To POSIX it would be that of
/// the process; Linux gives each thread its own.)
///
/// # Errors
/// If the kernel gives no thread.
pub(crate) fn thread(
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(|| {
        // SAFETY: it takes a number and touches no memory. Its result is the new value; lowering
        // can't be refused.
        unsafe { libc::nice(NICE) };
        work();
    })
}

/// What the calling thread has used of a processor.
pub(crate) fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}
