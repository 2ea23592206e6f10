//! `ctpressure run`: the agent.

use std::{convert::Infallible, future::pending, net::SocketAddr, sync::Arc, time::Duration};

use clap::Args;
use tokio::{runtime, task::LocalSet};

use super::{
    args::{JournalArgs, KubeArgs, LogArgs, ProbeArgs, SocketArgs},
    limit_args::{ControllerArgs, LimitArgs},
    logging, signals,
};
use crate::{
    agent::{self, AgentOptions, Closed, Handle},
    journal::{Journal, JournalQueue, LimitChange},
    kube_events::KubeEvents,
    limit::{Change, Control, Controller, Mode, Place, node::since_boot},
    serve::{http, metrics::Exporter, socket::Socket},
};

/// How long the end may take.
const END: Duration = Duration::from_secs(1);
/// How long the last Kubernetes Events may take.
const EVENTS_END: Duration = Duration::from_millis(500);

/// The agent: attach the probes, export metrics, answer the other commands
///
/// Waits for conntrack if the kernel tracks no connections yet. Ends on SIGTERM or SIGINT, and
/// leaves nothing in the kernel.
#[derive(Args, Debug)]
pub(super) struct Run {
    /// Address of /metrics, /healthz, /readyz and /status
    #[arg(
        long,
        env = "CTPRESSURE_LISTEN",
        value_name = "ADDRESS:PORT",
        default_value = "[::]:9743"
    )]
    listen: SocketAddr,
    #[command(flatten)]
    socket: SocketArgs,
    /// Export the host's table under the names of `node_exporter` too
    #[arg(long, env = "CTPRESSURE_NODE_EXPORTER_NAMES")]
    node_exporter_names: bool,
    #[command(flatten)]
    journal: JournalArgs,
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    controller: ControllerArgs,
    #[command(flatten)]
    limit: LimitArgs,
    #[command(flatten)]
    probes: ProbeArgs,
    #[command(flatten)]
    kube: KubeArgs,
}

impl Run {
    pub(super) fn run(self) -> anyhow::Result<()> {
        logging::start(self.log.log, self.log.verbose, tracing::Level::INFO);
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let tasks = LocalSet::new();
        let result = tasks.block_on(&runtime, self.agent());
        // Tasks first: they hold the ring and the connections.
        drop(tasks);
        runtime.shutdown_timeout(END);
        result
    }

    async fn agent(self) -> anyhow::Result<()> {
        let settings = self.limit.settings(self.controller.limit_controller)?;
        let end = signals::end()?;
        let kube = self.kube.options()?;
        // Before anything is loaded: what is wrong with it is an error now and not later.
        let journal = self
            .journal
            .options()
            .map(|options| Journal::open(&options))
            .transpose()?;
        let wanted = kube.as_ref().filter(|_| self.kube.events());
        let mut events = wanted.and_then(KubeEvents::start);
        let listener = http::listen(self.listen).await?;
        let socket = Socket::bind(&self.socket.socket).await?;
        let (publisher, mut handle) = agent::channel();
        let limit = (settings.mode != Mode::Off).then(|| Control::new(settings.clone()));
        // With the controller off there is none that would put back what one was killed with.
        let put_back = if settings.mode == Mode::Off {
            Controller::new(settings, Place::node()).put_back(since_boot())
        } else {
            Vec::new()
        };
        note(journal.as_ref(), &put_back);
        let controller = limit.clone();
        if let Some(limit) = &limit {
            handle = handle.with_limit(limit.clone());
        }
        let exporter = Arc::new(Exporter::new(handle.clone(), self.node_exporter_names)?);
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            listen = %listener.local_addr()?,
            socket = %self.socket.socket.display(),
            "ctpressure begins"
        );
        let options = AgentOptions {
            probes: self.probes.options(true),
            drop_capabilities: true,
            kube,
            journal: journal.as_ref().map(Journal::health),
            kube_events: events.as_ref().map(KubeEvents::health),
            limit,
        };
        let record = follow(journal.as_ref().map(Journal::queue), handle.clone());
        let tell = tell(events.as_mut(), handle.clone());
        let result = tokio::select! {
            // Not returned at once: the controller still has to put things back.
            never = agent::run(options, publisher) => match never {
                Ok(never) => match never {},
                Err(error) => Err(error.into()),
            },
            never = http::serve(listener, handle.clone(), exporter) => match never {},
            never = socket.serve(handle) => match never {},
            never = record => match never {},
            never = tell => match never {},
            () = end => {
                tracing::info!("ctpressure ends");
                Ok(())
            }
        };
        // Before the journal ends: it is told what the controller puts back.
        let changes = controller.map_or_else(Vec::new, |limit| limit.end(END));
        note(journal.as_ref(), &changes);
        if let Some(events) = events {
            events.finish(&changes, EVENTS_END);
        }
        if let Some(journal) = journal {
            journal.close();
        }
        result
    }
}

/// Tells the journal, if there is one, of changes outside the controller's own seconds.
fn note(journal: Option<&Journal>, changes: &[Change]) {
    if let Some(journal) = journal {
        for change in changes {
            journal.queue().limit_change(LimitChange::from(change));
        }
    }
}

/// Writes Kubernetes Events, if any are to be written, as long as the agent lives.
async fn tell(events: Option<&mut KubeEvents>, agent: Handle) -> Infallible {
    if let Some(events) = events {
        // It ends when the agent does, and that ends the program.
        let Closed = match events.follow(&agent).await {
            Ok(never) => return never,
            Err(closed) => closed,
        };
    }
    pending().await
}

/// Writes the journal, if there is one, as long as the agent lives.
async fn follow(journal: Option<JournalQueue>, agent: Handle) -> Infallible {
    if let Some(journal) = journal {
        // It ends when the agent does, and that ends the program.
        let Closed = match journal.follow(&agent).await {
            Ok(never) => return never,
            Err(closed) => closed,
        };
    }
    pending().await
}
