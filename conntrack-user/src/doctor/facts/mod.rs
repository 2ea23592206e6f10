//! What is known of the node: gathered once, then only read.
//!
//! One file for each source. What can't be looked at is not guessed: it stays `None`, and an [`Unseen`] says
//! why and what to do.

use std::{
    borrow::Cow,
    fmt::Display,
    fs, io, thread,
    time::{Duration, Instant},
};

use ctpressure_model::{
    cost::{EntryCost, Sharing, Slab, WhenFull},
    verdict::{Verdict, is_worth_judging},
};

use super::Unseen;
use crate::{
    census::Charging,
    kernel::{Root, confinement::as_root, conntrack::Presence, slab},
    sys::netns,
};

mod allowances;
mod bpf_tables;
pub(crate) mod census;
pub(crate) mod class;
pub(crate) mod counts;
pub(crate) mod files;
pub(crate) mod hooks;
pub(crate) mod listeners;
pub(crate) mod node;
pub(crate) mod place;
pub(crate) mod proxy;
pub(crate) mod rules;
pub(crate) mod settings;
pub(crate) mod strays;
pub(crate) mod waiting;

use allowances::AllowanceReader;
pub(crate) use allowances::Exceeded;
pub(crate) use bpf_tables::{BpfTables, Plugin};
pub(crate) use census::{CensusFacts, TableMakeup};
pub(crate) use class::Class;
pub(crate) use counts::{CountFacts, TableFacts};
pub(crate) use files::FileSetting;
pub(crate) use listeners::Listener;
pub(crate) use node::Release;
pub(crate) use place::{Keeper, Place, Standpoint};
pub(crate) use proxy::{KubeProxy, Program, ProxySettings};
pub(crate) use rules::{FirewallRules, ProxyMode};
pub(crate) use settings::KernelSettings;
pub(crate) use waiting::Waiting;

/// Between the two readings of the kernel's statistics, at least.
const APART: Duration = Duration::from_millis(400);

/// Entries that ctnetlink or BPF was refused, as a running agent has counted them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RefusedRequests {
    pub number: u64,
    /// Whose most of them would have been.
    pub owner: Option<String>,
    /// Since the agent began.
    pub seconds: f64,
}

/// Says who has which address.
pub(crate) type Addresses<'a> = dyn Fn() -> Charging + Sync + 'a;

/// Everything that findings are made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Facts {
    pub release: Option<Release>,
    /// Where advice can be followed.
    pub place: Place,
    /// CPUs that are online.
    pub cpus: Option<u64>,
    pub memory: Option<u64>,
    pub uptime: Option<f64>,
    /// Whether conntrack is loaded; all that follows is empty if not.
    pub loaded: bool,
    /// Limit, buckets, timeouts and switches.
    pub settings: KernelSettings,
    /// What files set at the next boot.
    pub files: Vec<FileSetting>,
    /// The slab cache of entries.
    pub slab: Option<Slab>,
    /// The tables and the kernel's statistics, twice.
    pub counts: CountFacts,
    /// What the host's table is full of.
    pub census: Option<CensusFacts>,
    /// What the host's table is made of, and those of others that are nearly full.
    pub makeup: Vec<TableMakeup>,
    /// Allowances of the instance that were exceeded.
    pub allowances: Vec<Exceeded>,
    /// Where packets wait, and with them their entries.
    pub waiting: Waiting,
    pub proxy: Option<KubeProxy>,
    /// Where a plugin without kube-proxy keeps connections of pods.
    pub bpf_tables: Option<BpfTables>,
    /// What kube-proxy wrote into the firewall.
    pub rules: FirewallRules,
    /// Who listens for conntrack events.
    pub listeners: Vec<Listener>,
    /// What `ctpressure run` would not see, and why; `None`: not known.
    pub hooks: Option<hooks::HookOutlook>,
    /// `/proc/net/stat/nf_conntrack` is there; `None`: not known.
    pub has_procfs: Option<bool>,
    /// What was looked at.
    pub looked: Vec<&'static str>,
    /// What only an agent counts; `None`: none was asked.
    pub refused: Option<RefusedRequests>,
    /// What could not be looked at.
    pub unseen: Vec<Unseen>,
}

