//! What is known of one entry.

use std::net::IpAddr;

use super::State;

/// One direction of an entry (`struct nf_conntrack_tuple`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// Who sends in this direction.
    pub source: IpAddr,
    /// Who receives.
    pub destination: IpAddr,
    /// Protocol number.
    pub protocol: u8,
    /// What tells flows between the same addresses apart.
    pub layer4: Layer4,
}

/// The part of a tuple that depends on its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer4 {
    /// Nothing: conntrack knows such flows by their addresses only.
    Addresses,
    /// Ports; of GRE the keys.
    Ports {
        /// The sender's.
        source: u16,
        /// The receiver's.
        destination: u16,
    },
    /// An ICMP or `ICMPv6` query.
    Icmp {
        /// Identifier.
        id: u16,
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
    },
}

impl Layer4 {
    /// The ports, if there are any.
    pub fn ports(self) -> Option<(u16, u16)> {
        match self {
            Self::Ports {
                source,
                destination,
            } => Some((source, destination)),
            Self::Addresses | Self::Icmp { .. } => None,
        }
    }
}

/// Status bits (`enum ip_conntrack_status`, `nf_conntrack_common.h`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status(pub u32);

impl Status {
    const fn has(self, bit: u32) -> bool {
        self.0 & (1 << bit) != 0
    }

    /// Packets were seen in both directions (`IPS_SEEN_REPLY`).
    pub const fn seen_reply(self) -> bool {
        self.has(1)
    }

    /// `early_drop` spares it (`IPS_ASSURED`).
    pub const fn assured(self) -> bool {
        self.has(2)
    }

    /// Its source is translated (`IPS_SRC_NAT`).
    pub const fn source_nat(self) -> bool {
        self.has(4)
    }

    /// Its destination is translated (`IPS_DST_NAT`).
    pub const fn destination_nat(self) -> bool {
        self.has(5)
    }

    /// It is being removed (`IPS_DYING`).
    pub const fn dying(self) -> bool {
        self.has(9)
    }

    /// A flow table forwards its packets, past conntrack (`IPS_OFFLOAD`): it has no time-out then,
    /// and no protocol state.
    pub const fn offloaded(self) -> bool {
        self.has(14)
    }
}

/// One entry of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// As the opener sends.
    pub original: Tuple,
    /// As answers come: its source is the real server, after DNAT.
    pub reply: Tuple,
    /// Conntrack zone of the original direction; 0 by default.
    pub zone: u16,
    /// Status bits.
    pub status: Status,
    /// State of a TCP, SCTP or DCCP connection; of others what the status says.
    pub state: State,
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

impl Entry {
    /// Whether `early_drop` may remove it to make room for another: it is not assured.
    pub const fn evictable(&self) -> bool {
        !self.status.assured()
    }

    /// Whether answers come from elsewhere than the opener sends to: a Service address, or a port
    /// that is forwarded. By the tuples, so that IPVS counts too.
    pub fn destination_translated(&self) -> bool {
        let port = |layer4: Layer4| layer4.ports();
        self.original.destination != self.reply.source
            || matches!(
                (port(self.original.layer4), port(self.reply.layer4)),
                (Some((_, asked)), Some((real, _))) if asked != real
            )
    }

    /// Whether answers go elsewhere than to the opener: masquerade and other SNAT.
    pub fn source_translated(&self) -> bool {
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
