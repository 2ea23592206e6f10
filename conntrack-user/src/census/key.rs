//! What entries are grouped by, and the words that such a key has while it is counted.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use clap::ValueEnum;
use conntrack_ebpf::owner::Direction;
use ctpressure_model::protocol::protocol_name;
use serde::Serialize;

use super::{Alike, Charging};
use crate::kernel::entries::{EntryState, TableEntry, address_words};
use crate::sys::netns::Inode;

/// A property to group by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, ValueEnum)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub(crate) enum By {
    /// Pod, cgroup or host that the entry is charged to
    Owner,
    /// Workload of the pod, if the agent runs with --kube; else its owner
    Workload,
    /// Whether its owner opened it (egress) or serves it (ingress)
    Direction,
    Netns,
    /// Real server (after DNAT), its port, and the protocol
    Destination,
    /// Service address (before DNAT), its port, and the protocol
    Service,
    /// Address of the opener
    Source,
    Protocol,
    /// TCP, SCTP or DCCP state; of other protocols UNREPLIED, REPLIED or ASSURED
    State,
    /// Time since its first packet where the kernel keeps it, else time until it expires
    Age,
    /// Whether the kernel may remove it early to make room
    Evictable,
    /// Which address is translated
    Nat,
    Zone,
}

/// An address with a port, of a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub address: IpAddr,
    /// Port; `None` where the protocol has none.
    pub port: Option<u16>,
    pub protocol: u8,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = protocol_name(self.protocol);
        match self.port {
            None => write!(to, "{} {protocol}", self.address),
            Some(port) => write!(to, "{} {protocol}", SocketAddr::new(self.address, port)),
        }
    }
}

impl Endpoint {
    /// The address; then its family, whether there is a port, the port and the protocol.
    pub(super) fn words(self) -> [u64; 3] {
        let [high, low, family] = address_words(self.address);
        let port = u64::from(self.port.unwrap_or_default()) << 16;
        let has_port = u64::from(self.port.is_some()) << 8;
        [
            high,
            low,
            family | has_port | port | u64::from(self.protocol) << 32,
        ]
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nat {
    None,
    /// The opener's address or port.
    Source,
    /// The address or port that it opened.
    Destination,
    Both,
}

/// Which time a [`Age`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Span {
    /// Since the first packet (`CTA_TIMESTAMP`).
    Since,
    /// Until the entry expires, if no packet comes (`CTA_TIMEOUT`).
    Left,
    /// Neither is known: a flow table forwards it.
    Unknown,
}

/// A range of times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Age {
    pub span: Span,
    /// Number of the range, from short to long.
    pub range: u8,
}

/// Where ranges of times end, seconds; each begins where the one before ends.
const RANGES: [(u64, &str); 9] = [
    (10, "under 10 s"),
    (30, "10 to 30 s"),
    (60, "30 to 60 s"),
    (120, "1 to 2 min"),
    (300, "2 to 5 min"),
    (600, "5 to 10 min"),
    (3_600, "10 to 60 min"),
    (86_400, "1 to 24 h"),
    (u64::MAX, "over 1 day"),
];

impl Age {
    fn of(span: Span, seconds: u64) -> Self {
        let range = RANGES.iter().take_while(|(end, _)| seconds >= *end).count();
        Self {
            span,
            range: u8::try_from(range.min(RANGES.len() - 1)).unwrap_or_default(),
        }
    }

    pub(super) fn new(entry: &TableEntry, now: u64) -> Self {
        match (entry.start, entry.timeout) {
            (Some(start), _) => Self::of(Span::Since, now.saturating_sub(start) / 1_000_000_000),
            (None, Some(left)) => Self::of(Span::Left, left.into()),
            (None, None) => Self {
                span: Span::Unknown,
                range: 0,
            },
        }
    }

    /// The range in words.
    pub(crate) fn range(self) -> &'static str {
        RANGES
            .get(usize::from(self.range))
            .map_or("", |(_, name)| *name)
    }
}

/// The value of a [`By`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Slot.
    Owner(u32),
    /// The slot that stands for all of the workload.
    Workload(u32),
    Direction(Direction),
    Netns(Inode),
    Destination(Endpoint),
    /// Service address; `None`: it was opened by the server's own address.
    Service(Option<Endpoint>),
    Source(IpAddr),
    Protocol(u8),
    State(EntryState),
    Age(Age),
    /// Whether `early_drop` may remove it.
    Evictable(bool),
    Nat(Nat),
    Zone(u16),
}

