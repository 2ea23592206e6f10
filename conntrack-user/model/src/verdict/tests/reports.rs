//! What people pasted into public reports, as compositions: each asked why its table is full, and needed to be told what it is full of.
//! Numbers are theirs, names are ours.

use super::*;

const VXLAN: Tunnel = Tunnel::of_port(TunnelKind::Vxlan, 4789);

/// What was listed and counted.
fn listed(entries: u64, count: u64) -> Composition {
    Composition {
        entries,
        count: Some(count),
        ..Composition::default()
    }
}

/// Calico between nodes by VXLAN, tens of thousands of connections a node: 59,258 of 129,605 entries, at a limit of 131,072, are UNREPLIED
/// UDP to port 4789. They needed the rules that exempt it; a higher limit they had thought of themselves.
/// <https://github.com/projectcalico/calico/issues/8934>
#[test]
fn nearly_half_of_a_node_is_vxlan() {
    let table = Composition {
        overlays: vec![OverlayPart {
            tunnel: VXLAN,
            ipv4: 59_258,
            ipv6: 0,
        }],
        one_way: 4,
        ..listed(129_605, 129_605)
    };
    assert!(is_worth_judging(table.counted(), 131_072));
    let verdicts = table.verdicts();
    assert_eq!(verdicts.len(), 1, "{verdicts:?}");
    assert_eq!(
        verdicts[0].seen(),
        "59,258 of 129,605 entries are outer packets of an overlay, VXLAN (UDP port 4789)"
    );
    assert_eq!(verdicts[0].share(), "45 %");
    // What the node needs fits into half of what it has.
    assert_eq!(table.needed(), 70_347);
}

/// Peer pods: every packet of both directions goes to port 4789 from a port of its own, so each node has the flows of both as new ones. They
/// needed one rule for what comes in and one for what goes out. <https://github.com/confidential-containers/cloud-api-adaptor/issues/2015>
#[test]
fn both_directions_of_a_tunnel_go_to_its_port() {
    for (source, destination) in [(34_196, 4789), (46_394, 4789), (52_605, 4789)] {
        assert!(VXLAN.carries(17, Some((source, destination))));
    }
    let rules = VXLAN.iptables(true, false);
    let chains: Vec<_> = rules
        .iter()
        .filter_map(|rule| rule.split(' ').nth(4))
        .collect();
    assert_eq!(chains, ["PREROUTING", "OUTPUT"]);
}

/// Antrea's tunnels are Geneve; its people came to these two chains, too. <https://github.com/antrea-io/antrea/issues/1133>
#[test]
fn geneve_is_exempted_in_the_same_chains() {
    let geneve = KNOWN.iter().find(|known| known.port == Some(6081));
    let rules = geneve.expect("a known one").iptables(true, false);
    assert_eq!(
        rules,
        [
            "iptables -t raw -I PREROUTING -p udp --dport 6081 -j CT --notrack",
            "iptables -t raw -I OUTPUT -p udp --dport 6081 -j CT --notrack",
        ]
    );
}

/// A check went off at 57 % of 262,144, while all but 8,862 of 151,335 entries were UNREPLIED and would make room by themselves. They needed
/// to know how many are in use. <https://github.com/simondeziel/custom-nagios-plugins/issues/6>
#[test]
fn what_makes_room_by_itself_is_not_in_use() {
    let table = Composition {
        one_way: 142_473,
        destination: Some(part("192.0.2.53:53 udp", 142_000)),
        ..listed(151_335, 151_335)
    };
    assert_eq!(
        seen(&table),
        [
            "142,000 of 151,335 entries are one-way connections of many senders towards 192.0.2.53:53 udp"
        ]
    );
    assert_eq!(table.needed(), 9_335);
}

/// One container ran masscan at 15,000 a second over the whole internet and filled 262,144 entries with `SYN_SENT`. Whoever runs the host needed
/// to know which container. <https://github.com/hackerschoice/segfault/issues/50>
#[test]
fn a_scan_has_one_sender_and_no_receiver_in_common() {
    let table = Composition {
        one_way: 261_000,
        opener: Some(part("guest-17", 260_800)),
        source: Some(part("10.11.0.17", 260_800)),
        destination: Some(part("198.51.100.1:80 tcp", 2)),
        ..listed(262_144, 262_144)
    };
    assert_eq!(
        seen(&table),
        ["260,800 of 262,144 entries are one-way connections of guest-17"]
    );
}

/// A limit of 524,288, "table full" in the log, and 1,959 entries in the list. They were asked for the list, which says nothing: they needed to
/// be told that the rest is in none. <https://github.com/NordSecurity/nordvpn-linux/issues/36>
#[test]
fn a_full_table_with_two_thousand_in_the_list() {
    let table = Composition {
        one_way: 1_500,
        opener: Some(part("wifi", 1_500)),
        ..listed(1_959, 524_288)
    };
    let verdicts = table.verdicts();
    assert_eq!(verdicts.len(), 1, "{verdicts:?}");
    assert_eq!(verdicts[0].kind, VerdictKind::Held);
    assert_eq!(
        verdicts[0].seen(),
        "522,329 of 524,288 entries are in no list: packets that wait hold them"
    );
    assert!(!verdicts[0].advice().contains("wifi"));
}

/// A module of a third party kept references: after a scan over 65,535 ports the count fell to about 12,500 and no further, while timeouts
/// were short. They needed to know that no timeout helps. <https://github.com/Chion82/netfilter-full-cone-nat/issues/7>
#[test]
fn a_module_that_leaks_references() {
    let verdicts = listed(300, 12_500).verdicts();
    assert_eq!(verdicts[0].entries, 12_200);
    let advice = verdicts[0].advice();
    assert!(advice.contains("until it boots again"), "{advice}");
    assert!(!advice.contains("timeout"), "{advice}");
}

/// Linux 4.2 let the count wrap around, so that every packet was one too many on an empty table.
/// <https://github.com/openzfs/zfs/issues/3748>
#[test]
fn a_count_that_wrapped_around_is_nobodys() {
    let table = listed(12, u64::from(u32::MAX));
    assert_eq!(table.verdicts()[0].kind, VerdictKind::Held);
    assert_eq!(table.needed(), 12);
}
