//! `ctpressure top`: who fills the tables, and who loses packets, live.
//!
//! On a terminal a screen with keys; `--once` and without a terminal text of 80 columns; `-o json` one
//! object a second (with `--once` one object), whose fields [`crate::serve::top`] describes.

use std::{
    io::{self, IsTerminal as _},
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use clap::Args;
use ctpressure_model::{
    command_line::{Output, OutputArgs},
    events::{Event, Filter, Kind},
};
use ratatui::crossterm::event::Event as Key;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    Failure,
    args::{LogArgs, ProbeArgs, SocketArgs},
    logging, output, signals, thread,
    watch::EventSource,
};
use crate::{
    agent::{self, AgentOptions, Closed, Snapshot},
    serve::{
        socket::Remote,
        top::{self, TopSample},
    },
    walk::WalkSource,
};

mod draw;
mod figures;
mod model;
mod terminal;
#[cfg(test)]
mod tests;
mod text;

use figures::Sort;
use model::Model;
use terminal::Screen;

/// How long the end may take.
const END: Duration = Duration::from_millis(200);
/// Events are drawn this often at most: the line may be slow.
const REDRAW: Duration = Duration::from_millis(250);

/// Show who fills the conntrack tables and who loses packets, live
///
/// Asks the running agent; without one it loads the probes itself. Press `?` for the keys. Without a
/// terminal, or with --once, it prints the view once: tables, top owners, where their connections go,
/// and who loses packets. JSON is one object per second (one in all with --once), with all owners.
/// Rates are averages over the last ten seconds.
#[derive(Args, Debug)]
pub(super) struct Top {
    /// Print the view once, as soon as there are rates, and exit
    #[arg(long, env = "CTPRESSURE_ONCE")]
    once: bool,
    #[command(flatten)]
    output: OutputArgs,
    /// Sort owners by
    #[arg(
        long,
        env = "CTPRESSURE_SORT",
        value_name = "BY",
        value_enum,
        default_value_t
    )]
    sort: Sort,
    /// Number of owners in the printed text
    #[arg(
        long = "top",
        env = "CTPRESSURE_TOP",
        value_name = "N",
        default_value_t = 10,
        value_parser = clap::value_parser!(u16).range(1..=top::OWNERS as i64)
    )]
    owners: u16,
    #[command(flatten)]
    socket: SocketArgs,
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    probes: ProbeArgs,
}

/// In which way it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TopMode {
    /// On the terminal, until somebody ends it.
    Screen,
    /// One object a second.
    Lines,
    Once,
}

/// Where the samples come from.
enum Samples {
    Agent(Remote<TopSample>),
    /// Probes of our own.
    Own(watch::Receiver<Arc<Snapshot>>),
}

impl Samples {
    /// Waits for the next second; may be cancelled.
    async fn next(&mut self) -> anyhow::Result<TopSample> {
        match self {
            Self::Agent(remote) => Ok(remote.next().await?),
            Self::Own(snapshots) => {
                snapshots.changed().await.map_err(|_| Closed)?;
                let snapshot = Arc::clone(&snapshots.borrow_and_update());
                Ok(TopSample::new(&snapshot, SystemTime::now()))
            }
        }
    }

    /// The first with rates.
    async fn settled(&mut self) -> anyhow::Result<TopSample> {
        match self {
            // The agent waits for it.
            Self::Agent(_) => self.next().await,
            Self::Own(snapshots) => {
                // Attaching takes as long as it takes.
                snapshots
                    .wait_for(|snapshot| snapshot.uptime_seconds > 0.0)
                    .await
                    .map_err(|_| Closed)?;
                Ok(top::settled(snapshots).await)
            }
        }
    }
}

impl Top {
    pub(super) fn run(self) -> anyhow::Result<()> {
        // Log lines would be written across the screen; it shows itself what is wrong.
        if self.mode() != TopMode::Screen || !io::stderr().is_terminal() {
            logging::start(self.log.log, self.log.verbose, tracing::Level::WARN);
        }
        thread::block_on(END, self.top())
    }

    fn mode(&self) -> TopMode {
        match self.output.output {
            _ if self.once => TopMode::Once,
            Output::Json => TopMode::Lines,
            Output::Text if io::stdin().is_terminal() && io::stdout().is_terminal() => {
                TopMode::Screen
            }
            Output::Text => TopMode::Once,
        }
    }

