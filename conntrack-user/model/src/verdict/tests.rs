//! Tables of made-up compositions.

use super::*;

mod reports;

fn part(name: &str, entries: u64) -> Part {
    Part {
        name: name.to_owned(),
        entries,
    }
}

fn flooded() -> Composition {
    Composition {
        entries: 1000,
        count: Some(1000),
        one_way: 800,
        source: Some(part("10.42.1.2", 790)),
        opener: Some(part("shop/aggregator", 790)),
        destination: Some(part("10.0.0.9:8125 udp", 780)),
        ..Composition::default()
    }
}

fn seen(composition: &Composition) -> Vec<String> {
    composition.verdicts().iter().map(Verdict::seen).collect()
}

#[test]
fn a_flood_has_one_sender_or_one_receiver_and_nobody_answers() {
    assert_eq!(
        seen(&flooded()),
        [
            "790 of 1,000 entries are one-way connections of shop/aggregator towards 10.0.0.9:8125 udp"
        ]
    );
    let outside = Composition {
        opener: None,
        source: Some(part("203.0.113.9", 790)),
        ..flooded()
    };
    assert!(seen(&outside)[0].contains("of 203.0.113.9 towards"));
    let spoofed = Composition {
        opener: None,
        source: Some(part("203.0.113.9", 3)),
        ..flooded()
    };
    assert!(seen(&spoofed)[0].ends_with("of many senders towards 10.0.0.9:8125 udp"));
    assert!(spoofed.verdicts()[0].advice().contains("notrack"));
    assert_eq!(spoofed.needed(), 220);
    let on_a_service = Composition {
        destination: Some(part("10.42.3.7:8080 tcp", 80)),
        service: Some(part("10.96.0.10:80 tcp", 700)),
        ..spoofed.clone()
    };
    assert!(seen(&on_a_service)[0].ends_with("of many senders towards 10.96.0.10:80 tcp"));
    let on_all_ports = Composition {
        destination: Some(part("198.51.100.7:17 udp", 2)),
        host: Some(part("198.51.100.7 udp", 790)),
        ..spoofed.clone()
    };
    assert!(seen(&on_all_ports)[0].ends_with("of many senders towards 198.51.100.7 udp"));
    let scattered = Composition {
        destination: Some(part("10.0.0.9:53 udp", 9)),
        ..spoofed
    };
    assert_eq!(scattered.verdicts(), []);
    let answered = Composition {
        one_way: 499,
        ..flooded()
    };
    assert_eq!(answered.verdicts(), []);
    assert_eq!(Composition::default().verdicts(), []);
}

#[test]
fn what_is_in_no_list_is_told_when_it_matters_and_no_flood_is_called_from_the_rest() {
    let table = |entries, count| Composition {
        entries,
        count,
        ..Composition::default()
    };
    assert_eq!(
        seen(&table(59, Some(990))),
        ["931 of 990 entries are in no list: packets that wait hold them"]
    );
    assert_eq!(table(750, Some(1000)).verdicts().len(), 1);
    assert_eq!(table(751, Some(1000)).verdicts(), []);
    assert_eq!(table(1000, Some(900)).verdicts(), []);
    assert_eq!(table(0, Some(0)).verdicts(), []);
    assert_eq!(table(0, None).verdicts(), [], "it can't be told");
    // The few that are listed are all of the one that loses its packets.
    let victim = Composition {
        one_way: 10,
        opener: Some(part("shop/web", 10)),
        ..table(10, Some(1_003))
    };
    let verdicts = victim.verdicts();
    assert_eq!(verdicts.len(), 1, "{verdicts:?}");
    assert_eq!(verdicts[0].kind, VerdictKind::Held);
    assert_eq!(victim.needed(), 10);
}

#[test]
fn an_overlay_and_the_flood_inside_of_it_are_two() {
    let overlay = |entries, ipv6| OverlayPart {
        tunnel: Tunnel::of_port(TunnelKind::Vxlan, 4789),
        ipv4: entries,
        ipv6,
    };
    let both = Composition {
        entries: 1_985,
        count: Some(1_985),
        overlays: vec![overlay(990, 0)],
        one_way: 990,
        opener: Some(part("shop/api", 990)),
        ..Composition::default()
    };
    let names: Vec<_> = both.verdicts().iter().map(Verdict::name).collect();
    assert_eq!(names, ["overlay", "flood"]);
    assert_eq!(both.needed(), 5);
    let advice = both.verdicts()[0].advice();
    assert!(
        advice.starts_with(
            "990 of 1,985 entries are outer packets of an overlay, VXLAN (UDP port 4789)"
        ),
        "{advice}"
    );
    // Answered connections inside: the overlay alone.
    let answered = Composition {
        one_way: 5,
        ..both.clone()
    };
    assert_eq!(answered.verdicts().len(), 1);
    let few = Composition {
        overlays: vec![overlay(200, 200)],
        one_way: 0,
        ..both
    };
    assert_eq!(few.verdicts(), []);
}

#[test]
fn verdicts_come_back_from_json() {
    for composition in [
        flooded(),
        Composition {
            count: Some(9_000),
            one_way: 0,
            overlays: vec![OverlayPart {
                tunnel: KNOWN[0],
                ipv4: 0,
                ipv6: 3_000,
            }],
            ..flooded()
        },
    ] {
        let verdicts = composition.verdicts();
        let json = serde_json::to_string(&verdicts).expect("JSON");
        assert_eq!(
            serde_json::from_str::<Vec<Verdict>>(&json).expect("verdicts"),
            verdicts
        );
    }
}

#[test]
fn an_empty_table_is_not_worth_it() {
    assert!(!is_worth_judging(499, 1000));
    assert!(is_worth_judging(500, 1000));
    assert!(!is_worth_judging(500, 0));
}
