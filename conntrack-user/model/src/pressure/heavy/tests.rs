use std::{collections::HashMap, hash::BuildHasherDefault};

use proptest::prelude::*;

use super::*;

/// Puts everything into a few chains, as a stranger with the hash key could.
#[derive(Default)]
struct Colliding(u64);

impl std::hash::Hasher for Colliding {
    fn finish(&self) -> u64 {
        self.0 % 3
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 += u64::from(bytes.first().copied().unwrap_or_default());
    }
}

fn fill<S: BuildHasher>(sketch: &mut SpaceSaving<u8, S>, stream: &[(u8, u32)]) {
    for (key, weight) in stream {
        sketch.add(*key, f64::from(*weight));
    }
}

fn exact(stream: &[(u8, u32)]) -> HashMap<u8, f64> {
    let mut counts = HashMap::new();
    for (key, weight) in stream {
        *counts.entry(*key).or_insert(0.0) += f64::from(*weight);
    }
    counts
}

/// Everything that the module promises, for counts that are exact but for rounding.
fn holds<S: BuildHasher>(
    sketch: &SpaceSaving<u8, S>,
    exact: &HashMap<u8, f64>,
    capacity: usize,
) -> Result<(), TestCaseError> {
    let total: f64 = exact.values().sum();
    let slack = 1e-9 * total.max(1.0);
    prop_assert!((sketch.total() - total).abs() <= slack);
    prop_assert!(sketch.len() <= capacity);
    let counted: HashMap<u8, Counted<u8>> = sketch
        .counters
        .iter()
        .map(|one| (one.counted.key, one.counted))
        .collect();
    prop_assert_eq!(counted.len(), sketch.len(), "a key is there twice");
    let uncounted = sketch.uncounted();
    let most = total / super::super::as_f64(capacity as u64);
    prop_assert!(uncounted <= most + slack);
    for one in counted.values() {
        let truth = exact.get(&one.key).copied().unwrap_or(0.0);
        prop_assert!(truth <= one.count + slack, "{truth} of {one:?}");
        prop_assert!(truth >= one.at_least() - slack, "{truth} of {one:?}");
        prop_assert!(one.error <= uncounted + slack, "{one:?} over {uncounted}");
    }
    for (key, truth) in exact {
        prop_assert!(
            counted.contains_key(key) || *truth <= uncounted + slack,
            "{key} with {truth} is missing"
        );
    }
    let order: Vec<u16> = (0..sketch.heap.len())
        .filter(|place| {
            let slot = sketch.heap[*place];
            usize::from(sketch.counters[usize::from(slot)].place) != *place
                || sketch.count_at(place.saturating_sub(1) / 2) > sketch.count_at(*place)
        })
        .map(|place| sketch.heap[place])
        .collect();
    prop_assert!(order.is_empty(), "out of order: {order:?}");
    Ok(())
}

fn streams() -> impl Strategy<Value = Vec<(u8, u32)>> {
    // Few keys, many keys, and a skew between.
    let key = prop_oneof![0_u8..4, 0_u8..40, any::<u8>()];
    proptest::collection::vec((key, 0_u32..100), 0..250)
}

proptest! {
    #[test]
    fn true_counts_are_within_the_bounds(stream in streams(), capacity in 1_usize..40) {
        let mut sketch = SpaceSaving::new(capacity);
        fill(&mut sketch, &stream);
        holds(&sketch, &exact(&stream), capacity)?;
        let top = sketch.top(5);
        prop_assert!(top.windows(2).all(|pair| pair[0].count >= pair[1].count));
    }

    #[test]
    fn keys_that_collide_are_told_apart(stream in streams(), capacity in 1_usize..40) {
        let hasher = BuildHasherDefault::<Colliding>::default();
        let mut sketch = SpaceSaving::with_hasher(capacity, hasher);
        fill(&mut sketch, &stream);
        holds(&sketch, &exact(&stream), capacity)?;
    }

    #[test]
    fn faded_counts_are_within_the_bounds(
        streams in proptest::collection::vec(streams(), 1..4),
        capacity in 1_usize..20,
        factor in 0.01_f64..1.0,
    ) {
        let mut sketch = SpaceSaving::new(capacity);
        let mut truth: HashMap<u8, f64> = HashMap::new();
        for stream in &streams {
            fill(&mut sketch, stream);
            for (key, weight) in exact(stream) {
                *truth.entry(key).or_default() += weight;
            }
            sketch.fade(factor);
            for count in truth.values_mut() {
                *count *= factor;
            }
            holds(&sketch, &truth, capacity)?;
        }
    }
}

#[test]
fn memory_is_bounded_and_taken_as_keys_come() {
    let mut sketch = SpaceSaving::new(64);
    assert_eq!(sketch.bytes(), 0);
    sketch.add([0_u32; 5], 1.0);
    assert!(
        sketch.bytes() <= 256,
        "{} bytes with one key",
        sketch.bytes()
    );
    for key in 0..100_000 {
        sketch.add([key; 5], 1.0);
    }
    assert_eq!(sketch.len(), 64);
    assert!(sketch.bytes() <= 64 * 62, "{} bytes", sketch.bytes());
}

#[test]
fn weights_that_are_none_are_ignored() {
    let mut sketch = SpaceSaving::new(4);
    for weight in [0.0, -1.0, f64::NAN] {
        sketch.add(1_u8, weight);
    }
    assert_eq!(sketch.len(), 0);
    assert!(sketch.total().abs() < f64::EPSILON);
}
