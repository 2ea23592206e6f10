//! Fills the ring buffer, for the benchmark of its reader. Never loaded by the agent; run by
//! `BPF_PROG_TEST_RUN`, which kernels allow that refuse tracing programs.

use aya_ebpf::{bindings::BPF_RB_NO_WAKEUP, macros::socket_filter, programs::SkBuffContext};
use conntrack_ebpf::record::{Header, InsertRecord, Kind, VERSION};

use super::maps::EVENTS;

/// Records for each run.
const RECORDS: u32 = 64;

/// Writes insert records until the ring is full.
#[socket_filter]
fn ring_fill(_ctx: SkBuffContext) -> i64 {
    for cpu in 0..RECORDS {
        let Some(mut record) = EVENTS.reserve::<InsertRecord>(0) else {
            return 0;
        };
        record.write(InsertRecord {
            header: Header {
                version: VERSION,
                kind: Kind::Insert as u8,
                weight: 1,
                cpu,
                ..Header::default()
            },
            ..InsertRecord::default()
        });
        record.submit(u64::from(BPF_RB_NO_WAKEUP));
    }
    0
}
