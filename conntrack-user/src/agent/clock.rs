//! From the kernel's monotonic clock to the time of day.

use std::time::{Duration, Instant, SystemTime};

use nix::time::{ClockId, clock_gettime};

/// How long a measured offset is used: the time of day can be set or slewed.
const REFRESH: Duration = Duration::from_secs(1);

/// Turns `CLOCK_MONOTONIC` nanoseconds, as records carry them, into the time of day.
#[derive(Debug)]
pub(super) struct BootClock {
    /// The time of day at monotonic time 0.
    boot: SystemTime,
    measured: Instant,
}

impl Default for BootClock {
    fn default() -> Self {
        Self {
            boot: time_of_day_at_zero(),
            measured: Instant::now(),
        }
    }
}

impl BootClock {
    /// The time of day at which the monotonic clock showed `monotonic_ns`.
    pub(super) fn time_of_day(&mut self, monotonic_ns: u64) -> SystemTime {
        if self.measured.elapsed() >= REFRESH {
            *self = Self::default();
        }
        self.boot + Duration::from_nanos(monotonic_ns)
    }
}

fn time_of_day_at_zero() -> SystemTime {
    // The clock exists on every Linux; an error would only put events at the time of reading.
    let monotonic = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    let now = SystemTime::now();
    now.checked_sub(monotonic).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn now_is_now() {
        let monotonic =
            Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a clock")).as_nanos();
        let told = BootClock::default().time_of_day(u64::try_from(monotonic).expect("fits"));
        let now = SystemTime::now();
        let apart = now
            .duration_since(told)
            .unwrap_or_else(|error| error.duration());
        assert!(apart < Duration::from_millis(500), "{apart:?} apart");
    }
}
