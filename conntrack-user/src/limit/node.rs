//! Which boot of the node this is, and how long it has run.

use std::{fs, time::Duration};

use nix::time::{ClockId, clock_gettime};

use crate::kernel::Root;

/// Time since boot, sleep included: the same for every process until the next boot.
pub(crate) fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

/// What tells this boot from the others (`/proc/sys/kernel/random/boot_id`); empty where the kernel
/// does not say.
pub(crate) fn boot_id(root: &Root) -> String {
    fs::read_to_string(root.proc("sys/kernel/random/boot_id"))
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_this_machine() {
        assert!(since_boot() > Duration::ZERO);
        assert!(!boot_id(&Root::system()).is_empty());
    }
}
