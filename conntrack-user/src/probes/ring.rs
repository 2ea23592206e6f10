//! Reads the ring buffer: in batches, always until it is empty.
//!
//! The kernel wakes the reader for a drop or an eviction only if the reader had caught up. After
//! a batch the reader therefore waits a few milliseconds, so that a storm costs a bounded number
//! of wake-ups; inserts don't wake it at all while there is room, it looks by itself.

use std::{io, time::Duration};

use aya::maps::{MapData, RingBuf};
use conntrack_ebpf::record::View;
use tokio::time::{sleep, timeout};

use crate::sys::readiness::watch_ring;

/// How long a quiet ring is left alone; inserts are seen after this time at the latest.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long wake-ups are gathered after a batch.
const GATHER: Duration = Duration::from_millis(4);
/// Records after which others get a turn on this thread.
const BATCH: usize = 4096;
/// From this many records in a round on there is no rest: the ring fills faster than that.
const BUSY: usize = 1024;

/// The reading side of the ring; there is one.
pub struct RingReader {
    ring: RingBuf<MapData>,
}

impl RingReader {
    pub(super) fn new(ring: RingBuf<MapData>) -> Self {
        Self { ring }
    }

    /// Hands up to `limit` records to `sink` in order; how many there were. Fewer than `limit`
    /// means that the ring is empty.
    pub fn read_batch(&mut self, limit: usize, mut sink: impl FnMut(&View)) -> usize {
        read_batch(&mut self.ring, limit, &mut sink)
    }

    /// Hands every record to `sink`, in order, for as long as it is polled.
    ///
    /// # Errors
    /// If the ring can't be polled.
    pub async fn run(self, mut sink: impl FnMut(&View)) -> io::Result<()> {
        let mut ring = watch_ring(self.ring)?;
        loop {
            // A time-out is not an error: inserts wait without a wake-up.
            if let Ok(ready) = timeout(LOOK_EVERY, ring.readable_mut()).await {
                ready?.clear_ready();
            }
            let mut read = 0;
            // Drained to empty after `clear_ready`: the wake-up is edge-triggered.
            loop {
                let batch = read_batch(ring.get_mut(), BATCH, &mut sink);
                read += batch;
                if batch < BATCH {
                    break;
                }
                tokio::task::yield_now().await;
            }
            if (1..BUSY).contains(&read) {
                sleep(GATHER).await;
            }
        }
    }
}

fn read_batch(ring: &mut RingBuf<MapData>, limit: usize, sink: &mut impl FnMut(&View)) -> usize {
    for read in 0..limit {
        let Some(item) = ring.next() else { return read };
        match View::parse(&item) {
            Ok(view) => sink(&view),
            // Can't happen while object and program are of one build; said, not hidden.
            Err(error) => tracing::error!(?error, "a record in the ring is malformed"),
        }
    }
    limit
}
