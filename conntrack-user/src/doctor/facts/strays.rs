//! Entries that NAT leads to, or lets come from, an address that nobody on this node has any more.
//!
//! Somebody elsewhere may have it: an entry that leads there and was answered may be a conversation with that one. Who sends
//! as from an address that this node lost has no answer, whatever came before.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, SocketAddr},
};

use ctpressure_model::protocol::protocol_name;

use super::{Class, KernelSettings};
use crate::{
    census::{Charging, Vacant},
    kernel::entries::TableEntry,
};

/// Different ways that are counted.
const MOST: usize = 1 << 14;

/// An address and a port, if the protocol has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub address: IpAddr,
    pub port: Option<u16>,
}

impl fmt::Display for Place {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(to, "{}", SocketAddr::new(self.address, port)),
            None => write!(to, "{}", self.address),
        }
    }
}

/// What NAT makes of the addresses of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Way {
    /// Who asks for the first is led to the second.
    Server { asked: Place, server: Place },
    /// Who sends seems to be this address.
    Source(IpAddr),
}

impl Way {
    /// The address that NAT put in.
    pub(crate) const fn address(&self) -> IpAddr {
        match self {
            Self::Server { server, .. } => server.address,
            Self::Source(address) => *address,
        }
    }

    fn of(entry: &TableEntry) -> impl Iterator<Item = Self> {
        let server = entry.destination_translated().then(|| Self::Server {
            asked: Place {
                address: entry.original.destination,
                port: entry.original.layer4.ports().map(|(_, port)| port),
            },
            server: Place {
                address: entry.reply.source,
                port: entry.reply.layer4.ports().map(|(port, _)| port),
            },
        });
        let source = entry.source_translated().then_some(entry.reply.destination);
        server.into_iter().chain(source.map(Self::Source))
    }
}

/// The entries of one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct WayCount {
    entries: u64,
    unanswered: u64,
    /// Seconds since the last packet of any that is unanswered; `None`: of none that is known.
    idle: Option<u64>,
}

/// Counts entries by their ways.
#[derive(Debug, Default)]
pub(crate) struct Ways(HashMap<(Way, u8), WayCount>);

/// A way that leads nowhere.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stray {
    pub way: Way,
    /// By the protocol's number.
    pub protocol: u8,
    pub entries: u64,
    /// Of these, the ones that nobody elsewhere answers.
    pub unanswered: u64,
    /// Seconds since the last packet of any of those, where their timeouts tell.
    pub idle: Option<u64>,
    pub vacant: Vacant,
}

impl Stray {
    pub(crate) fn protocol_name(&self) -> String {
        protocol_name(self.protocol).into_owned()
    }
}

impl Ways {
    pub(crate) fn add(&mut self, entry: &TableEntry, settings: &KernelSettings) {
        for way in Way::of(entry) {
            let key = (way, entry.original.protocol);
            if self.0.len() >= MOST && !self.0.contains_key(&key) {
                continue;
            }
            let count = self.0.entry(key).or_default();
            count.entries += 1;
            if matches!(way, Way::Server { .. }) && !entry.one_way() {
                continue;
            }
            count.unanswered += 1;
            let idle = idle(entry, settings);
            count.idle = [count.idle, idle].into_iter().flatten().min();
        }
    }

    /// Those that lead nowhere, the one with the most entries first.
    pub(crate) fn strays(self, owners: &Charging) -> Vec<Stray> {
        let counted = self.0.into_iter();
        let mut strays: Vec<Stray> = counted
            .filter_map(|((way, protocol), count)| {
                let vacant = owners.vacant(way.address())?;
                // Who asks at an address that has another one's may still be told from which it comes.
                let known = matches!(way, Way::Server { .. }) || vacant.was.is_some();
                known.then_some(Stray {
                    way,
                    protocol,
                    entries: count.entries,
                    unanswered: count.unanswered,
                    idle: count.idle,
                    vacant,
                })
            })
            .collect();
        strays.sort_by_key(|stray| (std::cmp::Reverse(stray.entries), stray.way));
        strays
    }
}

/// Seconds since the last packet, where a packet sets a timeout that is known: of UDP, and of connections that are being opened.
fn idle(entry: &TableEntry, settings: &KernelSettings) -> Option<u64> {
    let class = Class::of(entry)?;
    if !matches!(class, Class::Udp | Class::UdpStream | Class::SynSent) {
        return None;
    }
    let (timeout, left) = settings.get(class.sysctl()).zip(entry.timeout)?;
    // A policy may give more.
    timeout.checked_sub(left.into())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        census::VacantAddresses,
        kernel::entries::{EntryState, EntryStatus, EntryTuple, Layer4},
    };

    fn entry(asked: &str, server: &str, from: &str, left: u32) -> TableEntry {
        let client = "10.42.9.2";
        let tuple = |source: &str, destination: &str, ports: (u16, u16)| EntryTuple {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            protocol: 17,
            layer4: Layer4::Ports {
                source: ports.0,
                destination: ports.1,
            },
        };
        TableEntry {
            original: tuple(client, asked, (40_000, 8125)),
            reply: tuple(server, from, (8125, 40_000)),
            zone: 0,
            status: EntryStatus(u32::from(asked != server) << 5 | u32::from(client != from) << 4),
            state: EntryState::Unreplied,
            timeout: Some(left),
            mark: 0,
            id: 0,
            start: None,
        }
    }

    #[test]
    fn what_leads_to_an_address_that_somebody_had() {
        let mut settings = KernelSettings::default();
        settings.values.insert("udp_timeout", 30);
        let mut ways = Ways::default();
        for (asked, server, from, left) in [
            // A published port whose container is gone, twice; one whose container is there, one of another node.
            ("10.0.0.1", "172.18.1.2", "10.42.9.2", 10),
            ("10.0.0.1", "172.18.1.2", "10.42.9.2", 29),
            ("10.0.0.1", "172.18.2.2", "10.42.9.2", 29),
            ("10.0.0.1", "10.42.7.7", "10.42.9.2", 29),
            // Without NAT, and from an address that the host had.
            ("172.18.1.2", "172.18.1.2", "10.42.9.2", 29),
            ("192.0.2.1", "192.0.2.1", "198.51.100.7", 300),
        ] {
            ways.add(&entry(asked, server, from, left), &settings);
        }
        // Docker's is another machine's now, and answers.
        let mut answered = entry("10.0.0.1", "172.18.1.2", "10.42.9.2", 30);
        answered.status.0 |= 1 << 1;
        answered.state = EntryState::Replied;
        ways.add(&answered, &settings);
        let former = [("172.18.1.2", "docker-a"), ("198.51.100.7", "host")];
        let former = former.map(|(address, name)| {
            let since = Duration::from_secs(12);
            (address.parse().unwrap(), name.to_owned(), since)
        });
        let owners = Charging {
            vacant: VacantAddresses::former(former.into_iter()),
            ..Charging::default()
        };
        let strays = ways.strays(&owners);
        let [published, snat] = strays.as_slice() else {
            panic!("{strays:?}")
        };
        assert_eq!((published.entries, published.unanswered), (3, 2));
        assert_eq!(published.idle, Some(1), "of those without an answer");
        assert_eq!(published.way.address().to_string(), "172.18.1.2");
        assert_eq!(snat.way, Way::Source("198.51.100.7".parse().unwrap()));
        assert_eq!(snat.idle, None, "it is kept for longer than UDP is");
    }
}
