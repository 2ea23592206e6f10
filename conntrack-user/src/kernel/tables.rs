//! Every table: the entries of each network namespace against the one limit.
//!
//! A namespace with a process is read through `/proc/PID/net/stat/nf_conntrack`, which needs no
//! entering. One without (made by `ip netns add`, or of a pod whose processes ended), and each on a
//! kernel without that file, is entered for a moment by a thread made for it. Nothing of a
//! namespace stays open from one reading to the next: that would keep it, and its entries, alive.
//!
//! Rights: `CAP_SYS_PTRACE` to see which namespace a process is in, `CAP_SYS_ADMIN` to enter one,
//! `CAP_NET_ADMIN` for statistics where there is no file. Without them the reader's own table is
//! read, and the problem is said. Which one is the host's is never guessed (`host`).

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use caps::Capability;

use super::confinement::Confinement;
use super::host::HostUnseen;
use super::stats::{Accumulator, KernelStats, StatsReading};
use super::sysctl::{self, SysctlError};
use super::{Problem, Root, Said, release};
use crate::sys::netns::{self, Inode};

mod discovery;
mod reading;
#[cfg(test)]
mod tests;

pub(crate) use discovery::{HOST_NAME, Namespace, discover, kept, process_numbers};
use reading::ReadOutcome;
pub(crate) use reading::is_gone;

/// How often namespaces are looked for.
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(5);

/// How soon they are looked for again when one that was known can't be read any more.
const DISCOVERY_PAUSE: Duration = Duration::from_secs(1);

/// What is needed to enter the network namespace of a process.
pub(crate) const TO_ENTER: &[Capability] = &[Capability::CAP_SYS_ADMIN, Capability::CAP_SYS_PTRACE];

/// How many rows of statistics (one for each table and possible CPU) are read at once. Each costs
/// the kernel about a microsecond; with this many, a second's readings stay within a few
/// milliseconds.
const ROWS_PER_READ: usize = 2048;

/// Within so many readings each table is read once, also if it is empty and nothing was inserted.
const IDLE_READINGS: usize = 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableSample {
    /// Inode of its network namespace.
    pub netns: u32,
    /// `host` (`kernel::host`), the name in `/run/netns`, else the inode in digits.
    pub name: String,
    pub entries: u64,
    /// The kernel's statistics; those of other tables than the host's may be some seconds old where
    /// there are many tables and CPUs. `None` where they can't be read.
    pub stats: Option<KernelStats>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TablesSample {
    /// How many entries each table may hold (0: unlimited).
    pub limit: u64,
    /// Buckets of the hash table that all share.
    pub buckets: u64,
    /// Expectations that each namespace may have; `None`: not to be read.
    pub expectation_limit: Option<u64>,
    /// The host's first, then by name.
    pub tables: Vec<TableSample>,
    /// Why the host's is not among them.
    pub host_unseen: Option<String>,
    /// What can't be seen, and what to do about it; each is said once.
    pub problems: Vec<Problem>,
}

/// Why no table can be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TablesError {
    /// The limit or the buckets can't be read; most likely conntrack is not loaded.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// No table could be read at all.
    #[error("no conntrack table could be read: {0}")]
    None(String),
}

/// What changes with every insert into a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InsertMark {
    /// By whose count.
    pub(crate) slot: u32,
    pub(crate) inserts: u64,
}

/// What is kept about a table between readings.
#[derive(Debug)]
struct KnownNamespace {
    namespace: Namespace,
    sums: Accumulator,
    stats: Option<KernelStats>,
    /// The mark from before it was found empty.
    empty_since: Option<InsertMark>,
}

impl KnownNamespace {
    fn new(namespace: Namespace) -> Self {
        Self {
            namespace,
            sums: Accumulator::default(),
            stats: None,
            empty_since: None,
        }
    }
}

/// What one reading does.
struct Plan {
    jobs: Vec<reading::ReadJob>,
    /// Tables that are empty still.
    left: Vec<Inode>,
}

