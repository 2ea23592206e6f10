//! What people and scripts are shown.

use conntrack_ebpf::owner::UNKNOWN;
use proptest::prelude::*;
use serde_json::json;

use super::*;

#[test]
fn what_has_no_row_is_in_others() {
    let nobody = Charging::default();
    let mut census = Census::new(Filter::default(), vec![vec![By::Source]], &nobody, NOW);
    for entry in table() {
        add(&mut census, &nobody, &entry);
    }
    let summary = census.summary(1);
    let group = &summary.groups[0];
    assert_eq!((group.keys, group.rows.len()), (4, 1));
    assert_eq!(group.others.keys, 3);
    assert_eq!(
        group.others.counts,
        Counts {
            entries: 3,
            evictable: 2
        }
    );
    assert_eq!((group.untold, group.too_low_by), (0, 0));
    assert_eq!(summary.translated, 2);
    let text = text::group(group, summary.totals, 0, &labels(&nobody));
    assert_eq!(
        text,
        "\
by source                                             entries   share  evictable
10.42.0.2                                                   7    70 %       85 %
(3 others)                                                  3    30 %       66 %
total                                                      10   100 %       80 %
"
    );
}

#[test]
fn what_is_held_has_a_row_of_its_own_and_shares_are_of_the_kernels_count() {
    let nobody = Charging::default();
    let mut census = Census::new(Filter::default(), vec![vec![By::Protocol]], &nobody, NOW);
    for entry in table() {
        add(&mut census, &nobody, &entry);
    }
    let summary = census.summary(9);
    let text = text::group(&summary.groups[0], summary.totals, 990, &labels(&nobody));
    assert!(
        text.contains(
            "(held, in no list)                                        990    99 %        0 %"
        ),
        "{text}"
    );
    assert!(
        text.contains("total                                                   1,000   100 %"),
        "{text}"
    );
    assert!(!text.contains(" 70 %"), "{text}");
}

#[test]
fn too_many_keys_are_said() {
    let nobody = Charging::default();
    let mut census = Census::new(Filter::default(), vec![vec![By::Source]], &nobody, NOW);
    let many = u32::try_from(MOST_KEYS).unwrap() + 500;
    for number in 0..many {
        let mut entry = udp(("10.0.0.1", 1), ("10.0.0.2", 2));
        entry.original.source = std::net::Ipv4Addr::from_bits(number).into();
        add(&mut census, &nobody, &entry);
    }
    let summary = census.summary(2);
    let group = &summary.groups[0];
    assert_eq!(group.keys, MOST_KEYS as u64);
    assert_eq!(group.untold, 500);
    assert_eq!(group.others.counts.entries, u64::from(many) - 2);
    let text = text::group(group, summary.totals, 0, &labels(&nobody));
    assert!(text.contains("(more than 65,534 others)"), "{text}");
    assert!(text.contains("most 500 entries"), "{text}");
}

#[test]
fn json_of_a_census() {
    let pods = pods();
    let labels = labels(&pods);
    let value = json!(
        summary(
            Filter {
                protocols: vec![6],
                ..Filter::default()
            },
            &[By::Service, By::Owner],
        )
        .rows(&labels)
    );
    let service = json!({"address": "10.96.0.1", "port": 443, "protocol": "tcp"});
    assert_eq!(
        value,
        json!({
            "seen": 10, "entries": 2, "evictable": 0, "nat": 2,
            "states": [{"state": "ESTABLISHED", "protocol": "tcp", "entries": 2}],
            "groups": [{
                "by": ["service", "owner"], "keys": 2, "untold_entries": 0, "too_low_by": 0,
                "rows": [
                    {"key": {"service": service, "owner": "default/pod-2"}, "entries": 1, "evictable": 0},
                    {"key": {"service": service, "owner": "default/pod-3"}, "entries": 1, "evictable": 0},
                ],
                "others": {"keys": 0, "entries": 0, "evictable": 0},
            }],
        })
    );
}

#[test]
fn one_line_for_each_entry() {
    let names: BTreeMap<Inode, String> = [(NETNS, "host".to_owned())].into();
    let labels = Labels {
        owners: &Charging::default(),
        namespaces: &names,
    };
    let line = |entry: &TableEntry| text::line(None, entry, &labels);
    assert_eq!(
        line(&table()[0]),
        "udp    UNREPLIED   10.42.0.2:1024 > 10.96.0.10:53 expires 29s unreplied"
    );
    assert_eq!(
        line(&service("10.42.0.4", 5000)),
        "tcp    ESTABLISHED 10.42.0.4:5000 > 10.96.0.1:443 expires 431999s assured \
         reply 10.42.0.9:8443 > 192.0.2.7:61000"
    );
    assert_eq!(
        text::line(Some(NETNS), &ping(), &labels),
        "host       icmpv6 REPLIED     fd00::1 > fd00::2 type 128/0 id 7 expires 29s zone 3"
    );
    let value = json!(EntryLine::new(NETNS, &ping(), NOW, &labels));
    assert_eq!(value["age"], 45);
    assert_eq!(value["start"], "2025-12-31T23:59:15.000000000Z");
    assert_eq!(value["original"]["icmp_id"], 7);
    assert_eq!(
        (&value["netns_name"], &value["snat"]),
        (&json!("host"), &json!(false))
    );
    let value = json!(EntryLine::new(
        NETNS,
        &service("10.42.0.4", 5000),
        NOW,
        &labels
    ));
    assert_eq!(
        (&value["snat"], &value["dnat"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(value["reply"]["source_port"], 8443);
}

#[test]
fn numbers_in_words() {}

proptest! {
    #[test]
    fn every_row_fits(number in 0..u64::from(u32::MAX), name in ".{0,90}") {
        let owners = Charging { names: [(UNKNOWN, name)].into(), ..Charging::default() };
        let labels = labels(&owners);
        let mut census = Census::new(
            Filter::default(),
            vec![vec![By::Owner, By::Destination]],
            &owners,
            NOW,
        );
        add(&mut census, &owners, &ping());
        let summary = census.summary(1);
        let totals = Counts { entries: number, evictable: number };
        let text = text::group(&summary.groups[0], totals, 0, &labels);
        // A name may have a line end of its own in this test, but not in life.
        prop_assert!(text.lines().all(|line| line.chars().count() <= text::WIDTH), "{}", text);
    }
}
