//! A journal with something in every table, and the queries of the README.

use std::{path::Path, process::Command, time::Duration};

use conntrack_ebpf::record::DropReason;
use ctpressure_journal::{
    ChangeResult, ChangedBy, FILE_NAME, LimitChange, Loss, Reader, Recording, What,
};
use ctpressure_model::events::{DropEvent, Event, EvictionEvent, Occurrence, Origin, Tuple, Who};

use super::{Node, folder, observed, options, writer};
use crate::recorder::{
    detail::{DetailFlows, SecondDetail},
    writer::JournalWriter,
};

const DAY: Duration = Duration::from_hours(24);

fn who(index: usize) -> Who {
    Who {
        kind: "pod".to_owned(),
        namespace: "shop".to_owned(),
        pod: format!("service-{index}-7d9c5b6f4-x2x{index}"),
        unit: String::new(),
        workload: String::new(),
        direction: "egress".to_owned(),
    }
}

fn tuple(port: u16) -> Tuple {
    Tuple {
        source: [10, 42, 1, 2].into(),
        source_port: Some(port),
        destination: [10, 96, 0, 10].into(),
        destination_port: Some(53),
        icmp_id: None,
        icmp_type: None,
        icmp_code: None,
    }
}

/// A second in which the table is full: more happens than is kept.
pub(super) fn storm(node: &mut Node, writer: &mut JournalWriter) {
    let mut known = DetailFlows::default();
    for second in 0..30 {
        let (snapshot, at) = node.second();
        let mut detail = SecondDetail::default();
        for port in 0..100 {
            let seen = Occurrence {
                time: at - Duration::from_millis(500),
                netns: 4_026_531_840,
                netns_name: "host".to_owned(),
                cpu: 0,
                weight: 1,
                protocol: Some("udp".to_owned()),
            };
            let origin = Origin {
                zone: 0,
                ifindex: Some(3),
                cgroup: None,
            };
            detail.add(
                Event::Drop(DropEvent {
                    reason: DropReason::TableFull.into(),
                    seen: seen.clone(),
                    owner: who(usize::from(port % 10 / 9)),
                    original: Some(tuple(port)),
                    reply: None,
                    origin: origin.clone(),
                }),
                &mut known,
            );
            detail.add(
                Event::Eviction(EvictionEvent {
                    seen,
                    victim_owner: who(2),
                    cause_owner: who(0),
                    victim: Some(tuple(port)),
                    victim_reply: None,
                    cause: Some(tuple(port + 1000)),
                    cause_protocol: Some("udp".to_owned()),
                    assured: false,
                    seen_reply: true,
                    origin,
                }),
                &mut known,
            );
        }
        if second == 10 {
            node.limit(131_072);
        }
        if second == 20 {
            writer.limit_change(LimitChange {
                at,
                by: ChangedBy::Controller,
                who: None,
                limit_before: Some(131_072),
                limit_after: Some(200_000),
                buckets_before: None,
                buckets_after: None,
                result: ChangeResult::Applied,
                reason: "a test".to_owned(),
            });
            node.limit(200_000);
        }
        writer.second(observed(snapshot, detail), at);
    }
}

/// Refused for the first time, again; evicted for the first time, again.
fn flows_lost(recording: &Recording<'_>) -> [u64; 4] {
    let owners = recording.owner_sums().expect("read");
    [
        Loss::RefusedFirst,
        Loss::RefusedAgain,
        Loss::EvictedFirst,
        Loss::EvictedAgain,
    ]
    .map(|kind| owners.iter().filter_map(|sum| sum.losses.get(&kind)).sum())
}

