//! The same figures for a column of a screen: in few letters, ASCII only, so that any terminal can show them.

use std::time::Duration;

use super::{
    duration::{DAY, of_seconds, sign, tenths},
    number::{figure, grouped, of_tenths, three_digits},
};
use crate::pressure::{as_count, lifetime::Lifetime};

/// A count in at most five columns: exact below ten thousand, then three digits. `9,999`, `12.3k`, `123k`, `1.2M`.
pub fn count(number: u64) -> String {
    if number < 10_000 {
        return grouped(number);
    }
    let shown = three_digits(number);
    let mut unit = 1;
    for letter in ["k", "M", "G", "T", "P", "E"] {
        unit *= 1000;
        if shown / unit < 100 {
            let tenths = shown / (unit / 10);
            return format!("{}.{}{letter}", tenths / 10, tenths % 10);
        }
        if shown / unit < 1000 {
            return format!("{}{letter}", shown / unit);
        }
    }
    // Not reached: the greatest number is 18.4E.
    String::new()
}

/// A count in at most seven columns: exact below a million, then as [`count`].
pub fn entries(number: u64) -> String {
    if number < 1_000_000 {
        grouped(number)
    } else {
        count(number)
    }
}

/// A rate in at most five columns: three digits of it. `<0.1`, `9.9`, `18`, `1,500`, `12.3k`.
pub fn per_second(rate: f64) -> String {
    if rate.is_nan() || rate < 999.5 {
        figure(rate)
    } else {
        count(three_digits(as_count(rate)))
    }
}

/// A share in at most five columns: as [`share_f64`](super::share_f64), without the space. `<0.1%`, `9.9%`, `98%`, `>999%`.
pub fn share(part: f64) -> String {
    if part >= 10.0 {
        return ">999%".to_owned();
    }
    super::share_f64(part).replace(' ', "")
}

/// A length of time in at most four columns: one unit, rounded down. `4.2s`, `90s`, `60m`, `20h`, `12d`; below a tenth
/// `0.0s`.
pub fn seconds(seconds: f64) -> String {
    of_seconds(seconds).map_or_else(|| "-".to_owned(), span)
}

fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 if tenths(time) == 0 => if time.is_zero() { "0s" } else { "0.0s" }.to_owned(),
        0..10 => format!("{}s", of_tenths(tenths(time))),
        10..600 => format!("{seconds}s"),
        600..36_000 => format!("{}m", seconds / 60),
        36_000..864_000 => format!("{}h", seconds / 3600),
        _ => format!("{}d", (seconds / DAY).min(999)),
    }
}

/// How long an entry lives, in at most five columns: `30s`, `>60m` (at least), `<2s` (at most), `-` (not known).
pub fn lifetime(lifetime: Option<Lifetime>) -> String {
    lifetime.map_or_else(
        || "-".to_owned(),
        |lifetime| format!("{}{}", sign(lifetime.is), seconds(lifetime.seconds)),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn figures() {
        for (number, text) in [
            (0, "0"),
            (9_999, "9,999"),
            (10_000, "10.0k"),
            (12_345, "12.3k"),
            (99_999, "100k"),
            (262_144, "262k"),
            (999_999, "1.0M"),
            (12_345_678, "12.3M"),
            (u64::MAX, "18.4E"),
        ] {
            assert_eq!(count(number), text);
        }
        assert_eq!(entries(262_144), "262,144");
        assert_eq!(entries(2_000_000), "2.0M");
        for (rate, text) in [
            (0.04, "<0.1"),
            (17.7, "18"),
            (1_504.0, "1,500"),
            (12_345.0, "12.3k"),
        ] {
            assert_eq!(per_second(rate), text);
        }
        for (part, text) in [
            (0.0, "0%"),
            (0.0001, "<0.1%"),
            (0.999, "99%"),
            (1.0, "100%"),
            (99.0, ">999%"),
        ] {
            assert_eq!(share(part), text);
        }
        for (time, text) in [
            (0.0, "0s"),
            (0.04, "0.0s"),
            (4.24, "4.2s"),
            (90.0, "90s"),
            (3600.0, "60m"),
            (9e9, "999d"),
        ] {
            assert_eq!(seconds(time), text);
        }
    }

    proptest! {
        #[test]
        fn every_figure_fits_its_column(number: u64, shift in 0_u32..64, part in 0.0..1e9_f64) {
            let number = number >> shift;
            prop_assert!(count(number).len() <= 5);
            prop_assert!(entries(number).len() <= 7);
            #[expect(clippy::cast_precision_loss, reason = "any rate will do")]
            let rate = number as f64;
            prop_assert!(per_second(rate).len() <= 5);
            prop_assert!(share(part).len() <= 5 && share(part.recip()).len() <= 5);
            prop_assert!(seconds(part).len() <= 4);
        }
    }
}