impl By {
    /// As it is asked for, and as JSON has it.
    pub(super) fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Words in a key.
    pub(super) const fn width(self) -> usize {
        match self {
            Self::Destination | Self::Service | Self::Source => 3,
            Self::Owner
            | Self::Workload
            | Self::Direction
            | Self::Netns
            | Self::Protocol
            | Self::State
            | Self::Age
            | Self::Evictable
            | Self::Nat
            | Self::Zone => 1,
        }
    }

    /// Appends the words that stand for its value.
    #[inline]
    pub(super) fn write(self, alike: &Alike<'_>, owners: &Charging, now: u64, key: &mut Vec<u64>) {
        let (entry, party) = (alike.entry, alike.charge.party);
        let word = match self {
            Self::Destination => {
                let endpoint = Endpoint {
                    address: entry.reply.source,
                    port: entry.reply.layer4.ports().map(|(source, _)| source),
                    protocol: entry.reply.protocol,
                };
                return key.extend_from_slice(&endpoint.words());
            }
            Self::Service if entry.destination_translated() => {
                let endpoint = Endpoint {
                    address: entry.original.destination,
                    port: entry.original.layer4.ports().map(|(_, port)| port),
                    protocol: entry.original.protocol,
                };
                return key.extend_from_slice(&endpoint.words());
            }
            Self::Service => return key.extend_from_slice(&[0; 3]),
            Self::Source => return key.extend_from_slice(&address_words(entry.original.source)),
            Self::Owner => party.slot().into(),
            Self::Workload => owners.workload(party.slot()).into(),
            Self::Direction => party.direction() as u64,
            Self::Netns => alike.netns.into(),
            Self::Protocol => entry.original.protocol.into(),
            Self::State => u16::from_le_bytes(entry.state.to_bytes()).into(),
            Self::Age => {
                let Age { span, range } = Age::new(entry, now);
                u16::from_le_bytes([span as u8, range]).into()
            }
            Self::Evictable => entry.evictable().into(),
            Self::Nat => {
                let nat = match (entry.source_translated(), entry.destination_translated()) {
                    (false, false) => Nat::None,
                    (true, false) => Nat::Source,
                    (false, true) => Nat::Destination,
                    (true, true) => Nat::Both,
                };
                nat as u64
            }
            Self::Zone => entry.zone.into(),
        };
        key.push(word);
    }

    /// The value that the first words of a key stand for, and the other words.
    pub(super) fn read(self, key: &[u64]) -> Option<(Part, &[u64])> {
        let (words, rest) = key.split_at_checked(self.width())?;
        let &word = words.first()?;
        let [first, second, third, fourth, ..] = word.to_le_bytes();
        let half = u16::from_le_bytes([first, second]);
        let number = u32::from_le_bytes([first, second, third, fourth]);
        let part = match self {
            Self::Owner => Part::Owner(number),
            Self::Workload => Part::Workload(number),
            Self::Direction => Part::Direction(match word {
                0 => Direction::Egress,
                _ => Direction::Ingress,
            }),
            Self::Netns => Part::Netns(number),
            Self::Destination => Part::Destination(read_endpoint(words)?),
            Self::Service => Part::Service(read_endpoint(words)),
            Self::Source => Part::Source(read_address(words)?),
            Self::Protocol => Part::Protocol(first),
            Self::State => Part::State(EntryState::from_bytes([first, second])),
            Self::Age => Part::Age(Age {
                span: match first {
                    0 => Span::Since,
                    1 => Span::Left,
                    _ => Span::Unknown,
                },
                range: second,
            }),
            Self::Evictable => Part::Evictable(word != 0),
            Self::Nat => Part::Nat(match word {
                0 => Nat::None,
                1 => Nat::Source,
                2 => Nat::Destination,
                _ => Nat::Both,
            }),
            Self::Zone => Part::Zone(half),
        };
        Some((part, rest))
    }
}

/// `None`: these are words of no address.
fn read_address(words: &[u64]) -> Option<IpAddr> {
    let &[high, low, about] = words.first_chunk()?;
    match about & 0xff {
        4 => Some(Ipv4Addr::from_bits(u32::try_from(low).ok()?).into()),
        6 => Some(Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)).into()),
        _ => None,
    }
}

fn read_endpoint(words: &[u64]) -> Option<Endpoint> {
    let address = read_address(words)?;
    let [_, has_port, low, high, protocol, ..] = words.last()?.to_le_bytes();
    Some(Endpoint {
        address,
        port: (has_port != 0).then(|| u16::from_le_bytes([low, high])),
        protocol,
    })
}
