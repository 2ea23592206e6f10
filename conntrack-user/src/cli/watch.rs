//! `ctpressure watch`: events as they happen.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use clap::Args;
use ctpressure_model::{
    command_line::{Output, OutputArgs},
    events::{Event, Filter, Kind, Netns, text},
};
use tokio::time::{Instant, sleep_until};

use super::{
    args::{FlowArgs, LogArgs, ProbeArgs, SocketArgs},
    logging, output, signals, thread,
};
use crate::{
    agent::{self, AgentOptions, AgentState, Subscription},
    serve::socket::Remote,
    walk::WalkSource,
};

/// Bytes that are written in one go at most.
const WRITE_BYTES: usize = 64 << 10;
/// How long the end may take: somebody may have stopped reading our output.
const END: Duration = Duration::from_millis(200);

/// Print drops and evictions as they happen
///
/// Asks the running agent; without one it loads the probes itself. Text is one line of at most 100 columns per
/// event; JSON is one object per line. A note says what fills a full table where a higher limit would not help.
/// Times are UTC.
#[derive(Args, Debug)]
pub(super) struct Watch {
    #[command(flatten)]
    output: OutputArgs,
    /// Only these kinds [default: drop,eviction]
    #[arg(long, env = "CTPRESSURE_KIND", value_enum, value_delimiter = ',')]
    kind: Vec<Kind>,
    /// Also inserts (sampled beyond the agent's budget: `weight` says how many each stands for)
    #[arg(long, env = "CTPRESSURE_INSERTS")]
    inserts: bool,
    #[command(flatten)]
    flows: FlowArgs,
    /// Only these network namespaces: `host`, the owner (`shop/web`), a name in /run/netns, or an inode number
    #[arg(long, env = "CTPRESSURE_NETNS", value_delimiter = ',')]
    netns: Vec<Netns>,
    /// Only these owners (victim or cause of an eviction): `namespace/pod`, a pod's name,
    /// `namespace/` for all its pods, a systemd unit, `host` or `unknown`; also `namespace/workload`
    /// or a workload's name if the agent runs with --kube
    #[arg(
        long,
        env = "CTPRESSURE_OWNER",
        value_delimiter = ',',
        value_name = "NAME"
    )]
    owner: Vec<String>,
    /// Exit after this many events
    #[arg(long, env = "CTPRESSURE_COUNT", value_name = "N")]
    count: Option<u64>,
    /// Exit after this time, e.g. 10, 10s or 5m
    #[arg(long, env = "CTPRESSURE_DURATION", value_name = "TIME", value_parser = parse_duration)]
    duration: Option<Duration>,
    #[command(flatten)]
    socket: SocketArgs,
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    probes: ProbeArgs,
}

/// Seconds, or a number with a unit.
fn parse_duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string());
    }
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

/// Where events come from.
pub(super) enum EventSource {
    Agent(Remote),
    /// Probes of our own.
    Own(Box<Subscription>),
}

impl EventSource {
    /// Waits for events and appends them; may be cancelled.
    pub(super) async fn next(&mut self, events: &mut Vec<Event>) -> anyhow::Result<()> {
        match self {
            Self::Own(subscription) => subscription.next(events).await?,
            Self::Agent(remote) => events.push(remote.next().await?),
        }
        Ok(())
    }

    fn has_more(&self) -> bool {
        match self {
            Self::Agent(remote) => remote.has_more(),
            Self::Own(_) => false,
        }
    }
}

/// Prints events, each with the line's end at once.
struct Printer {
    out: output::StandardOutput,
    output: Output,
    colour: bool,
    /// Events that may still be printed.
    left: Option<u64>,
    bytes: Vec<u8>,
}

impl Printer {
    /// Formats an event; false when there is enough.
    fn format(&mut self, event: &Event) -> bool {
        // What was lost, or found out, is not one of the events that were asked for.
        if !matches!(event, Event::Lost(_) | Event::Verdict(_))
            && let Some(left) = &mut self.left
        {
            if *left == 0 {
                return false;
            }
            *left -= 1;
        }
        match self.output {
            Output::Json => event.write_json(&mut self.bytes),
            Output::Text => {
                self.bytes
                    .extend_from_slice(text::line(event, self.colour).as_bytes());
                self.bytes.push(b'\n');
            }
        }
        self.left != Some(0)
    }

