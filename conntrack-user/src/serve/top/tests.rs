use std::{net::IpAddr, time::UNIX_EPOCH};

use conntrack_ebpf::record::DropReason;
use ctpressure_model::pressure::destinations::{Destination, Top};
use ctpressure_tests::schemas;

use super::*;
use crate::{
    agent::{OwnerSample, Table, channel},
    owners::Owner,
    probes::Totals,
};

pub(crate) mod example;

fn sample() -> TopSample {
    TopSample::new(
        &example::snapshot(),
        UNIX_EPOCH + Duration::from_millis(1_700_000_000_250),
    )
}

#[test]
fn it_says_who_fills_the_table_and_who_suffers() {
    let sample = sample();
    assert_eq!(
        sample.time.0,
        UNIX_EPOCH + Duration::from_millis(1_700_000_000_250)
    );
    let names: Vec<_> = sample.owners.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "metrics/aggregator-0",
            "shop/cart-1",
            "host",
            "sshd.service",
            "unknown"
        ]
    );
    let live: u64 = sample.owners.iter().filter_map(|row| row.live).sum();
    let entries: u64 = sample.tables.iter().map(|table| table.entries).sum();
    assert_eq!(live, entries);
    let cart = &sample.owners[1];
    assert_eq!((cart.drops, cart.victims), (Some(177), Some(41)));
    assert_eq!(cart.drops_by_reason["clash"], 7);
    assert_eq!(sample.tables[0].occupancy, Some(0.995));
    assert_eq!(sample.drops(), Some(177));
    assert_eq!(sample.totals.inserts_per_second, Some(1_500.0));
    assert!(sample.is_settled());
}

#[test]
fn json_there_and_back() {
    let sample = sample();
    let json = serde_json::to_string(&sample).expect("JSON");
    let back: TopSample = serde_json::from_str(&json).expect("the same type");
    assert_eq!(back, sample);
    let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    schemas::assert_passes("top", &value);
    assert_eq!(value["state"], "attached");
    assert_eq!(value["tables"][0]["pressure"], "full");
    let owner = &value["owners"][0];
    assert_eq!(owner["kind"], "pod");
    assert_eq!(owner["lifetime"]["is"], "at_least");
    assert_eq!(owner["inserts_per_second"]["10s"], 1_500.0);
    let first = &owner["destinations"]["inserts"]["destinations"][0];
    assert_eq!(first["address"], "10.96.0.10");
    assert_eq!(first["error"], 2.0);
}

#[test]
fn before_there_is_anything() {
    let sample = TopSample::new(&Snapshot::default(), UNIX_EPOCH);
    let json = serde_json::to_string(&sample).expect("JSON");
    let back: TopSample = serde_json::from_str(&json).expect("the same type");
    assert_eq!(back, sample);
    schemas::assert_passes("top", &serde_json::json!(sample));
    assert!(!sample.is_settled());
    assert_eq!(sample.reason.as_deref(), Some("not attached yet"));
}

/// Everything as long as it can be: the longest line there is.
fn longest() -> Snapshot {
    let mut snapshot = example::snapshot();
    let huge = u64::MAX >> 20;
    let name = "\"".repeat(NAME_BYTES);
    let top = Top {
        window_seconds: f64::MAX.sqrt(),
        total: 1.0 / 3.0,
        others_at_most: 1.0 / 3.0,
        destinations: vec![
            Destination {
                address: IpAddr::from([u16::MAX; 8]),
                port: Some(u16::MAX),
                protocol: "icmpv6".to_owned(),
                count: 1e5 / 3.0,
                error: 1e5 / 3.0,
                share: 1.0 / 3.0,
                per_second: 1e5 / 3.0,
            };
            5
        ],
    };
    let owner = |slot: u32| {
        let pod = Owner::pod(&name, Some((&name, &name))).with(|details| {
            details.unit.clone_from(&name);
        });
        let mut owner = example::owner(slot, pod, huge);
        owner.egress.drops = [huge; DropReason::ALL.len()];
        owner.activity.inserts_per_second = example::rates(1e7 / 3.0);
        owner.activity.deletes_per_second = example::rates(1e7 / 3.0);
        owner.activity.drops_per_second = example::rates(f64::from(slot));
        owner.activity.live_share = f64::from(slot % 511);
        owner.activity.states = vec![("TIME_WAIT".repeat(2), huge); 40];
        owner.destinations = Tops {
            inserts: top.clone(),
            services: top.clone(),
            drops: top.clone(),
        };
        owner
    };
    snapshot.owners.list = (0..65_536).map(owner).collect();
    let table = snapshot.tables.list[0].clone();
    snapshot.tables.list = (0..5_000)
        .map(|netns| Table {
            netns,
            name: name.clone(),
            entries: huge,
            seconds_to_full: Some(1e9 / 3.0),
            ..table.clone()
        })
        .collect();
    snapshot.reason = Some("\"".repeat(1 << 20));
    snapshot
}

