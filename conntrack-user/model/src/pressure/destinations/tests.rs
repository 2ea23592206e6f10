use std::collections::HashMap;

use conntrack_ebpf::record::View;
use proptest::prelude::*;

use super::*;
use crate::tests::{
    sample::{self, tuple_v4, tuple_v6},
    series::Random,
};

const CLIENT: ([u8; 4], u16) = ([10, 42, 0, 7], 40_000);

fn egress(slot: u32) -> Party {
    Party::new(slot, Direction::Egress)
}

/// A connection without NAT to the last part of an address.
fn direct(last: u16, port: u16) -> (Tuple, Tuple) {
    let [high, low] = last.to_be_bytes();
    let server = ([10, 1, high, low], port);
    (tuple_v4(6, CLIENT, server), tuple_v4(6, server, CLIENT))
}

#[test]
fn real_destinations_and_service_addresses_are_told_apart() {
    let mut destinations = Destinations::default();
    let original = tuple_v4(6, CLIENT, ([10, 96, 0, 1], 443));
    for (server, weight) in [(1, 30), (2, 10)] {
        let reply = tuple_v4(6, ([10, 42, 1, server], 6443), CLIENT);
        for _ in 0..weight {
            destinations.insert(egress(5), &original, &reply);
        }
    }
    let (plain, reply) = direct(9, 80);
    for _ in 0..60 {
        destinations.insert(egress(5), &plain, &reply);
    }
    let top = destinations.top(egress(5), What::Inserts, 10);
    let rows: Vec<_> = top
        .destinations
        .iter()
        .map(|row| {
            (
                row.address.to_string(),
                row.port,
                row.protocol.as_str(),
                row.count,
            )
        })
        .collect();
    assert_eq!(
        rows,
        [
            ("10.1.0.9".to_owned(), Some(80), "tcp", 60.0),
            ("10.42.1.1".to_owned(), Some(6443), "tcp", 30.0),
            ("10.42.1.2".to_owned(), Some(6443), "tcp", 10.0),
        ]
    );
    assert!((top.destinations[1].share - 0.3).abs() < 1e-9);
    assert!((top.total - 100.0).abs() < 1e-9 && top.others_at_most.abs() < 1e-9);
    let service = destinations.top(egress(5), What::ServiceInserts, 10);
    assert_eq!(service.destinations.len(), 1);
    assert_eq!(service.destinations[0].address.to_string(), "10.96.0.1");
    assert!((service.destinations[0].count - 40.0).abs() < 1e-9);
    // Neither the other direction nor another owner has any of it.
    for other in [Party::new(5, Direction::Ingress), egress(6), egress(70_000)] {
        assert_eq!(destinations.top(other, What::Inserts, 10), Top::default());
    }
}

#[test]
fn records_of_all_protocols_make_keys() {
    let mut destinations = Destinations::default();
    let View::Drop(icmp) = sample::icmpv6_drop() else {
        panic!("not a drop")
    };
    for _ in 0..3 {
        destinations.dropped(egress(2), &icmp.original);
    }
    let other_id = tuple_v6(
        58,
        ([0xfd00, 0, 0, 0, 0, 0, 0, 1], 8),
        ([0xfd00, 0, 0, 0, 0, 0, 0, 2], 0),
    );
    destinations.dropped(egress(2), &other_id);
    let top = destinations.top(egress(2), What::Drops, 10);
    assert_eq!(top.destinations.len(), 1, "an ICMP id is no destination");
    let json = serde_json::to_value(&top).expect("JSON");
    let row = &json["destinations"][0];
    assert_eq!(row["address"], "fd00::2");
    assert_eq!(row["protocol"], "icmpv6");
    assert_eq!(row["count"], 4.0);
    assert_eq!(row.get("port"), None);
}