    /// Writes what is formatted; false when nobody reads any more.
    async fn flush(&mut self) -> io::Result<bool> {
        let is_read = self.out.write_all(&self.bytes).await?;
        self.bytes.clear();
        Ok(is_read)
    }
}

impl Watch {
    pub(super) fn run(self) -> anyhow::Result<()> {
        logging::start(self.log.log, self.log.verbose, tracing::Level::WARN);
        thread::block_on(END, self.watch())
    }

    fn filter(&self) -> Filter {
        let mut kinds = self.kind.clone();
        if kinds.is_empty() {
            kinds.extend([Kind::Drop, Kind::Eviction]);
        }
        if self.inserts && !kinds.contains(&Kind::Insert) {
            kinds.push(Kind::Insert);
        }
        Filter {
            kinds,
            protocols: self.flows.protocol.clone(),
            networks: self.flows.address.clone(),
            ports: self.flows.port.clone(),
            netns: self.netns.clone(),
            owners: self.owner.clone(),
        }
    }

    async fn watch(self) -> anyhow::Result<()> {
        let end = signals::end()?;
        let filter = self.filter();
        let printer = Printer {
            out: output::StandardOutput::new(),
            output: self.output.output,
            colour: io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
            left: self.count,
            bytes: Vec::new(),
        };
        if let Some(remote) = Remote::watch(&self.socket.socket, &filter).await? {
            tracing::info!(socket = %self.socket.socket.display(), "asking the running agent");
            self.note_terminal("watching through the running agent");
            tokio::select! {
                result = self.print(EventSource::Agent(remote), printer) => result,
                () = end => Ok(()),
            }
        } else {
            let (publisher, handle) = agent::channel();
            let options = AgentOptions {
                probes: self.probes.options(filter.wants(Kind::Insert)),
                drop_capabilities: false,
                goes_on_without: false,
                pods: None,
                census: WalkSource::Auto,
            };
            let source = EventSource::Own(Box::new(handle.subscribe(filter)?));
            let mut snapshots = handle.snapshots();
            let print = async {
                // The first snapshot says what can be seen.
                if snapshots.changed().await.is_ok() {
                    let snapshot = std::sync::Arc::clone(&snapshots.borrow());
                    match (snapshot.state, &snapshot.reason) {
                        (AgentState::Attached, _) => self.note_terminal("watching with own probes"),
                        (_, reason) => {
                            let reason = reason.as_deref().unwrap_or("unknown reason");
                            tracing::warn!("not everything can be seen: {reason}");
                        }
                    }
                }
                self.print(source, printer).await
            };
            tokio::select! {
                never = agent::run(options, publisher) => match never? {},
                result = print => result,
                () = end => Ok(()),
            }
        }
    }

    /// A word to whoever looks at an empty screen; nothing when the output goes elsewhere.
    fn note_terminal(&self, text: &str) {
        if self.output.output == Output::Text && io::stdout().is_terminal() {
            eprintln!("ctpressure: {text}; Ctrl-C ends");
        }
    }

    /// Prints until there is enough, time is up, or nobody reads or sends any more.
    async fn print(&self, mut source: EventSource, mut printer: Printer) -> anyhow::Result<()> {
        if self.count == Some(0) {
            return Ok(());
        }
        let deadline = self.duration.map(|duration| Instant::now() + duration);
        let mut events = Vec::new();
        loop {
            let time_is_up = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                taken = source.next(&mut events) => taken?,
                () = time_is_up => return Ok(()),
            }
            let mut more = true;
            for event in events.drain(..) {
                more = printer.format(&event);
                if !more {
                    break;
                }
                if printer.bytes.len() >= WRITE_BYTES && !printer.flush().await? {
                    return Ok(());
                }
            }
            if more && source.has_more() && printer.bytes.len() < WRITE_BYTES {
                continue;
            }
            if !printer.flush().await? || !more {
                return Ok(());
            }
        }
    }
}
