//! Reading while it is written.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    time::{Duration, Instant},
};

use ctpressure_journal::{FILE_NAME, Reader};
use ctpressure_model::tests::sample;

use super::{Node, folder, live, options, sums, writer};
use crate::{agent, limit::Following, recorder::Journal};

const DAY: Duration = Duration::from_hours(24);

#[test]
fn a_reader_sees_one_moment_while_the_agent_goes_on() {
    let folder = folder();
    let mut node = Node::new(30);
    let (mut writer, health) = writer(&options(folder.path(), 8 << 20, DAY));
    live(&mut node, &mut writer, 50);
    let reader = Reader::open(folder.path()).expect("a journal");
    let before = node.totals;
    let recording = reader.read(node.wall - DAY, node.wall + DAY).expect("read");
    for _ in 0..5 {
        live(&mut node, &mut writer, 1);
        writer.fold_now();
    }
    let sum: u64 = recording
        .owner_sums()
        .expect("read")
        .iter()
        .map(|sum| sum.inserts)
        .sum();
    assert_eq!((sum, recording.samples()), (before[0], 50));
    drop(recording);
    assert_eq!(sums(&reader).0, node.totals);
    assert_eq!(health.status().problem, None);
}

#[test]
fn a_reader_that_stays_does_not_make_the_log_grow_without_end() {
    let folder = folder();
    let mut node = Node::new(200);
    let (mut writer, health) = writer(&options(folder.path(), 4 << 20, DAY));
    live(&mut node, &mut writer, 10);
    let reader = Reader::open(folder.path()).expect("a journal");
    let recording = reader.read(node.wall - DAY, node.wall + DAY).expect("read");
    assert!(!recording.owner_sums().expect("read").is_empty());
    let mut refused = 0;
    while refused < 2 {
        live(&mut node, &mut writer, 1);
        refused += u32::from(health.status().problem.is_some());
        assert!(health.status().samples < 10_000, "it is never refused");
    }
    let log = folder.path().join(format!("{FILE_NAME}-wal"));
    assert!(fs::metadata(&log).expect("a log").len() < 2 << 20);
    drop(recording);
    live(&mut node, &mut writer, 1);
    assert_eq!(health.status().problem, None);
    assert_eq!(sums(&reader).0, node.totals);
}

#[test]
fn the_main_file_alone_is_whole_also_when_it_is_copied_slowly() {
    let folder = folder();
    let path = folder.path().join(FILE_NAME);
    let mut node = Node::new(60);
    let (mut writer, _) = writer(&options(folder.path(), 64 << 20, DAY));
    let mut clock = Instant::now();
    let mut go_on = |seconds: u32| {
        for _ in 0..seconds {
            live(&mut node, &mut writer, 1);
            clock += Duration::from_secs(1);
            writer.tend(clock);
        }
        node.totals
    };
    go_on(300);
    let copy = folder.path().join("copy.db");
    for _ in 0..5 {
        let before = go_on(20);
        let mut from = File::open(&path).expect("a journal");
        let mut to = File::create(&copy).expect("a copy");
        let mut page = vec![0; 256 << 10];
        loop {
            let length = from.read(&mut page).expect("a journal");
            if length == 0 {
                break;
            }
            to.write_all(&page[..length]).expect("a copy");
            go_on(1);
        }
        drop(from);
        let reader = Reader::open(&copy).expect("a whole journal");
        let (owners, ticks, _) = sums(&reader);
        assert_eq!(owners, ticks);
        let late = before[0] - owners[0];
        assert!(
            late <= 6 * 60 * 40,
            "{late} inserts: it is some seconds old"
        );
    }
}

#[tokio::test]
async fn from_the_agent_to_the_file() {
    let folder = folder();
    let journal = Journal::open(&options(folder.path(), 8 << 20, DAY)).expect("a folder");
    let (publisher, handle) = agent::channel();
    let queue = journal.queue();
    let following = tokio::task::spawn(async move {
        let mut noted = Following::from_now();
        queue.follow(&handle, None, &mut noted).await
    });
    tokio::task::yield_now().await;
    let mut node = Node::new(5);
    let mut sink = publisher.sink();
    for second in 1..=20 {
        for _ in 0..3 {
            sink(&sample::icmpv6_drop());
            sink(&sample::eviction());
        }
        let (snapshot, _) = node.second();
        publisher.publish((*snapshot).clone());
        while journal.health().status().samples < second {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    assert_eq!(journal.health().status().problem, None);
    drop((publisher, sink));
    assert!(
        following.await.expect("no panic").is_err(),
        "the agent has ended"
    );
    journal.close();
    let reader = Reader::open(folder.path()).expect("a journal");
    assert_eq!(sums(&reader).0, node.totals);
    let now = std::time::SystemTime::now();
    let all = reader.read(now - DAY, now + DAY).expect("read");
    let (drops, evictions) = all.event_counts().expect("read");
    assert_eq!(drops.recorded + drops.not_recorded, 60);
    assert_eq!(evictions.recorded + evictions.not_recorded, 60);
    assert!(all.runs().expect("read")[0].ended.is_some());
    let log = folder.path().join(format!("{FILE_NAME}-wal"));
    assert!(!log.exists(), "nothing is left beside it");
}

/// A table's name becomes known, or another namespace gets the number: what it was called before holds nothing any more.
#[test]
fn a_table_is_under_one_name_at_a_time() {
    let folder = folder();
    let mut node = Node::new(30);
    let (mut writer, _) = writer(&options(folder.path(), 8 << 20, DAY));
    live(&mut node, &mut writer, 5);
    node.call_table("shop/web");
    live(&mut node, &mut writer, 5);
    writer.fold_now();
    let reader = Reader::open(folder.path()).expect("a journal");
    let recording = reader.read(node.wall - DAY, node.wall + DAY).expect("read");
    let namespaces = recording.namespaces().expect("read");
    let second = Duration::from_secs(1);
    let mut at: Vec<(_, Vec<String>)> = Vec::new();
    for point in recording.table_points(second).expect("read") {
        if point.entries_max == 0 {
            continue;
        }
        let name = namespaces[&point.netns].name.clone();
        match at.last_mut().filter(|(last, _)| *last == point.at) {
            Some((_, names)) => names.push(name),
            None => at.push((point.at, vec![name])),
        }
    }
    let names: Vec<_> = at.into_iter().flat_map(|(_, names)| names).collect();
    assert_eq!(names[..5], vec!["host"; 5]);
    assert_eq!(names[5..], vec!["shop/web"; 5]);
}
