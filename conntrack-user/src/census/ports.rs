//! The ports that source NAT chooses from.

use std::{
    fmt::{self, Display},
    net::IpAddr,
};

use ctpressure_model::protocol::protocol_name;

use crate::kernel::entries::{FIRST_NAT_PORT, TableEntry, is_chosen_by_nat};

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
    pub(crate) fn of(entry: &TableEntry) -> Option<Self> {
        let (server, chosen) = entry.reply.layer4.ports()?;
        (entry.source_translated() && is_chosen_by_nat(chosen)).then_some(Self {
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
