//! How many ring records a second the reader takes, on one core, natively.
//!
//! `cargo bench -p conntrack-user --bench ring_reader` prints one JSON object. The ring is filled
//! by a socket filter (not timed), then drained by the agent's own reader (timed).

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use conntrack_user::probes::RingFiller;

/// As large as the agent's ring by default.
const RING_BYTES: u32 = 1 << 20;
const ROUNDS: usize = 400;
const RUNS: usize = 5;

fn main() -> Result<()> {
    let (filler, mut reader) = RingFiller::new(RING_BYTES)
        .map_err(|error| anyhow::anyhow!("{error}; help: {}", error.help()))?;
    let mut rates = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        let (mut records, mut weight) = (0_usize, 0_u64);
        let mut reading = Duration::ZERO;
        for _ in 0..ROUNDS {
            filler.fill().context("cannot fill the ring")?;
            let began = Instant::now();
            records += reader.read_batch(usize::MAX, |view| {
                weight += u64::from(black_box(view).header().weight);
            });
            reading += began.elapsed();
        }
        ensure!(
            records > 1000 * ROUNDS,
            "only {records} records came through the ring"
        );
        ensure!(
            weight == records as u64,
            "{records} records have the weight {weight}"
        );
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        rates.push(records as f64 / reading.as_secs_f64());
    }
    rates.sort_by(f64::total_cmp);
    println!(
        "{}",
        serde_json::json!({
            "benchmark": "ring_reader",
            "records_per_second": { "min": rates[0], "median": rates[RUNS / 2], "max": rates[RUNS - 1] },
            "ring_bytes": RING_BYTES,
        })
    );
    Ok(())
}
