//! Counts of made-up entries.

use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::kernel::entries::EntryState;
use crate::kernel::entries::{EntryStatus, EntryTuple, Layer4};

pub(super) fn entry(
    protocol: u8,
    state: EntryState,
    timeout: Option<u32>,
    chosen: u16,
) -> TableEntry {
    let pod = IpAddr::V4(Ipv4Addr::new(10, 42, 1, 2));
    let node = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    let server = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));
    let ports = |source, destination| Layer4::Ports {
        source,
        destination,
    };
    TableEntry {
        original: EntryTuple {
            source: pod,
            destination: server,
            protocol,
            layer4: ports(40_000, 443),
        },
        reply: EntryTuple {
            source: server,
            destination: node,
            protocol,
            layer4: ports(443, chosen),
        },
        zone: 0,
        // Seen from both sides, and assured.
        status: EntryStatus(0b1110),
        state,
        timeout,
        mark: 0,
        id: 0,
        start: None,
    }
}

#[test]
fn idle_entries_and_ports() {
    let settings = KernelSettings {
        values: [
            ("tcp_timeout_established", 432_000),
            ("tcp_timeout_time_wait", 120),
            ("udp_timeout", 30),
        ]
        .into(),
        ..KernelSettings::default()
    };
    let bounds = IdleBounds {
        replacement: 300,
        uptime: Some(1_000_000),
        now: 0,
    };
    let mut counter = Counter::new(&settings, bounds);
    for (protocol, state, left) in [
        (6, EntryState::Tcp(3), Some(432_000)),
        (6, EntryState::Tcp(3), Some(400_000)),
        (6, EntryState::Tcp(3), Some(432_000 - 7_440)),
        // Made while the timeout was longer.
        (6, EntryState::Tcp(3), Some(500_000)),
        (6, EntryState::Offloaded, None),
        (6, EntryState::Tcp(7), Some(119)),
        (6, EntryState::Tcp(7), Some(59)),
        (17, EntryState::Unreplied, Some(1)),
        (132, EntryState::Sctp(4), Some(1)),
    ] {
        counter.add(&entry(protocol, state, left, 2_000));
    }
    // A port below 1024 is not one that NAT chooses.
    counter.add(&entry(6, EntryState::Tcp(8), Some(1), 999));
    let walk = EntryWalk {
        entries: 10,
        counts: [13, 12],
        ..EntryWalk::default()
    };
    let facts = counter.finish(&walk, &Charging::default());
    let count = |entries, idle| ClassCount { entries, idle };
    assert_eq!(facts.of(Class::Established), count(4, 1));
    // What is beyond a gap may have had another timeout.
    assert_eq!(facts.of(Class::TimeWait), count(2, 0));
    assert_eq!(facts.of(Class::Udp), count(1, 0));
    assert_eq!(facts.of(Class::UdpStream), count(0, 0));
    assert_eq!((facts.expired, facts.held), (Some(1), Some(2)));
    let (space, ports) = facts.ports.expect("ports");
    assert_eq!((space.port, space.protocol, ports), (443, 6, 7));
    assert_eq!(
        space.to_string(),
        "from 192.0.2.1 to tcp port 443 of 198.51.100.7"
    );
}

#[test]
fn a_part_stands_for_the_whole() {
    let facts = CensusFacts {
        read: 1_000,
        counted: 4_000,
        whole: false,
        ..CensusFacts::default()
    };
    assert_eq!(facts.scaled(10), 40);
    let walk = EntryWalk {
        stopped: true,
        counts: [4_000; 2],
        ..EntryWalk::default()
    };
    let facts = Counter::new(&KernelSettings::default(), IdleBounds::default())
        .finish(&walk, &Charging::default());
    assert_eq!((facts.expired, facts.whole), (None, false));
}
