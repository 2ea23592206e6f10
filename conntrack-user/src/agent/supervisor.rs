//! Keeps the probes attached and samples once a second.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    future::pending,
    mem,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use ctpressure_model::{
    kubernetes::Latest,
    pressure::{Tracker, state::Pressure},
    verdict::is_worth_judging,
};
use tokio::{
    sync::{oneshot, watch},
    task::{JoinHandle, spawn_local},
    time::{MissedTickBehavior, interval, timeout},
};

use super::{
    Background, Capabilities, KernelInfo, Publisher, Reconciler,
    census::CensusResult,
    near_limit::NearLimit,
    ownership::{Ownership, Taken},
    recount::{Recounter, fills_its_buckets},
    scans::Scans,
    verdicts::Verdicts,
};
use crate::{
    kernel::{KnownProblems, Root, conntrack::Presence, release, tables::TableReader},
    owners::{Discovery, SlotMaps},
    probes::{AttachError, Options, ProbeStatus, Probes, Totals, privileges},
    sys::lock::locked,
    walk::WalkSource,
};

mod sampling;

/// How often the counters are read.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long to wait after attaching went wrong: what the kernel describes of itself is megabytes to read.
const RETRY: Duration = Duration::from_mins(1);

/// How long the first look for owners may take.
const FIRST_LOOK: Duration = Duration::from_secs(10);

/// How the agent runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct AgentOptions {
    pub probes: Options,
    /// Give up, after attaching, the capabilities that are not needed any more.
    pub drop_capabilities: bool,
    /// Without probes show what can be seen without them: tables, the kernel's own statistics. Else it is an error.
    pub goes_on_without: bool,
    /// Names, workloads and labels of pods, whenever somebody who knows them says something new.
    pub pods: Option<watch::Receiver<Latest>>,
    /// Where a census reads entries from.
    pub census: WalkSource,
}

enum ProbesLife {
    /// Conntrack is not loaded.
    Waiting,
    /// Attached; the task reads the ring.
    Attached {
        probes: Arc<Probes>,
        reader: JoinHandle<()>,
        status: ProbeStatus,
    },
    /// Nothing could be attached; tables are seen all the same.
    Without {
        reason: String,
        since: Instant,
        /// Trying again can help.
        may_pass: bool,
    },
}

struct Supervisor {
    options: AgentOptions,
    publisher: Publisher,
    life: ProbesLife,
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
    verdicts: Verdicts,
    host_netns: u32,
    reconciler: Reconciler,
    capabilities: Option<Capabilities>,
    /// It was attached, or found out that it can't be.
    begun: bool,
    problems: KnownProblems,
    kernel: KernelInfo,
}

/// Attaches the probes, waiting for conntrack if need be, and publishes a snapshot every second.
///
/// Has to run inside a [`tokio::task::LocalSet`]. Ends only by an error; being dropped detaches
/// the probes.
///
/// # Errors
/// If the probes can't be attached at all and it is not to go on without them.
pub(crate) async fn run(
    mut options: AgentOptions,
    publisher: Publisher,
) -> Result<Infallible, AttachError> {
    let root = Root::system();
    let unfit = options.probes.fit(&root);
    let release = release::release(&root).unwrap_or_else(|_| "unknown".to_owned());
    let ownership = Ownership::new(options.probes.owner_slots, publisher.services());
    let ownership = Arc::new(Mutex::new(ownership));
    let options_census = options.census;
    let scans = Scans::begin(options.drop_capabilities).map_err(AttachError::Thread)?;
    let mut supervisor = Supervisor {
        options,
        publisher,
        life: ProbesLife::Waiting,
        began: Instant::now(),
        base: Totals::default(),
        baseline: None,
        tables: Some(TableReader::new(root)),
        background: None,
        trackers: HashMap::new(),
        near_limit: NearLimit::default(),
        scans,
        ownership,
        recounter: Recounter::new(options_census),
        verdicts: Verdicts::default(),
        host_netns: 0,
        reconciler: Reconciler::default(),
        capabilities: None,
        begun: false,
        problems: KnownProblems::default(),
        kernel: KernelInfo { release },
    };
    if let Some(problem) = unfit {
        supervisor.remember(problem);
    }
    // Before anything is attached, so that the first entry has its owner.
    if let Ok(found) = timeout(FIRST_LOOK, supervisor.scans.next()).await {
        supervisor.discovered(found).await;
    } else {
        tracing::warn!("looking for the owners of this node takes long; attaching without them");
    }
    supervisor.try_to_attach().await?;
    if matches!(supervisor.life, ProbesLife::Waiting) {
        tracing::info!(
            "{}; waiting for it ({})",
            AttachError::NotLoaded,
            AttachError::NotLoaded.help()
        );
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
            latest = pods(&mut supervisor.options.pods) => supervisor.named(latest).await,
        }
    }
}

