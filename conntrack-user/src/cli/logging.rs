//! What is logged, and how: to stderr, as text or as JSON lines.

use std::io::{self, IsTerminal as _};

use clap::ValueEnum;
use tracing_subscriber::{
    Layer as _, filter::Targets, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// One line of text each
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

/// Begins to log; more of it with each `-v`.
pub(super) fn start(format: LogFormat, verbose: u8, base: tracing::Level) {
    let levels = [
        tracing::Level::WARN,
        tracing::Level::INFO,
        tracing::Level::DEBUG,
        tracing::Level::TRACE,
    ];
    let first = levels.iter().position(|level| *level == base).unwrap_or(0);
    let level = levels[(first + usize::from(verbose)).min(levels.len() - 1)];
    // Libraries speak up only when something is wrong.
    let targets = Targets::new()
        .with_default(tracing::Level::WARN)
        .with_target("conntrack_user", level);
    let layer = fmt::layer().with_writer(io::stderr).with_target(false);
    let layer = match format {
        LogFormat::Text => {
            let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            layer.with_ansi(colour).boxed()
        }
        LogFormat::Json => layer.json().boxed(),
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(targets))
        .init();
}