    async fn top(self) -> anyhow::Result<()> {
        let end = signals::end()?;
        let mode = self.mode();
        let filter = Filter {
            kinds: vec![Kind::Drop, Kind::Eviction],
            ..Filter::default()
        };
        let path = &self.socket.socket;
        if let Some(remote) = Remote::top(path, mode == TopMode::Once).await? {
            tracing::info!(socket = %path.display(), "asking the running agent");
            let events = match mode {
                TopMode::Screen => Remote::watch(path, &filter).await?.map(EventSource::Agent),
                TopMode::Lines | TopMode::Once => None,
            };
            tokio::select! {
                result = self.show(mode, Samples::Agent(remote), events, "the agent") => result,
                () = end => Ok(()),
            }
        } else {
            let (publisher, handle) = agent::channel();
            let options = AgentOptions {
                probes: self.probes.options(true),
                drop_capabilities: false,
                goes_on_without: false,
                pods: None,
                census: WalkSource::Auto,
            };
            let events = match mode {
                TopMode::Screen => Some(EventSource::Own(Box::new(handle.subscribe(filter)?))),
                TopMode::Lines | TopMode::Once => None,
            };
            let samples = Samples::Own(handle.snapshots());
            tokio::select! {
                never = agent::run(options, publisher) => match never? {},
                result = self.show(mode, samples, events, "own probes") => result,
                () = end => Ok(()),
            }
        }
    }

    async fn show(
        &self,
        mode: TopMode,
        mut samples: Samples,
        events: Option<EventSource>,
        source: &'static str,
    ) -> anyhow::Result<()> {
        match mode {
            TopMode::Screen => screen(samples, events, Model::new(source, self.sort)).await,
            TopMode::Once => {
                let sample = samples.settled().await?;
                let text = match self.output.output {
                    Output::Text => text::view(&sample, self.sort, usize::from(self.owners)),
                    Output::Json => json_line(&sample)?,
                };
                output::StandardOutput::new()
                    .write_all(text.as_bytes())
                    .await?;
                Ok(())
            }
            TopMode::Lines => {
                let mut out = output::StandardOutput::new();
                loop {
                    let line = json_line(&samples.next().await?)?;
                    if !out.write_all(line.as_bytes()).await? {
                        return Ok(());
                    }
                }
            }
        }
    }
}

fn json_line(sample: &TopSample) -> serde_json::Result<String> {
    serde_json::to_string(sample).map(|line| line + "\n")
}

/// The screen, until somebody ends it.
async fn screen(
    mut samples: Samples,
    mut events: Option<EventSource>,
    mut model: Model,
) -> anyhow::Result<()> {
    let colour = std::env::var_os("NO_COLOR").is_none();
    let mut screen = Screen::take(colour).map_err(|error| no_terminal(&error))?;
    let mut batch: Vec<Event> = Vec::new();
    let mut drawn = Instant::now();
    let mut stale = false;
    screen.draw(&model).map_err(|error| no_terminal(&error))?;
    loop {
        let later = pin!(sleep_until(drawn + REDRAW));
        tokio::select! {
            key = screen.next() => match key {
                Some(Ok(Key::Key(key))) => if !model.key(key) { return Ok(()) },
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(no_terminal(&error).into()),
                None => return Ok(()),
            },
            sample = samples.next() => model.take(sample?),
            taken = next_events(&mut events, &mut batch) => {
                taken?;
                model.take_events(batch.drain(..));
                stale = true;
                continue;
            }
            () = later, if stale => {}
        }
        screen.draw(&model).map_err(|error| no_terminal(&error))?;
        drawn = Instant::now();
        stale = false;
    }
}

/// Waits for events; for ever if there is no source.
async fn next_events(
    source: &mut Option<EventSource>,
    events: &mut Vec<Event>,
) -> anyhow::Result<()> {
    match source {
        Some(source) => source.next(events).await,
        None => std::future::pending().await,
    }
}

fn no_terminal(error: &io::Error) -> Failure {
    Failure {
        what: format!("the terminal can't be used: {error}"),
        help: "use `ctpressure top --once`, which prints the view, or `-o json`".to_owned(),
    }
}
