//! What the controller may do, and within which bounds; checked before anything is loaded.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

/// What the controller may do.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum,
)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Never
    #[default]
    Off,
    /// Only say what it would do
    DryRun,
    /// Change the limit
    On,
}

/// `nf_conntrack_max` is an `int` to sysctl(8) on every kernel (`nf_conntrack_standalone.c`).
pub(crate) const MOST: u64 = i32::MAX as u64;
/// A limit below this is not worth a controller; 0 would mean "unlimited" up to 6.18.
pub(crate) const LEAST: u64 = 64;
/// Where the state is kept unless told otherwise.
pub(crate) const STATE_PATH: &str = "/var/lib/ctpressure/limit.state";
/// What was raised is not given back sooner than this after the last raise.
pub(crate) const SOONEST_GIVE_BACK: Duration = Duration::from_hours(1);

/// The longest time that a setting may have.
const LONGEST: Duration = Duration::from_hours(24 * 30);

/// What the controller may do.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Whether it changes anything.
    pub mode: Mode,
    /// Occupancy of a table, as a share of the limit, that counts as pressure.
    pub raise_at: f64,
    /// How long the pressure has to last.
    pub raise_for: Duration,
    /// The shortest time between two raises.
    pub cooldown: Duration,
    /// Calm that has to last this long before what was raised is given back; `None`: never.
    pub give_back: Option<Duration>,
    /// The limit is brought to this at once where it is lower; 0: no such wish.
    pub min_limit: u64,
    /// The limit is never raised above this.
    pub max_limit: u64,
    /// Share of the node's memory that conntrack may take when the tables in use are full.
    pub max_memory_share: f64,
    /// The same when the tables of all network namespaces are full, also those that never held an entry.
    pub max_memory_share_all: f64,
    /// Names of tables for which the limit is raised besides the host's.
    pub raise_netns: Vec<String>,
    /// Whether the timeout of closed connections may be shortened for a while when a table that is
    /// full of them can't be given more room.
    pub shorten_timeouts: bool,
    /// Where the state is kept.
    pub state: PathBuf,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::Off,
            raise_at: 0.8,
            raise_for: Duration::from_secs(30),
            cooldown: Duration::from_mins(2),
            give_back: None,
            min_limit: 0,
            max_limit: 2_097_152,
            max_memory_share: 0.05,
            max_memory_share_all: 0.5,
            raise_netns: Vec::new(),
            shorten_timeouts: false,
            state: PathBuf::from(STATE_PATH),
        }
    }
}

