//! `ctpressure run`: the agent.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use clap::Args;
use tokio::{runtime, task::LocalSet};

use super::{
    args::{LogArgs, ProbeArgs, SocketArgs},
    limit_args::{ControllerArgs, LimitArgs},
    logging, signals,
};
use crate::{
    agent::{self, AgentOptions},
    limit::{Control, Mode},
    serve::{http, metrics::Exporter, socket::Socket},
};

/// How long the end may take.
const END: Duration = Duration::from_secs(1);

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
    log: LogArgs,
    #[command(flatten)]
    controller: ControllerArgs,
    #[command(flatten)]
    limit: LimitArgs,
    #[command(flatten)]
    probes: ProbeArgs,
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
        let listener = http::listen(self.listen).await?;
        let socket = Socket::bind(&self.socket.socket).await?;
        let (publisher, mut handle) = agent::channel();
        let limit = (settings.mode != Mode::Off).then(|| Control::new(settings));
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
            limit,
        };
        tokio::select! {
            never = agent::run(options, publisher) => match never? {},
            never = http::serve(listener, handle.clone(), exporter) => match never {},
            never = socket.serve(handle) => match never {},
            () = end => {
                tracing::info!("ctpressure ends");
                Ok(())
            }
        }
    }
}
