//! What happens on nodes, told one by one.

use super::*;
use crate::limit::settings::SOONEST_GIVE_BACK;

fn settings() -> Settings {
    Settings::default()
}

fn minutes(minutes: u64) -> u64 {
    minutes * 60
}

#[test]
fn a_node_at_rest_is_left_alone_for_days() {
    let mut node = Simulation::new(Node::SMALL, settings(), 1);
    node.forecaster = None;
    node.step = 10.0;
    // 45,000 entries by day, 10,000 by night: 69 % of the limit.
    node.run(3 * 86_400, |at| {
        let day = 0.5 - 0.5 * (at / 86_400.0 * std::f64::consts::TAU).cos();
        vec![plain(100.0 + 275.0 * day, 120.0)]
    });
    assert!(node.told.actions.is_empty(), "{:?}", node.told.actions);
    assert!(node.told.refusals.is_empty());
}

#[test]
fn growth_over_days_is_met_before_anything_is_lost_and_it_converges() {
    let mut node = Simulation::new(Node::SMALL, settings(), 2);
    node.forecaster = None;
    node.step = 5.0;
    node.run(2 * 86_400, |at| {
        let day = 0.5 - 0.5 * (at / 86_400.0 * std::f64::consts::TAU).cos();
        let grown = 1.0 + (at / 86_400.0).min(1.0);
        vec![plain(grown * (100.0 + 400.0 * day), 120.0)]
    });
    assert!(node.told.lost < 1.0, "lost {}", node.told.lost);
    let raises = node.told.raises();
    assert!((1..=3).contains(&raises), "{:?}", node.told.actions);
    let last = node.told.actions.last().expect("one").0;
    let end = node.now();
    assert!(
        end.saturating_sub(last) > Duration::from_hours(6),
        "it has not settled"
    );
}

#[test]
fn a_ramp_loses_nothing_when_it_can_be_foreseen() {
    for rate in [300.0, 800.0, 2_000.0] {
        let mut node = Simulation::new(Node::LARGE, settings(), 3);
        node.run(minutes(20), |at| {
            vec![plain((at * rate / 300.0).min(rate * 2.0), 300.0)]
        });
        assert!(node.told.lost < 1.0, "{rate}/s: lost {}", node.told.lost);
    }
}

#[test]
fn a_sudden_load_loses_nothing_after_the_first_raise() {
    for per_second in [700.0, 1_000.0, 1_500.0] {
        let mut node = Simulation::new(Node::SMALL, settings(), 4);
        node.run(minutes(5), |_| vec![plain(100.0, 120.0)]);
        node.run(minutes(30), |_| vec![plain(per_second, 120.0)]);
        let raised = node.told.of(Purpose::Raise).next().expect("a raise").0;
        let lost = node
            .told
            .last_loss
            .is_some_and(|lost| lost > raised + Duration::from_secs(1));
        assert!(
            !lost,
            "{per_second}/s: {:?} {:?}",
            node.told.last_loss, node.told.actions
        );
    }
}

#[test]
fn a_burst_that_is_shorter_than_the_window_raises_nothing() {
    let mut node = Simulation::new(Node::SMALL, settings(), 5);
    // Up to 56,000 entries (85 %) for 20 s, every five minutes, for a day.
    node.run(minutes(60), |at| {
        let burst = at % 300.0 < 2.0;
        vec![
            plain(250.0, 120.0),
            plain(if burst { 13_000.0 } else { 0.0 }, 20.0),
        ]
    });
    assert!(node.entries() > 20_000.0);
    assert_eq!(node.told.raises(), 0, "{:?}", node.told.actions);
}