/// Waits until something new is known of pods; for ever if nobody says it.
async fn pods(source: &mut Option<watch::Receiver<Latest>>) -> Latest {
    if let Some(latest) = source
        && latest.changed().await.is_ok()
    {
        return latest.borrow_and_update().clone();
    }
    pending().await
}

/// Has inserts recorded for as long as somebody watches them.
async fn follow_watchers(probes: Arc<Probes>, mut watchers: watch::Receiver<usize>) -> Infallible {
    loop {
        let watched = *watchers.borrow_and_update() > 0;
        if let Err(error) = probes.watch_inserts(watched) {
            tracing::warn!(%error, "how many records inserts have can't be changed");
        }
        if watchers.changed().await.is_err() {
            pending::<()>().await;
        }
    }
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
        let probes = match &self.life {
            ProbesLife::Waiting => return,
            ProbesLife::Without { .. } => None,
            ProbesLife::Attached { probes, .. } => Some(Arc::clone(probes)),
        };
        let latest = self.publisher.latest();
        let limit = latest.tables.limit.unwrap_or(0);
        let full = latest.tables.list.iter();
        let full: Vec<_> = full
            .filter(|table| {
                table.pressure >= Pressure::High && is_worth_judging(table.entries, limit)
            })
            .collect();
        let hurried = full.iter().any(|table| {
            !self.verdicts.has(table.netns)
                || fills_its_buckets(table.entries, latest.tables.buckets)
        });
        if !self.recounter.is_due(needed, hurried) {
            return;
        }
        let judged: HashSet<u32> = full.iter().map(|table| table.netns).collect();
        for netns in &judged {
            self.verdicts.ask(*netns);
        }
        let (ownership, host_netns) = (Arc::clone(&self.ownership), self.host_netns);
        let order = self
            .aside(move || locked(&ownership).census(probes.as_deref(), host_netns, judged))
            .await;
        match order {
            Some(Ok(order)) => self.recounter.begin(order),
            Some(Err(error)) => self.remember(format!("no census: {error}")),
            None => {}
        }
    }

    /// Takes over what a census found.
    async fn recounted(&mut self, mut found: CensusResult) {
        let limit = self.publisher.latest().tables.limit.unwrap_or(0);
        self.verdicts
            .judge(mem::take(&mut found.compositions), limit);
        let probes = match &self.life {
            ProbesLife::Waiting => return,
            ProbesLife::Without { .. } => None,
            ProbesLife::Attached { probes, .. } => Some(Arc::clone(probes)),
        };
        let ownership = Arc::clone(&self.ownership);
        let counted = self
            .aside(move || locked(&ownership).counted(found, probes.as_deref()))
            .await;
        if let Some(Err(error)) = counted {
            self.remember(format!("a census can't be used: {error}"));
        }
    }

    /// Takes over who is on this node now.
    async fn discovered(&mut self, found: Arc<Discovery>) {
        if let Some(netns) = found.host_netns {
            self.host_netns = netns;
        }
        let probes = match &self.life {
            ProbesLife::Attached { probes, .. } => Some(Arc::clone(probes)),
            ProbesLife::Waiting | ProbesLife::Without { .. } => None,
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
            problems: vec![format!("owners can't be told to the kernel: {error}").into()],
            ..Taken::default()
        });
        for slot in taken.freed {
            self.publisher.destinations().forget(slot);
        }
        for problem in found.problems.iter().chain(&taken.problems) {
            self.remember(problem.clone());
        }
        // Events may name those that were just found.
        self.publisher.name_owners(names);
        self.tell_charges().await;
    }

    /// Says by what entries are charged now.
    async fn tell_charges(&self) {
        let probes = match &self.life {
            ProbesLife::Attached { probes, .. } => Some(Arc::clone(probes)),
            ProbesLife::Waiting | ProbesLife::Without { .. } => None,
        };
        let (ownership, host_netns) = (Arc::clone(&self.ownership), self.host_netns);
        let charged = self
            .aside(move || locked(&ownership).charged(probes.as_deref(), host_netns))
            .await;
        if let Some(charged) = charged {
            self.publisher.charge(charged);
        }
    }

    /// Takes over what is known of pods.
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
            self.publisher.name_owners(names);
            self.tell_charges().await;
        }
    }

    /// Attaches; on success the ring is being read.
    async fn attach(&mut self) -> Result<(), AttachError> {
        let owners = locked(&self.ownership).maps().clone();
        let mut probes = attach_elsewhere(&self.options.probes, &owners).await?;
        let ring = probes.take_ring();
        let sink = self.publisher.sink();
        let probes = Arc::new(probes);
        let watched = follow_watchers(Arc::clone(&probes), self.publisher.insert_watchers());
        let reader = spawn_local(async move {
            let Some(ring) = ring else { return };
            let run = async {
                tokio::select! {
                    result = ring.run(sink) => result,
                    never = watched => match never {},
                }
            };
            if let Err(error) = run.await {
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
        self.life = ProbesLife::Attached {
            probes,
            reader,
            status,
        };
        self.baseline = None;
        self.recounter = Recounter::new(self.options.census);
        locked(&self.ownership).forget_censuses();
        self.reconciler.restart();
        self.begin();
        Ok(())
    }

    /// Nothing more needs all capabilities: from now on the agent works with few.
    fn begin(&mut self) {
        self.begun = true;
        if self.options.drop_capabilities && self.capabilities.is_none() {
            // Once, and before any other thread exists: each thread has its own, and a new one those
            // of the thread that starts it.
            let kept = privileges::drop_unneeded().unwrap_or_else(|error| {
                tracing::warn!(%error, "capabilities that are not needed could not be dropped");
                Vec::new()
            });
            self.capabilities = Some(Capabilities { kept });
        }
        if self.background.is_none() {
            // Without it everything is read here: events come later, but they come.
            self.background = Background::start()
                .inspect_err(|error| tracing::warn!(%error, "no thread to read the tables on"))
                .ok();
        }
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
        if let ProbesLife::Attached { probes, reader, .. } = &self.life {
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
                self.base = self.base.and(&totals);
            }
            let mut ownership = locked(&self.ownership);
            if let Err(error) = ownership.read(probes) {
                tracing::warn!(%error, "the last counts by owner can't be read");
            }
            ownership.detached();
            drop(ownership);
            reader.abort();
            tracing::warn!("nf_conntrack was unloaded; waiting for it to come back");
            self.life = ProbesLife::Waiting;
            self.trackers.clear();
        }
        if let ProbesLife::Without {
            since, may_pass, ..
        } = &self.life
            && (!may_pass || since.elapsed() < RETRY)
        {
            return Ok(());
        }
        self.try_to_attach().await
    }

    /// Attaches what can be attached. Whatever keeps it from attaching anything is said once.
    async fn try_to_attach(&mut self) -> Result<(), AttachError> {
        let error = match self.attach().await {
            Ok(()) => return Ok(()),
            Err(AttachError::NotLoaded) => {
                self.life = ProbesLife::Waiting;
                return Ok(());
            }
            Err(error) if !(self.begun || self.options.goes_on_without) => return Err(error),
            Err(error) => error,
        };
        let reason = format!(
            "nothing is attached, so that only tables and the kernel's own statistics are seen: {error} ({})",
            error.help()
        );
        if !matches!(&self.life, ProbesLife::Without { reason: before, .. } if *before == reason) {
            tracing::error!("{reason}");
            self.reconciler.restart();
        }
        self.begin();
        self.life = ProbesLife::Without {
            reason,
            since: Instant::now(),
            may_pass: error.may_pass(),
        };
        Ok(())
    }
}

/// Attaches on a thread of its own, so that requests and signals are answered meanwhile: the
/// verifier can take seconds. The thread ends at once, as it has all capabilities.
async fn attach_elsewhere(options: &Options, owners: &SlotMaps) -> Result<Probes, AttachError> {
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