/// It is for people with a query.
fn what_no_reader_asks_for(folder: &Path) {
    let database = rusqlite::Connection::open(folder.join(FILE_NAME)).expect("a journal");
    let cause: (String, String) = database
        .query_row(
            "SELECT pod, cause_destination FROM eviction_event JOIN owner ON owner.id = cause LIMIT 1",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .expect("a row");
    assert_eq!(
        cause,
        (
            "service-0-7d9c5b6f4-x2x0".to_owned(),
            "10.96.0.10".to_owned()
        )
    );
    let whole = database.query_row(
        "SELECT boot_id <> '' AND cpus > 0 AND ram_bytes > 1048576 FROM run",
        [],
        |row| row.get(0),
    );
    assert_eq!(whole, Ok(true), "of this node");
}

#[test]
fn everything_comes_back() {
    let folder = folder();
    let mut node = Node::new(12);
    let (mut writer, health) = writer(&options(folder.path(), 8 << 20, DAY));
    storm(&mut node, &mut writer);
    super::live(&mut node, &mut writer, 95);
    let end = node.wall;
    writer.end(Some(end));
    let reader = Reader::open(folder.path()).expect("a journal");
    let coverage = reader.coverage().expect("read").expect("something");
    let all = reader.read(coverage.since, coverage.until).expect("read");
    assert_eq!(all.samples(), 125);
    assert_eq!(all.bucket(10_000).as_secs(), 1);

    let runs = all.runs().expect("read");
    assert_eq!(runs.len(), 1);
    assert!(runs[0].ended.is_some() && runs[0].ram_bytes > 0, "{runs:?}");
    let kinds: Vec<_> = all
        .life(100)
        .expect("read")
        .into_iter()
        .map(|life| life.kind)
        .collect();
    assert!(kinds.contains(&"attached".to_owned()), "{kinds:?}");

    let (drops, evictions) = all.event_counts().expect("read");
    assert_eq!(drops.recorded + drops.not_recorded, 3000);
    assert_eq!(evictions.recorded + evictions.not_recorded, 3000);
    // Ten a second of the one, and at least the first of the other, which has ninety.
    let kept = 10 * 30 + 1..=64 * 30;
    assert!(kept.contains(&drops.recorded), "{drops:?}");
    assert_eq!(
        health.status().events_lost,
        drops.not_recorded + evictions.not_recorded
    );
    assert_eq!(flows_lost(&all), [100, 2900, 100, 2900]);
    let rows = all.drops(10_000).expect("read");
    assert_eq!(rows.len() as u64, drops.recorded);
    let path = rows[0].path.as_ref().expect("it is known");
    assert_eq!((path.protocol.as_str(), path.destination_port), ("udp", 53));
    let rows = all.evictions(3).expect("read");
    assert_eq!(rows.len(), 3);
    let owners = all.owners().expect("read");
    assert_eq!(
        owners[&rows[0].victim].name(),
        "shop/service-2-7d9c5b6f4-x2x2"
    );
    assert!(rows[0].seen_reply);
    what_no_reader_asks_for(folder.path());

    let changes = all.limit_changes(10).expect("read");
    let by: Vec<_> = changes
        .iter()
        .map(|change| (change.by, change.limit_before, change.limit_after))
        .collect();
    assert_eq!(
        by,
        [
            (ChangedBy::Other, Some(262_144), Some(131_072)),
            (ChangedBy::Controller, Some(131_072), Some(200_000))
        ]
    );

    let destinations = all.destinations(What::Inserts, 5).expect("read");
    assert!(
        destinations
            .values()
            .all(|of| of.samples == 12 && of.top.len() == 5)
    );
    assert!(
        all.state_mixes()
            .expect("read")
            .values()
            .any(|mix| mix.len() == 2)
    );
    let kernel = all.kernel_points(Duration::from_hours(1)).expect("read");
    // The first sample is where the kernel's own counts begin.
    assert_eq!(
        (kernel[0].growth.drop, kernel[0].growth.early_drop),
        (3 * 118, 7 * 118)
    );
    let sums = all.owner_sums().expect("read");
    let lost: u64 = sums
        .iter()
        .flat_map(|sum| sum.losses.iter())
        .filter(|(loss, _)| **loss == Loss::Victim)
        .map(|(_, number)| number)
        .sum();
    assert!(lost > 0);
    let points = all.table_points(Duration::from_secs(10)).expect("read");
    assert_eq!(points.len(), 13);
    assert!(
        points
            .iter()
            .all(|point| point.entries_min <= point.entries_max)
    );
    let mut samples = 0;
    all.each_table_sample(|_| samples += 1).expect("read");
    assert_eq!(samples, 125);
}

/// Each query of the README gives something, by the tool that people have.
#[test]
fn the_queries_of_the_readme() {
    if Command::new("sqlite3").arg("-version").output().is_err() {
        eprintln!("there is no sqlite3 here: the queries are run by the library");
    }
    let folder = folder();
    let mut node = Node::new(12);
    let (mut writer, _) = writer(&options(folder.path(), 8 << 20, DAY));
    storm(&mut node, &mut writer);
    super::live(&mut node, &mut writer, 100);
    writer.end(None);
    let readme = include_str!("../../../journal/README.md");
    let queries: Vec<_> = readme.split("```sql\n").skip(1).collect();
    assert!(queries.len() >= 5);
    let database = rusqlite::Connection::open(folder.path().join(FILE_NAME)).expect("a journal");
    for query in queries {
        let query = query.split("```").next().expect("its end");
        let mut statement = database.prepare(query).expect(query);
        let mut rows = statement.query([]).expect(query);
        assert!(rows.next().expect(query).is_some(), "nothing: {query}");
        if let Ok(output) = Command::new("sqlite3")
            .arg(folder.path().join(FILE_NAME))
            .arg(query)
            .output()
        {
            assert!(
                output.status.success() && !output.stdout.is_empty(),
                "{query}: {output:?}"
            );
        }
    }
}
