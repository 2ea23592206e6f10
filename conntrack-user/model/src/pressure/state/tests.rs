use super::*;
use crate::tests::series::Random;

const LIMIT: u64 = 1000;

fn sample(second: u64, entries: u64, drops: Drops) -> PressureSample {
    PressureSample {
        at: Duration::from_secs(second),
        entries,
        limit: LIMIT,
        drops,
        ..PressureSample::default()
    }
}

fn mixed(drops: u64) -> Drops {
    Drops {
        mixed: Some(drops),
        ..Drops::default()
    }
}

fn after(entries: impl IntoIterator<Item = u64>) -> StateTracker {
    let mut tracker = StateTracker::default();
    for (second, entries) in entries.into_iter().enumerate() {
        tracker.add(&sample(second as u64, entries, mixed(0)));
    }
    tracker
}

#[test]
fn states_begin_at_their_thresholds() {
    for (entries, state) in [
        (0, Pressure::Calm),
        (499, Pressure::Calm),
        (500, Pressure::Rising),
        (749, Pressure::Rising),
        (750, Pressure::High),
        (949, Pressure::High),
        (950, Pressure::Full),
        (1100, Pressure::Full),
    ] {
        assert_eq!(after([entries]).pressure(), state, "{entries}");
    }
}

#[test]
fn a_state_is_left_only_well_below_its_threshold() {
    for (entries, state) in [
        (900, Pressure::Full),
        (899, Pressure::High),
        (700, Pressure::High),
        (699, Pressure::Rising),
        (450, Pressure::Rising),
        (449, Pressure::Calm),
    ] {
        let mut entries_of = vec![960, 960];
        // Down through the states, each kept as long as it can be.
        if state < Pressure::Full {
            entries_of.extend([800, 760, 705]);
        }
        if state < Pressure::High {
            entries_of.extend([650, 510]);
        }
        let mut tracker = after(entries_of.iter().copied().filter(|seen| *seen >= entries));
        assert_eq!(
            tracker.add(&sample(100, entries, mixed(0))),
            state,
            "{entries}"
        );
    }
}

/// Changes of state over an hour around `middle` with noise of `width` either way.
fn changes(middle: u64, width: u64) -> usize {
    let mut random = Random::new(middle);
    let mut tracker = StateTracker::default();
    let mut states = Vec::new();
    for second in 0..3600 {
        let entries = middle - width + random.below(2 * width + 1);
        states.push(tracker.add(&sample(second, entries, Drops::default())));
    }
    states.windows(2).filter(|pair| pair[0] != pair[1]).count()
}

#[test]
fn noise_around_a_threshold_changes_the_state_once_at_most() {
    for threshold in [500, 750, 950] {
        for middle in threshold - 30..threshold + 30 {
            let changed = changes(middle, 24);
            assert!(changed <= 1, "{middle}: {changed} changes");
        }
    }
    // What the hysteresis is for: noise wider than it does change the state again and again.
    assert!(changes(750, 60) > 10);
}

#[test]
fn a_drop_keeps_it_full_for_ten_seconds() {
    let mut tracker = after([800, 800]);
    assert_eq!(tracker.add(&sample(2, 800, mixed(3))), Pressure::Full);
    assert_eq!(tracker.add(&sample(11, 800, mixed(3))), Pressure::Full);
    assert_eq!(tracker.add(&sample(12, 800, mixed(3))), Pressure::High);
}

#[test]
fn drops_before_the_first_sample_and_clashes_in_an_empty_table_say_nothing() {
    let mut tracker = StateTracker::default();
    assert_eq!(tracker.add(&sample(0, 800, mixed(70))), Pressure::High);

    let mut tracker = after([10]);
    assert_eq!(tracker.add(&sample(1, 10, mixed(1))), Pressure::Calm);
}

#[test]
fn exact_drops_of_this_table_need_no_witness() {
    let here = |drops| Drops {
        here: Some(drops),
        mixed: Some(0),
        ..Drops::default()
    };
    let mut tracker = StateTracker::default();
    tracker.add(&sample(0, 10, here(5)));
    assert_eq!(tracker.add(&sample(1, 10, here(5))), Pressure::Calm);
    assert_eq!(tracker.add(&sample(2, 10, here(6))), Pressure::Full);
    // The probes begin anew: fewer than before is no drop, one more is.
    assert_eq!(tracker.add(&sample(20, 10, here(0))), Pressure::Calm);
    assert_eq!(tracker.add(&sample(21, 10, here(1))), Pressure::Full);
}

#[test]
fn clashes_in_a_busy_table_are_told_from_a_full_one_by_the_exact_count() {
    let both = |anywhere, mixed| Drops {
        here: None,
        anywhere: Some(anywhere),
        mixed: Some(mixed),
    };
    let mut tracker = StateTracker::default();
    tracker.add(&sample(0, 800, both(0, 0)));
    // Clashes here, none lost to a full table; then one lost in another table.
    assert_eq!(tracker.add(&sample(1, 800, both(0, 9))), Pressure::High);
    assert_eq!(tracker.add(&sample(12, 800, both(1, 9))), Pressure::High);
    // Lost here; the second count is read before the first, so it shows a second later.
    assert_eq!(tracker.add(&sample(22, 800, both(2, 9))), Pressure::High);
    assert_eq!(tracker.add(&sample(23, 800, both(2, 10))), Pressure::Full);
    // Without the table's own statistic its occupancy is the witness.
    let anywhere = |drops| Drops {
        anywhere: Some(drops),
        ..Drops::default()
    };
    assert_eq!(tracker.add(&sample(40, 300, anywhere(2))), Pressure::Calm);
    assert_eq!(tracker.add(&sample(41, 300, anywhere(3))), Pressure::Calm);
    assert_eq!(tracker.add(&sample(42, 980, anywhere(3))), Pressure::Full);
}

#[test]
fn no_limit_is_calm() {
    let mut tracker = StateTracker::default();
    for second in 0..20 {
        let unlimited = PressureSample {
            limit: 0,
            ..sample(second, second * 1000, mixed(second))
        };
        assert_eq!(tracker.add(&unlimited), Pressure::Calm);
    }
}

#[test]
fn a_table_that_loses_its_limit_is_calm_at_once() {
    let mut tracker = after([1000]);
    assert_eq!(tracker.add(&sample(1, 1000, mixed(5))), Pressure::Full);
    let unlimited = |second, drops| PressureSample {
        limit: 0,
        ..sample(second, 1000, drops)
    };
    assert_eq!(tracker.add(&unlimited(2, mixed(6))), Pressure::Calm);
    assert_eq!(tracker.add(&unlimited(3, mixed(6))), Pressure::Calm);
    // A kernel to which 0 means none refuses all: what is lost in it says so.
    let here = |drops| Drops {
        here: Some(drops),
        ..Drops::default()
    };
    assert_eq!(tracker.add(&unlimited(4, here(6))), Pressure::Calm);
    assert_eq!(tracker.add(&unlimited(5, here(7))), Pressure::Full);
}
