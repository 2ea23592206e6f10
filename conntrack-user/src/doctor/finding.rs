//! What a finding is.

use std::fmt;

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing is lost now; under load, after a restart or in time something may be.
    Risk,
    /// Packets or connections are lost from time to time, or will be at the next busy hour.
    Problem,
    /// Packets are being lost now, or are about to be.
    Critical,
}

impl fmt::Display for Severity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Risk => "risk",
            Self::Problem => "problem",
            Self::Critical => "critical",
        })
    }
}

/// Something that is wrong, or may go wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stays the same from version to version.
    pub id: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in one sentence.
    pub title: String,
    /// What was seen, with its numbers.
    pub evidence: String,
    /// What follows from it.
    pub consequence: String,
    /// Command lines that put it right until the next boot or restart; each works as it stands.
    pub fix: Vec<String>,
    /// What no command line can say: where it has to be set to last, or what else to do.
    pub advice: String,
    /// What the fix costs: memory, time, side effects.
    pub cost: String,
}

/// Something that could not be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unseen {
    /// What.
    pub what: &'static str,
    /// Why not.
    pub because: String,
    /// What to do about it.
    pub help: &'static str,
}

/// `1,234,567`
pub(super) fn grouped(number: u64) -> String {
    crate::census::text::grouped(number)
}

/// A number of bytes in a unit that fits, such as `16 MiB`.
pub(super) fn bytes(number: u64) -> String {
    let mut unit = 0;
    let mut rest = number;
    let mut left = 0;
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    while rest >= 1024 && unit + 1 < units.len() {
        left = rest % 1024;
        rest /= 1024;
        unit += 1;
    }
    if unit > 0 && rest < 10 {
        format!("{rest}.{} {}", left * 10 / 1024, units[unit])
    } else {
        format!("{rest} {}", units[unit])
    }
}

/// A share in per cent, with a digit behind the point below ten.
pub(super) fn per_cent(part: u64, whole: u64) -> String {
    let share = 100.0 * super::chance::as_f64(part) / super::chance::as_f64(whole.max(1));
    if share >= 10.0 {
        format!("{share:.0} %")
    } else {
        format!("{share:.1} %")
    }
}

/// A chance in per cent; tiny ones as "one in".
pub(super) fn chance(chance: f64) -> String {
    let per_cent = chance * 100.0;
    if per_cent >= 10.0 {
        format!("{per_cent:.0} %")
    } else if per_cent >= 0.1 || per_cent <= 0.0 {
        format!("{per_cent:.1} %")
    } else if chance >= 1e-6 {
        format!("{per_cent:.4} %")
    } else {
        format!("less than one in {}", grouped(1_000_000))
    }
}

/// Seconds in words: `45 s`, `2 min`, `5 days`.
pub(super) fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_words() {
        for (number, words) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (8 << 10, "8.0 KiB"),
            (16 << 20, "16 MiB"),
            (3 << 29, "1.5 GiB"),
        ] {
            assert_eq!(bytes(number), words);
        }
        assert_eq!(per_cent(1, 3), "33 %");
        assert_eq!(per_cent(3, 1000), "0.3 %");
        assert_eq!(per_cent(0, 0), "0.0 %");
        assert_eq!(chance(0.000_2), "0.0200 %");
        assert_eq!(chance(1e-9), "less than one in 1,000,000");
        assert_eq!(span(30), "30 s");
        assert_eq!(span(3_600), "60 min");
        assert_eq!(span(432_000), "5 days");
    }

    #[test]
    fn worst_is_greatest() {
        assert!(Severity::Critical > Severity::Problem && Severity::Problem > Severity::Risk);
        assert_eq!(format!("{:>8}", Severity::Risk), "    risk");
    }
}
