//! What is told at once of entries that are alike is what is told of each of them.

use std::collections::HashMap;

use conntrack_ebpf::owner::{Direction, FLAG_TAGGED, Party, TagKey};
use ctpressure_model::verdict::{KNOWN, Tunnel, TunnelKind};

use super::{super::alike::Tags, *};
use crate::kernel::entries::EntryWalk;

impl Tags for HashMap<TagKey, Party> {
    fn tag(&self, key: &TagKey) -> Option<Party> {
        self.get(key).copied()
    }
}

const ALL: [By; 13] = [
    By::Owner,
    By::Workload,
    By::Direction,
    By::Netns,
    By::Destination,
    By::Service,
    By::Source,
    By::Protocol,
    By::State,
    By::Age,
    By::Evictable,
    By::Nat,
    By::Zone,
];

/// Entries that differ in few ways, so that some are alike.
fn entries() -> impl Strategy<Value = Vec<(Inode, TableEntry)>> {
    let address = || {
        prop_oneof![
            Just("10.42.0.2"),
            Just("10.42.0.9"),
            Just("203.0.113.9"),
            Just("fd00::1")
        ]
    };
    let port = || prop_oneof![Just(53_u16), Just(51_820), Just(40_000), Just(40_001)];
    let tuple = move || {
        let layer4 = prop_oneof![
            (port(), port()).prop_map(|(source, destination)| Layer4::Ports {
                source,
                destination
            }),
            (0..2_u16).prop_map(|id| Layer4::Icmp {
                id,
                kind: 8,
                code: 0
            }),
            Just(Layer4::Addresses),
        ];
        (
            address(),
            address(),
            prop_oneof![Just(6_u8), Just(17), Just(1)],
            layer4,
        )
            .prop_map(|(source, destination, protocol, layer4)| EntryTuple {
                source: ip(source),
                destination: ip(destination),
                protocol,
                layer4,
            })
    };
    let state = prop_oneof![
        Just(EntryState::TIME_WAIT),
        Just(EntryState::Tcp(1)),
        Just(EntryState::Unreplied)
    ];
    let timeout = prop_oneof![Just(None), Just(Some(1)), Just(Some(100_000))];
    let entry = (
        tuple(),
        tuple(),
        any::<bool>(),
        0..4_u32,
        state,
        timeout,
        0..2_u16,
    );
    let entry = entry.prop_map(|(original, other, nat, status, state, timeout, zone)| {
        let layer4 = match original.layer4 {
            Layer4::Ports {
                source,
                destination,
            } => Layer4::Ports {
                source: destination,
                destination: source,
            },
            layer4 => layer4,
        };
        let answer = EntryTuple {
            source: original.destination,
            destination: original.source,
            layer4,
            ..original
        };
        TableEntry {
            original,
            reply: if nat { other } else { answer },
            zone,
            status: EntryStatus(status << 1),
            state,
            timeout,
            mark: 0,
            id: 0,
            start: None,
        }
    });
    proptest::collection::vec((prop_oneof![Just(NETNS), Just(7)], entry), 0..60)
}

proptest! {
    #[test]
    fn as_of_each_entry_alone(
        entries in entries(),
        ports in prop_oneof![Just(vec![]), Just(vec![40_001])],
        states in prop_oneof![Just(vec![]), Just(vec!["TIME_WAIT"])],
    ) {
        let owners = pods();
        let custom = Tunnel::of_port(TunnelKind::WireGuard, 40_000);
        let filter = Filter { ports, states, ..Filter::default() };
        let new = || {
            let groupings = ALL.iter().map(|by| vec![*by]).chain([ALL.to_vec()]);
            let census = Census::new(filter.clone(), groupings.collect(), &owners, NOW);
            (census, CompositionCount::new(&owners, &[custom, KNOWN[0]]))
        };
        let (mut one_census, mut one_makeup) = new();
        for (netns, entry) in &entries {
            let mut alike = AlikeEntries::new(&owners, NO_TAGS, one_makeup.tunnels());
            alike.add(*netns, entry, one_census.class(entry), |_| unreachable!());
            alike.tell(|alike| {
                assert_eq!(alike.entries, 1);
                one_census.add(alike);
                one_makeup.add(alike);
            });
        }
        let (mut census, mut makeup) = new();
        let mut alike = AlikeEntries::new(&owners, NO_TAGS, makeup.tunnels());
        for (netns, entry) in &entries {
            alike.add(*netns, entry, census.class(entry), |_| unreachable!());
        }
        alike.tell(|alike| {
            census.add(alike);
            makeup.add(alike);
        });
        prop_assert_eq!(census.summary(100), one_census.summary(100));
        let name = |slot: u32| Some(slot.to_string());
        let walk = EntryWalk::default();
        prop_assert_eq!(makeup.finish(&walk, name), one_makeup.finish(&walk, name));
    }
}

#[test]
fn one_client_has_one_kind_and_its_tags_are_told_apart() {
    let claim = Claim {
        slot: 4,
        base: 3,
        flags: FLAG_TAGGED,
    };
    let owners = Charging {
        maps: Arc::new(SlotMaps {
            addresses: [(Address::of(ip("10.42.0.2")), claim)].into(),
            ..SlotMaps::default()
        }),
        ..pods()
    };
    let entries = (0..6_u16).map(|number| udp(("10.42.0.2", 1_024 + number), ("203.0.113.9", 80)));
    let entries: Vec<_> = entries.collect();
    let party = Party::new(9, Direction::Egress);
    let tags: HashMap<TagKey, Party> = entries
        .iter()
        .take(4)
        .map(|entry| (charging::tag_key(NETNS, entry), party))
        .collect();
    let told = |tags| {
        let mut alike = AlikeEntries::new(&owners, tags, [].iter());
        for entry in &entries {
            alike.add(NETNS, entry, 0, |_| unreachable!());
        }
        let mut told = Vec::new();
        alike.tell(|alike| told.push((alike.charge.party, alike.charge.tag, alike.entries)));
        told
    };
    let base = Party::new(3, Direction::Egress);
    assert_eq!(
        told(Some(&tags)),
        [(party, TagSeen::Somebody, 4), (base, TagSeen::Missing, 2)]
    );
    assert_eq!(told(None), [(base, TagSeen::Missing, 6)]);
}

#[test]
fn all_are_told_when_there_is_no_room_for_another_kind() {
    let owners = Charging::default();
    let mut alike = AlikeEntries::new(&owners, NO_TAGS, [].iter());
    let mut told = Vec::new();
    let kinds = 10_000_u32;
    for number in (0..2 * kinds).map(|number| number / 2) {
        let mut entry = udp(("10.0.0.1", 1), ("10.0.0.2", 2));
        entry.original.source = std::net::Ipv4Addr::from_bits(number).into();
        alike.add(NETNS, &entry, 0, |alike| {
            told.push((alike.entry.original.source, alike.entries));
        });
    }
    assert!(told.len() > 4_000, "{}", told.len());
    alike.tell(|alike| told.push((alike.entry.original.source, alike.entries)));
    let expected = (0..kinds).map(|number| (std::net::Ipv4Addr::from_bits(number).into(), 2));
    assert_eq!(told, expected.collect::<Vec<_>>());
}
