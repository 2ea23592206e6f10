//! What the host's table is full of, as far as findings ask: which timeouts keep entries that nobody
//! uses any more, how many ports are taken, how many entries have expired but are still there.
//!
//! The table is listed once, for at most half a second. The order of a listing is that of the hash, which no
//! traffic can choose, so the part of a very large table that was read by then stands for the whole.

use std::{
    fmt::Display,
    ops::ControlFlow,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ctpressure_model::{pressure::as_count, verdict::Composition};

use super::{
    Addresses, Facts, KernelSettings,
    class::{CLASSES, Class},
    strays::{Stray, Ways},
};
use crate::{
    census::{AlikeEntries, Charging, CompositionCount, NO_TAGS, PortSpace, PortSpaces},
    kernel::{
        Root,
        confinement::Confinement,
        conntrack::Presence,
        entries::{EntryWalk, TableEntry, WalkOutcome, walk_namespaces},
        overlays,
        tables::{HOST_NAME, Namespace, TO_ENTER, discover},
    },
    sys::netns::Inode,
};

mod idle;

use idle::{IdleBounds, IdleCount};

/// How long the listing may take.
const PATIENCE: Duration = Duration::from_millis(500);
/// Entries between two looks at the clock.
const LOOK: u64 = 1 << 10;
/// Only one table is read.
const HOST_TABLE: Inode = 0;

/// What was counted of one [`Class`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClassCount {
    pub entries: u64,
    /// Those that had no packet for longer than [`Class::enough`] for certain ([`idle`]).
    pub idle: u64,
}

/// What the listing said.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct CensusFacts {
    /// Entries that were read.
    pub read: u64,
    /// The kernel's own count at that time.
    pub counted: u64,
    pub whole: bool,
    /// By [`Class`], of the entries read.
    pub classes: [ClassCount; CLASSES.len()],
    /// The fullest port space, and at least how many of its ports are taken, of the entries read.
    pub ports: Option<(PortSpace, u64)>,
    /// Entries that had expired and were not removed. Only known when all were read and nothing changed.
    pub expired: Option<u64>,
    /// Entries that the kernel counts and does not list: packets hold them. Known likewise.
    pub held: Option<u64>,
    /// Of the entries read: those of addresses that nobody on this node has any more.
    pub strays: Vec<Stray>,
}

/// What the entries of one table are, for verdicts.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct TableMakeup {
    /// Its network namespace: `host`, a name, or digits.
    pub table: String,
    pub composition: Composition,
}

impl CensusFacts {
    /// What was counted of a class, in the whole table.
    pub(crate) fn of(&self, class: Class) -> ClassCount {
        let count = self.classes[class as usize];
        ClassCount {
            entries: self.scaled(count.entries),
            idle: self.scaled(count.idle),
        }
    }

    /// A number of the entries read, for the whole table.
    pub(crate) fn scaled(&self, number: u64) -> u64 {
        if self.whole || self.read == 0 {
            return number;
        }
        let whole = u128::from(self.counted.max(self.read));
        let scaled = u128::from(number) * whole / u128::from(self.read);
        u64::try_from(scaled).unwrap_or(u64::MAX)
    }
}

/// Counts entries as they come.
struct Counter<'a> {
    settings: &'a KernelSettings,
    bounds: IdleBounds,
    idle: [IdleCount; CLASSES.len()],
    facts: CensusFacts,
    ports: PortSpaces,
    ways: Ways,
}

impl<'a> Counter<'a> {
    fn new(settings: &'a KernelSettings, bounds: IdleBounds) -> Self {
        Self {
            settings,
            bounds,
            idle: [IdleCount::default(); CLASSES.len()],
            facts: CensusFacts::default(),
            ports: PortSpaces::default(),
            ways: Ways::default(),
        }
    }

    fn add(&mut self, entry: &TableEntry) {
        self.facts.read += 1;
        if let Some(class) = Class::of(entry) {
            let count = &mut self.facts.classes[class as usize];
            count.entries += 1;
            if let Some(timeout) = self.settings.get(class.sysctl()) {
                let idle = &mut self.idle[class as usize];
                idle.add(entry, &self.bounds, timeout, class.enough());
            }
        }
        self.ports.add(HOST_TABLE, entry, 1);
        self.ways.add(entry, self.settings);
    }

    fn finish(mut self, walk: &EntryWalk, owners: &Charging) -> CensusFacts {
        let [before, after] = walk.counts;
        self.facts.counted = before.max(after);
        self.facts.whole = !walk.stopped;
        // Like every look-up, the listing removes the expired entries that it meets: they are in the count before only.
        self.facts.held = walk.unlisted();
        self.facts.expired = self.facts.held.map(|held| {
            let listed = walk.entries + walk.unreadable;
            before.saturating_sub(listed + held)
        });
        for (class, idle) in self.facts.classes.iter_mut().zip(self.idle) {
            class.idle = idle.idle();
        }
        let fullest = self.ports.used().next();
        self.facts.ports = fullest.map(|(_, space, ports)| (space, ports));
        self.facts.strays = self.ways.strays(owners);
        self.facts
    }
}

