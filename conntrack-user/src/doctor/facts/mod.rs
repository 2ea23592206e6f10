//! What is known of the node: gathered once, then only read.
//!
//! One file for each source. What can't be looked at is not guessed: it stays `None`, and an [`Unseen`] says
//! why and what to do.

use std::{
    fs, io, thread,
    time::{Duration, Instant},
};

use super::Unseen;
use crate::kernel::{Root, conntrack::Presence, slab::Slab};

pub mod census;
pub mod counts;
#[cfg(test)]
pub(super) mod example;
pub mod files;
pub mod hooks;
pub mod listeners;
pub mod node;
pub mod proxy;
pub mod rules;
pub mod settings;

pub use census::{CensusFacts, Class};
pub use counts::{CountFacts, TableFacts};
pub use files::Setting;
pub use listeners::Listener;
pub use node::Release;
pub use proxy::KubeProxy;
pub use rules::{Backend, InvalidDrop, ProxyMode, Rules};
pub use settings::Settings;

/// Between the two readings of the kernel's statistics, at least.
const APART: Duration = Duration::from_millis(400);

/// Everything that findings are made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// The kernel's release.
    pub release: Option<Release>,
    /// CPUs that are online.
    pub cpus: Option<u64>,
    /// RAM, bytes (`MemTotal`).
    pub memory: Option<u64>,
    /// Seconds since boot.
    pub uptime: Option<f64>,
    /// Whether conntrack is loaded; all that follows is empty if not.
    pub loaded: bool,
    /// Limit, buckets, timeouts and switches.
    pub settings: Settings,
    /// What files set at the next boot.
    pub files: Vec<Setting>,
    /// The slab cache of entries.
    pub slab: Option<Slab>,
    /// The tables and the kernel's statistics, twice.
    pub counts: CountFacts,
    /// What the host's table is full of.
    pub census: Option<CensusFacts>,
    /// A kube-proxy process.
    pub proxy: Option<KubeProxy>,
    /// What kube-proxy wrote into the firewall.
    pub rules: Rules,
    /// Who listens for conntrack events.
    pub listeners: Vec<Listener>,
    /// What `ctpressure run` would not see, and why; `None`: not known.
    pub hooks: Option<hooks::Outlook>,
    /// `/proc/net/stat/nf_conntrack` is there; `None`: not known.
    pub has_procfs: Option<bool>,
    /// What was looked at.
    pub looked: Vec<&'static str>,
    /// What could not be looked at.
    pub unseen: Vec<Unseen>,
}

impl Facts {
    /// Looks at everything. Takes as long as the two readings are apart, and a listing of the table in that
    /// time. Changes nothing: but listing a table removes entries in it that have expired, as every look-up of
    /// a packet does, and a kernel without `/proc/net/stat/nf_conntrack` loads `nf_conntrack_netlink` when it
    /// is asked for its statistics.
    pub fn gather(root: &Root) -> Self {
        let mut facts = Self::default();
        node::look(root, &mut facts);
        match Presence::read(root) {
            Ok(presence) => facts.loaded = presence.is_loaded(),
            Err(error) => facts.could_not(
                "whether conntrack is loaded",
                error.to_string(),
                "mount sysfs at /sys",
            ),
        }
        files::look(root, &mut facts);
        proxy::look(root, &mut facts);
        if !facts.loaded {
            return facts;
        }
        settings::look(root, &mut facts);
        facts.slab = Slab::read(root);
        if facts.slab.is_none() {
            facts.could_not(
                "the size of an entry",
                "neither /sys/kernel/slab/nf_conntrack nor /proc/slabinfo can be read".to_owned(),
                "run as root; until then it is taken from the kernel's version",
            );
        }
        let mut reader = counts::Reader::new(root);
        let begin = Instant::now();
        reader.first(&mut facts);
        // All that takes time is done between the two readings.
        census::look(root, &mut facts);
        rules::look(root, &mut facts);
        listeners::look(root, &mut facts);
        hooks::look(root, &mut facts);
        if root.is_live() {
            thread::sleep(APART.saturating_sub(begin.elapsed()));
        }
        reader.second(begin.elapsed(), &mut facts);
        facts
    }

    fn could_not(&mut self, what: &'static str, because: String, help: &'static str) {
        self.unseen.push(Unseen {
            what,
            because,
            help,
        });
    }

    /// The kernel is this version or later; `None`: not known.
    pub fn at_least(&self, major: u32, minor: u32) -> Option<bool> {
        let release = self.release.as_ref()?;
        Some((release.major, release.minor) >= (major, minor))
    }

    /// Entries of all tables together that are there now.
    pub fn entries_together(&self) -> u64 {
        self.counts.tables.iter().map(|table| table.entries).sum()
    }

    /// Entries when the fullest table is full, and the others are as they are.
    pub fn entries_when_full(&self) -> u64 {
        let limit = self.settings.limit.unwrap_or_default();
        let tables = &self.counts.tables;
        let fullest = tables.iter().map(|table| table.entries).max();
        let others = self.entries_together() - fullest.unwrap_or_default();
        others + limit.max(fullest.unwrap_or_default())
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
