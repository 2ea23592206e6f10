//! `ctpressure table`: the census of a table, or of several.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufWriter, IsTerminal as _, Write as _},
    ops::ControlFlow,
    time::{SystemTime, UNIX_EPOCH},
};

use clap::Args;
use ctpressure_model::{
    command_line::{self, Output, OutputArgs},
    events::Netns,
    verdict::is_worth_judging,
    words,
};

use super::{
    Failure,
    args::{FlowArgs, LogArgs, SocketArgs},
    logging,
    owners::KnownOwners,
};
use crate::{
    census::{
        Alike, AlikeEntries, By, Census, Charging, CompositionCount, EntryLine, Filter, Labels,
        MOST_KEYS, PortSpaces, parse_state, text,
    },
    kernel::{
        Root,
        conntrack::Presence,
        entries::{FoundEntry, WalkOutcome, count_namespaces, count_unlisted, walk_namespaces},
        overlays, sysctl,
        tables::Namespace,
    },
    probes::TagReader,
    sys::netns::Inode,
    walk::{EntryCounter, NoHashWalk, TableWalker, WalkSource},
};

mod report;
mod targets;

#[cfg(test)]
pub(super) use report::CensusDocument;
use report::CensusReport;
use targets::WalkedTable;

/// Bytes of a list that are written in one go.
const WRITE_BYTES: usize = 64 << 10;
/// Entries between two words about the progress.
const PROGRESS: u64 = 1 << 16;

/// Count a table's entries by owner, destination, state and so on
///
/// Reads every entry once; changes nothing. Without --by: the largest owners (sources where owners are
/// unknown) and destinations. JSON is one object; with --list one per line. Evictable entries are those that
/// the kernel may remove early to make room (not assured).
#[derive(Args, Debug)]
pub(super) struct Table {
    /// Group by this; several make a combined key
    #[arg(
        long,
        env = "CTPRESSURE_BY",
        value_name = "PROPERTY",
        value_enum,
        value_delimiter = ','
    )]
    by: Vec<By>,
    /// Rows per grouping
    #[arg(
        long,
        env = "CTPRESSURE_TOP",
        value_name = "N",
        default_value_t = 10,
        value_parser = clap::value_parser!(u32).range(1..=MOST_KEYS as i64)
    )]
    top: u32,
    /// Print the entries, one per line, as they are read
    #[arg(long, env = "CTPRESSURE_LIST", conflicts_with = "by")]
    list: bool,
    #[command(flatten)]
    output: OutputArgs,
    /// Network namespaces to read: `host`, the owner (`shop/web`), a name in /run/netns, an inode number, or `all`
    /// [default: this command's own]
    #[arg(long, env = "CTPRESSURE_NETNS", value_delimiter = ',')]
    netns: Vec<Netns>,
    #[command(flatten)]
    flows: FlowArgs,
    /// Only these states, such as `ESTABLISHED` or `UNREPLIED`
    #[arg(long, env = "CTPRESSURE_STATE", value_delimiter = ',', value_parser = parse_state)]
    state: Vec<&'static str>,
    /// Only entries that the kernel never evicts early
    #[arg(long, env = "CTPRESSURE_ASSURED", conflicts_with = "evictable")]
    assured: bool,
    /// Only entries that the kernel may evict early to make room
    #[arg(long, env = "CTPRESSURE_EVICTABLE")]
    evictable: bool,
    /// How entries are read; --list always uses ctnetlink
    #[arg(
        long,
        env = "CTPRESSURE_CENSUS",
        value_name = "SOURCE",
        value_enum,
        default_value_t
    )]
    census: WalkSource,
    #[command(flatten)]
    socket: SocketArgs,
    #[command(flatten)]
    log: LogArgs,
}

/// What it means that pods came or went while a table was read.
const OWNERS_CHANGED: &str = "owners came, went or changed addresses while the tables were read: rows by owner may be off by what \
     came and went with them; run it again for exact numbers";

