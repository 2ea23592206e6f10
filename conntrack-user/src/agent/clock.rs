//! From the kernel's monotonic clock to the time of day.

use std::time::{Duration, Instant, SystemTime};

use nix::time::{ClockId, clock_gettime};

/// How long a measured offset is used: the time of day can be set or slewed.
const REFRESH: Duration = Duration::from_secs(1);
/// How often the two clocks are read for it.
const READINGS: usize = 5;

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

/// The time of day when the monotonic clock showed 0.
fn time_of_day_at_zero() -> SystemTime {
    let readings: [Reading; READINGS] = std::array::from_fn(|_| Reading {
        before: monotonic(),
        now: SystemTime::now(),
        after: monotonic(),
    });
    at_zero(&readings).unwrap_or_else(SystemTime::now)
}

fn monotonic() -> Duration {
    // The clock exists on every Linux; an error would only put events at the time of reading.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// The time of day, and the monotonic clock before and after it was read.
#[derive(Clone, Copy, Debug)]
struct Reading {
    before: Duration,
    now: SystemTime,
    after: Duration,
}

/// By the reading that took the shortest time: it is off by at most half of that. Whoever reads may be put aside between two
/// clocks, for long on a busy machine, and would tell of a loss in the wrong second.
fn at_zero(readings: &[Reading]) -> Option<SystemTime> {
    let apart = |reading: &&Reading| reading.after.saturating_sub(reading.before);
    let Reading { before, now, after } = readings.iter().min_by_key(apart)?;
    now.checked_sub((*before + *after) / 2)
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

    #[test]
    fn being_put_aside_between_two_clocks_moves_nothing() {
        let zero = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let reading = |begin: u64, waited: [u64; 2]| {
            let before = Duration::from_millis(begin);
            let seen = before + Duration::from_millis(waited[0]);
            Reading {
                before,
                now: zero + seen,
                after: seen + Duration::from_millis(waited[1]),
            }
        };
        let readings = [
            reading(5_000, [900, 0]),
            reading(6_000, [0, 0]),
            reading(6_001, [0, 700]),
        ];
        assert_eq!(at_zero(&readings), Some(zero));
        // Put aside each time, it is off by at most half.
        let off = at_zero(&readings[..1]).expect("a time");
        assert_eq!(
            off.duration_since(zero).expect("later"),
            Duration::from_millis(450)
        );
        assert_eq!(at_zero(&[]), None);
    }
}
