//! An entry as a walk meets it, wherever it reads from.

use std::net::IpAddr;

use super::{EntryStatus, EntryTuple, Layer4, TableEntry};

/// Words that two entries have in common if they differ in nothing that is counted of them: in nothing but the client's port (or ICMP id), the
/// time-out, the mark, and the time of the first packet. Entries that two different walks meet are not to be compared by them.
pub(crate) type Shape = [u64; 12];

/// An entry that a walk met.
pub(crate) trait FoundEntry {
    /// What it is; `None`: nothing that is known, so that it has no shape either.
    fn entry(&self) -> Option<TableEntry>;

    /// What it has in common with others. A client's port out of `kept` is part of it.
    fn shape(&self, kept: PortSet) -> Shape;
}

/// UDP, whose source port may tell a tunnel.
const UDP: u8 = 17;

/// Ports, and others of which the lowest six bits are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PortSet(u64);

impl FromIterator<u16> for PortSet {
    fn from_iter<I: IntoIterator<Item = u16>>(ports: I) -> Self {
        Self(
            ports
                .into_iter()
                .fold(0, |set, port| set | 1 << (port % 64)),
        )
    }
}

impl PortSet {
    /// The client's port, if it may be one of these and this is UDP; else 0.
    #[inline]
    pub(crate) const fn keep(self, protocol: u8, port: u16) -> u16 {
        if protocol == UDP && self.0 & 1 << (port % 64) != 0 {
            port
        } else {
            0
        }
    }
}

impl FoundEntry for TableEntry {
    fn entry(&self) -> Option<TableEntry> {
        Some(*self)
    }

    fn shape(&self, kept: PortSet) -> Shape {
        let (original, reply) = (&self.original, &self.reply);
        let ((client, asked), (server, chosen)) = (ports(original), ports(reply));
        let opener = address_words(original.source);
        let asked_address = address_words(original.destination);
        let server_address = address_words(reply.source);
        let answered = address_words(reply.destination);
        let [state_class, state] = self.state.to_bytes();
        let EntryStatus(status) = self.status;
        [
            opener[0],
            opener[1],
            asked_address[0],
            asked_address[1],
            server_address[0],
            server_address[1],
            answered[0],
            answered[1],
            u64::from(asked)
                | u64::from(server) << 16
                | u64::from(kept.keep(original.protocol, client)) << 32
                | u64::from(self.zone) << 48,
            u64::from(status & EntryStatus::COUNTED)
                | u64::from(state_class) << 48
                | u64::from(state) << 56,
            u64::from(original.protocol)
                | u64::from(reply.protocol) << 8
                | u64::from(layer4(original)) << 16
                | u64::from(layer4(reply)) << 24
                | u64::from(self.source_translated()) << 32
                | u64::from(is_chosen_by_nat(chosen)) << 33,
            opener[2] | server_address[2] << 32,
        ]
    }
}

/// Whether it is one of the ports that source NAT chooses from for a connection whose own is not privileged (`nf_nat_l4proto_unique_tuple`).
pub(crate) const fn is_chosen_by_nat(port: u16) -> bool {
    port >= FIRST_NAT_PORT
}

/// The first of those ports; the last is the highest that there is.
pub(crate) const FIRST_NAT_PORT: u16 = 1_024;

/// Source and destination port; 0 where there are none.
fn ports(tuple: &EntryTuple) -> (u16, u16) {
    tuple.layer4.ports().unwrap_or_default()
}

/// Which protocol part a tuple has.
const fn layer4(tuple: &EntryTuple) -> u8 {
    match tuple.layer4 {
        Layer4::Addresses => 0,
        Layer4::Ports { .. } => 1,
        Layer4::Icmp { .. } => 2,
    }
}

/// The address, then its family, 4 or 6.
#[inline]
pub(crate) fn address_words(address: IpAddr) -> [u64; 3] {
    match address {
        IpAddr::V4(address) => [0, address.to_bits().into(), 4],
        IpAddr::V6(address) => {
            let octets = address.octets();
            let (halves, _) = octets.as_chunks();
            let word = |half: usize| halves.get(half).map_or(0, |half| u64::from_be_bytes(*half));
            [word(0), word(1), 6]
        }
    }
}