/// Settings that make no sense.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SettingsError {
    /// The floor (--min-limit) is above the ceiling (--max-limit), in entries.
    #[error("--min-limit {0} is above --max-limit {1}: no limit could satisfy both")]
    FloorAboveCeiling(u64, u64),
    /// A timeout is to be shortened by nobody.
    #[error(
        "--shorten-timeouts is what the limit controller does when nothing else helps, and that is off: give \
         --limit-controller on (or dry-run) too"
    )]
    ShortenWithoutController,
    /// A limit that is too small: the flag that gave it, and its value.
    #[error(
        "{0} {1} is below {LEAST}: a table of that size tracks nothing worth tracking (and 0 \
         means \"unlimited\" to older kernels)"
    )]
    TooSmall(&'static str, u64),
    /// A limit that the kernel's type can't hold: the flag that gave it, and its value.
    #[error("{0} {1} is more than nf_conntrack_max can hold ({MOST})")]
    TooLarge(&'static str, u64),
    /// A share or a time that is not within its bounds: the flag, the value, the bounds, and why no more or less.
    #[error("{0}")]
    OutOfBounds(String),
}

impl SettingsError {
    /// What to do about it.
    pub const HELP: &str =
        "see `ctpressure run --help`; without these flags each has a sensible default";
}

/// Takes a share such as `0.8` or `80%`.
///
/// # Errors
/// When it is no number.
pub(crate) fn parse_share(text: &str) -> Result<f64, String> {
    let (number, by) = match text.strip_suffix('%') {
        Some(number) => (number, 100.0),
        None => (text, 1.0),
    };
    match number.trim().parse::<f64>() {
        Ok(share) if share.is_finite() => Ok(share / by),
        _ => Err(format!("not a share such as 0.8 or 80%: {text:?}")),
    }
}

impl Settings {
    /// Checks that the settings make sense together.
    ///
    /// # Errors
    /// What does not, and why.
    pub fn check(&self) -> Result<(), SettingsError> {
        let Self {
            mode,
            raise_at,
            raise_for,
            cooldown,
            give_back,
            min_limit,
            max_limit,
            max_memory_share,
            max_memory_share_all,
            raise_netns,
            shorten_timeouts,
            state: _,
        } = self;
        if *shorten_timeouts && *mode == Mode::Off {
            return Err(SettingsError::ShortenWithoutController);
        }
        for (flag, value, least) in [
            ("--min-limit", *min_limit, 0),
            ("--max-limit", *max_limit, LEAST),
        ] {
            if value > MOST {
                return Err(SettingsError::TooLarge(flag, value));
            }
            if value < least || (value > 0 && value < LEAST) {
                return Err(SettingsError::TooSmall(flag, value));
            }
        }
        if min_limit > max_limit {
            return Err(SettingsError::FloorAboveCeiling(*min_limit, *max_limit));
        }
        share(
            "--raise-at",
            *raise_at,
            [0.1, 0.99],
            "or there would be no time to raise, or no reason to",
        )?;
        share(
            "--max-memory-share",
            *max_memory_share,
            [0.0001, 0.5],
            "since entries are kernel memory that can't be swapped out or charged to anybody",
        )?;
        share(
            "--max-memory-share-all",
            *max_memory_share_all,
            [*max_memory_share, 100.0],
            "since all tables are no fewer than those in use (--max-memory-share); above 1 they are overcommitted",
        )?;
        if raise_netns.iter().any(|name| name.trim().is_empty()) {
            return Err(SettingsError::OutOfBounds(
                "--raise-netns names no network namespace: `ctpressure table --netns all` shows their names"
                    .to_owned(),
            ));
        }
        let second = Duration::from_secs(1);
        range(
            "--raise-for",
            *raise_for,
            [second, Duration::from_hours(1)],
            "the tables are looked at once a second, and pressure of an hour has been felt long since",
        )?;
        range(
            "--raise-cooldown",
            *cooldown,
            [10 * second, Duration::from_hours(24)],
            "the next raise should be based on what the last one led to",
        )?;
        if let Some(give_back) = give_back {
            range(
                "--give-back",
                *give_back,
                [SOONEST_GIVE_BACK, LONGEST],
                "a raise that is taken back soon is asked for again",
            )?;
        }
        Ok(())
    }
}

fn share(
    flag: &str,
    value: f64,
    [least, most]: [f64; 2],
    reason: &str,
) -> Result<(), SettingsError> {
    // Written so that what is no number fails too.
    if value >= least && value <= most {
        return Ok(());
    }
    Err(SettingsError::OutOfBounds(format!(
        "{flag} {value} is not a share: it has to be from {least} to {most}, {reason}"
    )))
}

fn range(
    flag: &str,
    value: Duration,
    [least, most]: [Duration; 2],
    reason: &str,
) -> Result<(), SettingsError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    // As a flag takes times, which is not how they are written elsewhere: `1h 30m`.
    let [value, least, most] = [value, least, most].map(humantime::format_duration);
    Err(SettingsError::OutOfBounds(format!(
        "{flag} {value} is not from {least} to {most}: {reason}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_allowed() {
        assert_eq!(Settings::default().check(), Ok(()));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let refused = |change: fn(&mut Settings)| {
            let mut settings = Settings::default();
            change(&mut settings);
            settings.check().expect_err("refused").to_string()
        };
        for (error, flag) in [
            (refused(|it| it.min_limit = it.max_limit + 1), "--min-limit"),
            (
                refused(|it| it.shorten_timeouts = true),
                "--shorten-timeouts",
            ),
            (refused(|it| it.max_limit = 0), "--max-limit 0"),
            (refused(|it| it.min_limit = 3), "--min-limit 3"),
            (refused(|it| it.max_limit = MOST + 1), "2147483647"),
            (refused(|it| it.raise_at = 1.5), "--raise-at 1.5"),
            (refused(|it| it.raise_at = f64::NAN), "--raise-at NaN"),
            (
                refused(|it| it.max_memory_share = 0.0),
                "--max-memory-share 0",
            ),
            (refused(|it| it.max_memory_share = 1.01), "0.5"),
            (
                refused(|it| it.max_memory_share_all = 0.01),
                "--max-memory-share-all 0.01",
            ),
            (
                refused(|it| it.raise_netns = vec![String::new()]),
                "--raise-netns",
            ),
            (refused(|it| it.raise_for = Duration::ZERO), "--raise-for"),
            (
                refused(|it| it.cooldown = Duration::from_secs(1)),
                "--raise-cooldown 1s",
            ),
            (
                refused(|it| it.give_back = Some(Duration::from_mins(5))),
                "--give-back 5m",
            ),
        ] {
            assert!(error.contains(flag), "{error}");
        }
    }

    #[test]
    fn shares() {
        assert_eq!(parse_share("0.8"), Ok(0.8));
        assert_eq!(parse_share("5%"), Ok(0.05));
        for wrong in ["", "%", "much", "inf", "0,8"] {
            assert!(
                parse_share(wrong).is_err_and(|error| error.contains("80%")),
                "{wrong}"
            );
        }
    }
}