impl Table {
    pub(super) fn run(self) -> anyhow::Result<()> {
        logging::start(self.log.log, self.log.verbose, tracing::Level::WARN);
        let root = Root::system();
        let mut owners = KnownOwners::find(&root, &self.socket.socket);
        let namespaces = targets::find(&root, &self.netns, &owners.charging.tables)?;
        owners.look_for_vacant(&root, &namespaces);
        let names: BTreeMap<Inode, String> = namespaces
            .iter()
            .map(|namespace| (namespace.inode, namespace.name.clone()))
            .collect();
        if self.list {
            let labels = Labels {
                owners: &owners.charging,
                namespaces: &names,
            };
            return self.list(&root, &namespaces, &labels);
        }
        let mut walker = TableWalker::new(&root, self.source(&root));
        let mut report = self.census(&root, &mut walker, &namespaces, &names, &owners)?;
        if owners.of_agent {
            let now = self.owners(&root, &namespaces);
            if !now.is_as(&owners) {
                owners = now;
                report = self.census(&root, &mut walker, &namespaces, &names, &owners)?;
                if !self.owners(&root, &namespaces).is_as(&owners) {
                    report.problems.push(OWNERS_CHANGED.to_owned());
                }
            }
        }
        let labels = Labels {
            owners: &owners.charging,
            namespaces: &names,
        };
        let printed = match self.output.output {
            Output::Text => report.text(&labels),
            Output::Json => serde_json::to_string(&report.document(&labels))? + "\n",
        };
        Ok(command_line::print(&printed)?)
    }

    /// Whose entries are now.
    fn owners(&self, root: &Root, namespaces: &[Namespace]) -> KnownOwners {
        let mut owners = KnownOwners::find(root, &self.socket.socket);
        owners.look_for_vacant(root, namespaces);
        owners
    }

    /// Where entries are to be read from.
    fn source(&self, root: &Root) -> WalkSource {
        // Whether conntrack is there, and may be listed, is said by ctnetlink.
        let is_loaded = Presence::read(root).is_ok_and(Presence::is_loaded);
        // The time that an entry came at is in a part of it that is not copied.
        let of_age = self.by.contains(&By::Age) && sysctl::keeps_timestamps(root);
        match self.census {
            _ if !is_loaded => WalkSource::Ctnetlink,
            WalkSource::Auto if of_age => WalkSource::Ctnetlink,
            source => source,
        }
    }

    fn filter(&self) -> Filter {
        Filter {
            protocols: self.flows.protocol.clone(),
            networks: self.flows.address.clone(),
            ports: self.flows.port.clone(),
            states: self.state.clone(),
            // Not both: they exclude each other.
            evictable: (self.evictable || self.assured).then_some(self.evictable),
            one_way: false,
        }
    }

    fn groupings(&self) -> Vec<Vec<By>> {
        if self.by.is_empty() {
            return vec![vec![By::Owner], vec![By::Destination]];
        }
        // Said twice is said once.
        let mut key = Vec::new();
        for by in &self.by {
            if !key.contains(by) {
                key.push(*by);
            }
        }
        vec![key]
    }

