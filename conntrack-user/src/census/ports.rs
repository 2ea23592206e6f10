//! The ports that source NAT chooses from.

use std::{
    fmt::{self, Display},
    net::IpAddr,
};

use ctpressure_model::{
    pressure::{as_count, heavy::SpaceSaving},
    protocol::protocol_name,
};

use crate::{
    kernel::entries::{FIRST_NAT_PORT, TableEntry, is_chosen_by_nat},
    sys::netns::Inode,
};

/// How many ports source NAT chooses from ([`is_chosen_by_nat`]), unless a rule names others.
pub(crate) const NAT_PORTS: u64 = (u16::MAX - FIRST_NAT_PORT) as u64 + 1;

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
        (entry.source_translated() && is_chosen_by_nat(chosen)).then_some(Self {
            address: entry.reply.destination,
            destination: entry.reply.source,
            port: server,
            protocol: entry.reply.protocol,
        })
    }
}

/// Port spaces that are counted; whatever has more than one in so many of all entries is among them.
const SPACES: usize = 1 << 10;

/// Counts entries by the port space of their table.
#[derive(Debug)]
pub(crate) struct PortSpaces(SpaceSaving<(Inode, PortSpace)>);

impl Default for PortSpaces {
    fn default() -> Self {
        Self(SpaceSaving::new(SPACES))
    }
}

impl PortSpaces {
    /// Counts entries that are like this one.
    pub(crate) fn add(&mut self, netns: Inode, entry: &TableEntry, entries: u64) {
        if let Some(space) = PortSpace::of(entry) {
            self.add_ports(netns, space, entries);
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    pub(crate) fn add_ports(&mut self, netns: Inode, space: PortSpace, ports: u64) {
        self.0.add((netns, space), ports as f64);
    }

    /// All that were counted, with at least how many ports are in use; the fullest first.
    pub(crate) fn used(&self) -> impl Iterator<Item = (Inode, PortSpace, u64)> {
        self.0.top(SPACES).into_iter().map(|counted| {
            let (netns, space) = counted.key;
            (netns, space, as_count(counted.at_least()))
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