#[test]
fn the_same_octets_in_v4_and_v6_are_two_destinations() {
    let mut destinations = Destinations::default();
    let v4 = tuple_v4(17, CLIENT, ([1, 2, 3, 4], 53));
    let mapped = tuple_v6(
        17,
        ([0; 8], 1),
        ([0, 0, 0, 0, 0, 0xffff, 0x0102, 0x0304], 53),
    );
    destinations.dropped(egress(2), &v4);
    destinations.dropped(egress(2), &mapped);
    let top = destinations.top(egress(2), What::Drops, 10);
    let mut addresses: Vec<_> = top
        .destinations
        .iter()
        .map(|row| row.address.to_string())
        .collect();
    addresses.sort();
    assert_eq!(addresses, ["1.2.3.4", "::ffff:1.2.3.4"]);
}

#[test]
fn counts_fade_and_rates_are_those_of_the_events() {
    let mut destinations = Destinations::default();
    let (old, old_reply) = direct(1, 80);
    let (new, new_reply) = direct(2, 80);
    let told = |destinations: &Destinations| {
        let top = destinations.top(egress(3), What::Inserts, 2);
        let of = |address: &str| {
            top.destinations
                .iter()
                .find(|row| row.address.to_string() == address)
                .map_or(0.0, |row| row.per_second)
        };
        (of("10.1.0.1"), of("10.1.0.2"))
    };
    for second in 0..400 {
        destinations.advance(Duration::from_secs(second));
        match second {
            5 | 30 | 199 => {
                let (rate, _) = told(&destinations);
                assert!((rate - 100.0).abs() < 20.0, "{rate} after {second} s");
            }
            203 => {
                let (before, now) = told(&destinations);
                assert!(now > 2.0 && now < before, "{now} and {before}");
            }
            260 => {
                let (before, now) = told(&destinations);
                assert!(now > 5.0 * before, "{now} and {before}");
            }
            _ => {}
        }
        if second < 200 {
            (0..100).for_each(|_| destinations.insert(egress(3), &old, &old_reply));
        } else if second < 300 {
            (0..100).for_each(|_| destinations.insert(egress(3), &new, &new_reply));
        }
    }
    assert!(destinations.bytes() > 0);
    destinations.advance(Duration::from_secs(1000));
    assert_eq!(
        destinations.top(egress(3), What::Inserts, 2),
        Top::default()
    );
    let empty = destinations.owners.iter().all(Option::is_none);
    assert!(empty && destinations.bytes == 0, "memory is kept");
}

#[test]
fn a_slot_given_to_another_owner_begins_anew() {
    let mut destinations = Destinations::default();
    let (original, reply) = direct(1, 80);
    destinations.insert(egress(3), &original, &reply);
    destinations.insert(Party::new(3, Direction::Ingress), &original, &reply);
    destinations.insert(egress(4), &original, &reply);
    destinations.forget(3);
    destinations.forget(60_000);
    assert_eq!(
        destinations.top(egress(3), What::Inserts, 1),
        Top::default()
    );
    assert!((destinations.top(egress(4), What::Inserts, 1).total - 1.0).abs() < 1e-9);
}

#[test]
fn a_thousand_busy_owners_fit_into_four_mebibytes() {
    let mut destinations = Destinations::default();
    let mut random = Random::new(1);
    let mut owner_of = || u32::try_from(random.below(1024)).unwrap_or(0);
    for round in 0..1024 * 200 {
        let last = u16::try_from(round % 5003).unwrap_or(0);
        let (original, reply) = direct(last, 80);
        destinations.insert(egress(owner_of()), &original, &reply);
    }
    println!(
        "1024 owners with {} destinations each: {} bytes",
        COUNTERS[0],
        destinations.bytes()
    );
    assert!(destinations.bytes() <= BYTES);
    let kept = |destinations: &Destinations| destinations.owners.iter().flatten().count();
    assert_eq!(kept(&destinations), 1024);
    // Both directions, Services and drops of all of them do not: the quiet ones go.
    for slot in 0..1024 {
        destinations.advance(Duration::from_millis(u64::from(slot)));
        for last in 0..40 {
            let (original, _) = direct(last, 80);
            let (_, reply) = direct(last, 8080);
            for party in [egress(slot), Party::new(slot, Direction::Ingress)] {
                destinations.insert(party, &original, &reply);
                destinations.dropped(party, &original);
            }
        }
        assert!(
            destinations.bytes() <= BYTES,
            "{} bytes",
            destinations.bytes()
        );
    }
    println!(
        "with everything: {} bytes, {} kept",
        destinations.bytes(),
        kept(&destinations)
    );
    assert!(kept(&destinations) < 2048);
    let counted: usize = destinations
        .owners
        .iter()
        .flatten()
        .map(|owner| owner.bytes())
        .sum();
    assert_eq!(counted, destinations.bytes);
    let last = destinations.top(egress(1023), What::Inserts, 40);
    assert_eq!(
        last.destinations.len(),
        32,
        "the busiest of all was forgotten"
    );
}

