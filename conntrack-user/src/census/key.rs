//! What entries are grouped by, and the bytes that such a key has while it is counted.

use std::{
    cell::OnceCell,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use clap::ValueEnum;
use conntrack_ebpf::owner::{Direction, Party, TagKey};
use ctpressure_model::protocol::protocol_name;
use serde::Serialize;

use super::Charging;
use crate::kernel::entries::{EntryState, TableEntry};
use crate::probes::TagReader;
use crate::sys::netns::Inode;

/// A property to group by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum By {
    /// Pod, cgroup or host that the entry is charged to
    Owner,
    /// What made that pod, if an agent with --kube runs that tells; else its owner
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
    /// The address, the port and whether there is one, the protocol.
    pub(super) fn write(self, key: &mut Vec<u8>) {
        write_address(self.address, key);
        let [low, high] = self.port.unwrap_or_default().to_ne_bytes();
        key.extend([self.port.is_some().into(), low, high, self.protocol]);
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

    fn new(entry: &TableEntry, now: u64) -> Self {
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

/// An entry and what is known of it besides.
pub(super) struct CensusEntry<'a> {
    pub(super) netns: Inode,
    pub(super) entry: &'a TableEntry,
    pub(super) owners: &'a Charging,
    pub(super) tags: Option<&'a TagReader>,
    /// Whom `owners` charge it to, once that was asked.
    pub(super) party: OnceCell<Party>,
    pub(super) now: u64,
}

impl CensusEntry<'_> {
    fn party(&self) -> Party {
        *self.party.get_or_init(|| {
            let tag_of = |key: &TagKey| self.tags?.tag(key);
            self.owners.charge(self.netns, self.entry, tag_of).party
        })
    }

    fn slot(&self) -> u32 {
        self.party().slot()
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

const ADDRESS: usize = 17;
const ENDPOINT: usize = ADDRESS + 4;

impl By {
    /// As it is asked for, and as JSON has it.
    pub(super) fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Bytes in a key.
    pub(super) const fn width(self) -> usize {
        match self {
            Self::Owner | Self::Workload | Self::Netns => 4,
            Self::Direction | Self::Protocol | Self::Evictable | Self::Nat => 1,
            Self::Destination | Self::Service => ENDPOINT,
            Self::Source => ADDRESS,
            Self::State | Self::Age | Self::Zone => 2,
        }
    }

    /// Appends the bytes that stand for its value.
    #[inline]
    pub(super) fn write(self, seen: &CensusEntry<'_>, key: &mut Vec<u8>) {
        let entry = seen.entry;
        match self {
            Self::Owner => key.extend(seen.slot().to_ne_bytes()),
            Self::Workload => key.extend(seen.owners.workload(seen.slot()).to_ne_bytes()),
            Self::Direction => key.push(seen.party().direction() as u8),
            Self::Netns => key.extend(seen.netns.to_ne_bytes()),
            Self::Destination => Endpoint {
                address: entry.reply.source,
                port: entry.reply.layer4.ports().map(|(source, _)| source),
                protocol: entry.reply.protocol,
            }
            .write(key),
            Self::Service if entry.destination_translated() => Endpoint {
                address: entry.original.destination,
                port: entry.original.layer4.ports().map(|(_, port)| port),
                protocol: entry.original.protocol,
            }
            .write(key),
            Self::Service => key.extend([0; ENDPOINT]),
            Self::Source => write_address(entry.original.source, key),
            Self::Protocol => key.push(entry.original.protocol),
            Self::State => key.extend(entry.state.to_bytes()),
            Self::Age => {
                let Age { span, range } = Age::new(entry, seen.now);
                key.extend([span as u8, range]);
            }
            Self::Evictable => key.push(entry.evictable().into()),
            Self::Nat => key.push(
                match (entry.source_translated(), entry.destination_translated()) {
                    (false, false) => Nat::None,
                    (true, false) => Nat::Source,
                    (false, true) => Nat::Destination,
                    (true, true) => Nat::Both,
                } as u8,
            ),
            Self::Zone => key.extend(entry.zone.to_ne_bytes()),
        }
    }

    /// The value that the first bytes of a key stand for, and the other bytes.
    pub(super) fn read(self, key: &[u8]) -> Option<(Part, &[u8])> {
        let (bytes, rest) = key.split_at_checked(self.width())?;
        let word = || bytes.first_chunk().map(|four| u32::from_ne_bytes(*four));
        let half = || bytes.first_chunk().map(|two| u16::from_ne_bytes(*two));
        let byte = bytes.first().copied()?;
        let part = match self {
            Self::Owner => Part::Owner(word()?),
            Self::Workload => Part::Workload(word()?),
            Self::Direction => Part::Direction(match byte {
                0 => Direction::Egress,
                _ => Direction::Ingress,
            }),
            Self::Netns => Part::Netns(word()?),
            Self::Destination => Part::Destination(read_endpoint(bytes)?),
            Self::Service => Part::Service(read_endpoint(bytes)),
            Self::Source => Part::Source(read_address(bytes)?),
            Self::Protocol => Part::Protocol(byte),
            Self::State => Part::State(EntryState::from_bytes(*bytes.first_chunk()?)),
            Self::Age => Part::Age(Age {
                span: match byte {
                    0 => Span::Since,
                    1 => Span::Left,
                    _ => Span::Unknown,
                },
                range: bytes.get(1).copied()?,
            }),
            Self::Evictable => Part::Evictable(byte != 0),
            Self::Nat => Part::Nat(match byte {
                0 => Nat::None,
                1 => Nat::Source,
                2 => Nat::Destination,
                _ => Nat::Both,
            }),
            Self::Zone => Part::Zone(half()?),
        };
        Some((part, rest))
    }
}

/// The family, then the address; no family: none.
fn write_address(address: IpAddr, key: &mut Vec<u8>) {
    match address {
        IpAddr::V4(address) => {
            key.push(4);
            key.extend(address.octets());
            key.extend([0; 12]);
        }
        IpAddr::V6(address) => {
            key.push(6);
            key.extend(address.octets());
        }
    }
}

fn read_address(bytes: &[u8]) -> Option<IpAddr> {
    let (family, address) = bytes.split_first()?;
    match family {
        4 => Some(Ipv4Addr::from(*address.first_chunk::<4>()?).into()),
        6 => Some(Ipv6Addr::from(*address.first_chunk::<16>()?).into()),
        _ => None,
    }
}

fn read_endpoint(bytes: &[u8]) -> Option<Endpoint> {
    let address = read_address(bytes)?;
    let &[has_port, low, high, protocol] = bytes.get(ADDRESS..)?.first_chunk()?;
    Some(Endpoint {
        address,
        port: (has_port != 0).then(|| u16::from_ne_bytes([low, high])),
        protocol,
    })
}
