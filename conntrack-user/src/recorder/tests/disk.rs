//! A disk that is full, and then has room again.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use ctpressure_journal::Reader;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::Uid,
};

use super::{Node, live, options, sums, writer};

/// Runs this where a file system of `bytes` is mounted at `folder`; only its own thread sees it.
fn on_a_small_disk(bytes: u64, folder: &Path, work: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let thread = scope.spawn(move || {
            unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
            let none: Option<&str> = None;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
                .expect("mounts that nobody else sees");
            let size = format!("size={bytes}");
            mount(
                Some("tmpfs"),
                folder,
                Some("tmpfs"),
                MsFlags::empty(),
                Some(size.as_str()),
            )
            .expect("a tmpfs");
            work();
        });
        thread.join().expect("no panic");
    });
}

fn fill(path: &Path) {
    let mut file = File::create(path).expect("a file");
    for piece in [&[0_u8; 8192][..], &[0_u8; 512][..]] {
        while file.write_all(piece).is_ok() {}
    }
}

#[test]
fn a_full_disk_costs_no_count() {
    if !Uid::effective().is_root() {
        eprintln!("not run: a mount namespace needs root");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let disk = folder.path();
    on_a_small_disk(3 << 20, disk, || {
        let filler = disk.join("filler");
        let mut node = Node::new(20);
        let (mut writer, health) = writer(&options(disk, 64 << 20, Duration::from_hours(24)));
        live(&mut node, &mut writer, 20);
        assert_eq!(health.status().problem, None);
        for time in 0..3_u32 {
            fill(&filler);
            live(&mut node, &mut writer, 200);
            let problem = health.status().problem.expect("the disk is full");
            assert!(problem.starts_with("no room"), "{problem}");
            fs::remove_file(&filler).expect("a file");
            live(&mut node, &mut writer, 5);
            assert_eq!(health.status().problem, None, "time {time}");
            // Folding in needs room as well.
            fill(&filler);
            writer.tend(Instant::now() + Duration::from_secs(100 * u64::from(time + 1)));
            fs::remove_file(&filler).expect("a file");
            live(&mut node, &mut writer, 5);
        }
        writer.end(None);
        let reader = Reader::open(disk).expect("a whole journal");
        let (owners, ticks, losses) = sums(&reader);
        assert_eq!(
            (owners, ticks, losses),
            (node.totals, node.totals, node.losses)
        );
        let all = reader
            .read(node.wall - Duration::from_secs(1000), node.wall)
            .expect("read");
        let life = all.life(100).expect("read");
        let said = life.iter().filter(|life| life.kind == "journal").count();
        assert!(said <= 3, "once for each time: {life:?}");
    });
}

#[test]
fn an_agent_that_begins_with_a_full_disk_writes_as_soon_as_there_is_room() {
    if !Uid::effective().is_root() {
        eprintln!("not run: a mount namespace needs root");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let disk = folder.path();
    on_a_small_disk(2 << 20, disk, || {
        let filler = disk.join("filler");
        fill(&filler);
        let mut node = Node::new(3);
        let (mut writer, health) = writer(&options(disk, 64 << 20, Duration::from_hours(24)));
        live(&mut node, &mut writer, 3);
        assert!(health.status().problem.is_some());
        fs::remove_file(&filler).expect("a file");
        let end = Instant::now() + Duration::from_mins(1);
        while health.status().problem.is_some() {
            assert!(Instant::now() < end, "{:?}", health.status());
            thread::sleep(Duration::from_millis(100));
            live(&mut node, &mut writer, 1);
        }
        writer.end(None);
        let reader = Reader::open(disk).expect("a whole journal");
        assert_eq!(sums(&reader).0, node.totals);
    });
}