#[test]
fn memory_for_less_than_one_owner_keeps_the_newest() {
    let mut destinations = Destinations::new(0);
    for slot in [7, 9] {
        let (original, reply) = direct(1, 80);
        destinations.insert(egress(slot), &original, &reply);
    }
    assert_eq!(destinations.owners.iter().flatten().count(), 1);
    assert!(destinations.top(egress(9), What::Inserts, 1).total > 0.0);
}

proptest! {
    /// Without fading, whatever comes: true counts are within the bounds, and nothing heavier than
    /// `others_at_most` is missing.
    #[test]
    fn rows_hold_what_they_promise(
        events in proptest::collection::vec((0_u32..3, 0_u16..100, 1_u32..50), 1..600),
        count in 1_usize..40,
    ) {
        let mut destinations = Destinations::default();
        let mut exact: HashMap<(u32, IpAddr), f64> = HashMap::new();
        for (slot, last, weight) in &events {
            let (original, reply) = direct(*last, 80);
            for _ in 0..*weight {
                destinations.insert(egress(*slot), &original, &reply);
            }
            *exact.entry((*slot, Key::real(&reply).ip())).or_default() += f64::from(*weight);
        }
        for slot in 0..3 {
            let top = destinations.top(egress(slot), What::Inserts, count);
            prop_assert!(top.destinations.windows(2).all(|pair| pair[0].count >= pair[1].count));
            let mut missing: HashMap<_, _> = exact
                .iter()
                .filter(|((owner, _), _)| *owner == slot)
                .map(|((_, address), truth)| (*address, *truth))
                .collect();
            let total: f64 = missing.values().sum();
            prop_assert!((top.total - total).abs() < 1e-6);
            for row in &top.destinations {
                let truth = missing.remove(&row.address).unwrap_or(0.0);
                prop_assert!(truth <= row.count + 1e-6 && truth >= row.count - row.error - 1e-6);
            }
            for truth in missing.values() {
                prop_assert!(*truth <= top.others_at_most + 1e-6);
            }
        }
    }
}

#[test]
fn a_quiet_owner_beside_a_busy_one_has_its_own_counts() {
    let mut destinations = Destinations::default();
    let (original, reply) = direct(1, 80);
    let (other, other_reply) = direct(2, 80);
    for second in 0..=60_u64 {
        destinations.advance(Duration::from_secs(second));
        for (slot, per_second) in [(3, 10), (4, 50_000)] {
            destinations.settle(slot, [per_second * second, 0], [50_010, 0]);
        }
        // The busy one leaves the quiet one a record in every other second.
        if second % 2 == 0 {
            destinations.insert(egress(3), &original, &reply);
        }
        (0..100).for_each(|_| destinations.insert(egress(4), &other, &other_reply));
    }
    for (slot, per_second) in [(3, 10.0), (4, 50_000.0)] {
        let top = destinations.top(egress(slot), What::Inserts, 5);
        let row = &top.destinations[0];
        let off = row.per_second / per_second;
        assert!((0.85..1.15).contains(&off), "{slot}: {row:?}");
        assert!(
            row.error > 0.5 * row.count,
            "most of it was not seen: {row:?}"
        );
        assert!((row.count - top.total).abs() < 1e-6);
    }
}

