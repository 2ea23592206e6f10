//! Numbers in words.

use crate::census::text::grouped;

/// Characters that are kept of somebody else's words.
const LONGEST: usize = 1000;

/// `1 packet`, `1,620 packets`
pub(super) fn plural(number: u64, one: &str, many: &str) -> String {
    format!(
        "{} {}",
        grouped(number),
        if number == 1 { one } else { many }
    )
}

/// `1 connection a second`, `1,500 connections a second`
pub(super) fn connections(rate: f64) -> String {
    let many = if per_second(rate) == "1" { "" } else { "s" };
    format!("{} connection{many} a second", per_second(rate))
}

/// `93 %`; what is not nothing is at least `<1 %`, and what is not all is at most `99 %`.
pub(super) fn percent(part: f64) -> String {
    if part <= 0.0 {
        return "0 %".to_owned();
    }
    let percent = part * 100.0;
    if percent < 1.0 {
        return "<1 %".to_owned();
    }
    // 99.99 is not all.
    let shown = if part < 1.0 {
        percent.round().min(99.0)
    } else {
        percent.round()
    };
    format!("{shown} %")
}

/// A number of things, rounded, with one decimal below ten.
pub(super) fn count(number: f64) -> String {
    if number < 9.95 && (number - number.round()).abs() >= 0.05 {
        return format!("{number:.1}");
    }
    grouped(rounded(number))
}

/// A rate: three figures at most.
pub(super) fn per_second(rate: f64) -> String {
    if rate > 0.0 && rate < 0.05 {
        return "less than 0.1".to_owned();
    }
    if rate < 1_000.0 {
        return count(rate);
    }
    let unit = 10_u64.pow(rounded(rate).ilog10().saturating_sub(2));
    grouped((rounded(rate) + unit / 2) / unit * unit)
}

/// `512 KiB`, `1.5 MiB`, `64 MiB`
pub(super) fn bytes(bytes: u64) -> String {
    let mut number = to_f64(bytes);
    for unit in ["bytes", "KiB", "MiB", "GiB"] {
        if number < 999.5 || unit == "GiB" {
            return if number >= 10.0 || unit == "bytes" || (number - number.round()).abs() < 0.05 {
                format!("{} {unit}", number.round())
            } else {
                format!("{number:.1} {unit}")
            };
        }
        number /= 1024.0;
    }
    String::new()
}

/// Somebody else's words, without what would move a terminal's cursor or turn the text around.
pub(super) fn clean(text: &str) -> String {
    text.chars()
        .map(|letter| match letter {
            '\u{200e}'
            | '\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
            | '\u{feff}' => '\u{fffd}',
            letter if letter.is_control() => '\u{fffd}',
            letter => letter,
        })
        .take(LONGEST)
        .collect()
}

/// `a`, `a and b`, `a, b and c`
pub(super) fn list(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// A whole number; what is below 0 is 0.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the conversion saturates"
)]
pub(super) fn rounded(number: f64) -> u64 {
    number.round() as u64
}

/// As a floating-point number.
#[expect(clippy::cast_precision_loss, reason = "only shown")]
pub(super) const fn to_f64(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_words() {
        assert_eq!(plural(1, "packet", "packets"), "1 packet");
        assert_eq!(plural(1620, "packet", "packets"), "1,620 packets");
        let percents = [0.0, 0.004, 0.93, 0.9999, 1.0].map(percent);
        assert_eq!(percents, ["0 %", "<1 %", "93 %", "99 %", "100 %"]);
        let counts = [0.0, 0.4, 3.0, 9.96, 1234.5].map(count);
        assert_eq!(counts, ["0", "0.4", "3", "10", "1,235"]);
        let rates = [0.0, 0.01, 0.4, 399.6, 1504.0, 123_456.0].map(per_second);
        assert_eq!(
            rates,
            ["0", "less than 0.1", "0.4", "400", "1,500", "123,000"]
        );
        let sizes = [0, 999, 1013 << 10, 1536, 67_108_864, 3 << 40].map(bytes);
        assert_eq!(
            sizes,
            [
                "0 bytes",
                "999 bytes",
                "1 MiB",
                "1.5 KiB",
                "64 MiB",
                "3072 GiB"
            ]
        );
        let names: Vec<String> = ["a", "b", "c"].map(str::to_owned).into();
        assert_eq!(list(&names), "a, b and c");
        assert_eq!(list(&names[..1]), "a");
        assert_eq!(list(&[]), "");
        assert_eq!(
            clean("a\u{1b}[2J\u{202e}b\n"),
            "a\u{fffd}[2J\u{fffd}b\u{fffd}"
        );
        assert_eq!(clean(&"x".repeat(5000)).len(), LONGEST);
    }
}
