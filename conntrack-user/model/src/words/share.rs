//! Shares and chances.

use super::number::{grouped, of_tenths, three_digits};
use crate::pressure::as_count;

/// How much of `of` is `part`, in per cent, **rounded down**: whole from 10 % on, with one decimal (unless it is 0) below.
///
/// Only nothing is `0 %`; less than a tenth is `<0.1 %`. Only all is `100 %`; what is more than all is `104 %`. A share
/// of nothing is `-`.
pub fn share(part: u64, of: u64) -> String {
    if of == 0 {
        return "-".to_owned();
    }
    let tenths = u128::from(part) * 1000 / u128::from(of);
    per_cent(u64::try_from(tenths).unwrap_or(u64::MAX), part > 0)
}

/// The same of a part that is known as a number from 0 to 1; `-` for what is no number.
pub fn share_f64(part: f64) -> String {
    if part.is_nan() {
        return "-".to_owned();
    }
    // 0.29 times 100 is a bit less than 29: what is missing for that reason is added, so that a share has the same words
    // whether it is given as two counts or as one number.
    let tenths = as_count((part * 1000.0 + 1e-11).floor());
    let most = if part < 1.0 { 999 } else { u64::MAX };
    per_cent(tenths.min(most), part > 0.0)
}

fn per_cent(tenths: u64, some: bool) -> String {
    match tenths {
        0 if some => "<0.1 %".to_owned(),
        0..100 => format!("{} %", of_tenths(tenths)),
        _ => format!("{} %", grouped(tenths / 10)),
    }
}

/// How often something happens, by its chance: `12 % of the time` from 0.1 % on ([`share_f64`]); below that `once in 5,000`, of which
/// three digits are told; below one in a million `less than once in 1,000,000`.
pub fn chance(chance: f64) -> String {
    if (0.0..1e-6).contains(&chance) {
        format!("less than once in {}", grouped(1_000_000))
    } else if (0.0..1e-3).contains(&chance) {
        format!(
            "once in {}",
            grouped(three_digits(as_count(chance.recip())))
        )
    } else {
        format!("{} of the time", share_f64(chance))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shares() {
        for (part, of, words) in [
            (0, 10, "0 %"),
            (1, 1_000_000, "<0.1 %"),
            (1, 1000, "0.1 %"),
            (3, 1000, "0.3 %"),
            (1, 100, "1 %"),
            (99, 1000, "9.9 %"),
            (999, 10_000, "9.9 %"),
            (10, 100, "10 %"),
            (1, 3, "33 %"),
            (29, 100, "29 %"),
            (1_962, 2_000, "98 %"),
            (9_999, 10_000, "99 %"),
            (7, 7, "100 %"),
            (u64::MAX, u64::MAX, "100 %"),
            (u64::MAX - 1, u64::MAX, "99 %"),
            (26, 25, "104 %"),
            (5000, 4, "125,000 %"),
            (0, 0, "-"),
            (3, 0, "-"),
        ] {
            assert_eq!(share(part, of), words, "{part} of {of}");
        }
        for (part, words) in [
            (-1.0, "0 %"),
            (1e-12, "<0.1 %"),
            (0.29, "29 %"),
            (0.07, "7 %"),
            (1.0 - 1e-16, "99 %"),
            (1.0, "100 %"),
            (f64::NAN, "-"),
        ] {
            assert_eq!(share_f64(part), words, "{part}");
        }
    }

    #[test]
    fn chances() {
        for (number, words) in [
            (0.0, "less than once in 1,000,000"),
            (1e-9, "less than once in 1,000,000"),
            (1e-6, "once in 1,000,000"),
            (0.000_2, "once in 5,000"),
            (0.000_23, "once in 4,350"),
            (0.001, "0.1 % of the time"),
            (0.023, "2.3 % of the time"),
            (0.5, "50 % of the time"),
            (1.0, "100 % of the time"),
        ] {
            assert_eq!(chance(number), words, "{number}");
        }
    }

    proptest! {
        #[test]
        fn only_nothing_is_nothing_and_only_all_is_all(part in 0_u64..5000, of in 1_u64..5000, scale in 1_u64..1_000_000) {
            let words = share(part * scale, of * scale);
            prop_assert_eq!(words == "0 %", part == 0);
            prop_assert_eq!(words == "100 %", part >= of && part * 100 < of * 101);
        }

        #[test]
        fn counts_and_a_number_have_the_same_words(part: u32, of in 1..=u32::MAX) {
            let number = f64::from(part) / f64::from(of);
            prop_assert_eq!(share(part.into(), of.into()), share_f64(number));
        }

        #[test]
        fn small_counts_and_a_number_have_the_same_words(part in 0_u32..2000, of in 1_u32..2000) {
            let number = f64::from(part) / f64::from(of);
            prop_assert_eq!(share(part.into(), of.into()), share_f64(number));
        }

        #[test]
        fn more_is_not_written_as_less(part: u32, more: u32, of in 1..=u32::MAX) {
            let read = |part: u64| {
                let words = share(part, of.into()).replace(',', "");
                let number = words.trim_end_matches(" %");
                number.strip_prefix('<').map_or_else(|| number.parse().unwrap(), |_| 0.05_f64)
            };
            prop_assert!(read(part.into()) <= read(u64::from(part) + u64::from(more)));
        }
    }
}
