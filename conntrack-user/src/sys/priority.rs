//! The calling thread's share of the CPU.

/// Lowers the priority of the calling thread by so many steps of `nice(2)`; the lowest is 19. (POSIX
/// means the process; Linux gives each thread its own.)
pub(crate) fn lower(steps: i32) {
    // SAFETY: it takes a number and touches no memory. Its result is the new value; lowering can't
    // be refused.
    unsafe { libc::nice(steps.max(0)) };
}