    /// Reads all tables and counts what is in them.
    fn census(
        &self,
        root: &Root,
        walker: &mut TableWalker,
        namespaces: &[Namespace],
        names: &BTreeMap<Inode, String>,
        owners: &KnownOwners,
    ) -> anyhow::Result<CensusReport> {
        let labels = Labels {
            owners: &owners.charging,
            namespaces: names,
        };
        // What is judged of a table that is nearly full costs more than all the rest.
        let limit = sysctl::limit(root).unwrap_or(0);
        let counts = count_namespaces(root, namespaces).into_iter();
        let nearly_full: BTreeSet<Inode> = counts
            .filter(|(_, outcome)| match outcome {
                WalkOutcome::Walked(walk) => may_be_worth_judging(walk.counts[0], limit),
                _ => false,
            })
            .map(|(inode, _)| inode)
            .collect();
        let tunnels: Vec<_> = namespaces
            .iter()
            .filter(|namespace| nearly_full.contains(&namespace.inode))
            .map(|namespace| (namespace.inode, overlays::of(root, namespace)))
            .collect();
        let tally = || TableTally {
            census: Census::new(self.filter(), self.groupings(), labels.owners, now()),
            makeup: tunnels
                .iter()
                .map(|(inode, tunnels)| (*inode, CompositionCount::new(labels.owners, tunnels)))
                .collect(),
            ports: PortSpaces::default(),
            table: None,
            met: BTreeSet::new(),
        };
        let count = || TableCount::new(tally(), labels.owners, owners.tags.as_ref());
        let (count, outcomes) = walker.walk(root, namespaces, count);
        if self.census == WalkSource::Hash
            && let Some(error) = walker.no_hash_walk()
            && *error != NoHashWalk::NotAsked
        {
            return Err(Failure {
                what: format!("the hash table can't be walked: {error}"),
                help: error.help().to_owned(),
            }
            .into());
        }
        let TableTally {
            census,
            mut makeup,
            ports,
            ..
        } = count.finish();
        let (mut tables, problems) = targets::sort_out(outcomes, &labels)?;
        tell_unlisted(root, namespaces, &mut tables);
        for table in &mut tables {
            let of_table = ports.used().filter(|(netns, ..)| *netns == table.netns);
            let told = of_table.map(|(_, space, used)| (space, used));
            table.ports = told.take(PORT_SPACES).collect();
        }
        let limit = sysctl::limit(root)?;
        let name = |slot| labels.owners.names.get(&slot).cloned();
        let verdicts = tables.iter().filter_map(|table| {
            let makeup = makeup.remove(&table.netns)?;
            let composition = makeup.finish(&table.walk, name);
            is_worth_judging(composition.counted(), limit)
                .then(|| (table.netns, composition.verdicts()))
        });
        Ok(CensusReport {
            verdicts: verdicts.collect(),
            limit,
            buckets: sysctl::buckets(root)?,
            tables,
            filtered: self.filter() != Filter::default(),
            summary: census.summary(self.top as usize),
            source: walker.source(),
            problems,
        })
    }

    /// Prints the entries as they are read.
    fn list(
        &self,
        root: &Root,
        namespaces: &[Namespace],
        labels: &Labels<'_>,
    ) -> anyhow::Result<()> {
        let filter = self.filter();
        let several = namespaces.len() > 1;
        let time = now();
        let mut out = BufWriter::with_capacity(WRITE_BYTES, io::stdout());
        let mut written = Ok(());
        let outcomes = walk_namespaces(root, namespaces, |inode, entry| {
            if !filter.passes(entry) {
                return ControlFlow::Continue(());
            }
            written = match self.output.output {
                Output::Text => {
                    let netns = several.then_some(inode);
                    writeln!(out, "{}", text::line(netns, entry, labels))
                }
                Output::Json => {
                    let line = EntryLine::new(inode, entry, time, labels);
                    serde_json::to_writer(&mut out, &line)
                        .map_err(io::Error::from)
                        .and_then(|()| out.write_all(b"\n"))
                }
            };
            match written {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        });
        command_line::finish(written.and_then(|()| out.flush()))?;
        let (tables, problems) = targets::sort_out(outcomes, labels)?;
        for problem in problems {
            eprintln!("ctpressure: {problem}");
        }
        if tables.iter().any(|table| table.walk.changed) {
            eprintln!("ctpressure: {}", report::CHANGED);
        }
        Ok(())
    }
}

/// Whether a table may have to be judged once it is read, though it holds less now: it may fill meanwhile.
const fn may_be_worth_judging(entries: u64, limit: u64) -> bool {
    is_worth_judging(entries.saturating_mul(2), limit)
}

/// Asks what those entries are that are in no list, of tables that have some.
fn tell_unlisted(root: &Root, namespaces: &[Namespace], tables: &mut [WalkedTable]) {
    let has_some = |table: &&WalkedTable| table.walk.unlisted().is_some_and(|some| some > 0);
    let inodes: BTreeSet<Inode> = tables
        .iter()
        .filter(has_some)
        .map(|table| table.netns)
        .collect();
    let asked = namespaces
        .iter()
        .filter(|namespace| inodes.contains(&namespace.inode));
    let found = count_unlisted(root, &asked.cloned().collect::<Vec<_>>());
    for table in tables {
        table.unlisted = found.get(&table.netns).copied();
    }
}

/// Port spaces of a table that are told.
const PORT_SPACES: usize = 10;

/// What is counted while tables are read.
struct TableCount<'a> {
    alike: AlikeEntries<'a>,
    tally: TableTally<'a>,
    progress: Progress,
}

