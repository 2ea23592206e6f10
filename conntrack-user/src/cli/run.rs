//! `ctpressure run`: the agent.

use std::{convert::Infallible, future::pending, net::SocketAddr, sync::Arc, time::Duration};

use clap::Args;

use super::{
    access_args::AccessArgs,
    args::{JournalArgs, LogArgs, ProbeArgs, SocketArgs},
    kubernetes::{self, KubeArgs},
    limit_args::LimitArgs,
    logging, signals, thread,
};
use crate::{
    agent::{self, AgentOptions, Closed},
    kube_events::KubeEvents,
    limit::{
        Control, Controller, ControllerPlace, Following, Mode, look::LookOwners, node::since_boot,
    },
    owners::kube::Kube,
    recorder::Journal,
    serve::{
        AllowanceWatch, Companions, ServiceManager,
        containments::Containments,
        http::{self, Pages},
        metrics::Exporter,
        socket::LocalSocket,
    },
    walk::WalkSource,
};

/// How long the end may take.
const END: Duration = Duration::from_secs(1);
/// How long the last Kubernetes Events may take.
const EVENTS_END: Duration = Duration::from_millis(500);

/// Run the agent: attach probes, export metrics, answer the other commands
///
/// Waits for conntrack if the kernel has not loaded it. Stops on SIGTERM or SIGINT; nothing stays in
/// the kernel.
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
    /// Also export the host's table under the metric names of `node_exporter`
    #[arg(long, env = "CTPRESSURE_NODE_EXPORTER_NAMES")]
    node_exporter_names: bool,
    #[command(flatten)]
    socket: SocketArgs,
    #[command(flatten)]
    log: LogArgs,
    // From here on each has its heading, which holds for what comes after it too.
    #[command(flatten)]
    access: AccessArgs,
    #[command(flatten)]
    journal: JournalArgs,
    /// Whether the agent raises `nf_conntrack_max` when a table fills
    #[arg(
        long,
        env = "CTPRESSURE_LIMIT_CONTROLLER",
        value_name = "MODE",
        value_enum,
        default_value_t,
        help_heading = "Limit controller"
    )]
    limit_controller: Mode,
    #[command(flatten)]
    limit: LimitArgs,
    #[command(flatten)]
    probes: ProbeArgs,
    /// How the census reads entries
    #[arg(
        long,
        env = "CTPRESSURE_CENSUS",
        value_name = "SOURCE",
        value_enum,
        default_value_t,
        hide_default_value = true
    )]
    census: WalkSource,
    #[command(flatten)]
    kube: KubeArgs,
}

impl Run {
    pub(super) fn run(self) -> anyhow::Result<()> {
        logging::start(self.log.log, self.log.verbose, tracing::Level::INFO);
        thread::block_on(END, self.agent())
    }

    async fn agent(self) -> anyhow::Result<()> {
        let settings = self.limit.settings(self.limit_controller)?;
        let end = signals::end()?;
        let kube = self.kube.options()?;
        // Before anything is loaded: what is wrong with it is an error now and not later.
        let journal = self
            .journal
            .options()
            .map(|options| Journal::open(&options))
            .transpose()?;
        let wanted = kube.as_ref().filter(|_| self.kube.events());
        let mut events = wanted.and_then(kubernetes::events);
        let listener = http::listen(self.listen)?;
        let socket = LocalSocket::bind(&self.socket.socket).await?;
        let (publisher, handle) = agent::channel();
        let limit = (settings.mode != Mode::Off).then(|| Control::new(settings.clone()));
        // With the controller off there is none that would put back what one was killed with.
        let put_back = if limit.is_none() {
            Controller::new(settings, ControllerPlace::node(LookOwners::look_around))
                .put_back(since_boot())
        } else {
            Vec::new()
        };
        if let Some(journal) = &journal {
            for change in &put_back {
                journal.queue().limit_change(change.into());
            }
        }
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            listen = %listener.local_addr()?,
            socket = %self.socket.socket.display(),
            "ctpressure begins"
        );
        let companions = Companions {
            journal: journal.as_ref().map(Journal::health),
            kubernetes: kube.and_then(kubernetes::watch),
            kubernetes_events: events.as_ref().map(KubeEvents::health),
            limit,
            http: Arc::default(),
            allowances: AllowanceWatch::start()?,
            containments: containments(journal.as_ref(), events.as_ref()),
        };
        let options = AgentOptions {
            probes: self.probes.options(true),
            drop_capabilities: true,
            goes_on_without: true,
            pods: companions.kubernetes.as_ref().and_then(Kube::latest),
            census: self.census,
        };
        let exporter = Exporter::new(handle.clone(), companions.clone(), self.node_exporter_names)?;
        let pages = Pages::new(handle.clone(), exporter);
        let port = http::Server::start(
            listener,
            pages,
            self.access.files(),
            Arc::clone(&companions.http),
            http::IDLE_TIME,
        )?;
        let limit = companions.limit.clone();
        let mut noted = Following::from_now();
        let queue = journal.as_ref().map(Journal::queue);
        let record = queue
            .as_ref()
            .map(|queue| queue.follow(&handle, limit.as_ref(), &mut noted));
        let tell = events.as_mut();
        let tell = tell.map(|events| events.follow(&handle, limit.as_ref()));
        let control = limit.as_ref().map(|limit| limit.follow(&handle));
        let service = ServiceManager::of_this_process().map(|manager| manager.follow(&handle));
        let result = tokio::select! {
            // Not returned at once: the controller still has to put things back.
            never = agent::run(options, publisher) => match never {
                Ok(never) => match never {},
                Err(error) => Err(error.into()),
            },
            ended = port.ended() => Err(ended.into()),
            never = socket.serve(handle.clone(), companions.clone()) => match never {},
            never = forever(record) => match never {},
            never = forever(tell) => match never {},
            never = forever(control) => match never {},
            never = forever(service) => match never {},
            () = end => {
                tracing::info!("ctpressure ends");
                Ok(())
            }
        };
        ServiceManager::ending();
        // Before journal and Events end: they are told what the controller saw since their last second, and what it puts back.
        let report = limit.map(|limit| {
            limit.end(END);
            limit.report()
        });
        if let Some(events) = events {
            events.finish(report.as_deref(), EVENTS_END);
        }
        if let Some(journal) = journal {
            if let Some(report) = report {
                journal.queue().limit_changes(&report, &mut noted);
            }
            journal.close();
        }
        result
    }
}

/// What `ctpressure contain` tells is noted there.
fn containments(journal: Option<&Journal>, events: Option<&KubeEvents>) -> Arc<Containments> {
    let (journal, events) = (
        journal.map(Journal::queue),
        events.map(KubeEvents::containments),
    );
    Arc::new(Containments::new(journal, events))
}

/// Follows the agent; when that is gone, or there is nobody to follow it, waits for ever.
async fn forever(follow: Option<impl Future<Output = Result<Infallible, Closed>>>) -> Infallible {
    if let Some(follow) = follow {
        let Closed = match follow.await {
            Ok(never) => return never,
            Err(closed) => closed,
        };
    }
    pending().await
}
