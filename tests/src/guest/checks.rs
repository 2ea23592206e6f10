//! What has to hold, collected: a scenario reports all that is wrong at once, with both numbers.

use std::{
    fmt::{Debug, Display},
    time::Duration,
};

use anyhow::{Result, bail};

use super::command::Late;

/// Statements that turned out false.
#[derive(Debug, Default)]
#[must_use = "call `finish`"]
pub struct Checks {
    failures: Vec<String>,
    /// How many of them say that something took too long.
    late: usize,
}

impl Checks {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// `left` and `right` are the same.
    pub fn equal<T: PartialEq + Debug + Copy>(
        &mut self,
        left_name: impl Display,
        left: T,
        right_name: impl Display,
        right: T,
    ) {
        if left != right {
            self.failures
                .push(format!("{left_name} {left:?} != {right_name} {right:?}"));
        }
    }

    /// `value` is at least `least`: without it the scenario would show nothing.
    pub fn at_least<T: PartialOrd + Debug + Copy>(
        &mut self,
        name: impl Display,
        value: T,
        least: T,
    ) {
        if value < least {
            self.failures.push(format!("{name} {value:?} < {least:?}"));
        }
    }

    /// `value` is at most `most`.
    pub fn at_most<T: PartialOrd + Debug + Copy>(&mut self, name: impl Display, value: T, most: T) {
        if value > most {
            self.failures.push(format!("{name} {value:?} > {most:?}"));
        }
    }

    /// Something took at most so long.
    pub fn within(&mut self, name: impl Display, took: Duration, most: Duration) {
        if took > most {
            self.late += 1;
        }
        self.at_most(name, took, most);
    }

    /// The statement holds; else the message says what is instead.
    pub fn holds(&mut self, statement: bool, message: impl FnOnce() -> String) {
        if !statement {
            self.failures.push(message());
        }
    }

    /// # Errors
    ///
    /// All false statements in one line (of many, the first ten); [`Late`] if nothing is wrong but times.
    pub fn finish(self) -> Result<()> {
        let count = self.failures.len();
        if count == 0 {
            return Ok(());
        }
        let shown = self
            .failures
            .into_iter()
            .take(10)
            .collect::<Vec<_>>()
            .join("; ");
        if count > 10 {
            bail!("{shown}; and {} more", count - 10);
        }
        if self.late == count {
            return Err(Late(shown).into());
        }
        bail!("{shown}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_failures_are_told_with_both_numbers() {
        let mut checks = Checks::new();
        checks.equal("inserts_total", 5, "accepted", 5);
        checks.equal("drops_total", 3, "EPERM", 4);
        checks.at_least("evictions", 0, 1);
        checks.at_most("p99", 21.0, 20.0);
        checks.holds(false, || "nothing was seen".to_owned());
        assert_eq!(
            checks.finish().unwrap_err().to_string(),
            "drops_total 3 != EPERM 4; evictions 0 < 1; p99 21.0 > 20.0; nothing was seen"
        );
        assert!(Checks::new().finish().is_ok());
    }

    #[test]
    fn only_what_is_wrong_with_nothing_but_times_is_late() {
        let (second, minute) = (Duration::from_secs(1), Duration::from_mins(1));
        let finish = |also_wrong: bool| {
            let mut checks = Checks::new();
            checks.within("an answer", second, minute);
            checks.within("another", minute, second);
            checks.holds(!also_wrong, || "and it is wrong".to_owned());
            checks.finish().unwrap_err()
        };
        assert_eq!(finish(false).to_string(), "another 60s > 1s");
        assert!(Late::is_cause_of(&finish(false)) && !Late::is_cause_of(&finish(true)));
    }
}