#[test]
fn records_that_are_read_late_are_no_error() {
    let mut destinations = Destinations::default();
    let (original, reply) = direct(1, 80);
    for second in 0..90_u64 {
        destinations.advance(Duration::from_secs(second));
        // Of each hundred the last ten are read after the counters.
        destinations.settle(3, [100 * second, 0], [100, 0]);
        let records = if second == 0 { 90 } else { 100 };
        (0..records).for_each(|_| destinations.insert(egress(3), &original, &reply));
    }
    let top = destinations.top(egress(3), What::Inserts, 5);
    assert!(top.destinations[0].error.abs() < 1e-9, "{top:?}");
}

#[test]
fn counters_that_were_taken_over_are_no_growth() {
    let mut destinations = Destinations::default();
    let (original, reply) = direct(1, 80);
    for second in 0..10_u64 {
        destinations.advance(Duration::from_secs(second));
        let inherited = if second > 5 { 1_000_000 } else { 0 };
        destinations.settle(3, [second + inherited, 0], [5, 0]);
        destinations.insert(egress(3), &original, &reply);
    }
    let top = destinations.top(egress(3), What::Inserts, 5);
    assert!(top.total < 16.0, "{top:?}");
}

proptest! {
    /// Several owners at any rates share a budget of records. The true count of each destination is at least its count less its
    /// error; with all that an owner did its counts come to its exact counter.
    #[test]
    fn sampled_rows_hold_what_they_promise(
        seconds in proptest::collection::vec(
            proptest::collection::vec((0_u32..4, 0_u16..50, 1_u32..400), 0..6),
            1..40,
        ),
        budget in 1_u32..300,
        one_in in 1_u32..100,
    ) {
        let mut destinations = Destinations::default();
        let mut counted = [0_u64; 4];
        // True counts by owner and destination, faded as the sketches fade.
        let mut exact: HashMap<(u32, IpAddr), f64> = HashMap::new();
        let mut faded = [0.0; 4];
        let fade = (-1.0 / FADING.as_secs_f64()).exp();
        // Three seconds in which nothing comes: all has been told.
        let quiet = vec![Vec::new(); 3];
        let length = seconds.len();
        for (second, events) in seconds.into_iter().chain(quiet).enumerate() {
            destinations.advance(Duration::from_secs(second as u64));
            let (mut left, mut skipped) = (budget, 0);
            let grown: u64 = events.iter().map(|(.., number)| u64::from(*number)).sum();
            for (slot, last, number) in events {
                let (original, reply) = direct(last, 80);
                counted[slot as usize] += u64::from(number);
                faded[slot as usize] += f64::from(number);
                *exact.entry((slot, Key::real(&reply).ip())).or_default() += f64::from(number);
                for _ in 0..number {
                    skipped += 1;
                    if left == 0 && skipped < one_in {
                        continue;
                    }
                    left = left.saturating_sub(1);
                    skipped = 0;
                    destinations.insert(egress(slot), &original, &reply);
                }
            }
            for slot in 0..4 {
                destinations.settle(slot, [counted[slot as usize], 0], [grown, 0]);
                let top = destinations.top(egress(slot), What::Inserts, 50);
                for row in &top.destinations {
                    let truth = exact.get(&(slot, row.address)).copied().unwrap_or(0.0);
                    prop_assert!(row.count - row.error <= truth + 1e-6, "{row:?}: {truth}");
                }
                let seen_any = top.total > 0.0;
                if seen_any && second >= length + 2 {
                    // What is told a second later has faded by a second less.
                    let exact = faded[slot as usize];
                    prop_assert!(top.total >= exact - 1e-6, "{} of {exact}", top.total);
                }
            }
            for total in exact.values_mut().chain(&mut faded) {
                *total *= fade;
            }
        }
    }
}
