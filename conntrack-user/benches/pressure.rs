//! What following owners and destinations costs, on one core, natively.
//!
//! `cargo bench -p conntrack-user --bench pressure` prints one JSON object.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use conntrack_ebpf::{
    owner::{Direction, Party},
    record::Tuple,
};
use ctpressure_model::pressure::{
    PressureSample, Tracker,
    destinations::{Destinations, What},
    heavy::SpaceSaving,
    rate::{Series, Timeline, Window},
    share::{OwnerHolding, shares},
};

const RUNS: usize = 9;
const KEYS: usize = 1 << 18;
const OWNERS: u32 = 1000;

fn main() {
    let skewed = skewed_keys();
    let heavy = per_second(KEYS, || {
        let mut sketch = SpaceSaving::new(64);
        for key in &skewed {
            sketch.add(*key, 1.0);
        }
        black_box(sketch.total());
    });
    let spread = per_second(KEYS, || {
        let mut sketch = SpaceSaving::new(64);
        // All different: every one takes the counter of another.
        for key in 0..KEYS {
            sketch.add([key, 0, 0], 1.0);
        }
        black_box(sketch.total());
    });
    let mut destinations = Destinations::default();
    let inserts = per_second(KEYS, || {
        for [key, ..] in &skewed {
            let (original, reply) = tuples(*key);
            let slot = u32::try_from(key % 250).unwrap_or(0);
            destinations.insert(Party::new(slot, Direction::Egress), &original, &reply);
        }
    });
    let read = micros(|| {
        for slot in 0..250 {
            black_box(destinations.top(Party::new(slot, Direction::Egress), What::Inserts, 10));
        }
    });
    println!(
        "{}",
        serde_json::json!({
            "benchmark": "pressure",
            "space_saving_updates_per_second": { "skewed": heavy, "all_different": spread },
            "destinations_inserts_per_second": inserts,
            "destinations_bytes": destinations.bytes(),
            "microseconds": {
                "rates_of_1000_owners_update": rates(false),
                "rates_of_1000_owners_update_and_read": rates(true),
                "shares_of_1000_owners": owners(),
                "tops_of_250_owners": read,
                "table_tracker": tracker(),
            },
        })
    );
}

/// Keys by Zipf's law, about: the first few have most.
fn skewed_keys() -> Vec<[usize; 3]> {
    let mut state = 1_u64;
    (0..KEYS)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            // A random number of bits, then random bits.
            let bits = (state >> 33) % 16;
            let key = (state >> 40) & ((1 << bits) - 1);
            [usize::try_from(key).unwrap_or(0), 0, 0]
        })
        .collect()
}

fn tuples(key: usize) -> (Tuple, Tuple) {
    let address = u32::try_from(key).unwrap_or(0);
    let original = Tuple {
        src: [1, 0, 0, 0],
        src_port: 1000,
        l3num: 2,
        dst: [address, 0, 0, 0],
        dst_port: 80,
        protonum: 6,
        dir: 0,
    };
    let reply = Tuple {
        src: original.dst,
        src_port: 80,
        dst: original.src,
        dst_port: 1000,
        dir: 1,
        ..original
    };
    (original, reply)
}

/// Microseconds to update (and read) the rates of all owners, in both directions, five counters each.
fn rates(read: bool) -> f64 {
    let mut timeline = Timeline::default();
    timeline.tick(Duration::ZERO);
    let mut series: Vec<Series<5>> = (0..OWNERS * 2)
        .map(|_| Series::new(&timeline, [0; 5]))
        .collect();
    let mut second = 0;
    micros(|| {
        second += 1;
        timeline.tick(Duration::from_secs(second));
        for series in &mut series {
            series.add(&timeline, [second * 100, second * 99, second, 0, 0]);
            if read {
                for index in 0..5 {
                    black_box(series.rates(&timeline, index));
                }
            }
        }
        black_box(series[0].grown(&timeline, Window::Minute, 0));
    })
}

fn owners() -> f64 {
    let holdings: Vec<OwnerHolding> = (0..OWNERS * 2)
        .map(|owner| OwnerHolding {
            live: u64::from(owner.wrapping_mul(2_654_435_761) >> 12),
            insert_rate: f64::from(owner % 97),
            drop_rate: f64::from(owner % 3),
        })
        .collect();
    micros(|| {
        black_box(shares(black_box(&holdings), 262_144, 262_144));
    })
}

/// One sample of a table that grows, with noise.
fn tracker() -> f64 {
    let mut tracker = Tracker::default();
    let mut second = 0;
    micros(|| {
        second += 1;
        let entries = second * 100 + second * 37 % 101;
        tracker.add(&PressureSample {
            at: Duration::from_secs(second),
            entries,
            limit: 1 << 40,
            flow: Some((second * 300, second * 300 - entries.min(second * 300))),
            ..PressureSample::default()
        });
        black_box(tracker.outlook());
    })
}

/// Median over the runs.
fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

fn per_second(count: usize, mut run: impl FnMut()) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let count = count as f64;
    let rates = (0..RUNS).map(|_| {
        let began = Instant::now();
        run();
        count / began.elapsed().as_secs_f64()
    });
    median(rates.collect()).round()
}

fn micros(mut run: impl FnMut()) -> f64 {
    // The first ones fill what the later ones use.
    let times = (0..200).map(|_| {
        let began = Instant::now();
        run();
        began.elapsed().as_secs_f64() * 1e6
    });
    median(times.skip(100).collect()).round()
}