/// Lists the host's table, and of the `others` (network namespace, name) what they are made of; `owners` says who has which address.
pub(super) fn look(
    root: &Root,
    owners: &Addresses<'_>,
    facts: &mut Facts,
    others: &[(Inode, String)],
) {
    if !root.is_live() {
        return;
    }
    match count(root, owners, facts, others) {
        Ok((census, makeup)) => {
            facts.census = Some(census);
            facts.makeup = makeup;
            facts.looked.push("entries of the host's table");
        }
        Err((because, help)) => {
            facts.could_not("what the host's table is full of", &because, help);
        }
    }
}

/// What the tables say; why the host's can't be listed, and what to do about it.
fn count(
    root: &Root,
    owners: &Addresses<'_>,
    facts: &Facts,
    others: &[(Inode, String)],
) -> Result<(CensusFacts, Vec<TableMakeup>), (String, String)> {
    let hidden = |because: &dyn Display| {
        let why = Confinement::of_this_thread(root, TO_ENTER);
        (because.to_string(), why.help())
    };
    // The kernel would load the module for the question, and nothing is to change.
    let is_module = matches!(Presence::read(root), Ok(Presence::Module(_)));
    if is_module && !root.sys("module/nf_conntrack_netlink").exists() {
        return Err((
            "nf_conntrack_netlink is not loaded, and asking would load it".to_owned(),
            "`modprobe nf_conntrack_netlink`; `ctpressure table` and `ctpressure run` load it too"
                .to_owned(),
        ));
    }
    let found = discover(root);
    let host = found
        .host
        .map_err(|unseen| (unseen.to_string(), unseen.help()))?;
    let gone = || hidden(&"the host's network namespace can't be entered");
    let host = found.namespaces.get(&host).ok_or_else(gone)?;
    let owners = owners();
    let mut counter = Counter::new(&facts.settings, bounds(facts));
    let (outcome, composition) = list(root, host, &owners, |entry| counter.add(entry));
    let census = match outcome {
        Some(WalkOutcome::Walked(walk)) => counter.finish(&walk, &owners),
        Some(WalkOutcome::Failed(error)) => {
            return Err((error.to_string(), error.help().to_owned()));
        }
        Some(WalkOutcome::NotEntered(error)) => return Err(hidden(&error)),
        Some(WalkOutcome::Gone) | None => return Err(gone()),
    };
    let of_host = composition.map(|composition| TableMakeup {
        table: HOST_NAME.to_owned(),
        composition,
    });
    let others = others.iter().filter_map(|(inode, name)| {
        let namespace = found.namespaces.get(inode)?;
        let (_, composition) = list(root, namespace, &owners, |_| {});
        Some(TableMakeup {
            table: name.clone(),
            composition: composition?,
        })
    });
    Ok((census, of_host.into_iter().chain(others).collect()))
}

/// Hands on the entries of a table for a while; what came of it, and what they are made of.
fn list(
    root: &Root,
    namespace: &Namespace,
    owners: &Charging,
    mut each: impl FnMut(&TableEntry) + Send,
) -> (Option<WalkOutcome>, Option<Composition>) {
    let mut makeup = CompositionCount::new(owners, &overlays::of(root, namespace));
    let mut alike = AlikeEntries::new(owners, NO_TAGS, makeup.tunnels());
    let end = Instant::now() + PATIENCE;
    let mut read: u64 = 0;
    let outcomes = walk_namespaces(root, std::slice::from_ref(namespace), |inode, entry| {
        each(entry);
        alike.add(inode, entry, 0, |alike| makeup.add(alike));
        read += 1;
        if read.is_multiple_of(LOOK) && Instant::now() >= end {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    alike.tell(|alike| makeup.add(alike));
    let outcome = outcomes.into_iter().next().map(|(_, outcome)| outcome);
    let composition = match &outcome {
        Some(WalkOutcome::Walked(walk)) => {
            Some(makeup.finish(walk, |slot| owners.names.get(&slot).cloned()))
        }
        _ => None,
    };
    (outcome, composition)
}

/// What bounds the time that entries had no packet.
fn bounds(facts: &Facts) -> IdleBounds {
    let replacements = ["tcp_timeout_max_retrans", "tcp_timeout_unacknowledged"];
    let replacements = replacements
        .iter()
        .filter_map(|name| facts.settings.get(name));
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    IdleBounds {
        replacement: replacements.max().unwrap_or_default(),
        uptime: facts.uptime.map(|uptime| as_count(uptime.floor())),
        now: now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)),
    }
}

#[cfg(test)]
mod tests;
