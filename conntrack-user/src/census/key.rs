//! What entries are grouped by, and the bytes that such a key has while it is counted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use clap::ValueEnum;
use conntrack_ebpf::owner::{Direction, Party};
use serde::Serialize;

use crate::kernel::entries::{Entry, State};
use crate::sys::netns::Inode;

/// A property to group by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// Pod, cgroup or host that the entry is charged to
    Owner,
    /// What made that pod, if an agent with --kube runs that tells; else its owner
    Workload,
    /// Whether its owner opened it (egress) or serves it (ingress)
    Direction,
    /// Network namespace
    Netns,
    /// Real server (after DNAT), its port, and the protocol
    Destination,
    /// Service address (before DNAT), its port, and the protocol
    Service,
    /// Address of the opener
    Source,
    /// Protocol
    Protocol,
    /// TCP, SCTP or DCCP state; of other protocols UNREPLIED, REPLIED or ASSURED
    State,
    /// Time since its first packet where the kernel keeps it, else time until it expires
    Age,
    /// Whether the kernel may remove it early to make room
    Evictable,
    /// Which address is translated
    Nat,
    /// Conntrack zone
    Zone,
}

/// An address with a port, of a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Address.
    pub address: IpAddr,
    /// Port; `None` where the protocol has none.
    pub port: Option<u16>,
    /// Protocol number.
    pub protocol: u8,
}

/// What is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nat {
    /// Nothing.
    None,
    /// The opener's address or port.
    Source,
    /// The address or port that it opened.
    Destination,
    /// Both.
    Both,
}

/// Which time a [`Age`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// Since the first packet (`CTA_TIMESTAMP`).
    Since,
    /// Until the entry expires, if no packet comes (`CTA_TIMEOUT`).
    Left,
    /// Neither is known: a flow table forwards it.
    Unknown,
}

/// A range of times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age {
    /// Which time.
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

    fn new(entry: &Entry, now: u64) -> Self {
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
    pub fn range(self) -> &'static str {
        RANGES
            .get(usize::from(self.range))
            .map_or("", |(_, name)| *name)
    }
}

/// An entry and what is known of it besides.
pub(super) struct Seen<'a> {
    pub(super) netns: Inode,
    pub(super) entry: &'a Entry,
    pub(super) party: Option<Party>,
    pub(super) workload: Option<u32>,
    pub(super) now: u64,
}

/// The value of a [`By`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Slot; `None`: nobody who is known.
    Owner(Option<u32>),
    /// The slot that stands for all of the workload; `None`: nobody who is known.
    Workload(Option<u32>),
    /// `None`: not known.
    Direction(Option<Direction>),
    /// Inode number.
    Netns(Inode),
    /// Real server.
    Destination(Endpoint),
    /// Service address; `None`: it was opened by the server's own address.
    Service(Option<Endpoint>),
    /// Opener.
    Source(IpAddr),
    /// Protocol number.
    Protocol(u8),
    /// State.
    State(State),
    /// Time.
    Age(Age),
    /// Whether `early_drop` may remove it.
    Evictable(bool),
    /// Translation.
    Nat(Nat),
    /// Zone.
    Zone(u16),
}

const ADDRESS: usize = 17;
const ENDPOINT: usize = ADDRESS + 4;

impl By {
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

    fn value(self, seen: &Seen<'_>) -> Part {
        let entry = seen.entry;
        match self {
            Self::Owner => Part::Owner(seen.party.map(Party::slot)),
            Self::Workload => Part::Workload(seen.workload),
            Self::Direction => Part::Direction(seen.party.map(Party::direction)),
            Self::Netns => Part::Netns(seen.netns),
            Self::Destination => Part::Destination(Endpoint {
                address: entry.reply.source,
                port: entry.reply.layer4.ports().map(|(source, _)| source),
                protocol: entry.reply.protocol,
            }),
            Self::Service => Part::Service(entry.destination_translated().then(|| Endpoint {
                address: entry.original.destination,
                port: entry.original.layer4.ports().map(|(_, port)| port),
                protocol: entry.original.protocol,
            })),
            Self::Source => Part::Source(entry.original.source),
            Self::Protocol => Part::Protocol(entry.original.protocol),
            Self::State => Part::State(entry.state),
            Self::Age => Part::Age(Age::new(entry, seen.now)),
            Self::Evictable => Part::Evictable(entry.evictable()),
            Self::Nat => Part::Nat(
                match (entry.source_translated(), entry.destination_translated()) {
                    (false, false) => Nat::None,
                    (true, false) => Nat::Source,
                    (false, true) => Nat::Destination,
                    (true, true) => Nat::Both,
                },
            ),
            Self::Zone => Part::Zone(entry.zone),
        }
    }

