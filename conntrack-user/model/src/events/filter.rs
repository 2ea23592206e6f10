//! Which records somebody wants to see. Values of one field are alternatives; fields that are
//! given must all fit. A record whose tuple is not known fits no filter that asks about tuples.

use std::{convert::Infallible, net::IpAddr, str::FromStr};

use conntrack_ebpf::record::{FLAG_CAUSE_KNOWN, Tuple, View};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Names, event::addresses};
use crate::protocol::{is_icmp, protocol_number};

/// A kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Packets lost.
    Drop,
    /// Entries removed to make room.
    Eviction,
    /// New entries.
    Insert,
}

/// A network namespace as somebody names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Netns {
    /// By its inode number, as `lsns` shows it.
    Inode(u32),
    /// `host`, whose it is (`shop/web`), or what it is kept as in /run/netns.
    Name(String),
}

impl FromStr for Netns {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text
            .parse()
            .map_or_else(|_| Self::Name(text.to_owned()), Self::Inode))
    }
}

/// The given text names no protocol.
#[derive(Debug, thiserror::Error)]
#[error("not a protocol: use tcp, udp, icmp, icmpv6, sctp, gre, udplite, dccp or a number (0-255)")]
pub struct UnknownProtocol;

/// A protocol by name or number.
pub fn parse_protocol(text: &str) -> Result<u8, UnknownProtocol> {
    protocol_number(text).ok_or(UnknownProtocol)
}

/// An address, or a prefix such as `10.0.0.0/8`.
pub fn parse_network(text: &str) -> Result<IpNet, ipnet::AddrParseError> {
    text.parse::<IpAddr>()
        .map(IpNet::from)
        .or_else(|_| text.parse())
}

/// What to let through; an empty list of anything but kinds lets everything through.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Kinds of events; none of them: nothing passes.
    pub kinds: Vec<Kind>,
    /// Numbers of protocols; empty for all of them.
    #[serde(default)]
    pub protocols: Vec<u8>,
    /// Addresses or prefixes: source or destination of any tuple of the record.
    #[serde(default)]
    pub networks: Vec<IpNet>,
    /// Ports: source or destination of any tuple of the record (not of ICMP, which has none).
    #[serde(default)]
    pub ports: Vec<u16>,
    /// Network namespaces; empty for all of them.
    #[serde(default)]
    pub netns: Vec<Netns>,
    /// Owners by name, see `OwnersBySlot::is`: of the event, or of an
    /// eviction's victim or cause.
    #[serde(default)]
    pub owners: Vec<String>,
}

impl Filter {
    /// Whether events of this kind can pass.
    pub fn wants(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind)
    }

    /// Whether what is told of this network namespace passes, whatever else is asked for.
    pub fn passes_netns(&self, netns: u32, name: &str) -> bool {
        any(&self.netns, |wanted| match wanted {
            Netns::Inode(inode) => *inode == netns,
            Netns::Name(wanted) => wanted == name,
        })
    }

    /// Whether this record passes.
    pub fn passes(&self, view: &View, names: &Names) -> bool {
        let known = view.header().flags & FLAG_CAUSE_KNOWN != 0;
        let (kind, tuples, owners): (_, [Option<&Tuple>; 3], _) = match view {
            View::Insert(record) => (
                Kind::Insert,
                [Some(&record.original), Some(&record.reply), None],
                [record.origin.owner; 2],
            ),
            View::Drop(record) => (
                Kind::Drop,
                [known.then_some(&record.original), Some(&record.reply), None],
                [record.origin.owner; 2],
            ),
            View::Eviction(record) => (
                Kind::Eviction,
                [
                    Some(&record.victim),
                    Some(&record.victim_reply),
                    known.then_some(&record.cause),
                ],
                [record.victim_owner, record.origin.owner],
            ),
        };
        // A tuple without an address family is not filled in.
        let tuples = || tuples.iter().flatten().filter(|tuple| tuple.l3num != 0);
        self.wants(kind)
            && any(&self.owners, |name| {
                owners
                    .into_iter()
                    .any(|slot| names.owners.is(u32::from(slot), name))
            })
            && any(&self.netns, |netns| match netns {
                Netns::Inode(inode) => *inode == view.header().netns,
                Netns::Name(name) => names.is(view.header().netns, name),
            })
            && any(&self.protocols, |number| {
                tuples().any(|tuple| tuple.protonum == *number)
            })
            && any(&self.ports, |port| {
                tuples().any(|tuple| {
                    !is_icmp(tuple.protonum)
                        && [tuple.src_port, tuple.dst_port].contains(&port.to_be())
                })
            })
            && any(&self.networks, |network| {
                tuples()
                    .filter_map(|tuple| addresses(tuple))
                    .any(|(source, destination)| {
                        network.contains(&source) || network.contains(&destination)
                    })
            })
    }
}

