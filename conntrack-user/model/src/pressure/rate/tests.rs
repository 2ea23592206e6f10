use proptest::prelude::*;

use super::*;

/// A series of one counter, sampled at these milliseconds.
fn sampled(samples: impl IntoIterator<Item = (u64, u64)>) -> (Timeline, Series<1>) {
    let mut timeline = Timeline::default();
    let mut series: Option<Series<1>> = None;
    for (millis, count) in samples {
        timeline.tick(Duration::from_millis(millis));
        match &mut series {
            Some(series) => series.add(&timeline, [count]),
            None => series = Some(Series::new(&timeline, [count])),
        }
    }
    (timeline, series.expect("no samples"))
}

fn near(rate: Option<f64>, expected: f64) -> bool {
    rate.is_some_and(|rate| (rate - expected).abs() < 1e-6 * expected.max(1.0))
}

/// The seconds that a window really covers.
fn covered(timeline: &Timeline, window: Window) -> Option<f64> {
    timeline.starts[window as usize].map(|start| start.seconds)
}

#[test]
fn rates_are_over_their_windows() {
    // 100 a second, then 10 a second for 30 s, then 1000 in the last second.
    let (timeline, series) = sampled((0..=100).map(|second: u64| {
        let count = match second {
            0..=69 => second * 100,
            70..=99 => 6900 + (second - 69) * 10,
            _ => 6900 + 300 + 1000,
        };
        (second * 1000, 5_000_000 + count)
    }));
    let rates = series.rates(&timeline, 0);
    assert!(near(rates.second, 1000.0), "{rates:?}");
    assert!(near(rates.ten_seconds, (90.0 + 1000.0) / 10.0), "{rates:?}");
    assert!(
        near(rates.minute, (2900.0 + 300.0 + 1000.0) / 60.0),
        "{rates:?}"
    );
    assert_eq!(covered(&timeline, Window::Minute), Some(60.0));
}

#[test]
fn what_was_counted_before_the_first_sample_is_in_no_rate() {
    let (timeline, series) = sampled([(0, 1_000_000)]);
    assert_eq!(series.rates(&timeline, 0), Rates::default());
    let (timeline, series) = sampled([(0, 1_000_000), (1000, 1_000_007)]);
    for rate in [
        series.rates(&timeline, 0).second,
        series.rates(&timeline, 0).minute,
    ] {
        assert!(near(rate, 7.0), "{rate:?}");
    }
}

#[test]
fn missed_samples_make_the_window_longer_not_the_rate_higher() {
    let (timeline, series) = sampled([(0, 0), (1000, 100), (6000, 600)]);
    assert!(near(series.rates(&timeline, 0).second, 100.0));
    assert_eq!(covered(&timeline, Window::Second), Some(5.0));
}

#[test]
fn a_counter_that_begins_anew_makes_no_rate_of_what_it_was() {
    let (timeline, series) = sampled([(0, 1000), (1000, 1100), (2000, 40), (3000, 140)]);
    assert!(near(series.rates(&timeline, 0).second, 100.0));
    assert!(near(series.rates(&timeline, 0).ten_seconds, 200.0 / 3.0));
}

#[test]
fn one_wrong_low_reading_makes_no_huge_rate() {
    let (timeline, series) = sampled([(0, 1_000_000), (1000, 0), (2000, 1_000_200)]);
    assert!(near(series.rates(&timeline, 0).ten_seconds, 100.0));
}

#[test]
fn a_series_that_is_not_sampled_for_a_while_goes_on() {
    let mut timeline = Timeline::default();
    timeline.tick(Duration::ZERO);
    let mut series = Series::new(&timeline, [0, 7]);
    for second in 1..=200 {
        timeline.tick(Duration::from_secs(second));
        if second < 10 || second == 200 {
            series.add(&timeline, [second * 10, 7]);
        }
    }
    assert_eq!(
        series.grown(&timeline, Window::Second, 0),
        Some((1910, 1.0))
    );
    assert_eq!(series.grown(&timeline, Window::Minute, 1), Some((0, 60.0)));
    // And one that is behind says that nothing happened.
    timeline.tick(Duration::from_secs(201));
    assert_eq!(series.grown(&timeline, Window::Second, 0), Some((0, 1.0)));
}

#[test]
fn a_new_owner_counts_from_nothing() {
    let mut timeline = Timeline::default();
    for second in 0..100 {
        timeline.tick(Duration::from_secs(second));
    }
    let mut series = Series::new(&timeline, [0]);
    series.add(&timeline, [300]);
    assert!(near(series.rates(&timeline, 0).minute, 5.0));
}

#[test]
fn a_ring_is_small() {
    assert_eq!(size_of::<[[u32; 3]; SLOTS]>(), 768);
    assert!(size_of::<Series<3>>() < 100);
}

proptest! {
    /// Any times and any growth: a rate lies between the lowest and the highest of the steps, and
    /// the rate over everything is that of everything.
    #[test]
    fn rates_are_within_what_happened(
        steps in proptest::collection::vec((0_u64..4000, 0_u64..1_000_000), 2..200),
        restart in 0_usize..200,
    ) {
        let mut timeline = Timeline::default();
        timeline.tick(Duration::ZERO);
        let mut series = Series::new(&timeline, [0]);
        let (mut at, mut count, mut most) = (0, 0, 0);
        let (mut sum, mut before) = (0, 0);
        for (index, (apart, grown)) in steps.iter().enumerate() {
            at += apart;
            count = if index == restart { 0 } else { count + grown };
            most = most.max(*grown);
            sum += grown;
            timeline.tick(Duration::from_millis(at));
            series.add(&timeline, [count]);
            for window in Window::ALL {
                let Some((grown, seconds)) = series.grown(&timeline, window, 0) else {
                    prop_assert_eq!(at, 0);
                    continue;
                };
                prop_assert!(seconds > 0.0);
                prop_assert!(grown <= sum, "{} of {}", grown, sum);
            }
            // Over the shortest window nothing but what has happened since the sample before last.
            if *apart >= 1000
                && let Some((last, _)) = series.grown(&timeline, Window::Second, 0)
            {
                prop_assert!(last <= grown + before, "{} after {}", last, grown);
            }
            before = if *apart >= 1000 { *grown } else { before + grown };
        }
        if at <= 60_000 && restart >= steps.len() && at > 0 {
            prop_assert_eq!(series.grown(&timeline, Window::Minute, 0).map(|(grown, _)| grown), Some(sum));
        }
    }
}
