//! What is known of one entry.

use std::net::IpAddr;

use super::{EntryState, EntryStatus};

/// One direction of an entry (`struct nf_conntrack_tuple`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryTuple {
    /// Who sends in this direction.
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    /// What tells flows between the same addresses apart.
    pub layer4: Layer4,
}

/// The part of a tuple that depends on its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layer4 {
    /// Nothing: conntrack knows such flows by their addresses only.
    Addresses,
    /// Ports; of GRE the keys.
    Ports { source: u16, destination: u16 },
    /// An ICMP or `ICMPv6` query.
    Icmp { id: u16, kind: u8, code: u8 },
}

impl Layer4 {
    /// The ports, if there are any.
    pub(crate) fn ports(self) -> Option<(u16, u16)> {
        match self {
            Self::Ports {
                source,
                destination,
            } => Some((source, destination)),
            Self::Addresses | Self::Icmp { .. } => None,
        }
    }

    /// Identifier, type and code, if it has them.
    pub(crate) fn icmp(self) -> Option<(u16, u8, u8)> {
        match self {
            Self::Icmp { id, kind, code } => Some((id, kind, code)),
            Self::Addresses | Self::Ports { .. } => None,
        }
    }
}

/// One entry of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TableEntry {
    /// As the opener sends.
    pub original: EntryTuple,
    /// As answers come: its source is the real server, after DNAT.
    pub reply: EntryTuple,
    /// Conntrack zone of the original direction; 0 by default.
    pub zone: u16,
    pub status: EntryStatus,
    /// State of a TCP, SCTP or DCCP connection; of others what the status says.
    pub state: EntryState,
    /// Seconds until it expires if no packet comes; `None` while it is offloaded.
    pub timeout: Option<u32>,
    /// Firewall mark; 0 by default.
    pub mark: u32,
    /// The number by which ctnetlink knows it.
    pub id: u32,
    /// When it entered the table, nanoseconds of Unix time; only where
    /// `net.netfilter.nf_conntrack_timestamp` was on by then.
    pub start: Option<u64>,
}

impl TableEntry {
    /// Whether `early_drop` may remove it to make room for another: it is not assured.
    pub(crate) const fn evictable(&self) -> bool {
        !self.status.assured()
    }

    /// Whether nobody has answered it, or it was not completed. The state alone does not tell: of a connection that is picked up in its
    /// middle (`nf_conntrack_tcp_loose`) one packet makes an `ESTABLISHED` one.
    pub(crate) fn one_way(&self) -> bool {
        !self.status.seen_reply() || self.state.is_incomplete()
    }

    /// Whether answers come from elsewhere than the opener sends to: a Service address, or a port
    /// that is forwarded. By the tuples, so that IPVS counts too.
    pub(crate) fn destination_translated(&self) -> bool {
        let port = |layer4: Layer4| layer4.ports();
        self.original.destination != self.reply.source
            || matches!(
                (port(self.original.layer4), port(self.reply.layer4)),
                (Some((_, asked)), Some((real, _))) if asked != real
            )
    }

    /// Whether answers go elsewhere than to the opener: masquerade and other SNAT.
    pub(crate) fn source_translated(&self) -> bool {
        self.original.source != self.reply.destination
            || match (self.original.layer4, self.reply.layer4) {
                (Layer4::Ports { source, .. }, Layer4::Ports { destination, .. }) => {
                    source != destination
                }
                (Layer4::Icmp { id: asked, .. }, Layer4::Icmp { id: answered, .. }) => {
                    asked != answered
                }
                _ => false,
            }
    }
}