/// True of an empty list, else whether one of its values fits.
fn any<T>(values: &[T], fits: impl FnMut(&T) -> bool) -> bool {
    values.is_empty() || values.iter().any(fits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::sample;

    fn all() -> Filter {
        Filter {
            kinds: vec![Kind::Drop, Kind::Eviction, Kind::Insert],
            ..Filter::default()
        }
    }

    /// Which of (insert, drop, eviction) pass.
    fn passing(filter: &Filter) -> [bool; 3] {
        let names = [
            (4_026_531_840, "host".to_owned()),
            (4_026_532_177, "red".to_owned()),
        ]
        .into_iter()
        .collect();
        [sample::insert(), sample::icmpv6_drop(), sample::eviction()]
            .map(|view| filter.passes(&view, &names))
    }

    #[test]
    fn kinds() {
        assert_eq!(passing(&all()), [true, true, true]);
        assert_eq!(passing(&Filter::default()), [false, false, false]);
        let drops = Filter {
            kinds: vec![Kind::Drop],
            ..Filter::default()
        };
        assert_eq!(passing(&drops), [false, true, false]);
    }

    #[test]
    fn protocols_look_at_victim_and_cause() {
        assert_eq!(
            passing(&Filter {
                protocols: vec![17],
                ..all()
            }),
            [true, false, true]
        );
        assert_eq!(
            passing(&Filter {
                protocols: vec![6],
                ..all()
            }),
            [false, false, true]
        );
        assert_eq!(
            passing(&Filter {
                protocols: vec![58, 17],
                ..all()
            }),
            [true, true, true]
        );
    }

    #[test]
    fn ports_are_not_icmp_ids() {
        assert_eq!(
            passing(&Filter {
                ports: vec![53],
                ..all()
            }),
            [true, false, true]
        );
        assert_eq!(
            passing(&Filter {
                ports: vec![7, 0x8000],
                ..all()
            }),
            [false; 3]
        );
        assert_eq!(
            passing(&Filter {
                ports: vec![40_000],
                ..all()
            }),
            [false, false, true]
        );
    }

    #[test]
    fn addresses_and_prefixes() {
        let network = |text| vec![parse_network(text).expect(text)];
        let passes = |text| {
            passing(&Filter {
                networks: network(text),
                ..all()
            })
        };
        assert_eq!(passes("10.0.0.1"), [true, false, true]);
        assert_eq!(passes("10.0.0.9"), [false, false, true]);
        assert_eq!(passes("10.0.0.8/31"), [false, false, true]);
        assert_eq!(passes("fd00::/64"), [false, true, false]);
        assert_eq!(passes("0.0.0.0/0"), [true, false, true]);
        assert!(parse_network("10.0.0.0/33").is_err());
        assert!(parse_network("example.org").is_err());
    }

    #[test]
    fn namespaces_by_inode_and_by_name() {
        let passes = |text: &str| {
            passing(&Filter {
                netns: vec![text.parse().expect("infallible")],
                ..all()
            })
        };
        assert_eq!(passes("host"), [true, false, true]);
        assert_eq!(passes("red"), [false, true, false]);
        assert_eq!(passes("4026532177"), [false, true, false]);
        assert_eq!(passes("blue"), [false; 3]);
    }

    #[test]
    fn fields_must_all_fit() {
        let filter = Filter {
            protocols: vec![6],
            ports: vec![9],
            ..all()
        };
        assert_eq!(passing(&filter), [false; 3]);
    }

    #[test]
    fn an_unknown_flow_fits_no_question_about_flows() {
        let mut view = sample::icmpv6_drop();
        if let View::Drop(record) = &mut view {
            record.header.flags = 0;
        }
        let names = Names::default();
        assert!(all().passes(&view, &names));
        assert!(
            !Filter {
                protocols: vec![58],
                ..all()
            }
            .passes(&view, &names)
        );
        let everywhere = vec![parse_network("::/0").expect("a prefix")];
        assert!(
            !Filter {
                networks: everywhere,
                ..all()
            }
            .passes(&view, &names)
        );
    }

    #[test]
    fn it_travels_as_json() {
        let filter = Filter {
            protocols: vec![6],
            networks: vec![parse_network("10.0.0.0/8").expect("a prefix")],
            ports: vec![53],
            netns: vec![Netns::Inode(7), Netns::Name("red".to_owned())],
            ..all()
        };
        let text = serde_json::to_string(&filter).expect("JSON");
        assert_eq!(
            serde_json::from_str::<Filter>(&text).expect("its own JSON"),
            filter
        );
    }
}
