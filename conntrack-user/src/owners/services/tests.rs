use std::{collections::BTreeSet, net::IpAddr};

use conntrack_ebpf::owner::{Claim, HOST};
use proptest::prelude::*;

use super::*;

const NETNS: u32 = 1;
const NODE: &str = "192.0.2.1";
const TCP: u8 = 6;

fn tuple(source: (&str, u16), destination: (&str, u16), protonum: u8) -> Tuple {
    let address = |text: &str| -> (Address, [u32; 4], u16) {
        let ip: IpAddr = text.parse().unwrap();
        let key = Address::of(ip);
        match ip {
            IpAddr::V4(_) => (key, [key.words[3], 0, 0, 0], 2),
            IpAddr::V6(_) => (key, key.words, 10),
        }
    };
    let (_, src, l3num) = address(source.0);
    Tuple {
        src,
        src_port: source.1.to_be(),
        l3num,
        dst: address(destination.0).1,
        dst_port: destination.1.to_be(),
        protonum,
        dir: 0,
    }
}

/// From outside to `asked`; `server` answers, and `slot` was charged.
fn sighting(asked: (&str, u16), server: (&str, u16), slot: u32) -> Sighting {
    let from = if server.0.contains(':') {
        "2001:db8::9"
    } else {
        "203.0.113.9"
    };
    let direction = if slot == UNKNOWN {
        Direction::Egress
    } else {
        Direction::Ingress
    };
    Sighting::of(
        &tuple((from, 40_000), asked, TCP),
        &tuple(server, (from, 40_000), TCP),
        NETNS,
        Party::new(slot, direction),
    )
    .expect("from outside")
}

fn service(address: &str, port: u16) -> Service {
    Service::asked(&tuple((address, 1), (address, port), TCP), NETNS)
}

fn maps(claims: &[(&str, u32)]) -> SlotMaps {
    let claim = |slot| Claim {
        slot,
        base: slot,
        ..Claim::default()
    };
    SlotMaps {
        addresses: claims
            .iter()
            .map(|(address, slot)| (Address::of(address.parse().unwrap()), claim(*slot)))
            .collect(),
        ..SlotMaps::default()
    }
}

fn pods() -> SlotMaps {
    maps(&[
        (NODE, HOST),
        ("10.0.0.2", 2),
        ("fd00::2", 2),
        ("10.0.0.3", 3),
    ])
}

fn told(services: &mut Services, maps: &SlotMaps, seconds: u64) -> Vec<(Service, u32)> {
    let told = services.told(maps, Duration::from_secs(seconds));
    let mut told: Vec<_> = told.into_iter().collect();
    told.sort_unstable();
    told
}

#[test]
fn one_owner_behind_it_is_told_when_enough_was_seen() {
    let mut services = Services::default();
    let web = (NODE, 8080);
    for _ in 1..ENOUGH {
        services.entered(&sighting(web, ("10.0.0.2", 80), 2));
    }
    assert_eq!(told(&mut services, &pods(), 1), []);
    services.entered(&sighting(web, ("10.0.0.2", 80), 2));
    let expected = [(service(NODE, 8080), 2)];
    assert_eq!(told(&mut services, &pods(), 2), expected);
    assert_eq!(services.counts(), ServiceCounts { seen: 1, told: 1 });
    // Other ports are other Services.
    services.found(&sighting((NODE, 8081), ("10.0.0.3", 80), 3), ENOUGH);
    assert_eq!(told(&mut services, &pods(), 3).len(), 2);
}

#[test]
fn several_owners_behind_it_are_not_guessed_at() {
    let mut services = Services::default();
    let asked = ("10.96.0.1", 80);
    services.found(&sighting(asked, ("10.0.0.2", 80), 2), 1000);
    assert_eq!(told(&mut services, &pods(), 1).len(), 1);
    // One entry is enough to doubt it, be it of a server elsewhere.
    for (server, slot) in [("10.0.0.3", 3), ("10.9.9.9", UNKNOWN)] {
        let mut services = Services::default();
        services.found(&sighting(asked, ("10.0.0.2", 80), 2), 1000);
        services.entered(&sighting(asked, (server, 80), slot));
        assert_eq!(told(&mut services, &pods(), 2), []);
        assert_eq!(services.counts(), ServiceCounts { seen: 1, told: 0 });
    }
    // Two addresses of one owner are one owner.
    let two = maps(&[("10.0.0.2", 2), ("10.0.0.4", 2)]);
    services.entered(&sighting(asked, ("10.0.0.4", 80), 2));
    assert_eq!(told(&mut services, &two, 3).len(), 1);
}