impl<'a> TableCount<'a> {
    fn new(tally: TableTally<'a>, owners: &'a Charging, tags: Option<&'a TagReader>) -> Self {
        let tunnels = tally.makeup.values().flat_map(CompositionCount::tunnels);
        Self {
            alike: AlikeEntries::new(owners, tags, tunnels),
            tally,
            progress: Progress::new(),
        }
    }

    fn finish(mut self) -> TableTally<'a> {
        self.alike.tell(|alike| self.tally.add(alike));
        self.tally
    }
}

impl EntryCounter for TableCount<'_> {
    #[inline]
    fn add(&mut self, netns: Inode, found: &impl FoundEntry) {
        let class = self.tally.census.class(found);
        let tally = &mut self.tally;
        self.alike
            .add(netns, found, class, |alike| tally.add(alike));
        self.progress.step();
    }
}

/// The numbers of what is counted.
struct TableTally<'a> {
    census: Census<'a>,
    makeup: BTreeMap<Inode, CompositionCount<'a>>,
    ports: PortSpaces,
    /// The table of the last entries.
    table: Option<Inode>,
    /// Tables of which there was an entry: in the hash table those of all namespaces are mixed.
    met: BTreeSet<Inode>,
}

impl TableTally<'_> {
    fn add(&mut self, alike: &Alike<'_>) {
        let inode = alike.netns;
        if self.table != Some(inode) {
            self.table = Some(inode);
            if self.met.insert(inode) {
                self.census.next_table();
            }
        }
        self.census.add(alike);
        self.ports.add(inode, alike.entry, alike.entries);
        if let Some(makeup) = self.makeup.get_mut(&inode) {
            makeup.add(alike);
        }
    }
}

/// Nanoseconds of Unix time.
fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|time| u64::try_from(time.as_nanos()).ok())
        .unwrap_or_default()
}

/// Tells whoever looks at a terminal how far it is; nothing when the messages go elsewhere.
struct Progress {
    shown: bool,
    entries: u64,
}

impl Progress {
    fn new() -> Self {
        Self {
            shown: io::stderr().is_terminal(),
            entries: 0,
        }
    }

    #[inline]
    fn step(&mut self) {
        self.entries += 1;
        if self.shown && self.entries.is_multiple_of(PROGRESS) {
            eprint!("\r{} entries", words::grouped(self.entries));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown && self.entries >= PROGRESS {
            // The line is wiped out.
            eprint!("\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::entries::{EntryState, EntryStatus, EntryTuple, Layer4, TableEntry};

    fn entry(number: u32) -> TableEntry {
        let tuple = EntryTuple {
            source: std::net::Ipv4Addr::from_bits(number).into(),
            destination: std::net::Ipv4Addr::LOCALHOST.into(),
            protocol: 17,
            layer4: Layer4::Addresses,
        };
        TableEntry {
            original: tuple,
            reply: tuple,
            zone: 0,
            status: EntryStatus::default(),
            state: EntryState::Unreplied,
            timeout: Some(30),
            mark: 0,
            id: 0,
            start: None,
        }
    }

    #[test]
    fn tables_that_are_mixed_keep_the_keys_of_each_other() {
        let owners = Charging::default();
        let tally = TableTally {
            census: Census::new(Filter::default(), vec![vec![By::Source]], &owners, 0),
            makeup: BTreeMap::new(),
            ports: PortSpaces::default(),
            table: None,
            met: BTreeSet::new(),
        };
        let mut count = TableCount::new(tally, &owners, None);
        // More keys than a new table leaves.
        let sources = u32::try_from(MOST_KEYS).unwrap() * 3 / 4;
        for number in 0..2 * sources {
            count.add(number % 2, &entry(number / 2));
        }
        let summary = count.finish().census.summary(1);
        assert_eq!(summary.seen, u64::from(2 * sources));
        assert_eq!(summary.groups[0].untold, 0);
        assert_eq!(summary.groups[0].rows[0].counts.entries, 2);
    }
}
