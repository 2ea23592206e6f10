//! Times as people give them: all of them UTC.

use std::time::UNIX_EPOCH;

use super::{duration::DAY, time::LAST};

/// A time as given on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// In seconds of Unix time.
    At(u64),
    /// Seconds since midnight: the last time that the clock showed this.
    OfDay(u64),
    /// Seconds before the end.
    Before(u64),
}

/// What can't be read as a time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a time: use RFC 3339 (2026-03-01T03:12:00Z), HH:MM (UTC) or -2h")]
pub struct NotATime;

impl Moment {
    /// Seconds since 1970, where `end` is the last second that anything is known of.
    ///
    /// `HH:MM` is the last such time up to `end`. What lies before 1970 is 1970.
    pub const fn resolve(self, end: u64) -> u64 {
        match self {
            Self::At(at) => at,
            Self::Before(seconds) => end.saturating_sub(seconds),
            Self::OfDay(second) => {
                let today = end - end % DAY + second;
                if today <= end {
                    today
                } else {
                    today.saturating_sub(DAY)
                }
            }
        }
    }
}

/// Reads `2026-03-01T03:12:00Z` (also with a space, without seconds, with an offset),
/// `03:12`, `03:12:07`, `-2h`, `-1h30m`.
pub fn parse(text: &str) -> Result<Moment, NotATime> {
    let text = text.trim();
    if let Some(age) = text.strip_prefix('-') {
        let age = humantime::parse_duration(age).map_err(|_| NotATime)?;
        return Ok(Moment::Before(age.as_secs()));
    }
    if let Some(second) = of_day(text) {
        return Ok(Moment::OfDay(second));
    }
    let (local, offset) = without_offset(text).ok_or(NotATime)?;
    // Seconds may be left out.
    let local = match local.split(['T', 't', ' ']).nth(1) {
        Some(clock) if clock.split(':').count() == 2 => format!("{local}:00"),
        _ => local.to_owned(),
    };
    let seconds = humantime::parse_rfc3339_weak(&local.to_ascii_uppercase())
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .map(|since| since.as_secs())
        .ok_or(NotATime)?;
    seconds
        .checked_add_signed(-offset)
        .filter(|second| *second <= LAST)
        .map(Moment::At)
        .ok_or(NotATime)
}

/// `HH:MM` or `HH:MM:SS` as seconds since midnight.
fn of_day(text: &str) -> Option<u64> {
    let parts: Vec<u64> = text
        .split(':')
        .map(|part| {
            let digits = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| part.parse().ok()).flatten()
        })
        .collect::<Option<_>>()?;
    match parts[..] {
        [hour @ 0..24, minute @ 0..60] => Some(hour * 3600 + minute * 60),
        [hour @ 0..24, minute @ 0..60, second @ 0..60] => Some(hour * 3600 + minute * 60 + second),
        _ => None,
    }
}

/// The time without `Z` or `+01:00` at its end, and the seconds that it is ahead of UTC.
fn without_offset(text: &str) -> Option<(&str, i64)> {
    if let Some(local) = text.strip_suffix(['Z', 'z']) {
        return Some((local, 0));
    }
    let at = text.len().checked_sub(6)?;
    let (Some(local), Some(offset)) = (text.get(..at), text.get(at..)) else {
        return Some((text, 0));
    };
    let sign = match offset.as_bytes()[0] {
        b'+' => 1,
        // `2026-03-01` ends in something like an offset, but it has no clock before it.
        b'-' if local.contains(':') => -1,
        _ => return Some((text, 0)),
    };
    let ahead = i64::try_from(of_day(&offset[1..])?).ok()?;
    Some((local, sign * ahead))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::words::time;

    /// 2026-03-01T03:12:07Z
    const THEN: u64 = 1_772_334_727;

    #[test]
    fn times_as_people_write_them() {
        for (text, moment) in [
            ("2026-03-01T03:12:07Z", Moment::At(THEN)),
            ("2026-03-01 03:12:07", Moment::At(THEN)),
            ("2026-03-01t03:12:07z", Moment::At(THEN)),
            ("2026-03-01T03:12Z", Moment::At(THEN - 7)),
            ("2026-03-01 03:12", Moment::At(THEN - 7)),
            ("2026-03-01T04:12:07+01:00", Moment::At(THEN)),
            ("2026-02-28T22:12:07-05:00", Moment::At(THEN)),
            ("2026-03-01T03:12:07.9Z", Moment::At(THEN)),
            ("03:12", Moment::OfDay(11_520)),
            ("23:59:59", Moment::OfDay(86_399)),
            ("-2h", Moment::Before(7200)),
            ("-1h30m", Moment::Before(5400)),
            (" -90s ", Moment::Before(90)),
        ] {
            assert_eq!(parse(text), Ok(moment), "{text}");
        }
        for text in [
            "",
            "-",
            "yesterday",
            "24:00",
            "3:12",
            "12:60",
            "2026-03-01",
            "2026-13-01T00:00:00Z",
            "-2 parsecs",
            "2h",
            "2026-03-01T03:12:07+25:00",
            "1969-12-31T23:00:00-00:30",
            "é",
            "ééé",
            "\u{1f4a5}\u{1f4a5}:00",
            "1970-01-01T00:00:00+01:00",
            "９９:００",
        ] {
            assert_eq!(parse(text), Err(NotATime), "{text}");
        }
    }

    #[test]
    fn a_time_of_day_is_the_last_one() {
        assert_eq!(Moment::OfDay(11_527).resolve(THEN), THEN);
        assert_eq!(Moment::OfDay(11_528).resolve(THEN), THEN - DAY + 1);
        assert_eq!(Moment::OfDay(5).resolve(3), 0, "before 1970");
        assert_eq!(Moment::Before(7).resolve(THEN), THEN - 7);
        assert_eq!(Moment::Before(u64::MAX).resolve(THEN), 0);
        assert_eq!(Moment::At(5).resolve(THEN), 5);
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(seconds in 0..=LAST) {
            prop_assert_eq!(parse(&time::rfc3339(seconds)), Ok(Moment::At(seconds)));
            let clock = time::clock(seconds);
            prop_assert_eq!(parse(&clock).map(|moment| moment.resolve(seconds)), Ok(seconds));
        }

        #[test]
        fn anything_is_read_or_refused(text in ".{0,40}", digits in "[-+:TZ 0-9]{0,25}") {
            let _: Result<_, NotATime> = parse(&text);
            let _: Result<_, NotATime> = parse(&digits);
        }
    }
}