#[derive(Debug)]
pub(crate) struct TableReader {
    root: Root,
    known: BTreeMap<Inode, KnownNamespace>,
    /// The host's; `None`: not looked for yet.
    host: Option<Result<Inode, HostUnseen>>,
    looked: Option<Instant>,
    missed: bool,
    /// Where the next round of statistics begins.
    turn: Inode,
    /// The same for tables that are empty still.
    idle_turn: Inode,
    full_reads: usize,
    said: Said,
}

impl TableReader {
    /// A reader that has seen nothing yet.
    pub(crate) fn new(root: Root) -> Self {
        let cpus = release::possible_cpus(&root).unwrap_or(1).max(1);
        Self {
            root,
            known: BTreeMap::new(),
            host: None,
            looked: None,
            missed: false,
            turn: 0,
            idle_turn: 0,
            full_reads: (ROWS_PER_READ / cpus).max(1),
            said: Said::default(),
        }
    }

    /// The tables as they are now. Every call reads every count; namespaces are looked for every
    /// few seconds.
    ///
    /// # Errors
    /// When conntrack is not loaded, or no table can be read.
    pub(crate) fn read(&mut self) -> Result<TablesSample, TablesError> {
        self.read_since(|_| None)
    }

    /// The same, but a table that was empty and whose mark did not change is empty still, and is only read now and then: packets may
    /// hold entries that were never inserted, and its statistics go on. Marks are from before this call.
    ///
    /// # Errors
    /// As of [`Self::read`].
    pub(crate) fn read_since(
        &mut self,
        mark: impl Fn(Inode) -> Option<InsertMark>,
    ) -> Result<TablesSample, TablesError> {
        let limit = sysctl::limit(&self.root)?;
        let buckets = sysctl::buckets(&self.root)?;
        let mut problems: Vec<Problem> = Vec::new();
        if self.is_time_to_look() {
            self.look(&mut problems);
        }
        let plan = self.plan(&mark);
        let mut tables = Vec::with_capacity(self.known.len());
        let left = plan.left.iter().filter_map(|inode| {
            let known = self.known.get(inode)?;
            Some(sample(*inode, known, 0))
        });
        tables.extend(left);
        let mut failures = Vec::new();
        for (inode, outcome) in reading::read_all(&self.root, &plan.jobs) {
            let Some(known) = self.known.get_mut(&inode) else {
                continue;
            };
            known.empty_since = mark(inode).filter(|_| outcome.is_empty());
            match outcome {
                ReadOutcome::Entries(entries) => tables.push(sample(inode, known, entries)),
                ReadOutcome::Full(entries, reading) => {
                    match reading {
                        Ok(reading) => known.stats = Some(known.sums.add(&reading)),
                        Err(error) => {
                            let name = &known.namespace.name;
                            Problem::new("the kernel's statistics of some tables can't be read")
                                .note(format_args!("{name}: {error}"), &mut problems);
                        }
                    }
                    tables.push(sample(inode, known, entries));
                }
                ReadOutcome::Gone => self.missed = true,
                ReadOutcome::Failed(error) => failures.push((inode, error)),
            }
        }
        let mut host_unseen = match &self.host {
            Some(Err(unseen)) => Some(unseen.problem()),
            _ => None,
        };
        for (inode, error) in failures {
            let (problem, name) = self.explain(inode, &error);
            if Some(inode) == self.host() {
                host_unseen = problem.clone().of([&name]);
            }
            problem.note(name, &mut problems);
        }
        if tables.is_empty() {
            problems.extend(host_unseen);
            let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
            return Err(TablesError::None(all.join("; ")));
        }
        let host = self.host();
        tables.sort_by(|one, other| {
            let key =
                |table: &TableSample| (Some(table.netns) != host, table.name.clone(), table.netns);
            key(one).cmp(&key(other))
        });
        if tables.first().is_none_or(|first| Some(first.netns) != host) {
            let missing = || Problem::from("the host's table was not read");
            let why = host_unseen.get_or_insert_with(missing);
            if !problems.contains(why) {
                problems.push(why.clone());
            }
        } else {
            host_unseen = None;
        }
        self.said.leave_new(&mut problems);
        Ok(TablesSample {
            limit,
            buckets,
            expectation_limit: sysctl::expectation_limit(&self.root).ok(),
            tables,
            host_unseen: host_unseen.map(|why| why.to_string()),
            problems,
        })
    }