#[test]
fn what_leads_nowhere_else_is_no_service_but_casts_doubt_on_one() {
    let mut services = Services::default();
    let plain = sighting((NODE, 80), (NODE, 80), HOST);
    for _ in 0..ENOUGH {
        services.entered(&plain);
    }
    assert_eq!(told(&mut services, &pods(), 1), []);
    assert_eq!(services.counts().seen, 0);
    services.found(&sighting((NODE, 80), ("10.0.0.2", 80), 2), ENOUGH);
    assert_eq!(told(&mut services, &pods(), 2).len(), 1);
    services.entered(&plain);
    assert_eq!(told(&mut services, &pods(), 3), []);
}

#[test]
fn servers_elsewhere_are_nobodys() {
    let mut services = Services::default();
    services.found(&sighting((NODE, 30_080), ("10.9.9.9", 80), UNKNOWN), 50);
    let expected = [(service(NODE, 30_080), UNKNOWN)];
    assert_eq!(told(&mut services, &pods(), 1), expected);
    // It was a pod of this node, and is only now known.
    let mut known = pods();
    known.addresses.extend(maps(&[("10.9.9.9", 4)]).addresses);
    assert_eq!(told(&mut services, &known, 2), []);
    assert_eq!(services.counts().seen, 0);
}

#[test]
fn an_address_that_changes_hands_takes_it_away() {
    let mut services = Services::default();
    services.found(&sighting((NODE, 8080), ("10.0.0.2", 80), 2), 50);
    assert_eq!(told(&mut services, &pods(), 1).len(), 1);
    // Nobody has it, another one has it, and the slot is given to somebody with another address.
    for later in [&[(NODE, HOST)][..], &[("10.0.0.2", 5)], &[("10.0.0.7", 2)]] {
        let mut services = Services::default();
        services.found(&sighting((NODE, 8080), ("10.0.0.2", 80), 2), 50);
        assert_eq!(told(&mut services, &maps(later), 1), []);
        // Nor does it come back.
        assert_eq!(told(&mut services, &pods(), 2), []);
    }
}

#[test]
fn it_is_forgotten_when_nothing_more_is_seen() {
    let mut services = Services::default();
    let seen = sighting((NODE, 8080), ("10.0.0.2", 80), 2);
    services.found(&seen, 50);
    let fading = FADING.as_secs();
    assert_eq!(told(&mut services, &pods(), fading - 1).len(), 1);
    services.entered(&seen);
    assert_eq!(told(&mut services, &pods(), 2 * fading - 2).len(), 1);
    assert_eq!(told(&mut services, &pods(), 2 * fading - 1), []);
    assert_eq!(services.counts().seen, 0);
}

#[test]
fn the_last_of_several_is_not_taken_for_all_of_them() {
    let mut services = Services::default();
    let gone = sighting((NODE, 8080), ("10.0.0.2", 80), 2);
    let left = sighting((NODE, 8080), ("10.0.0.3", 80), 3);
    services.found(&gone, 50);
    services.found(&left, 50);
    assert_eq!(told(&mut services, &pods(), 1), []);
    // One of two pods is gone: another one takes its place, of which nothing is known yet.
    let later = maps(&[("10.0.0.3", 3)]);
    let fading = FADING.as_secs();
    assert_eq!(told(&mut services, &later, 2), []);
    services.found(&left, 50);
    assert_eq!(told(&mut services, &later, fading), []);
    // None came.
    let expected = [(service(NODE, 8080), 3)];
    assert_eq!(told(&mut services, &later, fading + 1), expected);
}

#[test]
fn a_census_that_sees_the_same_entries_again_adds_nothing() {
    let mut services = Services::default();
    let seen = sighting((NODE, 8080), ("10.0.0.2", 80), 2);
    services.entered(&seen);
    for second in 0..20 {
        services.found(&seen, ENOUGH - 1);
        assert_eq!(told(&mut services, &pods(), second), []);
    }
    services.found(&seen, ENOUGH);
    assert_eq!(told(&mut services, &pods(), 21).len(), 1);
}

