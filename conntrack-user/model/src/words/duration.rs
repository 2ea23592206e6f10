//! Lengths of time.

use std::time::Duration;

use super::number::of_tenths;
use crate::pressure::lifetime::{Bound, Lifetime};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
pub(super) const DAY: u64 = 24 * HOUR;

/// A length of time in at most two units, **rounded down**, in tenths below ten seconds: `0.4 s`, `45 s`, `4 min 10 s`,
/// `3 h`, `3 h 20 min`, `2 d 4 h`. Only nothing is `0 s`; less than a tenth is `<0.1 s`.
pub fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 10 {
        let tenths = tenths(time);
        return if tenths == 0 && !time.is_zero() {
            "<0.1 s".to_owned()
        } else {
            format!("{} s", of_tenths(tenths))
        };
    }
    let parts = [
        (seconds / DAY, "d"),
        (seconds % DAY / HOUR, "h"),
        (seconds % HOUR / MINUTE, "min"),
        (seconds % MINUTE, "s"),
    ];
    let first = parts.iter().position(|(number, _)| *number > 0);
    let words: Vec<String> = parts[first.unwrap_or_default()..]
        .iter()
        .take(2)
        .filter(|(number, _)| *number > 0)
        .map(|(number, unit)| format!("{number} {unit}"))
        .collect();
    words.join(" ")
}

/// [`span`] of whole seconds.
pub fn seconds(seconds: u64) -> String {
    span(Duration::from_secs(seconds))
}

/// [`span`] of seconds that need not be whole; `-` for what is no number or without end. What is below 0 is `0 s`.
pub fn seconds_f64(seconds: f64) -> String {
    of_seconds(seconds).map_or_else(|| "-".to_owned(), span)
}

/// How long an entry lives, as far as it is known: `30 s`, `>5 min` (at least), `<2 s` (at most), `-` (not known).
pub fn lifetime(lifetime: Option<Lifetime>) -> String {
    lifetime.map_or_else(
        || "-".to_owned(),
        |lifetime| {
            let time = seconds_f64(lifetime.seconds);
            // `<0.1 s` says it already.
            let sign = sign(lifetime.is);
            format!("{}{time}", if time.starts_with('<') { "" } else { sign })
        },
    )
}

pub(super) const fn sign(bound: Bound) -> &'static str {
    match bound {
        Bound::About => "",
        Bound::AtLeast => ">",
        Bound::AtMost => "<",
    }
}

/// Tenths of a second, rounded down.
pub(super) fn tenths(time: Duration) -> u64 {
    time.as_secs() * 10 + u64::from(time.subsec_millis() / 100)
}

pub(super) fn of_seconds(seconds: f64) -> Option<Duration> {
    seconds
        .is_finite()
        .then(|| Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths() {
        for (time, words) in [
            (0, "0 s"),
            (7, "7 s"),
            (59, "59 s"),
            (60, "1 min"),
            (250, "4 min 10 s"),
            (HOUR - 1, "59 min 59 s"),
            (HOUR, "1 h"),
            (HOUR + 59, "1 h"),
            (12_000, "3 h 20 min"),
            (2 * DAY + 4 * HOUR + 5, "2 d 4 h"),
            (5 * DAY, "5 d"),
        ] {
            assert_eq!(seconds(time), words);
        }
        for (time, words) in [
            (-1.0, "0 s"),
            (1e-5, "<0.1 s"),
            (0.1, "0.1 s"),
            (0.7, "0.7 s"),
            (2.3, "2.3 s"),
            (9.99, "9.9 s"),
            (44.6, "44 s"),
            (f64::INFINITY, "-"),
            (f64::NAN, "-"),
        ] {
            assert_eq!(seconds_f64(time), words);
        }
        assert!(seconds_f64(1e300).ends_with(" d 7 h"));
    }

    #[test]
    fn lifetimes() {
        let of = |seconds: f64, is: Bound| {
            lifetime(Some(Lifetime {
                seconds,
                error: 0.0,
                is,
            }))
        };
        assert_eq!(of(30.0, Bound::About), "30 s");
        assert_eq!(of(300.0, Bound::AtLeast), ">5 min");
        assert_eq!(of(2.0, Bound::AtMost), "<2 s");
        assert_eq!(of(0.01, Bound::AtMost), "<0.1 s");
        assert_eq!(lifetime(None), "-");
    }

    proptest! {
        #[test]
        fn it_says_no_more_than_there_is(time in 0_u64..4_000 * DAY, millis in 0_u64..1000) {
            let exact = Duration::from_secs(time) + Duration::from_millis(millis);
            let words = span(exact);
            prop_assert_eq!(words == "0 s", exact.is_zero());
            if let Ok(said) = humantime::parse_duration(&words.replace("0.", "0").replace(['<', '.'], "")) {
                // What has no decimal point is read back as it was meant.
                if !words.contains(['.', '<']) {
                    prop_assert!(said <= exact, "{words}");
                    let unit = if time < HOUR { 1 } else if time < DAY { MINUTE } else { HOUR };
                    prop_assert!(exact < said + Duration::from_secs(unit), "{words}");
                }
            } else {
                prop_assert!(words.contains(['.', '<']), "{words}");
            }
        }
    }
}
