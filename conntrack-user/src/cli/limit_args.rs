//! Arguments about the limit.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use crate::limit::{
    Mode, Settings, SettingsError,
    settings::{STATE_PATH, parse_share},
};

#[derive(Args, Debug)]
#[command(next_help_heading = "Limit controller")]
pub(super) struct LimitArgs {
    /// Raise when a table is this full, e.g. 0.8 or 80% [default: 0.8]
    #[arg(long, env = "CTPRESSURE_RAISE_AT", value_name = "SHARE", value_parser = parse_share)]
    raise_at: Option<f64>,
    /// How long it must stay that full; drops and forecasts raise at once [default: 30s]
    #[arg(long, env = "CTPRESSURE_RAISE_FOR", value_name = "TIME", value_parser = humantime::parse_duration)]
    raise_for: Option<Duration>,
    /// Minimum time between two raises [default: 2m]
    #[arg(long, env = "CTPRESSURE_RAISE_COOLDOWN", value_name = "TIME", value_parser = humantime::parse_duration)]
    raise_cooldown: Option<Duration>,
    /// Lower a raised limit again after this much calm, at least 1h [default: never]
    #[arg(long, env = "CTPRESSURE_GIVE_BACK", value_name = "TIME", value_parser = humantime::parse_duration)]
    give_back: Option<Duration>,
    /// Raise the limit to this at start if it is lower
    #[arg(long, env = "CTPRESSURE_MIN_LIMIT", value_name = "N")]
    min_limit: Option<u64>,
    /// Never raise the limit above this [default: 2097152]
    #[arg(long, env = "CTPRESSURE_MAX_LIMIT", value_name = "N")]
    max_limit: Option<u64>,
    /// Maximum share of the node's memory for the tables in use, all full [default: 0.05]
    #[arg(long, env = "CTPRESSURE_MAX_MEMORY_SHARE", value_name = "SHARE", value_parser = parse_share)]
    max_memory_share: Option<f64>,
    /// Maximum share of the node's memory for the tables of all network namespaces, all full, including those
    /// that hold nothing; above 1 overcommits [default: 0.5]
    #[arg(long, env = "CTPRESSURE_MAX_MEMORY_SHARE_ALL", value_name = "SHARE", value_parser = parse_share)]
    max_memory_share_all: Option<f64>,
    /// Raise the limit for this network namespace's table too, not only for the host's: a pod (`shop/router`), a name
    /// in /run/netns, or an inode number. Repeatable
    #[arg(
        long,
        env = "CTPRESSURE_RAISE_NETNS",
        value_name = "NAME",
        value_delimiter = ','
    )]
    raise_netns: Vec<String>,
    /// Lower the host's `nf_conntrack_tcp_timeout_time_wait` temporarily when closed TCP connections fill a table
    /// whose limit can't be raised
    #[arg(long, env = "CTPRESSURE_SHORTEN_TIMEOUTS")]
    shorten_timeouts: bool,
    /// State file of the controller
    #[arg(long, env = "CTPRESSURE_LIMIT_STATE", value_name = "PATH", default_value = STATE_PATH)]
    limit_state: PathBuf,
}

impl LimitArgs {
    /// What was asked for.
    ///
    /// # Errors
    /// If it makes no sense.
    pub(super) fn settings(&self, mode: Mode) -> Result<Settings, SettingsError> {
        let default = Settings::default();
        if self.min_limit == Some(0) {
            return Err(SettingsError::TooSmall("--min-limit", 0));
        }
        let settings = Settings {
            mode,
            raise_at: self.raise_at.unwrap_or(default.raise_at),
            raise_for: self.raise_for.unwrap_or(default.raise_for),
            cooldown: self.raise_cooldown.unwrap_or(default.cooldown),
            give_back: self.give_back.or(default.give_back),
            min_limit: self.min_limit.unwrap_or(default.min_limit),
            max_limit: self.max_limit.unwrap_or(default.max_limit),
            max_memory_share: self.max_memory_share.unwrap_or(default.max_memory_share),
            max_memory_share_all: self
                .max_memory_share_all
                .unwrap_or(default.max_memory_share_all),
            raise_netns: self.raise_netns.clone(),
            shorten_timeouts: self.shorten_timeouts,
            state: self.limit_state.clone(),
        };
        settings.check()?;
        Ok(settings)
    }
}
