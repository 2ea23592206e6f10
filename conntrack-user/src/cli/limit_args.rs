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
    /// Occupancy of a table that is pressure, such as 0.8 or 80% [default: 0.8]
    #[arg(long, env = "CTPRESSURE_RAISE_AT", value_name = "SHARE", value_parser = parse_share)]
    raise_at: Option<f64>,
    /// How long the pressure has to last; dropped packets and forecasts don't wait for it [default: 30s]
    #[arg(long, env = "CTPRESSURE_RAISE_FOR", value_name = "TIME", value_parser = humantime::parse_duration)]
    raise_for: Option<Duration>,
    /// Shortest time between two raises [default: 2m]
    #[arg(long, env = "CTPRESSURE_RAISE_COOLDOWN", value_name = "TIME", value_parser = humantime::parse_duration)]
    raise_cooldown: Option<Duration>,
    /// Take a raise back after a calm of this length, at least an hour [default: never]
    #[arg(long, env = "CTPRESSURE_GIVE_BACK", value_name = "TIME", value_parser = humantime::parse_duration)]
    give_back: Option<Duration>,
    /// Bring the limit to this at once where it is lower
    #[arg(long, env = "CTPRESSURE_MIN_LIMIT", value_name = "N")]
    min_limit: Option<u64>,
    /// Never raise the limit above this [default: 2097152]
    #[arg(long, env = "CTPRESSURE_MAX_LIMIT", value_name = "N")]
    max_limit: Option<u64>,
    /// Share of the node's memory that the tables in use may take when they are full [default: 0.05]
    #[arg(long, env = "CTPRESSURE_MAX_MEMORY_SHARE", value_name = "SHARE", value_parser = parse_share)]
    max_memory_share: Option<f64>,
    /// Share of the node's memory that the tables of all network namespaces may take when they are full, also those that hold
    /// nothing; above 1 they are overcommitted [default: 0.5]
    #[arg(long, env = "CTPRESSURE_MAX_MEMORY_SHARE_ALL", value_name = "SHARE", value_parser = parse_share)]
    max_memory_share_all: Option<f64>,
    /// Raise the limit for the table of this network namespace, too: that of a pod (`shop/router`), by its name in /run/netns, or by its inode
    /// number; only the host's table has it raised otherwise. Repeatable
    #[arg(
        long,
        env = "CTPRESSURE_RAISE_NETNS",
        value_name = "NAME",
        value_delimiter = ','
    )]
    raise_netns: Vec<String>,
    /// When a table that can't be given more room is full of closed TCP connections, keep these for
    /// a shorter time for a while (`nf_conntrack_tcp_timeout_time_wait` of the host)
    #[arg(long, env = "CTPRESSURE_SHORTEN_TIMEOUTS")]
    shorten_timeouts: bool,
    /// Where the controller remembers what it did
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
