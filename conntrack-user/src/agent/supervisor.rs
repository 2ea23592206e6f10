//! Keeps the probes attached and samples once a second.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::{
    sync::oneshot,
    task::{JoinHandle, spawn_blocking, spawn_local},
    time::{MissedTickBehavior, interval},
};

use super::{
    Drift, Explained, KernelInfo, Own, Publisher, Reconciler, Snapshot, State, Table,
    pressure::{Sample, Tracker},
    table_bytes,
};
use crate::{
    events::Names,
    kernel::{
        Root,
        conntrack::Presence,
        release,
        tables::{TableReader, TablesError, TablesSample},
    },
    probes::{AttachError, Options, Probes, Status, Totals, privileges},
};

/// How often the counters are read.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long to wait after attaching anew went wrong.
const RETRY: Duration = Duration::from_secs(10);
/// Problems that are kept for /status.
const PROBLEMS: usize = 32;

/// How the agent runs.
#[derive(Clone, Debug, Default)]
pub struct AgentOptions {
    /// The probes.
    pub probes: Options,
    /// Give up, after attaching, the capabilities that are not needed any more.
    pub drop_capabilities: bool,
}

/// The probes' life.
enum Life {
    /// Conntrack is not loaded.
    Waiting,
    /// Attached; the task reads the ring.
    Attached {
        probes: Box<Probes>,
        reader: JoinHandle<()>,
        status: Arc<Status>,
    },
    /// Attaching anew went wrong.
    Failed { reason: String, since: Instant },
}

