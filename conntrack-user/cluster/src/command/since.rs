//! Which time is asked about.

use std::time::SystemTime;

use clap::Args;
use ctpressure_model::{
    command_line::Failure,
    words::time::{self, Moment, NotATime},
};

use crate::view::journal::Asked;

/// From when, and until when.
#[derive(Args, Clone, Debug)]
pub(super) struct TimeArgs {
    /// Start: 24h or -24h (ago), RFC 3339, or HH:MM (UTC)
    #[arg(long, value_name = "TIME", value_parser = parse, default_value = "24h", allow_hyphen_values = true)]
    since: Moment,
    /// End [default: now]
    #[arg(long, value_name = "TIME", value_parser = parse, allow_hyphen_values = true)]
    until: Option<Moment>,
}

/// A time; a length of time is one before now.
pub(super) fn parse(text: &str) -> Result<Moment, NotATime> {
    match humantime::parse_duration(text.trim()) {
        Ok(age) => Ok(Moment::Before(age.as_secs())),
        Err(_) => time::parse(text),
    }
}

impl TimeArgs {
    /// The last 24 hours, unless something else is given.
    pub(super) fn new(since: Option<Moment>, until: Option<Moment>) -> Self {
        Self {
            since: since.unwrap_or(Moment::Before(24 * 60 * 60)),
            until,
        }
    }

    /// By this machine's clock.
    ///
    /// # Errors
    /// If it ends before it begins.
    pub(super) fn asked(&self) -> Result<Asked, Failure> {
        let now = time::unix(SystemTime::now());
        let asked = Asked {
            since: self.since.resolve(now),
            // What is recorded while it is asked belongs to it, and clocks differ by a little.
            until: self.until.map_or(now + 60, |until| until.resolve(now)),
        };
        if asked.until > asked.since {
            return Ok(asked);
        }
        Err(Failure {
            what: format!(
                "--until ({}) is not after --since ({})",
                time::rfc3339(asked.until),
                time::rfc3339(asked.since)
            ),
            help: "times are UTC; 24h is 24 hours ago, HH:MM the last such time".to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, expected) in [
            ("24h", Some(Moment::Before(86_400))),
            ("-1h30m", Some(Moment::Before(5_400))),
            ("1970-01-01T00:01:00Z", Some(Moment::At(60))),
            ("03:12", Some(Moment::OfDay(11_520))),
            ("soon", None),
        ] {
            assert_eq!(parse(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn a_time_that_ends_before_it_begins_is_refused() {
        let args = TimeArgs {
            since: Moment::Before(60),
            until: Some(Moment::Before(120)),
        };
        assert!(args.asked().is_err());
    }
}