    /// The host's namespace, if it is known.
    fn host(&self) -> Option<Inode> {
        self.host.as_ref()?.as_ref().ok().copied()
    }

    /// Looks for namespaces at the next reading, however short ago that was done.
    pub(crate) fn look_again(&mut self) {
        self.looked = None;
    }

    fn is_time_to_look(&self) -> bool {
        let wait = if self.missed {
            DISCOVERY_PAUSE
        } else {
            DISCOVERY_INTERVAL
        };
        self.looked.is_none_or(|looked| looked.elapsed() >= wait)
    }

    /// Finds the namespaces; those that are known keep their sums.
    fn look(&mut self, problems: &mut Vec<Problem>) {
        let found = discover(&self.root);
        problems.extend(found.problems);
        self.host = Some(found.host);
        let mut before = std::mem::take(&mut self.known);
        for (inode, namespace) in found.namespaces {
            let known = match before.remove(&inode) {
                Some(known) => KnownNamespace { namespace, ..known },
                None => KnownNamespace::new(namespace),
            };
            self.known.insert(inode, known);
        }
        self.looked = Some(Instant::now());
        self.missed = false;
    }

    /// Which tables to read, and of which the statistics too: the host's always, the others in
    /// turn.
    fn plan(&mut self, mark: &impl Fn(Inode) -> Option<InsertMark>) -> Plan {
        let host = self.host();
        let is_idle = |inode: &Inode| {
            let empty_since = self.known.get(inode).and_then(|known| known.empty_since);
            empty_since.is_some() && empty_since == mark(*inode)
        };
        let others = self.known.keys().copied();
        let others = others.filter(|inode| Some(*inode) != host);
        let (idle, busy): (Vec<_>, Vec<_>) = others.partition(is_idle);
        let looks = self.known.len().div_ceil(IDLE_READINGS);
        let (looked, left) = in_turn(idle, looks, &mut self.idle_turn);
        let (full, brief) = in_turn(busy, self.full_reads, &mut self.turn);
        let full = host.into_iter().chain(full).chain(looked);
        let jobs = full
            .map(|inode| (inode, true))
            .chain(brief.into_iter().map(|inode| (inode, false)));
        let jobs = jobs.filter_map(|(inode, full)| {
            let namespace = self.known.get(&inode)?.namespace.clone();
            Some(reading::ReadJob { namespace, full })
        });
        Plan {
            jobs: jobs.collect(),
            left,
        }
    }

    /// What to say about a table that can't be read, and which one it is.
    fn explain(&self, inode: Inode, error: &io::Error) -> (Problem, String) {
        let name = self
            .known
            .get(&inode)
            .map_or_else(|| inode.to_string(), |known| known.namespace.name.clone());
        let kind = "the conntrack tables of some network namespaces can't be read";
        if error.kind() == io::ErrorKind::PermissionDenied {
            let why = Confinement::of_this_thread(&self.root, TO_ENTER);
            let problem = Problem::new(format!("{kind} ({error}; {why})")).help(why.help());
            return (problem, name);
        }
        (Problem::new(kind), format!("{name}: {error}"))
    }
}

/// So many of these (sorted) whose turn it is, and the others.
fn in_turn(mut all: Vec<Inode>, count: usize, turn: &mut Inode) -> (Vec<Inode>, Vec<Inode>) {
    let first = all.partition_point(|inode| inode < turn);
    all.rotate_left(first);
    let others = all.split_off(count.min(all.len()));
    if let Some(last) = all.last() {
        *turn = last.wrapping_add(1);
    }
    (all, others)
}

fn sample(netns: Inode, known: &KnownNamespace, entries: u64) -> TableSample {
    TableSample {
        netns,
        name: known.namespace.name.clone(),
        entries,
        stats: known.stats,
    }
}