#[test]
fn a_line_is_bounded_and_what_is_left_out_is_summed() {
    let snapshot = longest();
    let sample = TopSample::new(&snapshot, SystemTime::now());
    assert_eq!(sample.owners.len(), OWNERS);
    assert_eq!(sample.tables.len(), TABLES);
    let live = sample.owners.iter().map(|row| row.live);
    let live: Option<u64> = live.chain([sample.other_owners.live]).sum();
    assert_eq!(
        live,
        Some(
            snapshot
                .owners
                .list
                .iter()
                .map(OwnerSample::live)
                .sum::<u64>()
        )
    );
    assert_eq!(
        sample.other_owners.number,
        (snapshot.owners.list.len() - OWNERS) as u64
    );
    assert_eq!(sample.other_tables.number, (5_000 - TABLES) as u64);
    let detailed = sample
        .owners
        .iter()
        .filter(|row| row.destinations.is_some());
    assert!(detailed.count() <= DETAILED);
    let bytes = serde_json::to_vec(&sample).expect("JSON").len() as u64;
    assert!(bytes > 4 << 20, "not the longest one: {bytes}");
    assert!(bytes < LINE_BYTES, "{bytes}");
}

#[test]
fn who_suffers_has_details_however_many_owners_there_are() {
    let mut snapshot = example::snapshot();
    let many = (10..5_000).map(|slot| {
        example::owner(
            slot,
            Owner::pod(&slot.to_string(), Some(("many", "pod"))),
            u64::from(slot),
        )
    });
    snapshot.owners.list.extend(many);
    let sample = TopSample::new(&snapshot, SystemTime::now());
    let cart = sample.owners.iter().find(|row| row.name == "shop/cart-1");
    assert!(cart.expect("it is shown").destinations.is_some());
}

#[tokio::test(start_paused = true)]
async fn once_waits_for_rates_but_not_for_ever() {
    let (publisher, handle) = channel();
    let begin = Instant::now();
    let sample = settled(&mut handle.snapshots()).await;
    assert!(sample.owners.is_empty());
    assert_eq!(begin.elapsed(), FIRST);

    let mut uncounted = example::snapshot();
    uncounted.owners.census = crate::agent::Recount::default();
    publisher.publish(uncounted);
    let begin = Instant::now();
    assert!(!settled(&mut handle.snapshots()).await.census);
    assert_eq!(begin.elapsed(), SETTLE);

    let mut snapshots = handle.snapshots();
    let (sample, ()) = tokio::join!(settled(&mut snapshots), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        publisher.publish(example::snapshot());
    });
    assert!(sample.is_settled());
}

#[test]
fn what_no_probe_counts_is_null_and_not_0() {
    let mut snapshot = example::snapshot();
    snapshot.probes.totals = Totals::default();
    snapshot.probes.node_losses.drops = Some(1538);
    let sample = TopSample::new(&snapshot, UNIX_EPOCH);
    let json = serde_json::to_value(&sample).expect("JSON");
    let totals = &json["totals"];
    for name in ["inserts", "deletes", "evictions", "drops_per_second"] {
        assert!(totals[name].is_null(), "{name}: {totals}");
    }
    assert_eq!(
        totals["not_counted"],
        serde_json::json!([
            "inserts",
            "deletes",
            "evictions",
            "table_full",
            "clash",
            "chain_too_long",
            "dying"
        ])
    );
    let owner = &json["owners"][0];
    for name in [
        "live",
        "live_share",
        "limit_share",
        "inserts",
        "deletes",
        "drops",
        "victims",
        "causes",
        "insert_share",
        "drop_share",
        "lifetime",
    ] {
        assert!(owner[name].is_null(), "{name}: {owner}");
    }
    assert_eq!(json["node_losses"]["drops"], 1538);
    assert!(sample.is_settled(), "there are no rates to wait for");
    // One side alone makes no number of entries.
    snapshot.probes.totals.inserts = Some(7);
    let sample = TopSample::new(&snapshot, UNIX_EPOCH);
    assert!(sample.owners[0].inserts.is_some() && sample.owners[0].live.is_none());
}
