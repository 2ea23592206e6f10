//! What is thinned keeps its sums, and the bounds are kept.

use std::time::Duration;

use ctpressure_journal::{FILE_NAME, Reader};

use super::{Node, folder, live, options, sums, writer};

const DAY: Duration = Duration::from_hours(24);

/// Few owners and a small bound: as many rows for each byte as 250 owners and 64 MiB have.
#[test]
fn thinning_conserves_every_count_and_keeps_the_bound() {
    let folder = folder();
    let options = options(folder.path(), 4 << 20, DAY);
    let mut node = Node::new(24);
    let (mut writer, health) = writer(&options);
    let mut most = 0;
    for _ in 0..90 {
        live(&mut node, &mut writer, 100);
        writer.fold_now();
        most = most.max(health.status().bytes);
    }
    writer.end(None);
    assert!(most <= 4 << 20, "{most} bytes");
    assert!(most > 2 << 20, "{most} bytes: the bound was never near");
    let reader = Reader::open(folder.path()).expect("a journal");
    let coverage = reader.coverage().expect("read").expect("something");
    assert!(
        (coverage.recorded_seconds - 9000.0).abs() < 0.1,
        "nothing is dropped while there is something to thin: {coverage:?}"
    );
    let (owners, ticks, losses) = sums(&reader);
    assert_eq!(
        (owners, ticks, losses),
        (node.totals, node.totals, node.losses)
    );
    let seconds = coverage.seconds_since.expect("the last ones");
    let fine = coverage.until.duration_since(seconds).expect("before");
    assert!(fine >= Duration::from_secs(100), "{fine:?} by the second");
    assert!(
        fine < Duration::from_secs(8000),
        "{fine:?} by the second: nothing was thinned"
    );
}

#[test]
fn when_all_is_thinned_the_oldest_goes_and_the_rest_is_whole() {
    let folder = folder();
    let options = options(folder.path(), 4 << 20, DAY);
    let mut node = Node::new(800);
    let (mut writer, health) = writer(&options);
    let mut by_second = Vec::new();
    let begin = node.wall;
    for _ in 0..700 {
        let before = node.totals[0];
        live(&mut node, &mut writer, 1);
        by_second.push(node.totals[0] - before);
        if by_second.len() % 50 == 0 {
            writer.fold_now();
            assert!(health.status().bytes <= 4 << 20, "{:?}", health.status());
        }
    }
    assert_eq!(health.status().problem, None);
    writer.end(None);
    let reader = Reader::open(folder.path()).expect("a journal");
    let coverage = reader.coverage().expect("read").expect("something");
    let dropped = coverage
        .since
        .duration_since(begin)
        .expect("later")
        .as_secs();
    assert!(dropped > 0, "{coverage:?}: nothing was dropped");
    let dropped = usize::try_from(dropped).expect("fits");
    let (owners, ticks, _) = sums(&reader);
    let expected: u64 = by_second[dropped..].iter().sum();
    assert_eq!((owners[0], ticks[0]), (expected, expected));
}

#[test]
fn what_is_too_old_goes() {
    let folder = folder();
    let options = options(folder.path(), 16 << 20, Duration::from_mins(5));
    let mut node = Node::new(3);
    let (mut writer, _) = writer(&options);
    live(&mut node, &mut writer, 1000);
    writer.end(None);
    let reader = Reader::open(folder.path()).expect("a journal");
    let coverage = reader.coverage().expect("read").expect("something");
    let kept = coverage
        .until
        .duration_since(coverage.since)
        .expect("later");
    assert!(
        kept >= Duration::from_secs(299) && kept <= Duration::from_secs(310),
        "{kept:?}"
    );
    assert_eq!(super::whole(&reader).owners().expect("read").len(), 3);
}

#[test]
fn a_clock_that_is_set_loses_nothing() {
    let folder = folder();
    let options = options(folder.path(), 16 << 20, DAY);
    let mut node = Node::new(3);
    let (mut writer, _) = writer(&options);
    live(&mut node, &mut writer, 100);
    node.wall -= Duration::from_secs(50);
    live(&mut node, &mut writer, 100);
    // As far ahead as makes everything too old, and back soon.
    node.wall += Duration::from_hours(1000);
    live(&mut node, &mut writer, 3);
    node.wall -= Duration::from_hours(1000);
    live(&mut node, &mut writer, 100);
    writer.end(None);
    let reader = Reader::open(folder.path()).expect("a journal");
    let coverage = reader.coverage().expect("read").expect("something");
    assert!(coverage.recorded_seconds >= 303.0 - 32.0, "{coverage:?}");
    let all = reader
        .read(coverage.since - DAY, coverage.until + DAY)
        .expect("read");
    let life = all.life(100).expect("read");
    let clock: Vec<_> = life.iter().filter(|life| life.kind == "clock").collect();
    assert_eq!(clock.len(), 3, "{life:?}");
    assert!(clock[0].detail.contains("-50.0 s"), "{clock:?}");
}

#[test]
fn a_bound_that_is_lowered_shrinks_the_file() {
    let folder = folder();
    let mut node = Node::new(100);
    let (mut first, health) = writer(&options(folder.path(), 16 << 20, DAY));
    live(&mut node, &mut first, 2500);
    first.end(None);
    drop(first);
    assert!(health.status().bytes > 6 << 20, "{:?}", health.status());
    let (mut second, health) = writer(&options(folder.path(), 4 << 20, DAY));
    live(&mut node, &mut second, 400);
    assert_eq!(health.status().problem, None);
    second.end(None);
    let length = std::fs::metadata(folder.path().join(FILE_NAME))
        .expect("a file")
        .len();
    assert!(length <= 4 << 20, "{length} bytes");
}
