//! Counts, figures and rates.

use crate::pressure::as_count;

/// A count, with a comma before each group of three digits: `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count and what is counted: `1 packet`, `1,620 packets`.
pub fn plural(number: u64, one: &str, many: &str) -> String {
    format!(
        "{} {}",
        grouped(number),
        if number == 1 { one } else { many }
    )
}

/// What is measured or is an average, to the nearest: one decimal below ten, unless it is 0. `2`, `2.4`, `17`, `1,235`;
/// `<0.1` for what is more than nothing. What is below nothing is `0`, what is no number `-`.
pub fn figure(number: f64) -> String {
    if number.is_nan() {
        return "-".to_owned();
    }
    if number > 0.0 && number < 0.05 {
        return "<0.1".to_owned();
    }
    let tenths = as_count(number * 10.0);
    if tenths < 100 {
        return of_tenths(tenths);
    }
    grouped(as_count(number))
}

/// A rate, by the second: a [`figure`] of which three digits are told. `0.4`, `27`, `1,500`, `123,000`.
pub fn per_second(rate: f64) -> String {
    if rate.is_nan() || rate < 999.5 {
        return figure(rate);
    }
    grouped(three_digits(as_count(rate)))
}

/// A rate and what it is of: `1 connection a second`, `1,500 connections a second`.
pub fn a_second(rate: f64, one: &str, many: &str) -> String {
    let number = per_second(rate);
    let what = if number == "1" { one } else { many };
    format!("{number} {what} a second")
}

/// `a`, `a and b`, `a, b and c`
pub fn list(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// Tenths as `2` or `2.4`.
pub(super) fn of_tenths(tenths: u64) -> String {
    match tenths % 10 {
        0 => grouped(tenths / 10),
        tenth => format!("{}.{tenth}", grouped(tenths / 10)),
    }
}

/// To the nearest number of which only three digits are not 0.
pub(super) fn three_digits(number: u64) -> u64 {
    let unit = 10_u64.pow(number.max(1).ilog10().saturating_sub(2));
    // The greatest number has no room above it.
    number.saturating_add(unit / 2) / unit * unit
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn counts() {
        for (number, words) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (1_234_567, "1,234,567"),
            (u64::MAX, "18,446,744,073,709,551,615"),
        ] {
            assert_eq!(grouped(number), words);
        }
        assert_eq!(plural(1, "packet", "packets"), "1 packet");
        assert_eq!(plural(1_620, "packet", "packets"), "1,620 packets");
    }

    #[test]
    fn figures_and_rates() {
        for (number, words, rate) in [
            (0.0, "0", "0"),
            (-3.0, "0", "0"),
            (1e-9, "<0.1", "<0.1"),
            (0.05, "0.1", "0.1"),
            (0.4, "0.4", "0.4"),
            (3.0, "3", "3"),
            (9.94, "9.9", "9.9"),
            (9.96, "10", "10"),
            (399.6, "400", "400"),
            (999.4, "999", "999"),
            (999.5, "1,000", "1,000"),
            (1_234.5, "1,235", "1,240"),
            (1_504.0, "1,504", "1,500"),
            (123_456.0, "123,456", "123,000"),
            (f64::NAN, "-", "-"),
        ] {
            assert_eq!(figure(number), words);
            assert_eq!(per_second(number), rate);
        }
    }

    #[test]
    fn what_a_rate_is_of() {
        assert_eq!(a_second(1.01, "packet", "packets"), "1 packet a second");
        assert_eq!(a_second(0.4, "packet", "packets"), "0.4 packets a second");
    }

    #[test]
    fn lists() {
        let names: Vec<String> = ["a", "b", "c"].map(str::to_owned).into();
        assert_eq!(list(&names), "a, b and c");
        assert_eq!(list(&names[..1]), "a");
        assert_eq!(list(&[]), "");
    }

    fn read(words: &str) -> f64 {
        let words = words.replace(',', "");
        words
            .strip_prefix('<')
            .map_or_else(|| words.parse().unwrap(), |_| 0.05)
    }

    proptest! {
        #[test]
        fn a_count_reads_back(number: u64) {
            prop_assert_eq!(grouped(number).replace(',', "").parse(), Ok(number));
        }

        #[test]
        fn a_greater_figure_is_not_written_as_less(one in 0.0..1e7_f64, more in 0.0..1e3_f64) {
            prop_assert!(read(&figure(one)) <= read(&figure(one + more)));
            prop_assert!(read(&per_second(one)) <= read(&per_second(one + more)));
            prop_assert_eq!(figure(one) == "0", one <= 0.0);
        }

        #[test]
        fn a_rate_is_off_by_half_a_percent_at_most(rate in 100.0..1e15_f64) {
            prop_assert!((read(&per_second(rate)) / rate - 1.0).abs() <= 0.0051);
        }
    }
}
