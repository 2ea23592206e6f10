//! What the agent itself costs.

use procfs::{ProcResult, WithCurrentSystemInfo as _, process::Process};
use serde::Serialize;

/// The agent's own use of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Own {
    /// Resident memory of the process.
    pub rss_bytes: u64,
    /// User and system time since the start.
    pub cpu_seconds: f64,
    /// When the process started, seconds since 1970.
    pub start_time_seconds: f64,
    /// File descriptors that are open.
    pub open_fds: u64,
}

impl Own {
    /// As it is now.
    ///
    /// # Errors
    /// If /proc can't be read.
    pub fn read() -> ProcResult<Self> {
        let process = Process::myself()?;
        let stat = process.stat()?;
        let ticks = as_f64(procfs::ticks_per_second());
        Ok(Self {
            rss_bytes: stat.rss_bytes().get(),
            cpu_seconds: as_f64(stat.utime + stat.stime) / ticks,
            start_time_seconds: as_f64(procfs::boot_time_secs()?) + as_f64(stat.starttime) / ticks,
            open_fds: process.fd_count()? as u64,
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
const fn as_f64(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn this_process() {
        let own = Own::read().expect("/proc");
        assert!(own.rss_bytes > 100_000, "{own:?}");
        assert!(own.open_fds >= 3, "{own:?}");
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .expect("after 1970")
            .as_secs_f64();
        assert!((now - own.start_time_seconds).abs() < 600.0, "{own:?}");
    }
}
