//! Made-up tables.

use std::net::IpAddr;
use std::sync::Arc;

use conntrack_ebpf::owner::{Address, Claim};
use proptest::prelude::*;

use super::{
    key::{Endpoint, Nat, Part, Span},
    *,
};
use crate::{
    kernel::entries::{EntryStatus, EntryTuple, Layer4},
    owners::SlotMaps,
};

mod alike;
mod composition;
mod output;

const NETNS: Inode = 4_026_531_840;
const NOW: u64 = 1_767_225_600_000_000_000;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn tuple(protocol: u8, source: (&str, u16), destination: (&str, u16)) -> EntryTuple {
    EntryTuple {
        source: ip(source.0),
        destination: ip(destination.0),
        protocol,
        layer4: Layer4::Ports {
            source: source.1,
            destination: destination.1,
        },
    }
}

/// An unanswered UDP flow without NAT.
fn udp(source: (&str, u16), destination: (&str, u16)) -> TableEntry {
    TableEntry {
        original: tuple(17, source, destination),
        reply: tuple(17, destination, source),
        zone: 0,
        status: EntryStatus(0),
        state: EntryState::Unreplied,
        timeout: Some(29),
        mark: 0,
        id: 1,
        start: None,
    }
}

/// An established TCP connection to a Service address, from a masqueraded client.
fn service(client: &str, port: u16) -> TableEntry {
    TableEntry {
        original: tuple(6, (client, port), ("10.96.0.1", 443)),
        reply: tuple(6, ("10.42.0.9", 8443), ("192.0.2.7", 61_000)),
        status: EntryStatus(1 << 1 | 1 << 2 | 1 << 4 | 1 << 5),
        state: EntryState::Tcp(3),
        timeout: Some(431_999),
        ..udp((client, port), ("10.96.0.1", 443))
    }
}

fn ping() -> TableEntry {
    let tuple = |source, destination, kind| EntryTuple {
        source: ip(source),
        destination: ip(destination),
        protocol: 58,
        layer4: Layer4::Icmp {
            id: 7,
            kind,
            code: 0,
        },
    };
    TableEntry {
        original: tuple("fd00::1", "fd00::2", 128),
        reply: tuple("fd00::2", "fd00::1", 129),
        state: EntryState::Replied,
        status: EntryStatus(1 << 1),
        zone: 3,
        start: Some(NOW - 45_000_000_000),
        ..udp(("10.0.0.1", 1), ("10.0.0.2", 2))
    }
}

/// Six DNS queries of one pod, one of another, two connections, an echo request.
fn table() -> Vec<TableEntry> {
    let dns = ("10.96.0.10", 53);
    let mut entries: Vec<TableEntry> = (0..6)
        .map(|number| udp(("10.42.0.2", 1024 + number), dns))
        .collect();
    entries.push(udp(("10.42.0.3", 1024), dns));
    entries.extend([
        service("10.42.0.2", 5000),
        service("10.42.0.4", 5000),
        ping(),
    ]);
    entries
}

/// The first address is a pod's, the real server another one's.
fn pods() -> Charging {
    let claim = |address: &str, slot: u32| {
        let claim = Claim {
            slot,
            base: slot,
            flags: 0,
        };
        (Address::of(ip(address)), claim)
    };
    let workload = || "workload of 2".to_owned();
    Charging {
        host_netns: NETNS,
        vacant: VacantAddresses::default(),
        maps: Arc::new(SlotMaps {
            addresses: [claim("10.42.0.2", 2), claim("10.42.0.9", 3)].into(),
            ..SlotMaps::default()
        }),
        names: [2, 3]
            .map(|slot| (slot, format!("default/pod-{slot}")))
            .into(),
        workloads: [(2, workload()), (3, workload())].into_iter().collect(),
        ..Charging::default()
    }
}

/// Names of no network namespace.
static NO_NAMES: BTreeMap<Inode, String> = BTreeMap::new();

fn labels(owners: &Charging) -> Labels<'_> {
    Labels {
        owners,
        namespaces: &NO_NAMES,
    }
}

/// Counts one entry, together with no other.
fn add(census: &mut Census<'_>, owners: &Charging, entry: &TableEntry) {
    let mut alike = AlikeEntries::new(owners, NO_TAGS, [].iter());
    alike.add(NETNS, entry, census.class(entry), |_| unreachable!());
    alike.tell(|alike| census.add(alike));
}

fn summary(filter: Filter, by: &[By]) -> Summary {
    let pods = pods();
    let mut census = Census::new(filter, vec![by.to_vec()], &pods, NOW);
    census.next_table();
    for entry in table() {
        add(&mut census, &pods, &entry);
    }
    census.summary(10)
}

/// Labels and entries of the rows.
fn rows(by: &[By]) -> Vec<(String, u64)> {
    let pods = pods();
    let labels = labels(&pods);
    summary(Filter::default(), by).groups[0]
        .rows
        .iter()
        .map(|row| {
            let parts: Vec<_> = row
                .key
                .iter()
                .map(|part| text::label(*part, &labels))
                .collect();
            (parts.join(" "), row.counts.entries)
        })
        .collect()
}

fn expected(rows: &[(&str, u64)]) -> Vec<(String, u64)> {
    rows.iter()
        .map(|(name, entries)| ((*name).to_owned(), *entries))
        .collect()
}