#[test]
fn a_leak_is_raised_for_up_to_the_ceiling_and_then_said_to_be_one_too_many() {
    let mut node = Simulation::new(Node::SMALL, settings(), 6);
    node.forecaster = None;
    node.step = 2.0;
    node.run(6 * 3600, |_| vec![plain(40.0, 432_000.0)]);
    let ceiling = node.told.ceilings.last().expect("raises").1;
    assert!(node.size.limit <= ceiling);
    assert!(node.told.raises() <= 8, "{:?}", node.told.actions);
    let refused = &node.told.refusals;
    assert!(!refused.is_empty() && refused.len() <= 6, "{refused:?}");
    assert!(refused[0].1.contains("ceiling"), "{refused:?}");
    assert!(node.told.advice[0].contains("--max-memory-share"));
}

#[test]
fn a_flood_is_given_nothing_and_its_source_is_named() {
    for (per_second, seconds) in [(5_000.0, 60.0), (1_000.0, 120.0), (20_000.0, 30.0)] {
        let mut node = Simulation::new(Node::SMALL, settings(), 7);
        node.run(minutes(5), |_| vec![plain(100.0, 120.0), flood(0.0, 60.0)]);
        node.run(minutes(30), |_| {
            vec![plain(100.0, 120.0), flood(per_second, seconds)]
        });
        assert_eq!(node.size.limit, Node::SMALL.size.limit);
        assert!(node.told.refusals[0].1.contains("203.0.113.9"));
        assert!(node.told.refusals.len() <= 2, "said once an hour");
        assert!(node.told.advice[0].contains("notrack"));
    }
}

#[test]
fn a_flood_does_not_stop_what_the_rest_needs() {
    let mut node = Simulation::new(Node::SMALL, settings(), 8);
    node.run(minutes(20), |at| {
        vec![plain((at * 2.0).min(800.0), 100.0), flood(3_000.0, 60.0)]
    });
    // 80,000 entries of the rest need 133,000; the flood of 180,000 is not counted.
    let limit = node.size.limit;
    assert!((66_000..=400_000).contains(&limit), "{limit}");
}

#[test]
fn deploys_that_double_everything_for_minutes_are_raised_for_once() {
    let mut node = Simulation::new(Node::SMALL, settings(), 9);
    node.step = 2.0;
    node.run(12 * 3600, |at| {
        let deploy = at % 7200.0 < 400.0;
        vec![
            plain(300.0, 120.0),
            plain(if deploy { 300.0 } else { 0.0 }, 120.0),
        ]
    });
    assert!(
        (1..=2).contains(&node.told.raises()),
        "{:?}",
        node.told.actions
    );
    assert!(node.told.lost < 1.0, "lost {}", node.told.lost);
}

#[test]
fn what_was_raised_is_given_back_after_a_long_calm_and_less_readily_after_a_mistake() {
    let settings = Settings {
        give_back: Some(SOONEST_GIVE_BACK),
        ..settings()
    };
    let mut node = Simulation::new(Node::SMALL, settings, 10);
    node.step = 5.0;
    // A quarter of an hour of load every six hours.
    node.run(3 * 86_400, |at| {
        let loaded = at % 21_600.0 < 900.0;
        vec![plain(if loaded { 700.0 } else { 50.0 }, 120.0)]
    });
    let back: Vec<_> = node.told.of(Purpose::GiveBack).collect();
    assert!(!back.is_empty());
    assert!(
        back.iter()
            .all(|(_, action)| action.after.limit == Node::SMALL.size.limit)
    );
    // 1, 2, 4 hours, then it no longer fits between two loads: twelve of them, three mistakes.
    assert!((2..=4).contains(&back.len()), "{back:?}");
}

#[test]
fn without_a_wish_nothing_is_given_back() {
    let mut node = Simulation::new(Node::SMALL, settings(), 11);
    node.step = 5.0;
    node.run(900, |_| vec![plain(700.0, 120.0)]);
    node.run(86_400, |_| vec![plain(10.0, 120.0)]);
    assert_eq!(node.told.of(Purpose::GiveBack).count(), 0);
    assert!(node.size.limit > Node::SMALL.size.limit);
}

