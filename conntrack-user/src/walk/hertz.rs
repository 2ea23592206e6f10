//! How many jiffies a second has: no file says so everywhere (`CONFIG_HZ`).

use std::time::Duration;

/// What kernels are built with.
const KNOWN: [u64; 4] = [100, 250, 300, 1_000];

/// A time by both clocks of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) jiffies: u64,
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub(super) nanoseconds: u64,
}

/// How far apart two moments have to be: 250 and 300 are 5 jiffies apart then.
pub(super) const APART: Duration = Duration::from_millis(100);

/// Jiffies of a second by two moments; `None`: they are not far enough apart, or no kernel is like that.
pub(super) fn hertz(first: Moment, second: Moment) -> Option<u64> {
    let time = second.nanoseconds.checked_sub(first.nanoseconds)?;
    if u128::from(time) < APART.as_nanos() {
        return None;
    }
    let jiffies = second.jiffies.checked_sub(first.jiffies)?;
    let expected = |hertz: u64| u128::from(time) * u128::from(hertz) / 1_000_000_000;
    let off = |hertz: &u64| expected(*hertz).abs_diff(u128::from(jiffies));
    let best = KNOWN.into_iter().min_by_key(off)?;
    // A jiffy may be missing at each end.
    (off(&best) <= 2).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(jiffies: u64, milliseconds: u64) -> Moment {
        Moment {
            jiffies,
            nanoseconds: milliseconds * 1_000_000,
        }
    }

    #[test]
    fn two_moments_tell_which_kernel_it_is() {
        let first = moment(4_294_937_296, 5_000);
        let at = |jiffies, milliseconds| {
            hertz(first, moment(4_294_937_296 + jiffies, 5_000 + milliseconds))
        };
        for known in KNOWN {
            for milliseconds in [100, 117, 250] {
                let jiffies = known * milliseconds / 1_000;
                assert_eq!(at(jiffies, milliseconds), Some(known));
                assert_eq!(at(jiffies + 1, milliseconds), Some(known));
            }
        }
        assert_eq!(at(25, 99), None, "too soon");
        assert_eq!(at(60, 100), None, "no kernel is like that");
        assert_eq!(hertz(moment(5, 900), moment(4, 1_100)), None);
    }
}