/// What is read from files for one sample.
#[derive(Default)]
struct Readings {
    tables: Option<TablesSample>,
    table_bytes: Option<u64>,
    own: Own,
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
    trackers: HashMap<u32, Tracker>,
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
    let mut supervisor = Supervisor {
        options,
        publisher,
        life: Life::Waiting,
        began: Instant::now(),
        base: Totals::default(),
        baseline: None,
        tables: Some(TableReader::new(root)),
        trackers: HashMap::new(),
        reconciler: Reconciler::default(),
        capabilities: None,
        attached_once: false,
        problems: Vec::new(),
        kernel: Arc::new(KernelInfo { release }),
    };
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
        ticks.tick().await;
        supervisor.tend().await?;
        supervisor.sample().await;
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
    /// Attaches; on success the ring is being read.
    async fn attach(&mut self) -> Result<(), AttachError> {
        let mut probes = attach_elsewhere(&self.options.probes).await?;
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
            probes: Box::new(probes),
            reader,
            status: Arc::new(status),
        };
        self.attached_once = true;
        self.baseline = None;
        self.reconciler.restart();
        if self.options.drop_capabilities && self.capabilities.is_none() {
            // Once, and before any other thread exists: each thread has its own.
            let kept = privileges::drop_unneeded().unwrap_or_else(|error| {
                tracing::warn!(%error, "capabilities that are not needed could not be dropped");
                Vec::new()
            });
            self.capabilities = Some(Arc::new(kept));
        }
        Ok(())
    }

    /// Sees to it that the probes are where they should be.
    async fn tend(&mut self) -> Result<(), AttachError> {
        if let Life::Attached { probes, reader, .. } = &self.life {
            if probes.still_attached() {
                return Ok(());
            }
            // Their maps live as long as the probes: nothing that was counted is lost.
            if let Ok(totals) = probes.totals() {
                self.base = self.base + totals;
            }
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

    /// Reads everything and publishes it.
    async fn sample(&mut self) {
        // Tables first: see `Reconciler::add`.
        let Readings {
            tables,
            table_bytes,
            own,
        } = self.read().await;
        let mut snapshot = Snapshot {
            uptime_seconds: self.began.elapsed().as_secs_f64(),
            kernel: Arc::clone(&self.kernel),
            capabilities: self.capabilities.clone().unwrap_or_default(),
            watchers_lost: self.publisher.watchers_lost(),
            own,
            table_bytes,
            counting: self.attached_once,
            totals: self.base,
            unexplained: self.publisher.latest().unexplained,
            ..Snapshot::default()
        };
        if let Some(tables) = &tables {
            self.describe(tables, &mut snapshot);
        }
        match &self.life {
            Life::Waiting => {
                snapshot.reason = Some(AttachError::NotLoaded.to_string());
            }
            Life::Failed { reason, .. } => {
                snapshot.state = State::Degraded;
                snapshot.reason = Some(reason.clone());
            }
            Life::Attached {
                probes,
                reader,
                status,
            } => {
                let mut missing: Vec<String> = status
                    .missing()
                    .map(|hook| {
                        format!(
                            "{}: {}",
                            hook.event,
                            hook.reason.as_deref().unwrap_or("no hook")
                        )
                    })
                    .collect();
                if reader.is_finished() {
                    missing.push("events: the ring can't be read".to_owned());
                }
                match probes.totals() {
                    Ok(totals) => {
                        snapshot.totals = self.base + totals;
                        if let Some(tables) = &tables {
                            let ours = Explained {
                                drops: totals.drops.table_full + totals.drops.clash,
                                evictions: totals.evictions,
                            };
                            snapshot.unexplained = self.reconciler.add(&tables.tables, ours);
                            snapshot.drift =
                                Some(drift(&mut self.baseline, entries(tables), &snapshot.totals));
                        }
                        snapshot.ready = tables.is_some();
                    }
                    Err(error) => {
                        snapshot.totals = self.publisher.latest().totals;
                        missing.push(format!("counters: {error}"));
                    }
                }
                if tables.is_none() {
                    missing.push("tables: they can't be read".to_owned());
                }
                snapshot.programs = probes.run_time().unwrap_or_default();
                snapshot.status = Arc::clone(status);
                snapshot.state = if missing.is_empty() {
                    State::Attached
                } else {
                    State::Degraded
                };
                snapshot.reason = (!missing.is_empty()).then(|| missing.join("; "));
            }
        }
        snapshot.problems.clone_from(&self.problems);
        self.publisher.publish(snapshot);
    }

    /// What is in files, read on another thread: with many namespaces it takes milliseconds, and
    /// events do not wait.
    async fn read(&mut self) -> Readings {
        let loaded = !matches!(self.life, Life::Waiting);
        let mut reader = self
            .tables
            .take()
            .unwrap_or_else(|| TableReader::new(Root::system()));
        if self.publisher.take_unknown_netns() {
            reader.look_again();
        }
        let read = spawn_blocking(move || {
            let tables = loaded.then(|| reader.read());
            let table_bytes = match &tables {
                Some(Ok(tables)) => table_bytes(&Root::system(), tables.buckets),
                _ => None,
            };
            (reader, tables, table_bytes, Own::read().unwrap_or_default())
        });
        let Ok((reader, tables, table_bytes, own)) = read.await else {
            // It panicked, which was printed; the next one begins anew.
            return Readings::default();
        };
        self.tables = Some(reader);
        let tables = tables.and_then(|result| self.note_problems(result));
        Readings {
            tables,
            table_bytes,
            own,
        }
    }

    /// Says what went wrong, if it is new.
    fn note_problems(&mut self, result: Result<TablesSample, TablesError>) -> Option<TablesSample> {
        match result {
            Ok(sample) => {
                for problem in &sample.problems {
                    self.remember(problem);
                }
                Some(sample)
            }
            Err(error) => {
                // Nothing to say when conntrack has just gone: `tend` will.
                let gone = matches!(&error, TablesError::Sysctl(error)
                    if error.source.kind() == std::io::ErrorKind::NotFound);
                if !gone {
                    self.remember(&error.to_string());
                }
                None
            }
        }
    }

    /// Says a problem once and keeps it for /status.
    fn remember(&mut self, problem: &str) {
        if self.problems.iter().any(|known| known == problem) {
            return;
        }
        tracing::warn!("{problem}");
        if self.problems.len() == PROBLEMS {
            self.problems.remove(0);
        }
        self.problems.push(problem.to_owned());
    }

    /// Fills in what the tables say.
    fn describe(&mut self, sample: &TablesSample, snapshot: &mut Snapshot) {
        let at = self.began.elapsed();
        self.trackers
            .retain(|netns, _| sample.tables.iter().any(|table| table.netns == *netns));
        snapshot.limit = Some(sample.limit);
        snapshot.buckets = Some(sample.buckets);
        let mut taken = HashSet::new();
        for table in &sample.tables {
            let tracker = self.trackers.entry(table.netns).or_default();
            tracker.add(Sample {
                at,
                entries: table.entries,
                limit: sample.limit,
                drops: table.stats.map(|stats| stats.drop),
            });
            // A metric must not come twice: somebody may have called a namespace "host".
            let name = if taken.insert(table.name.as_str()) {
                table.name.clone()
            } else {
                table.netns.to_string()
            };
            snapshot.tables.push(Table {
                netns: table.netns,
                name,
                entries: table.entries,
                pressure: tracker.pressure(),
                seconds_to_full: tracker.seconds_to_full(),
                stats: table.stats,
            });
        }
        let before = self.publisher.latest();
        let names: Names = snapshot
            .tables
            .iter()
            .map(|table| (table.netns, table.name.clone()))
            .collect();
        snapshot.names = if *before.names == names {
            Arc::clone(&before.names)
        } else {
            Arc::new(names)
        };
    }
}

/// Attaches on a thread of its own, so that requests and signals are answered meanwhile: the
/// verifier can take seconds. The thread ends at once, as it has all capabilities.
async fn attach_elsewhere(options: &Options) -> Result<Probes, AttachError> {
    if !Presence::read(&Root::system()).is_ok_and(Presence::is_loaded) {
        // Quickly refused.
        return Probes::attach(options);
    }
    let (sender, attached) = oneshot::channel();
    let owned = options.clone();
    let attach = move || drop(sender.send(Probes::attach(&owned)));
    match thread::Builder::new()
        .name("attach".to_owned())
        .spawn(attach)
    {
        Ok(_) => match attached.await {
            Ok(result) => result,
            // It panicked: let it be seen.
            Err(_) => Probes::attach(options),
        },
        Err(_) => Probes::attach(options),
    }
}

fn entries(sample: &TablesSample) -> u64 {
    sample.tables.iter().map(|table| table.entries).sum()
}

/// Entries against counts; the first call after attaching sets the baseline.
fn drift(baseline: &mut Option<i64>, entries: u64, totals: &Totals) -> Drift {
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let grown = signed(totals.inserts) - signed(totals.deletes);
    let expected = *baseline.get_or_insert_with(|| signed(entries) - grown) + grown;
    Drift {
        entries,
        expected,
        difference: signed(entries) - expected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drift_is_against_the_entries_at_attaching() {
        let mut baseline = None;
        let totals = |inserts, deletes| Totals {
            inserts,
            deletes,
            ..Totals::default()
        };
        let at_first = drift(&mut baseline, 500, &totals(20, 10));
        assert_eq!(
            at_first,
            Drift {
                entries: 500,
                expected: 500,
                difference: 0
            }
        );
        let later = drift(&mut baseline, 540, &totals(120, 70));
        assert_eq!(
            later,
            Drift {
                entries: 540,
                expected: 540,
                difference: 0
            }
        );
        let missed = drift(&mut baseline, 537, &totals(120, 70));
        assert_eq!(
            missed,
            Drift {
                entries: 537,
                expected: 540,
                difference: -3
            }
        );
    }
}