#[test]
fn by_each_property() {
    for (by, wanted) in [
        (
            By::Owner,
            &[("default/pod-2", 7), ("unknown", 2), ("default/pod-3", 1)][..],
        ),
        (By::Workload, &[("workload of 2", 8), ("unknown", 2)]),
        (By::Direction, &[("egress", 9), ("ingress", 1)]),
        (By::Netns, &[("4026531840", 10)]),
        (
            By::Destination,
            &[
                ("10.96.0.10:53 udp", 7),
                ("10.42.0.9:8443 tcp", 2),
                ("fd00::2 icmpv6", 1),
            ],
        ),
        (
            By::Service,
            &[
                ("(no service: opened by the server's address)", 8),
                ("10.96.0.1:443 tcp", 2),
            ],
        ),
        (
            By::Source,
            &[
                ("10.42.0.2", 7),
                ("10.42.0.3", 1),
                ("10.42.0.4", 1),
                ("fd00::1", 1),
            ],
        ),
        (By::Protocol, &[("udp", 7), ("tcp", 2), ("icmpv6", 1)]),
        (
            By::State,
            &[("UNREPLIED", 7), ("ESTABLISHED", 2), ("REPLIED", 1)],
        ),
        (
            By::Age,
            &[
                ("expires in 10 to 30 s", 7),
                ("expires in over 1 day", 2),
                ("age 30 to 60 s", 1),
            ],
        ),
        (By::Evictable, &[("evictable", 8), ("assured", 2)]),
        (By::Nat, &[("no NAT", 8), ("snat+dnat", 2)]),
        (By::Zone, &[("zone 0", 9), ("zone 3", 1)]),
    ] {
        assert_eq!(rows(&[by]), expected(wanted), "{by:?}");
    }
}

#[test]
fn by_several_at_once() {
    assert_eq!(
        rows(&[By::Source, By::Protocol]),
        expected(&[
            ("10.42.0.2 udp", 6),
            ("10.42.0.2 tcp", 1),
            ("10.42.0.3 udp", 1),
            ("10.42.0.4 tcp", 1),
            ("fd00::1 icmpv6", 1),
        ])
    );
    // Every property in one key.
    let all = <By as clap::ValueEnum>::value_variants();
    let sum: u64 = rows(all).iter().map(|(_, entries)| entries).sum();
    assert_eq!(sum, 10);
    assert!(rows(all).iter().all(|(name, _)| name.contains("zone")));
}

#[test]
fn filters() {
    let passing = |filter: Filter| {
        let summary = summary(filter, &[By::Zone]);
        assert_eq!(summary.seen, 10);
        summary.totals.entries
    };
    let network = |text: &str| vec![ctpressure_model::events::parse_network(text).unwrap()];
    for (filter, entries) in [
        (Filter::default(), 10),
        (
            Filter {
                protocols: vec![6, 58],
                ..Filter::default()
            },
            3,
        ),
        // Also the real server, which is in the reply only.
        (
            Filter {
                networks: network("10.42.0.9"),
                ..Filter::default()
            },
            2,
        ),
        (
            Filter {
                networks: network("fd00::/64"),
                ..Filter::default()
            },
            1,
        ),
        (
            Filter {
                ports: vec![8443, 53],
                ..Filter::default()
            },
            9,
        ),
        // An echo request's id is no port.
        (
            Filter {
                ports: vec![7],
                ..Filter::default()
            },
            0,
        ),
        (
            Filter {
                states: vec![parse_state("established").unwrap()],
                ..Filter::default()
            },
            2,
        ),
        (
            Filter {
                evictable: Some(true),
                ..Filter::default()
            },
            8,
        ),
        (
            Filter {
                evictable: Some(false),
                protocols: vec![17],
                ..Filter::default()
            },
            0,
        ),
    ] {
        assert_eq!(passing(filter.clone()), entries, "{filter:?}");
    }
    let error = parse_state("ESTABLISH").unwrap_err().to_string();
    assert!(error.contains("ESTABLISHED") && error.contains("UNREPLIED"));
}

proptest! {
    #[test]
    fn any_key_comes_back(
        addresses: ([u8; 16], [u8; 4]),
        ports: (u16, u16),
        protocol: u8,
        with_ports: bool,
        zone: u16,
        timeout: Option<u32>,
        status: u32,
    ) {
        let mut entry = udp(("10.0.0.1", ports.0), ("10.0.0.2", ports.1));
        entry.original.source = std::net::Ipv6Addr::from(addresses.0).into();
        entry.reply.source = std::net::Ipv4Addr::from(addresses.1).into();
        entry.original.protocol = protocol;
        entry.reply.protocol = protocol;
        if !with_ports {
            entry.reply.layer4 = Layer4::Addresses;
        }
        entry.zone = zone;
        entry.timeout = timeout;
        entry.status = EntryStatus(status);
        entry.state = EntryState::of(entry.status);
        let nobody = Charging::default();
        let mut census = Census::new(
            Filter::default(),
            vec![vec![
                By::Source, By::Destination, By::Zone, By::Age, By::State, By::Evictable, By::Nat,
            ]],
            &nobody,
            NOW,
        );
        add(&mut census, &nobody, &entry);
        let summary = census.summary(1);
        let key = &summary.groups[0].rows[0].key;
        prop_assert_eq!(key[0], Part::Source(entry.original.source));
        prop_assert_eq!(key[1], Part::Destination(Endpoint {
            address: entry.reply.source,
            port: with_ports.then_some(ports.1),
            protocol,
        }));
        prop_assert_eq!(key[2], Part::Zone(zone));
        let Part::Age(age) = key[3] else { panic!("{:?}", key[3]) };
        prop_assert_eq!(age.span == Span::Unknown, timeout.is_none());
        prop_assert_eq!(key[4], Part::State(entry.state));
        prop_assert_eq!(key[5], Part::Evictable(!entry.status.assured()));
        prop_assert!(matches!(key[6], Part::Nat(Nat::Both | Nat::Destination)));
    }
}
