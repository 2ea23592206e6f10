//! What the host's table is full of, as far as findings ask: which timeouts keep entries that nobody
//! uses any more, how many ports are taken, how many entries have expired but are still there.
//!
//! The table is listed once, for at most half a second. The order of a listing is that of the hash, which no
//! traffic can choose, so the part of a very large table that was read by then stands for the whole.

use std::{
    fmt::{self, Display},
    net::IpAddr,
    ops::ControlFlow,
    time::{Duration, Instant},
};

use ctpressure_model::{pressure::heavy::SpaceSaving, protocol::protocol_name};

use super::{Facts, KernelSettings};
use crate::{
    doctor::thresholds,
    kernel::{
        Root,
        confinement::Confinement,
        conntrack::Presence,
        entries::{EntryState, EntryWalk, TableEntry, WalkOutcome, walk_namespaces},
        tables::{TO_ENTER, discover},
    },
};

/// How long the listing may take.
const PATIENCE: Duration = Duration::from_millis(500);
/// Entries between two looks at the clock.
const LOOK: u64 = 1 << 10;
/// Port spaces that are counted; whatever has more than 1/1024 of all entries is among them.
const SPACES: usize = 1 << 10;

/// Entries that one timeout keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub(crate) enum Class {
    Established = 0,
    /// TCP, closed by both sides.
    TimeWait = 1,
    /// TCP, closed by one side.
    CloseWait = 2,
    SynSent = 3,
    /// UDP, answered for some time.
    UdpStream = 4,
    /// UDP, not answered, or once.
    Udp = 5,
}

/// All of them, as they are numbered.
pub(crate) const CLASSES: [Class; 6] = [
    Class::Established,
    Class::TimeWait,
    Class::CloseWait,
    Class::SynSent,
    Class::UdpStream,
    Class::Udp,
];

impl Class {
    /// Which timeout keeps this entry; `None`: one that no finding is about.
    fn of(entry: &TableEntry) -> Option<Self> {
        match (entry.original.protocol, entry.state) {
            (6, EntryState::Tcp(3)) => Some(Self::Established),
            (6, EntryState::Tcp(7)) => Some(Self::TimeWait),
            (6, EntryState::Tcp(5)) => Some(Self::CloseWait),
            (6, EntryState::Tcp(1)) => Some(Self::SynSent),
            (17, EntryState::Assured) => Some(Self::UdpStream),
            (17, EntryState::Replied | EntryState::Unreplied) => Some(Self::Udp),
            _ => None,
        }
    }

    /// The sysctl without `nf_conntrack_`.
    pub(crate) fn sysctl(self) -> &'static str {
        match self {
            Self::Established => "tcp_timeout_established",
            Self::TimeWait => "tcp_timeout_time_wait",
            Self::CloseWait => "tcp_timeout_close_wait",
            Self::SynSent => "tcp_timeout_syn_sent",
            Self::UdpStream => "udp_timeout_stream",
            Self::Udp => "udp_timeout",
        }
    }

    /// Seconds after which an idle entry is of no use.
    pub(crate) fn enough(self) -> u64 {
        match self {
            Self::Established => thresholds::ESTABLISHED,
            Self::TimeWait => thresholds::TIME_WAIT,
            Self::CloseWait => thresholds::CLOSE_WAIT,
            Self::SynSent => thresholds::SYN_SENT,
            Self::UdpStream => thresholds::UDP_STREAM,
            Self::Udp => thresholds::UDP,
        }
    }
}

/// What was counted of one [`Class`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClassCount {
    pub entries: u64,
    /// Those without a packet for longer than [`Class::enough`].
    pub idle: u64,
}

/// The ports of one address towards one destination: each can be used once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PortSpace {
    /// The address that connections seem to come from.
    pub address: IpAddr,
    pub destination: IpAddr,
    pub port: u16,
    pub protocol: u8,
}

impl PortSpace {
    /// The ports that this entry has one of; `None` if its port was not chosen by NAT or is not one of those
    /// that it chooses from.
    fn of(entry: &TableEntry) -> Option<Self> {
        let (server, chosen) = entry.reply.layer4.ports()?;
        (entry.source_translated() && chosen >= 1024).then_some(Self {
            address: entry.reply.destination,
            destination: entry.reply.source,
            port: server,
            protocol: entry.reply.protocol,
        })
    }
}

impl Display for PortSpace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "from {} to {} port {} of {}",
            self.address,
            protocol_name(self.protocol),
            self.port,
            self.destination
        )
    }
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
    /// Entries that the kernel counts and does not list: they have expired, or are held by a packet on its
    /// way. Only known when all were read and nothing changed.
    pub expired: Option<u64>,
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
    facts: CensusFacts,
    ports: SpaceSaving<PortSpace>,
}

impl<'a> Counter<'a> {
    fn new(settings: &'a KernelSettings) -> Self {
        Self {
            settings,
            facts: CensusFacts::default(),
            ports: SpaceSaving::new(SPACES),
        }
    }

    fn add(&mut self, entry: &TableEntry) {
        self.facts.read += 1;
        if let Some(class) = Class::of(entry) {
            let count = &mut self.facts.classes[class as usize];
            count.entries += 1;
            // A packet sets the timeout anew, so what is gone of it is the time since the last one.
            let idle = self
                .settings
                .get(class.sysctl())
                .zip(entry.timeout)
                .map(|(timeout, left)| timeout.saturating_sub(left.into()));
            count.idle += u64::from(idle.is_some_and(|idle| idle > class.enough()));
        }
        if let Some(space) = PortSpace::of(entry) {
            self.ports.add(space, 1.0);
        }
    }

    fn finish(mut self, walk: &EntryWalk) -> CensusFacts {
        let [before, after] = walk.counts;
        self.facts.counted = before.max(after);
        self.facts.whole = !walk.stopped;
        // The count before: like every look-up, the listing removes the expired entries that it meets.
        self.facts.expired = (!walk.stopped && !walk.changed)
            .then(|| before.saturating_sub(walk.entries + walk.unreadable));
        self.facts.ports = self
            .ports
            .top(1)
            .first()
            .map(|space| (space.key, rounded(space.at_least())));
        self.facts
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a sum of ones below 2^53"
)]
fn rounded(count: f64) -> u64 {
    count.round() as u64
}

pub(super) fn look(root: &Root, facts: &mut Facts) {
    if !root.is_live() {
        return;
    }
    match count(root, &facts.settings) {
        Ok(census) => {
            facts.census = Some(census);
            facts.looked.push("entries of the host's table");
        }
        Err((because, help)) => {
            facts.could_not("what the host's table is full of", &because, help);
        }
    }
}

/// Lists the host's table; why it can't be listed, and what to do about it.
fn count(root: &Root, settings: &KernelSettings) -> Result<CensusFacts, (String, String)> {
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
    let end = Instant::now() + PATIENCE;
    let mut counter = Counter::new(settings);
    let outcomes = walk_namespaces(root, std::slice::from_ref(host), |_, entry| {
        counter.add(entry);
        if counter.facts.read.is_multiple_of(LOOK) && Instant::now() >= end {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    match outcomes.into_iter().next() {
        Some((_, WalkOutcome::Walked(walk))) => Ok(counter.finish(&walk)),
        Some((_, WalkOutcome::Failed(error))) => Err((error.to_string(), error.help().to_owned())),
        Some((_, WalkOutcome::NotEntered(error))) => Err(hidden(&error)),
        Some((_, WalkOutcome::Gone)) | None => Err(gone()),
    }
}

#[cfg(test)]
mod tests;
