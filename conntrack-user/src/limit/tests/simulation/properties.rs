//! What holds whatever the traffic, the node and whoever else sets the limit.

use proptest::prelude::*;

use super::*;
use crate::limit::settings::SOONEST_GIVE_BACK;

/// A stretch of traffic, and what somebody else does at its end.
#[derive(Clone, Debug)]
struct Stretch {
    seconds: u64,
    per_second: f64,
    lives: f64,
    flood: f64,
    closed: f64,
    /// Sets the timeout of closed connections.
    foreign_timeout: Option<u64>,
    /// Sets the limit to this part of what it is.
    foreign: Option<f64>,
    /// Part of the node's memory that is free.
    free: f64,
}

fn stretch() -> impl Strategy<Value = Stretch> {
    (
        30_u64..1_500,
        prop_oneof![0.0..200.0, 200.0..3_000.0, 3_000.0..20_000.0],
        prop_oneof![Just(30.0), Just(120.0), Just(3_000.0)],
        prop_oneof![4 => Just(0.0), 1 => 100.0..10_000.0],
        prop_oneof![2 => Just(0.0), 1 => 100.0..10_000.0],
        prop_oneof![4 => Just(None), 1 => (5_u64..300).prop_map(Some)],
        prop_oneof![3 => Just(None), 1 => (0.2..3.0).prop_map(Some)],
        0.001..0.9,
    )
        .prop_map(
            |(seconds, per_second, lives, flood, closed, foreign_timeout, foreign, free)| Stretch {
                seconds,
                per_second,
                lives,
                flood,
                closed,
                foreign_timeout,
                foreign,
                free,
            },
        )
}

fn node() -> impl Strategy<Value = Node> {
    (
        prop_oneof![Just(2_u64), Just(16), Just(512)],
        prop_oneof![Just(4_096_u64), Just(65_536), Just(262_144)],
        1_u64..9,
    )
        .prop_map(|(gib, limit, divisor)| Node {
            gib,
            size: Size {
                limit,
                buckets: (limit / divisor).next_multiple_of(512),
                time_wait: Some(TIME_WAIT),
            },
        })
}

fn settings() -> impl Strategy<Value = Settings> {
    (
        0.5..0.95,
        5_u64..120,
        10_u64..600,
        proptest::option::of(1_u64..4),
        prop_oneof![Just(100_000_u64), Just(2_097_152)],
        0.001..0.3,
        any::<bool>(),
    )
        .prop_map(
            |(raise_at, raise_for, cooldown, give_back, max_limit, share, shorten_timeouts)| {
                Settings {
                    raise_at,
                    raise_for: Duration::from_secs(raise_for),
                    cooldown: Duration::from_secs(cooldown),
                    give_back: give_back
                        .map(|hours| SOONEST_GIVE_BACK * u32::try_from(hours).unwrap_or(1)),
                    max_limit,
                    max_memory_share: share,
                    shorten_timeouts,
                    ..Settings::default()
                }
            },
        )
}

/// What the limit was before each action, and what has to hold of it.
fn check(simulation: &Simulation, settings: &Settings, began: u64) -> Result<(), TestCaseError> {
    let told = &simulation.told;
    let mut last_raise: Option<Duration> = None;
    let mut ceilings = told.ceilings.iter();
    for (at, action) in &told.actions {
        let (before, after) = (action.before, action.after);
        if after.limit < before.limit {
            // Never below what anybody else wanted before.
            let wanted = told.foreign.iter().filter(|(then, _)| then <= at);
            let highest = wanted
                .map(|(_, limit)| *limit)
                .max()
                .unwrap_or(0)
                .max(began);
            prop_assert!(after.limit >= highest, "{action:?} below {highest}");
            prop_assert_eq!(action.purpose, Purpose::GiveBack);
            // No raise within the hour before.
            let since = last_raise.map(|raise| at.saturating_sub(raise));
            prop_assert!(
                since.is_some_and(|since| since >= SOONEST_GIVE_BACK),
                "{action:?}"
            );
        }
        if after.limit > before.limit {
            let ceiling = ceilings.next().map_or(0, |(_, limit)| *limit);
            prop_assert!(after.limit <= ceiling, "{action:?} above {ceiling}");
            prop_assert!(after.limit <= settings.max_limit, "{action:?}");
        }
        if action.purpose == Purpose::Raise {
            if let Some(last) = last_raise {
                let since = at.saturating_sub(last);
                prop_assert!(since >= settings.cooldown, "{action:?} after {since:?}");
            }
            last_raise = Some(*at);
        }
        prop_assert!(after.buckets >= before.buckets, "{action:?}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn guard_rails_hold(
        node in node(),
        settings in settings(),
        stretches in proptest::collection::vec(stretch(), 1..8),
        seed in any::<u64>(),
    ) {
        let mut simulation = Simulation::new(node, settings.clone(), seed);
        simulation.step = 2.0;
        simulation.forecaster = None;
        for stretch in &stretches {
            simulation.memory.available = as_count(as_f64(simulation.memory.total) * stretch.free);
            simulation.run(stretch.seconds, |_| vec![
                plain(stretch.per_second, stretch.lives),
                flood(stretch.flood, 60.0),
                closed(stretch.closed),
            ]);
            if let Some(part) = stretch.foreign {
                let limit = as_count(as_f64(simulation.size.limit) * part).max(64);
                simulation.set_by_somebody_else(limit);
            }
            // To set what is set already changes nothing that anybody could see.
            if let Some(seconds) = stretch.foreign_timeout
                && simulation.size.time_wait != Some(seconds)
            {
                simulation.time_wait_set_by_somebody_else(seconds);
            }
        }
        // A long rest, in which things may be given back.
        simulation.step = 10.0;
        simulation.run(20_000, |_| vec![plain(1.0, 30.0), flood(0.0, 60.0), closed(0.0)]);
        check(&simulation, &settings, node.size.limit)?;
        timeouts::check(&simulation, &settings)?;
        // Restored, whatever happened; or somebody else's.
        let foreign = simulation.told.foreign_timeouts.last();
        let last = foreign.map_or(TIME_WAIT, |(_, seconds)| *seconds);
        prop_assert_eq!(simulation.size.time_wait, Some(last));
    }

    #[test]
    fn constant_traffic_is_settled_for_once_and_for_all(
        node in node(),
        settings in settings(),
        per_second in 10.0..5_000.0,
        lives in prop_oneof![Just(30.0), Just(120.0)],
        seed in any::<u64>(),
    ) {
        let mut simulation = Simulation::new(node, settings.clone(), seed);
        simulation.step = 5.0;
        simulation.forecaster = None;
        simulation.run(3_600, |_| vec![plain(per_second, lives)]);
        let actions = simulation.told.actions.len();
        simulation.run(4 * 3_600, |_| vec![plain(per_second, lives)]);
        prop_assert_eq!(simulation.told.actions.len(), actions, "{:?}", simulation.told.actions);
    }

    #[test]
    fn without_pressure_nothing_is_done(
        node in node(),
        settings in settings(),
        part in 0.01_f64..0.45,
        seed in any::<u64>(),
    ) {
        let entries = as_f64(node.size.limit) * part * settings.raise_at;
        let mut simulation = Simulation::new(node, settings.clone(), seed);
        simulation.step = 5.0;
        simulation.forecaster = None;
        simulation.run(7_200, |_| vec![plain(entries / 60.0, 60.0)]);
        prop_assert!(simulation.told.actions.is_empty(), "{:?}", simulation.told.actions);
    }
}
