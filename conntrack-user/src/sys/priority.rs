//! Threads that others go before.

use std::{io, thread, time::Duration};

use nix::time::{ClockId, clock_gettime};

/// How much lower the priority of such threads is (`nice(1)`): about a quarter of the CPU's time when
/// both want it, enough to get on with the work on a machine that is never idle.
pub(crate) const NICE: i32 = 5;

/// `include/uapi/linux/sched.h`
const SCHED_RESET_ON_FORK: libc::c_int = 0x4000_0000;

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

/// Gives the calling thread a real-time priority (`SCHED_FIFO`, the lowest one): it goes before all ordinary threads. Those that it
/// starts have an ordinary one.
///
/// # Errors
/// If the kernel refuses: it takes `CAP_SYS_NICE`, and a control group with real-time bandwidth where the kernel asks for one.
pub(crate) fn real_time() -> io::Result<()> {
    // `struct sched_param` of the kernel. By number, since a libc may have no such call (musl).
    let priority: libc::c_int = 1;
    // SAFETY: 0 is the calling thread; the kernel reads that one number.
    let refused = unsafe {
        libc::syscall(
            libc::SYS_sched_setscheduler,
            0,
            libc::SCHED_FIFO | SCHED_RESET_ON_FORK,
            &raw const priority,
        )
    };
    if refused == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// What the calling thread has used of a processor.
pub(crate) fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}
