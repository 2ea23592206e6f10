//! Keeps the probes attached and samples once a second.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tokio::{
    sync::oneshot,
    task::{JoinHandle, spawn_local},
    time::{MissedTickBehavior, interval, timeout},
};

use super::{
    Background, KernelInfo, Publisher, Reconciler, Snapshot,
    near_limit::NearLimit,
    ownership::{Ownership, Taken},
    recount::{Found, Recounter},
    scans::Scans,
};
use crate::{
    events::OwnersBySlot,
    journal::Health,
    kernel::{Root, conntrack::Presence, release, tables::TableReader},
    kube_events, limit,
    owners::{
        Discovery, Maps,
        kube::{Kube, KubeOptions, Latest},
    },
    pressure::Tracker,
    probes::{AttachError, Options, Probes, Status, Totals, privileges},
};

mod sampling;

/// How often the counters are read.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long to wait after attaching anew went wrong.
const RETRY: Duration = Duration::from_secs(10);

/// How long the first look for owners may take.
const FIRST_LOOK: Duration = Duration::from_secs(10);

/// How the agent runs.
#[derive(Clone, Debug, Default)]
pub struct AgentOptions {
    /// The probes.
    pub probes: Options,
    /// Give up, after attaching, the capabilities that are not needed any more.
    pub drop_capabilities: bool,
    /// Ask the Kubernetes API for names, workloads and labels of pods.
    pub kube: Option<KubeOptions>,
    /// How the journal is doing; `None`: none is kept.
    pub journal: Option<Arc<Health>>,
    /// How the writing of Kubernetes Events goes; `None`: none are written.
    pub kube_events: Option<Arc<kube_events::Health>>,
    /// The limit controller; `None`: off.
    pub limit: Option<limit::Control>,
}

/// The probes' life.
enum Life {
    /// Conntrack is not loaded.
    Waiting,
    /// Attached; the task reads the ring.
    Attached {
        probes: Arc<Probes>,
        reader: JoinHandle<()>,
        status: Arc<Status>,
    },
    /// Attaching anew went wrong.
    Failed { reason: String, since: Instant },
}

struct Supervisor {
    options: AgentOptions,
    publisher: Publisher,
    life: Life,
    began: Instant,
    /// What earlier probes counted.
    base: Totals,
    /// Entries less inserts plus deletes at the first sample after attaching.
    baseline: Option<i64>,
    tables: Option<TableReader>,
    background: Option<Background>,
    trackers: HashMap<u32, Tracker>,
    near_limit: NearLimit,
    scans: Scans,
    /// Used on the background thread.
    ownership: Arc<Mutex<Ownership>>,
    recounter: Recounter,
    kube: Kube,
    host_netns: u32,
    reconciler: Reconciler,
    capabilities: Option<Arc<Vec<String>>>,
    attached_once: bool,
    problems: Vec<String>,
    kernel: Arc<KernelInfo>,
}

/// Attaches the probes, waiting for conntrack if need be, and publishes a snapshot every second.
///
/// Has to run inside a [`tokio::task::LocalSet`]. Ends only by an error; being dropped detaches
/// the probes.
///
/// # Errors
/// If the probes can't be attached at all.
pub async fn run(options: AgentOptions, publisher: Publisher) -> Result<Infallible, AttachError> {
    let root = Root::system();
    let release = release::release(&root).unwrap_or_else(|_| "unknown".to_owned());
    let ownership = Ownership::new(options.probes.owner_slots, publisher.services());
    let ownership = Arc::new(Mutex::new(ownership));
    let scans = Scans::begin(options.drop_capabilities).map_err(AttachError::Thread)?;
    let kube = watch_kube(&options);
    let mut supervisor = Supervisor {
        options,
        publisher,
        life: Life::Waiting,
        began: Instant::now(),
        base: Totals::default(),
        baseline: None,
        tables: Some(TableReader::new(root)),
        background: None,
        trackers: HashMap::new(),
        near_limit: NearLimit::default(),
        scans,
        ownership,
        recounter: Recounter::new(),
        kube,
        host_netns: 0,
        reconciler: Reconciler::default(),
        capabilities: None,
        attached_once: false,
        problems: Vec::new(),
        kernel: Arc::new(KernelInfo { release }),
    };
    // Before anything is attached, so that the first entry has its owner.
    if let Ok(found) = timeout(FIRST_LOOK, supervisor.scans.next()).await {
        supervisor.discovered(found).await;
    } else {
        tracing::warn!("looking for the owners of this node takes long; attaching without them");
    }
    match supervisor.attach().await {
        Ok(()) => {}
        Err(AttachError::NotLoaded) => {
            tracing::info!(
                "{}; waiting for it ({})",
                AttachError::NotLoaded,
                AttachError::NotLoaded.help()
            );
        }
        Err(error) => return Err(error),
    }
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                supervisor.tend().await?;
                supervisor.sample().await;
            }
            found = supervisor.scans.next() => supervisor.discovered(found).await,
            found = supervisor.recounter.finished() => supervisor.recounted(found).await,
            latest = supervisor.kube.changed() => supervisor.named(latest).await,
        }
    }
}