impl Facts {
    /// Looks at everything. Takes as long as the two readings are apart, and a listing of the table in that
    /// time. Changes nothing: but listing a table removes entries in it that have expired, as every look-up of
    /// a packet does, and a kernel without `/proc/net/stat/nf_conntrack` loads `nf_conntrack_netlink` when it
    /// is asked for its statistics.
    ///
    /// From another network namespace than the node's, as in a pod, it enters the node's to look. `owners` says who has which
    /// address.
    pub(crate) fn gather(root: &Root, owners: &Addresses<'_>) -> Self {
        let Some((inode, path)) = place::other_than_own(root).filter(|_| root.is_live()) else {
            return Self::gather_here(root, false, owners);
        };
        let looked = netns::visit(&[(inode, path, ())], |(), entered| match entered {
            Ok(()) => Self::gather_here(root, true, owners),
            Err(error) => {
                let mut facts = Self::gather_here(root, false, owners);
                facts.could_not(
                    Unseen::NODE,
                    &error,
                    "run as root, in the host's network namespace (of a pod: hostNetwork: true)",
                );
                facts
            }
        });
        looked
            .into_iter()
            .map(|(_, facts)| facts)
            .next()
            .unwrap_or_default()
    }

    /// From the network namespace of this thread; `entered`: it was in another one before.
    fn gather_here(root: &Root, entered: bool, owners: &Addresses<'_>) -> Self {
        let mut facts = Self::default();
        node::look(root, &mut facts);
        match Presence::read(root) {
            Ok(presence) => facts.loaded = presence.is_loaded(),
            Err(error) => {
                facts.could_not(Unseen::LOADED, &error, "mount sysfs at /sys");
            }
        }
        place::look(root, entered, &mut facts);
        files::look(root, &mut facts);
        proxy::look(root, &mut facts);
        bpf_tables::look(root, &mut facts);
        let allowances = AllowanceReader::new(root);
        if !facts.loaded {
            allowances.second(&mut facts);
            return facts;
        }
        settings::look(root, &mut facts);
        facts.slab = slab::read(root);
        if facts.slab.is_none() {
            facts.could_not(
                "the size of an entry",
                &"neither /sys/kernel/slab/nf_conntrack nor /proc/slabinfo can be read",
                "run as root; until then it is taken from the kernel's version",
            );
        }
        let mut reader = counts::CountReader::new(root);
        let begin = Instant::now();
        reader.first(&mut facts);
        // All that takes time is done between the two readings.
        let others = reader.nearly_full(facts.settings.limit);
        census::look(root, owners, &mut facts, &others);
        waiting::look(root, &mut facts);
        rules::look(root, &mut facts);
        listeners::look(root, &mut facts);
        hooks::look(root, &mut facts);
        if root.is_live() {
            thread::sleep(APART.saturating_sub(begin.elapsed()));
        }
        reader.second(begin.elapsed(), &mut facts);
        allowances.second(&mut facts);
        facts
    }

    /// A help that begins with "run as root" is given to others than root only.
    fn could_not(
        &mut self,
        what: &'static str,
        because: &dyn Display,
        help: impl Into<Cow<'static, str>>,
    ) {
        let help = match help.into() {
            Cow::Borrowed(help) if help.starts_with("run as root") => as_root(help).into(),
            help => help,
        };
        self.unseen.push(Unseen {
            what,
            because: because.to_string(),
            help,
        });
    }

    /// The kernel is this version or later; `None`: not known.
    pub(crate) fn at_least(&self, major: u32, minor: u32) -> Option<bool> {
        Some(self.release.as_ref()?.version >= (major, minor))
    }

    /// What the table of this name is full of that a higher limit would only hold more of; `None`: it was not looked at.
    pub(crate) fn verdicts(&self, table: &str) -> Option<Vec<Verdict>> {
        let makeup = self.makeup.iter().find(|makeup| makeup.table == table)?;
        let counted = makeup.composition.counted();
        let is_full = is_worth_judging(counted, self.settings.limit?);
        Some(if is_full {
            makeup.composition.verdicts()
        } else {
            Vec::new()
        })
    }

    /// What an entry costs.
    pub(crate) fn entry_cost(&self) -> EntryCost {
        let version = self.release.as_ref().map(|release| release.version);
        EntryCost::of(self.slab, version, |switch| self.settings.get(switch))
    }

    /// The tables when they are full; `None`: there is no limit, or it or the buckets are not known.
    pub(crate) fn when_full(&self) -> Option<WhenFull> {
        let limit = self.settings.limit?;
        let entries = self.counts.tables.iter().map(|table| table.entries);
        let sharing = Sharing::of(entries, limit);
        WhenFull::of(&self.entry_cost(), limit, self.settings.buckets?, &sharing)
    }
}

/// A text file; `None` if it is not there.
fn read_if_there(path: &std::path::Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
