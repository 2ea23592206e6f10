//! Reads the ring buffer: in batches, always until it is empty.
//!
//! A drop or an eviction wakes the reader, unless another one of its CPU did so a moment ago. After a batch with such a record the reader
//! rests for longer than that moment and looks once more, so a storm costs a bounded number of wake-ups. Inserts don't wake it
//! at all while there is room, it looks by itself.

use std::{
    io,
    mem::offset_of,
    sync::Arc,
    time::{Duration, Instant},
};

use aya::maps::{MapData, RingBuf};
use conntrack_ebpf::{
    budget::WINDOW_NS,
    record::View,
    state::{PerCpuState, WAKE_EVERY_NS},
};
use tokio::time::{sleep, timeout};

use crate::sys::{mapping::MappedArray, readiness::watch_ring};

/// How long a quiet ring is left alone; inserts are seen after this time at the latest.
const LOOK_EVERY: Duration = Duration::from_nanos(WINDOW_NS);
/// How long wake-ups are gathered after a batch.
const GATHER: Duration = Duration::from_millis(4);
const _: () = assert!(GATHER.as_nanos() > WAKE_EVERY_NS as u128);
/// Records after which others get a turn on this thread.
const BATCH: usize = 4096;
/// From this many records in a round on there is no rest: the ring fills faster than that.
const BUSY: usize = 1024;

/// The reading side of the ring; there is one.
pub struct RingReader {
    ring: RingBuf<MapData>,
    state: Arc<MappedArray<PerCpuState>>,
}

impl RingReader {
    pub(super) const fn new(ring: RingBuf<MapData>, state: Arc<MappedArray<PerCpuState>>) -> Self {
        Self { ring, state }
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
        let mut look = Look::WhenWoken;
        let mut window = Instant::now();
        loop {
            if window.elapsed() >= LOOK_EVERY {
                window = Instant::now();
                for cpu in 0..self.state.len() {
                    // A new window has begun: the next insert may have a record.
                    let due = offset_of!(PerCpuState, due);
                    self.state.write_word(cpu, due, 0);
                }
            }
            // What woke the reader may lie behind a record that another CPU is just writing: it looks again, read or not.
            let mut prompt = false;
            match look {
                Look::WhenWoken => {
                    // A time-out is not an error: inserts wait without a wake-up.
                    if let Ok(ready) = timeout(LOOK_EVERY, ring.readable_mut()).await {
                        ready?.clear_ready();
                        prompt = true;
                    }
                }
                Look::AfterRest => sleep(GATHER).await,
                Look::AtOnce => tokio::task::yield_now().await,
            }
            // Drained to empty after `clear_ready`: the wake-up is edge-triggered.
            let mut read = 0;
            loop {
                let batch = read_batch(ring.get_mut(), BATCH, &mut |view| {
                    prompt |= !matches!(view, View::Insert(_));
                    sink(view);
                });
                read += batch;
                if batch < BATCH {
                    break;
                }
                tokio::task::yield_now().await;
            }
            look = if read >= BUSY {
                Look::AtOnce
            } else if prompt || look == Look::AtOnce {
                Look::AfterRest
            } else {
                Look::WhenWoken
            };
        }
    }
}

/// When the ring is looked into next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    WhenWoken,
    /// Records that wake nobody may have followed the one that did.
    AfterRest,
    /// The ring fills fast.
    AtOnce,
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
