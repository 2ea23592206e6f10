//! Which series there are: few on a node with many pods, and none without end.

use super::*;

/// A node with the host's table and those of 250 pods, of which so many were ever used; each pod is charged in the host's.
fn of_250_pods(used: u32, is_active: bool) -> Snapshot {
    let mut snapshot = full();
    let pod = |number: u32| {
        Owner::pod(
            &format!("u-{number}"),
            Some(("shop", format!("checkout-7d9f8b6c5d-{number:05}").as_str())),
        )
    };
    let table = |number: u32| Table {
        netns: 4_026_532_000 + number,
        name: pod(number).name(),
        used: number < used,
        entries: u64::from(number < used),
        stats: Some(KernelStats {
            clash_resolve: Some(0),
            chain_too_long: Some(0),
            expect_new: Some(0),
            expect_create: Some(0),
            expect_delete: Some(0),
            ..KernelStats::default()
        }),
        ..Table::default()
    };
    snapshot.tables.list.truncate(1);
    snapshot.tables.list.extend((0..250).map(table));
    snapshot.owners.list.truncate(2);
    snapshot.owners.list.extend((0..250).map(|number| {
        let totals = OwnerTotals {
            inserts: 12_345 * u64::from(is_active),
            deletes: 12_300 * u64::from(is_active),
            live: Some(45 * u64::from(is_active)),
            ..OwnerTotals::default()
        };
        OwnerSample {
            slot: number + 2,
            owner: pod(number),
            present: true,
            held_at_most: 0,
            egress: totals,
            ingress: OwnerTotals::default(),
            activity: Activity::default(),
            destinations: Tops::default(),
        }
    }));
    snapshot
}

#[test]
fn with_250_pods_there_are_no_more_than_2500_series() {
    let size = |used, is_active| {
        let text = exposition(
            &of_250_pods(used, is_active),
            &CompanionStatus::default(),
            false,
        );
        let series = text.lines().filter(|line| !line.starts_with('#')).count();
        (series, text.len())
    };
    let idle = size(0, false);
    assert!(idle.0 < 350 && idle.1 < 60_000, "{idle:?}");
    let active = size(0, true);
    assert!(active.0 < 1_600, "{active:?}");
    let with_sidecars = size(250, true);
    assert!(with_sidecars.0 <= 2_500, "{with_sidecars:?}");
}

#[test]
fn who_makes_network_namespaces_makes_no_series_without_end() {
    let mut snapshot = full();
    let first = snapshot.tables.list.len();
    snapshot.tables.list.extend((0..3_000).map(|number| Table {
        netns: 5_000 + number,
        name: format!("{number}"),
        used: true,
        entries: u64::from(number),
        ..Table::default()
    }));
    let text = exposition(&snapshot, &CompanionStatus::default(), false);
    let entries = text
        .lines()
        .filter(|line| line.starts_with("ctpressure_table_entries{"));
    assert_eq!(entries.count(), 1_024);
    let left_out = format!("ctpressure_tables_left_out {}", first + 3_000 - 1_024);
    assert!(text.contains(&left_out), "{text}");
    for there in ["host", "2999"] {
        assert!(text.contains(&format!("netns=\"{there}\"")), "{there}");
    }
    assert!(!text.contains("netns=\"1\""));
}

#[test]
fn a_table_has_series_once_there_is_something_to_tell() {
    let mut snapshot = full();
    let drops = r#"ctpressure_kernel_stat_total{netns="pod",stat="drop"}"#;
    let entries = r#"ctpressure_table_entries{netns="pod"}"#;
    let shown = |table: &Table, snapshot: &mut Snapshot| {
        snapshot.tables.list[1] = table.clone();
        exposition(snapshot, &CompanionStatus::default(), false)
    };
    let mut table = Table {
        netns: 2,
        name: "pod".to_owned(),
        stats: Some(KernelStats::default()),
        ..Table::default()
    };
    assert!(!shown(&table, &mut snapshot).contains("netns=\"pod\""));
    table.used = true;
    let text = shown(&table, &mut snapshot);
    assert!(text.contains(&format!("{entries} 0")), "{text}");
    assert!(
        text.contains(r#"table_pressure{netns="pod",state="calm"} 1"#),
        "{text}"
    );
    assert!(!text.contains(drops), "{text}");
    table.pressure = Pressure::Full;
    table.stats = Some(KernelStats {
        drop: 4,
        ..KernelStats::default()
    });
    table.used = false;
    let text = shown(&table, &mut snapshot);
    assert!(text.contains(&format!("{entries} 0")), "{text}");
    assert!(text.contains(&format!("{drops} 4")), "{text}");
    assert!(
        text.contains(r#"table_pressure{netns="pod",state="full"} 1"#),
        "{text}"
    );
    assert!(!text.contains(r#"netns="pod",state="calm""#), "{text}");
}

#[test]
fn a_pod_that_did_nothing_has_the_series_of_its_alert() {
    let mut snapshot = full();
    snapshot.owners.list[2].egress = OwnerTotals::default();
    snapshot.owners.list[2].ingress = OwnerTotals::default();
    let text = exposition(&snapshot, &CompanionStatus::default(), false);
    let of_pod: Vec<_> = text
        .lines()
        .filter(|line| line.contains("owner_kind=\"pod\"") && line.contains("\"cart-1\""))
        .collect();
    assert_eq!(
        of_pod,
        [
            r#"ctpressure_drops_total{owner_kind="pod",namespace="shop",pod="cart-1",direction="egress",reason="table_full"} 0"#
        ]
    );
    assert!(
        text.contains(r#"ctpressure_entries{owner_kind="unknown","#),
        "{text}"
    );
}