/// Begins to watch the Kubernetes API if that was asked for.
fn watch_kube(options: &AgentOptions) -> Kube {
    let Some(kube) = options.kube.clone() else {
        return Kube::off();
    };
    let drop_capabilities = options.drop_capabilities;
    Kube::watch(kube, move || {
        if drop_capabilities && let Err(error) = privileges::drop_unneeded() {
            tracing::warn!(%error, "the thread that watches the Kubernetes API keeps its capabilities");
        }
    })
}

/// Hands on what the eBPF programs log; for debugging them, so a look now and then is enough.
async fn forward_log(mut logger: aya_log::EbpfLogger<&'static dyn log::Log>) {
    loop {
        logger.flush();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

impl Supervisor {
    /// Begins a census if one is due.
    async fn recount(&mut self, needed: bool) {
        let Life::Attached { probes, .. } = &self.life else {
            return;
        };
        if !self.recounter.is_due(needed) {
            return;
        }
        let (probes, ownership) = (Arc::clone(probes), Arc::clone(&self.ownership));
        let host_netns = self.host_netns;
        let charging = self
            .aside(move || locked(&ownership).census(&probes, host_netns))
            .await;
        match charging {
            Some(Ok(charging)) => self.recounter.begin(charging),
            Some(Err(error)) => self.remember(&format!("no census: {error}")),
            None => {}
        }
    }

    /// Takes over what a census found.
    async fn recounted(&mut self, found: Found) {
        let Life::Attached { probes, .. } = &self.life else {
            return;
        };
        let (probes, ownership) = (Arc::clone(probes), Arc::clone(&self.ownership));
        let counted = self
            .aside(move || locked(&ownership).counted(found, &probes))
            .await;
        if let Some(Err(error)) = counted {
            self.remember(&format!("a census can't be used: {error}"));
        }
    }

    /// Takes over who is on this node now.
    async fn discovered(&mut self, found: Arc<Discovery>) {
        if let Some(netns) = found.host_netns {
            self.host_netns = netns;
        }
        let probes = match &self.life {
            Life::Attached { probes, .. } => Some(Arc::clone(probes)),
            Life::Waiting | Life::Failed { .. } => None,
        };
        let (ownership, discovery) = (Arc::clone(&self.ownership), Arc::clone(&found));
        let taken = self
            .aside(move || {
                let mut ownership = locked(&ownership);
                let taken = ownership.take(&discovery, probes.as_deref());
                (taken, ownership.names())
            })
            .await;
        let Some((taken, names)) = taken else { return };
        let taken = taken.unwrap_or_else(|error| Taken {
            problems: vec![format!("owners can't be told to the kernel: {error}")],
            ..Taken::default()
        });
        for slot in taken.freed {
            self.publisher.destinations().forget(slot);
        }
        for problem in found.problems.iter().chain(&taken.problems) {
            self.remember(problem);
        }
        self.publish_names(names);
    }

    /// Takes over what the Kubernetes API says.
    async fn named(&mut self, latest: Latest) {
        let ownership = Arc::clone(&self.ownership);
        let names = self
            .aside(move || {
                let mut ownership = locked(&ownership);
                ownership.know(latest.pods);
                ownership.names()
            })
            .await;
        if let Some(names) = names {
            self.publish_names(names);
        }
    }

    /// Events may name those that were just found.
    fn publish_names(&self, names: OwnersBySlot) {
        let latest = self.publisher.latest();
        if latest.names.owners != names {
            self.publisher.publish(Snapshot {
                names: Arc::new((*latest.names).clone().with_owners(names)),
                ..(*latest).clone()
            });
        }
    }

    /// Attaches; on success the ring is being read.
    async fn attach(&mut self) -> Result<(), AttachError> {
        let owners = locked(&self.ownership).maps().clone();
        let mut probes = attach_elsewhere(&self.options.probes, &owners).await?;
        let ring = probes.take_ring();
        let sink = self.publisher.sink();
        let reader = spawn_local(async move {
            let Some(ring) = ring else { return };
            if let Err(error) = ring.run(sink).await {
                tracing::error!(%error, "the ring can't be read: events are not seen any more");
            }
        });
        if self.options.probes.ebpf_log_level > 0 {
            match probes.ebpf_logger() {
                Ok(logger) => drop(spawn_local(forward_log(logger))),
                Err(error) => tracing::warn!(%error, "what the eBPF programs log can't be read"),
            }
        }
        let status = probes.status();
        for hook in status.hooks.iter().filter(|hook| hook.attached) {
            let mechanism = hook.mechanism.map(|mechanism| mechanism.to_string());
            tracing::debug!(
                event = hook.event,
                function = hook.function,
                mechanism,
                "attached"
            );
        }
        tracing::info!(
            hooks = status.hooks.iter().filter(|hook| hook.attached).count(),
            "attached"
        );
        self.life = Life::Attached {
            probes: Arc::new(probes),
            reader,
            status: Arc::new(status),
        };
        self.attached_once = true;
        self.baseline = None;
        self.recounter.restart();
        self.reconciler.restart();
        if self.options.drop_capabilities && self.capabilities.is_none() {
            // Once, and before any other thread exists: each thread has its own, and a new one those
            // of the thread that starts it.
            let kept = privileges::drop_unneeded().unwrap_or_else(|error| {
                tracing::warn!(%error, "capabilities that are not needed could not be dropped");
                Vec::new()
            });
            self.capabilities = Some(Arc::new(kept));
        }
        if self.background.is_none() {
            // Without it everything is read here: events come later, but they come.
            self.background = Background::start()
                .inspect_err(|error| tracing::warn!(%error, "no thread to read the tables on"))
                .ok();
        }
        // Its thread, too, is to have only what was kept.
        if let Some(limit) = &self.options.limit
            && let Err(error) = limit.start()
        {
            self.remember(&format!("no thread for the limit controller: {error}"));
        }
        Ok(())
    }

    /// Runs `work` beside the events; `None` if it panicked.
    async fn aside<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> Option<R> {
        match &self.background {
            Some(background) => background.run(work).await,
            None => Some(work()),
        }
    }

    /// Sees to it that the probes are where they should be.
    async fn tend(&mut self) -> Result<(), AttachError> {
        if let Life::Attached { probes, reader, .. } = &self.life {
            let there = Arc::clone(probes);
            if self
                .aside(move || there.still_attached())
                .await
                .unwrap_or(true)
            {
                return Ok(());
            }
            // Their maps live as long as the probes: nothing that was counted is lost.
            if let Ok(totals) = probes.totals() {
                self.base = self.base + totals;
            }
            let mut ownership = locked(&self.ownership);
            ownership.read(probes);
            ownership.detached();
            drop(ownership);
            reader.abort();
            tracing::warn!("nf_conntrack was unloaded; waiting for it to come back");
            self.life = Life::Waiting;
            self.trackers.clear();
        }
        if let Life::Failed { since, .. } = &self.life
            && since.elapsed() < RETRY
        {
            return Ok(());
        }
        match self.attach().await {
            Ok(()) => Ok(()),
            Err(AttachError::NotLoaded) => {
                self.life = Life::Waiting;
                Ok(())
            }
            Err(error) if !self.attached_once => Err(error),
            Err(error) => {
                let reason = format!("cannot attach again: {error}");
                tracing::error!(help = error.help(), "{reason}");
                self.life = Life::Failed {
                    reason,
                    since: Instant::now(),
                };
                Ok(())
            }
        }
    }
}

fn locked(ownership: &Mutex<Ownership>) -> MutexGuard<'_, Ownership> {
    ownership.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Attaches on a thread of its own, so that requests and signals are answered meanwhile: the
/// verifier can take seconds. The thread ends at once, as it has all capabilities.
async fn attach_elsewhere(options: &Options, owners: &Maps) -> Result<Probes, AttachError> {
    if !Presence::read(&Root::system()).is_ok_and(Presence::is_loaded) {
        // Quickly refused.
        return Probes::attach(options, owners);
    }
    let (sender, attached) = oneshot::channel();
    let owned = (options.clone(), owners.clone());
    let attach = move || drop(sender.send(Probes::attach(&owned.0, &owned.1)));
    match thread::Builder::new()
        .name("attach".to_owned())
        .spawn(attach)
    {
        Ok(_) => match attached.await {
            Ok(result) => result,
            // It panicked: let it be seen.
            Err(_) => Probes::attach(options, owners),
        },
        Err(_) => Probes::attach(options, owners),
    }
}
