//! The journal as a whole, with a node that is made up and disks that are real.

mod cost;
mod damage;
mod disk;
mod example;
mod killed;
mod node;
mod reading;
mod thinning;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ctpressure_journal::{Reader, Recording};
use node::Node;
use tempfile::TempDir;

use super::{
    Bounds, Health, JournalOptions, detail::SecondDetail, second::Observed, writer::JournalWriter,
};
use crate::agent::Snapshot;

/// A folder in memory where there is one: what is tested is not the disk, and that has to do much.
fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("a folder")
}

/// A journal in this folder, with these bounds.
fn options(folder: &Path, bytes: u64, keep: Duration) -> JournalOptions {
    JournalOptions {
        folder: folder.to_owned(),
        bounds: Bounds { bytes, keep },
    }
}

/// A writer, and how it is doing.
fn writer(options: &JournalOptions) -> (JournalWriter, Arc<Health>) {
    let health = Arc::new(Health::default());
    let writer = JournalWriter::open(options, Arc::clone(&health)).expect("a folder to write to");
    (writer, health)
}

/// A second of a node without a limit controller.
const fn observed(snapshot: Arc<Snapshot>, detail: SecondDetail) -> Observed {
    Observed {
        snapshot,
        detail,
        controlled: false,
    }
}

/// Writes so many seconds of the node's life.
fn live(node: &mut Node, writer: &mut JournalWriter, seconds: usize) {
    for _ in 0..seconds {
        let (snapshot, at) = node.second();
        writer.second(observed(snapshot, SecondDetail::default()), at);
    }
}

/// All of a journal.
fn whole(reader: &Reader) -> Recording<'_> {
    let ever = SystemTime::UNIX_EPOCH + Duration::from_hours(1 << 20);
    reader
        .read(SystemTime::UNIX_EPOCH, ever)
        .expect("a whole journal")
}

/// The sums of everything in the journal: inserts and deletes of owners, those of the ticks, losses.
fn sums(reader: &Reader) -> ([u64; 2], [u64; 2], u64) {
    let all = whole(reader);
    let mut owners = [0; 2];
    let mut losses = 0;
    for sum in all.owner_sums().expect("a whole journal") {
        owners[0] += sum.inserts;
        owners[1] += sum.deletes;
        losses += sum.losses.values().sum::<u64>();
    }
    let mut ticks = [0; 2];
    for point in all
        .total_points(Duration::from_hours(1000))
        .expect("a whole journal")
    {
        ticks[0] += point.inserts;
        ticks[1] += point.deletes;
    }
    (owners, ticks, losses)
}