    /// The value that the first bytes of a key stand for, and the other bytes.
    pub(super) fn read(self, key: &[u8]) -> Option<(Part, &[u8])> {
        let (bytes, rest) = key.split_at_checked(self.width())?;
        let word = || bytes.first_chunk().map(|four| u32::from_ne_bytes(*four));
        let half = || bytes.first_chunk().map(|two| u16::from_ne_bytes(*two));
        let byte = bytes.first().copied()?;
        let part = match self {
            Self::Owner => Part::Owner(word()?.checked_sub(1)),
            Self::Workload => Part::Workload(word()?.checked_sub(1)),
            Self::Direction => Part::Direction(match byte {
                1 => Some(Direction::Egress),
                2 => Some(Direction::Ingress),
                _ => None,
            }),
            Self::Netns => Part::Netns(word()?),
            Self::Destination => Part::Destination(read_endpoint(bytes)?),
            Self::Service => Part::Service(read_endpoint(bytes)),
            Self::Source => Part::Source(read_address(bytes)?),
            Self::Protocol => Part::Protocol(byte),
            Self::State => Part::State(State::from_bytes(*bytes.first_chunk()?)),
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

/// The longest key: everything at once.
const MOST_BYTES: usize = 2 * ENDPOINT + ADDRESS + 12 + 4 + 6;

/// The bytes of a key in the making.
pub(super) struct Key {
    bytes: [u8; MOST_BYTES],
    length: usize,
}

impl Default for Key {
    fn default() -> Self {
        Self {
            bytes: [0; MOST_BYTES],
            length: 0,
        }
    }
}

impl Key {
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    fn put(&mut self, bytes: &[u8]) {
        let end = self.length + bytes.len();
        if let Some(room) = self.bytes.get_mut(self.length..end) {
            room.copy_from_slice(bytes);
            self.length = end;
        }
    }

    /// Appends a property; each may be there once.
    #[inline]
    pub(super) fn push(&mut self, by: By, seen: &Seen<'_>) {
        match by.value(seen) {
            Part::Owner(slot) | Part::Workload(slot) => {
                let number = slot.map_or(0, |slot| slot.saturating_add(1));
                self.put(&number.to_ne_bytes());
            }
            Part::Direction(direction) => self.put(&[match direction {
                None => 0,
                Some(Direction::Egress) => 1,
                Some(Direction::Ingress) => 2,
            }]),
            Part::Netns(inode) => self.put(&inode.to_ne_bytes()),
            Part::Destination(endpoint) | Part::Service(Some(endpoint)) => {
                self.put(&write_endpoint(endpoint));
            }
            Part::Service(None) => self.put(&[0; ENDPOINT]),
            Part::Source(address) => self.put(&write_address(address)),
            Part::Protocol(number) => self.put(&[number]),
            Part::State(state) => self.put(&state.to_bytes()),
            Part::Age(Age { span, range }) => self.put(&[span as u8, range]),
            Part::Evictable(evictable) => self.put(&[evictable.into()]),
            Part::Nat(nat) => self.put(&[nat as u8]),
            Part::Zone(zone) => self.put(&zone.to_ne_bytes()),
        }
    }
}

/// The family, then the address; no family: none.
fn write_address(address: IpAddr) -> [u8; ADDRESS] {
    let mut bytes = [0; ADDRESS];
    match address {
        IpAddr::V4(address) => {
            bytes[0] = 4;
            bytes[1..5].copy_from_slice(&address.octets());
        }
        IpAddr::V6(address) => {
            bytes[0] = 6;
            bytes[1..].copy_from_slice(&address.octets());
        }
    }
    bytes
}

fn read_address(bytes: &[u8]) -> Option<IpAddr> {
    let (family, address) = bytes.split_first()?;
    match family {
        4 => Some(Ipv4Addr::from(*address.first_chunk::<4>()?).into()),
        6 => Some(Ipv6Addr::from(*address.first_chunk::<16>()?).into()),
        _ => None,
    }
}

/// The address, the port and whether there is one, the protocol.
fn write_endpoint(endpoint: Endpoint) -> [u8; ENDPOINT] {
    let mut bytes = [0; ENDPOINT];
    bytes[..ADDRESS].copy_from_slice(&write_address(endpoint.address));
    if let Some(port) = endpoint.port {
        bytes[ADDRESS] = 1;
        bytes[ADDRESS + 1..ADDRESS + 3].copy_from_slice(&port.to_ne_bytes());
    }
    bytes[ADDRESS + 3] = endpoint.protocol;
    bytes
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
