//! What made-up tables are made of, and what is judged by that.

use ctpressure_model::verdict::{Composition, KNOWN, Tunnel, TunnelKind, Verdict};

use super::*;
use crate::kernel::entries::EntryWalk;

fn gather(owners: &Charging, count: &mut CompositionCount<'_>, entries: &[TableEntry]) {
    let mut alike = AlikeEntries::new(owners, NO_TAGS, count.tunnels());
    for entry in entries {
        alike.add(NETNS, entry, 0, |alike| count.add(alike));
    }
    alike.tell(|alike| count.add(alike));
}

/// Of these entries, where the kernel counts so many more.
fn composition(entries: &[TableEntry], tunnels: &[Tunnel], held: u64) -> Composition {
    let owners = pods();
    let mut count = CompositionCount::new(&owners, tunnels);
    gather(&owners, &mut count, entries);
    let listed = entries.len() as u64;
    let walk = EntryWalk {
        entries: listed,
        counts: [listed + held; 2],
        ..EntryWalk::default()
    };
    count.finish(&walk, |slot| owners.names.get(&slot).cloned())
}

fn seen(composition: &Composition) -> Vec<String> {
    composition.verdicts().iter().map(Verdict::seen).collect()
}

#[test]
fn outer_flows_are_counted_apart_by_the_ports_that_are_known_and_those_of_the_node() {
    let outer =
        |port| (0..10).map(move |number| udp(("192.0.2.1", 30_000 + number), ("192.0.2.2", port)));
    let mut entries: Vec<_> = outer(4_799).chain(outer(8_472)).collect();
    entries.extend((0..20).map(|number| udp(("10.42.0.2", 1_024 + number), ("10.42.0.9", 53))));
    let custom = Tunnel::of_port(TunnelKind::Geneve, 4_799);
    let found = composition(&entries, &[custom], 0);
    let tunnels: Vec<_> = found
        .overlays
        .iter()
        .map(|part| (part.tunnel, part.ipv4))
        .collect();
    assert_eq!(tunnels, [(custom, 10), (KNOWN[1], 10)]);
    assert_eq!(found.one_way, 20);
    assert_eq!(seen(&found).len(), 3, "{found:?}");
    // Nobody knows what is on that port.
    assert_eq!(composition(&entries, &[], 0).overlays.len(), 1);
}

/// Nodes speak to each other from their own addresses and without NAT: exempted from tracking, a pod's tunnel would break.
#[test]
fn what_a_pod_sends_to_such_a_port_is_no_overlay() {
    let of_pod: Vec<_> = (0..50)
        .map(|number| udp(("10.42.0.2", 1_024 + number), ("203.0.113.9", 8_472)))
        .collect();
    let found = composition(&of_pod, &[], 0);
    assert_eq!(found.overlays, []);
    assert_eq!(
        seen(&found),
        ["50 of 50 entries are one-way connections of default/pod-2 towards 203.0.113.9:8472 udp"]
    );
    let published: Vec<_> = (0..50)
        .map(|number| TableEntry {
            reply: tuple(17, ("172.17.0.2", 51_820), ("203.0.113.9", 30_000 + number)),
            ..udp(("203.0.113.9", 30_000 + number), ("192.0.2.1", 51_820))
        })
        .collect();
    assert_eq!(composition(&published, &[], 0).overlays, []);
}

/// Of a million entries the doctor reads as many as there is time for.
#[test]
fn a_part_of_a_table_stands_for_all_of_it() {
    let owners = pods();
    let mut count = CompositionCount::new(&owners, &[]);
    let entries: Vec<_> = (0..100)
        .map(|number| udp(("10.42.0.2", 1_024 + number), ("203.0.113.9", 80)))
        .collect();
    gather(&owners, &mut count, &entries);
    let walk = EntryWalk {
        entries: 100,
        stopped: true,
        counts: [999_000, 1_000_000],
        ..EntryWalk::default()
    };
    let found = count.finish(&walk, |slot| owners.names.get(&slot).cloned());
    assert_eq!(
        seen(&found),
        [
            "1,000,000 of 1,000,000 entries are one-way connections of default/pod-2 towards 203.0.113.9:80 udp"
        ]
    );
    assert_eq!((found.counted(), found.needed()), (1_000_000, 0));
}

#[test]
fn a_flood_by_its_pod_its_service_or_its_host() {
    let of_pod: Vec<_> = (0..50_u8)
        .map(|number| udp(("10.42.0.2", 1_024), (&format!("198.51.100.{number}"), 80)))
        .collect();
    assert_eq!(
        seen(&composition(&of_pod, &[], 0)),
        ["50 of 50 entries are one-way connections of default/pod-2"]
    );
    // SYNs from everywhere to a Service, whose servers share them.
    let to_service: Vec<_> = (0..50_u8)
        .map(|number| {
            let (client, server) = (
                format!("203.0.113.{number}"),
                format!("10.42.7.{}", number % 9),
            );
            TableEntry {
                status: EntryStatus(0),
                state: EntryState::Tcp(1),
                reply: tuple(6, (&server, 8_443), ("192.0.2.7", 61_000)),
                ..service(&client, 5_000)
            }
        })
        .collect();
    assert_eq!(
        seen(&composition(&to_service, &[], 0)),
        ["50 of 50 entries are one-way connections of many senders towards 10.96.0.1:443 tcp"]
    );
    let to_all_ports: Vec<_> = (0..50_u8)
        .map(|number| {
            let client = format!("203.0.113.{number}");
            udp((&client, 9), ("10.42.7.7", 1_000 + u16::from(number)))
        })
        .collect();
    assert_eq!(
        seen(&composition(&to_all_ports, &[], 0)),
        ["50 of 50 entries are one-way connections of many senders towards 10.42.7.7 udp"]
    );
}

/// Case 23 of operators: half-seen connections are ESTABLISHED, and nobody answers.
#[test]
fn one_way_is_what_nobody_answers_whatever_its_state_is_called() {
    let half_seen: Vec<_> = (0..40)
        .map(|number| TableEntry {
            status: EntryStatus(1 << 3),
            state: EntryState::Tcp(3),
            original: tuple(6, ("10.42.0.2", 2_000 + number), ("203.0.113.9", 60_440)),
            reply: tuple(6, ("203.0.113.9", 60_440), ("10.42.0.2", 2_000 + number)),
            ..udp(("10.42.0.2", 1), ("203.0.113.9", 1))
        })
        .collect();
    assert_eq!(
        seen(&composition(&half_seen, &[], 0)),
        ["40 of 40 entries are one-way connections of default/pod-2 towards 203.0.113.9:60440 tcp"]
    );
    let answered: Vec<_> = (0..40)
        .map(|number| service("10.42.0.4", 5_000 + number))
        .collect();
    assert_eq!(composition(&answered, &[], 0).verdicts(), []);
}

/// Case 12 of operators: ten entries of the victim are listed, the kernel counts 1,003.
#[test]
fn no_flood_is_called_from_a_listing_that_is_far_below_the_count() {
    let victim: Vec<_> = (0..10)
        .map(|number| udp(("10.42.0.2", 1_024 + number), ("10.96.0.10", 53)))
        .collect();
    assert_eq!(
        seen(&composition(&victim, &[], 993)),
        ["993 of 1,003 entries are in no list: packets that wait hold them"]
    );
}
