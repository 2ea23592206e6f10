//! What is logged, and how: to stderr, as text or as JSON lines. Where stderr is the journal of systemd, each line has its priority, so that
//! `journalctl -p warning` finds warnings.

use std::{
    fmt,
    io::{self, IsTerminal as _},
};

use clap::ValueEnum;
use nix::sys::stat::fstat;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    Layer as _,
    filter::{LevelFilter, Targets},
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    layer::SubscriberExt as _,
    registry::LookupSpan,
    util::SubscriberInitExt as _,
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
pub(super) fn start(format: LogFormat, verbose: u8, base: Level) {
    let levels = [Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE];
    let first = levels.iter().position(|level| *level == base).unwrap_or(0);
    let level = levels[(first + usize::from(verbose)).min(levels.len() - 1)];
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_target(false);
    let layer = match (format, is_journal()) {
        (LogFormat::Text, false) => {
            let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            layer.with_ansi(colour).boxed()
        }
        (LogFormat::Json, false) => layer.json().boxed(),
        // The journal has the time of each line.
        (LogFormat::Text, true) => layer
            .with_ansi(false)
            .without_time()
            .map_event_format(WithPriority)
            .boxed(),
        (LogFormat::Json, true) => layer.json().map_event_format(WithPriority).boxed(),
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(targets(level, verbose)))
        .init();
}

/// Who is heard from which level on. Libraries speak up only when something is wrong; those that speak to the Kubernetes API only when asked
/// to (`-v`): each request that fails is an error to them, and an outage has hundreds. That there is one, `ctpressure-kubernetes` says, once.
fn targets(level: Level, verbose: u8) -> Targets {
    let of_kubernetes = if verbose > 0 {
        LevelFilter::WARN
    } else {
        LevelFilter::OFF
    };
    Targets::new()
        .with_default(Level::WARN)
        .with_target("conntrack_user", level)
        .with_target("ctpressure_kubernetes", level)
        .with_target("kube_client", of_kubernetes)
        .with_target("kube_runtime", of_kubernetes)
}

/// Says why the program ends.
pub(super) fn print_error(text: &str) {
    if is_journal() {
        eprint!("{}", with_priority(Level::ERROR, text));
    } else {
        eprint!("{text}");
    }
}

/// Whether stderr is what systemd connected to its journal, by `JOURNAL_STREAM` (systemd.exec(5)): a program may have it from its parent and
/// write elsewhere.
fn is_journal() -> bool {
    let Ok(file) = fstat(io::stderr()) else {
        return false;
    };
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    is_stream(&stream, file.st_dev, file.st_ino)
}

/// Whether `DEVICE:INODE` is this file.
fn is_stream(stream: &str, device: u64, inode: u64) -> bool {
    let numbers = stream.split_once(':');
    numbers.is_some_and(|(of_device, of_inode)| {
        of_device.parse() == Ok(device) && of_inode.parse() == Ok(inode)
    })
}

/// An event's lines, each with its priority.
struct WithPriority<F>(F);

impl<S, N, F> FormatEvent<S, N> for WithPriority<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut text = String::new();
        self.0
            .format_event(context, Writer::new(&mut text), event)?;
        writer.write_str(&with_priority(*event.metadata().level(), &text))
    }
}

/// Lines as journald reads them: `<4>` in front of each is the priority of a warning (sd-daemon(3)).
fn with_priority(level: Level, text: &str) -> String {
    let priority = match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        _ => "<7>",
    };
    let mut lines = String::with_capacity(text.len() + 4);
    for line in text.lines() {
        lines.extend([priority, line, "\n"]);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_for_the_journal_has_its_priority() {
        assert_eq!(with_priority(Level::WARN, "one\ntwo\n"), "<4>one\n<4>two\n");
        assert_eq!(with_priority(Level::ERROR, "one"), "<3>one\n");
        assert_eq!(with_priority(Level::INFO, "one\n"), "<6>one\n");
        assert_eq!(with_priority(Level::TRACE, "one\n"), "<7>one\n");
    }

    #[test]
    fn the_journal_is_told_by_its_file() {
        assert!(is_stream("8:1234", 8, 1234));
        for other in ["", "8", "8:1235", "9:1234", "8:1234:5", "a:b"] {
            assert!(!is_stream(other, 8, 1234), "{other}");
        }
    }

    #[test]
    fn an_outage_of_the_api_is_not_told_by_every_request() {
        let usual = targets(Level::INFO, 0);
        for library in ["kube_client::client::builder", "kube_runtime::watcher"] {
            assert!(!usual.would_enable(library, &Level::ERROR), "{library}");
            let asked = targets(Level::DEBUG, 1);
            assert!(asked.would_enable(library, &Level::ERROR), "{library}");
        }
        assert!(usual.would_enable("ctpressure_kubernetes::pods", &Level::WARN));
        assert!(usual.would_enable("ctpressure_kubernetes::pods", &Level::INFO));
        assert!(usual.would_enable("rustls", &Level::WARN));
        assert!(!usual.would_enable("rustls", &Level::INFO));
    }
}