#[test]
fn whoever_lowers_it_every_minute_for_an_hour_is_countered_more_and_more_slowly_and_then_left() {
    let mut node = Simulation::new(Node::SMALL, settings(), 12);
    node.run(600, |_| vec![plain(600.0, 120.0)]);
    let ours = node.size.limit;
    assert!(ours > 100_000 && node.told.raises() == 1);
    for _ in 0..60 {
        node.run(60, |_| vec![plain(600.0, 120.0)]);
        node.set_by_somebody_else(65_536);
    }
    let back: Vec<_> = node.told.of(Purpose::Reapply).map(|(at, _)| *at).collect();
    assert_eq!(back.len(), 5, "{back:?}");
    let gaps: Vec<_> = back
        .windows(2)
        .map(|pair| pair[1].saturating_sub(pair[0]))
        .collect();
    assert!(gaps.windows(2).all(|pair| pair[0] < pair[1]), "{gaps:?}");
    let fight = node.policy.fight().expect("a fight");
    assert!(fight.given_up && fight.rounds == 6, "{fight:?}");
    assert_eq!(node.size.limit, 65_536);
    assert_eq!(node.told.raises(), 1, "no raise by another name");
    // A person decides.
    let action = Action {
        purpose: Purpose::Set,
        before: node.size,
        after: Size {
            limit: 200_000,
            ..node.size
        },
        reason: String::new(),
    };
    node.size = action.after;
    let now = node.now();
    node.policy.done(&action, true, now);
    node.run(60, |_| vec![plain(600.0, 120.0)]);
    assert_eq!((node.policy.fight(), node.size.limit), (None, 200_000));
}

#[test]
fn what_somebody_else_raises_stays_and_is_the_new_floor() {
    let settings = Settings {
        give_back: Some(SOONEST_GIVE_BACK),
        ..settings()
    };
    let mut node = Simulation::new(Node::SMALL, settings, 13);
    node.step = 5.0;
    node.run(900, |_| vec![plain(700.0, 120.0)]);
    node.set_by_somebody_else(200_000);
    node.run(86_400, |_| vec![plain(10.0, 120.0)]);
    assert_eq!(node.size.limit, 200_000);
}

#[test]
fn a_floor_is_reached_at_once_and_kept() {
    let settings = Settings {
        min_limit: 131_072,
        ..settings()
    };
    let mut node = Simulation::new(Node::SMALL, settings, 14);
    node.run(10, |_| vec![plain(1.0, 1.0)]);
    assert_eq!(node.size.limit, 131_072);
    node.set_by_somebody_else(65_536);
    node.run(60, |_| vec![plain(1.0, 1.0)]);
    assert_eq!(node.size.limit, 131_072);
}

#[test]
fn buckets_follow_in_one_resize_and_not_while_packets_are_lost() {
    let node = Node {
        size: Size {
            limit: 65_536,
            buckets: 8_192,
            time_wait: Some(TIME_WAIT),
        },
        ..Node::LARGE
    };
    let mut node = Simulation::new(node, settings(), 15);
    node.run(minutes(60), |at| {
        vec![plain((at * 2.0).min(3_000.0), 120.0)]
    });
    let resizes: Vec<_> = node.told.of(Purpose::Buckets).collect();
    assert!((1..=3).contains(&resizes.len()), "{resizes:?}");
    let chain = 2.0 * as_f64(node.size.limit) / as_f64(node.size.buckets);
    assert!(chain <= 8.0, "{chain}");
    assert!(node.told.raises() >= resizes.len());
}

#[test]
fn no_limit_is_nothing_to_raise() {
    let mut node = Simulation::new(Node::SMALL, settings(), 16);
    node.size.limit = 0;
    let seen = node.observation();
    let decision = node.policy.observe(&seen, &mut |_| None);
    assert!(decision.action.is_none() && decision.now.contains("no limit"));
}