#[test]
fn only_entries_from_outside_with_ports_tell_something() {
    let original = |protocol| tuple(("10.0.0.3", 1), (NODE, 8080), protocol);
    let reply = |protocol| tuple(("10.0.0.2", 80), ("10.0.0.3", 1), protocol);
    let of = |protocol, party| Sighting::of(&original(protocol), &reply(protocol), NETNS, party);
    let ingress = Party::new(2, Direction::Ingress);
    assert!(of(17, ingress).is_some());
    assert!(of(TCP, Party::new(UNKNOWN, Direction::Egress)).is_some());
    assert_eq!(of(TCP, Party::new(3, Direction::Egress)), None);
    for protocol in [1, 47, 58] {
        assert_eq!(of(protocol, ingress), None);
    }
}

#[test]
fn the_programs_ask_for_what_was_learned() {
    // As `of_packet` makes its key: from the tuple of a packet from somewhere else.
    for (node, server, client) in [
        (NODE, "10.0.0.2", "198.51.100.7"),
        ("2001:db8::1", "fd00::2", "2001:db8::77"),
    ] {
        let mut services = Services::default();
        services.found(&sighting((node, 8080), (server, 80), 2), ENOUGH);
        let told = services.told(&pods(), Duration::ZERO);
        let packet = tuple((client, 55_555), (node, 8080), TCP);
        assert_eq!(told.get(&Service::asked(&packet, NETNS)), Some(&2));
        assert_eq!(told.get(&Service::asked(&packet, NETNS + 1)), None);
    }
}

#[test]
fn memory_is_bounded_and_what_is_in_use_stays() {
    let mut services = Services::default();
    let maps = pods();
    let used = sighting(("10.96.0.1", 80), ("10.0.0.2", 80), 2);
    services.found(&used, ENOUGH);
    for second in 0..20 {
        for port in 0..1000 {
            let asked = ("10.96.0.2", second * 1000 + port);
            services.entered(&sighting(asked, ("10.0.0.3", 80), 3));
        }
        services.entered(&used);
        assert!(services.known.len() <= MOST);
        let told = told(&mut services, &maps, u64::from(second) + 1);
        assert!(told.len() <= MOST);
        assert_eq!(told, [(service("10.96.0.1", 80), 2)]);
    }
    // One address behind which there is a whole network.
    let mut crowd = Services::default();
    crowd.found(&used, 50);
    for n in 0..200 {
        let server = format!("10.9.9.{n}");
        crowd.entered(&sighting(("10.96.0.1", 80), (&server, 80), UNKNOWN));
    }
    assert_eq!(
        crowd.known.values().next().unwrap().servers.len(),
        MOST_SERVERS
    );
    assert_eq!(told(&mut crowd, &maps, 1), []);
}

proptest! {
    /// Whoever is told was charged for everything that was seen of the Service while its servers
    /// were who they are.
    #[test]
    fn nobody_is_told_who_is_not_the_only_one(
        seen in proptest::collection::vec((0..3_u16, 0..12_u8, 1..20_u32), 0..200),
        slots in proptest::collection::vec(0..6_u32, 12),
        forwarded in 0..12_u8,
    ) {
        let address = |server: u8| format!("10.0.0.{server}");
        let slot_of = |server: u8| slots[usize::from(server)];
        let claims: Vec<_> = (0..12_u8).map(|server| (address(server), slot_of(server))).collect();
        let claims: Vec<_> = claims.iter().map(|(at, slot)| (at.as_str(), *slot)).collect();
        let maps = maps(&claims);
        let mut services = Services::default();
        let mut truth: HashMap<Service, BTreeSet<u32>> = HashMap::new();
        for (port, server, entries) in seen {
            let at = address(server);
            services.found(&sighting((NODE, port), (&at, 80), slot_of(server)), entries);
            truth.entry(service(NODE, port)).or_default().insert(slot_of(server));
        }
        let told = services.told(&maps, Duration::from_secs(1));
        for (service, slot) in &told {
            prop_assert_eq!(&truth[service], &BTreeSet::from([*slot]));
        }
        // One server's address is another one's now: what was shared stays so for a while.
        let mut moved = maps;
        let at = Address::of(address(forwarded).parse().unwrap());
        moved.addresses.insert(at, Claim { slot: 99, base: 99, ..Claim::default() });
        for (service, slot) in services.told(&moved, Duration::from_secs(2)) {
            prop_assert_eq!(&truth[&service], &BTreeSet::from([slot]));
        }
    }
}
