//! A timeout is shortened only when nothing else helps, and restored.

use proptest::prelude::*;

use super::*;

/// What stands in a ledger's way to restore a timeout sooner.
const HOLD: Duration = Duration::from_mins(10);

fn settings() -> Settings {
    Settings {
        max_limit: Node::SMALL.size.limit,
        shorten_timeouts: true,
        ..Settings::default()
    }
}

/// What has to hold of each time that a timeout was shortened or restored.
pub(super) fn check(simulation: &Simulation, settings: &Settings) -> Result<(), TestCaseError> {
    let told = &simulation.told;
    let mut shortened: Option<(Duration, u64, u64)> = None;
    let mut restored: Option<Duration> = None;
    for (at, action) in &told.actions {
        let (before, after) = (action.before, action.after);
        let was = |time: &Option<u64>| time.unwrap_or_default();
        let (from, to) = (was(&before.time_wait), was(&after.time_wait));
        // Whatever others set in between is theirs, and the controller leaves it for a day.
        let foreign = |since: Duration| {
            let mut sets = told.foreign_timeouts.iter();
            sets.any(|(then, _)| *then >= since && then <= at)
        };
        match action.purpose {
            Purpose::Shorten => {
                prop_assert!(settings.shorten_timeouts, "{action:?}");
                prop_assert!((15..from).contains(&to) && to * 2 <= from, "{action:?}");
                prop_assert_eq!((before.limit, before.buckets), (after.limit, after.buckets));
                let ceiling = told.ceiling_at(*at);
                prop_assert!(
                    ceiling < before.limit + before.limit / 16,
                    "{action:?} {ceiling}"
                );
                let again = shortened.is_some_and(|(since, ..)| !foreign(since));
                prop_assert!(!again, "{action:?} while it is shortened");
                if let Some(restored) = restored {
                    prop_assert!(
                        at.saturating_sub(restored) >= settings.cooldown,
                        "{action:?}"
                    );
                }
                shortened = Some((*at, from, to));
            }
            Purpose::Restore => {
                let Some((since, was, short)) = shortened.take() else {
                    return Err(TestCaseError::fail(format!("{action:?}: never shortened")));
                };
                prop_assert_eq!((short, was), (from, to));
                prop_assert!(at.saturating_sub(since) >= HOLD, "{action:?}");
                restored = Some(*at);
            }
            _ => prop_assert_eq!(from, to, "{:?}", action),
        }
    }
    Ok(())
}

#[test]
fn closed_connections_that_fill_a_table_at_its_ceiling_are_kept_for_a_shorter_time_and_then_as_before()
 {
    let mut node = Simulation::new(Node::SMALL, settings(), 21);
    let load = |closed_per_second| move |_| vec![plain(50.0, 100.0), closed(closed_per_second)];
    node.run(600, load(100.0));
    assert!(node.told.actions.is_empty(), "{:?}", node.told.actions);
    // 84,000 of them want to be there.
    node.run(1200, load(700.0));
    let (at, action) = node
        .told
        .of(Purpose::Shorten)
        .next()
        .expect("shortened")
        .clone();
    assert_eq!(
        (action.before.time_wait, action.after.time_wait),
        (Some(120), Some(30))
    );
    assert!(action.reason.contains("TIME_WAIT"), "{action:?}");
    // Nothing is lost any more once those of before have expired.
    let lost = node.told.last_loss.expect("it was full");
    assert!(lost < at + Duration::from_secs(130), "{lost:?} {at:?}");
    assert!(node.entries() < 30_000.0);
    // As long as the load lasts it is not restored.
    node.run(6 * 3600, load(700.0));
    assert_eq!(node.told.of(Purpose::Restore).count(), 0);
    node.run(1800, load(100.0));
    assert_eq!(node.told.of(Purpose::Restore).count(), 1);
    assert_eq!(node.size.time_wait, Some(120));
    assert_eq!(node.told.actions.len(), 2, "{:?}", node.told.actions);
    check(&node, &settings()).expect("it holds");
}

#[test]
fn it_is_not_done_unless_it_was_asked_for_and_nothing_else_helps() {
    let others = [
        // Not asked for.
        Settings {
            shorten_timeouts: false,
            ..settings()
        },
        // There is room: it is raised.
        Settings {
            max_limit: 2_097_152,
            ..settings()
        },
    ];
    for settings in others {
        let mut node = Simulation::new(Node::SMALL, settings, 22);
        node.run(1800, |_| vec![plain(50.0, 100.0), closed(700.0)]);
        assert_eq!(node.told.of(Purpose::Shorten).count(), 0);
        assert_eq!(node.size.time_wait, Some(120));
    }
    // Not of what is most of the table, a flood or living connections.
    for load in [plain(500.0, 120.0), flood(2_000.0, 60.0)] {
        let mut node = Simulation::new(Node::SMALL, settings(), 23);
        node.run(1800, |_| vec![load, closed(150.0)]);
        assert!(!node.told.refusals.is_empty());
        assert_eq!(node.told.actions, []);
    }
    // Nor where it is short already.
    let mut node = Simulation::new(Node::SMALL, settings(), 24);
    node.size.time_wait = Some(29);
    node.run(1800, |_| vec![closed(4_000.0)]);
    assert!(!node.told.refusals.is_empty());
    assert_eq!(node.told.actions, []);
}

#[test]
fn what_somebody_else_sets_meanwhile_stays() {
    let mut node = Simulation::new(Node::SMALL, settings(), 25);
    node.run(900, |_| vec![closed(700.0)]);
    assert_eq!(node.size.time_wait, Some(30));
    node.time_wait_set_by_somebody_else(60);
    node.run(3600, |_| vec![closed(1_400.0)]);
    node.run(3600, |_| vec![closed(1.0)]);
    assert_eq!(node.size.time_wait, Some(60));
    assert_eq!(node.told.actions.len(), 1, "{:?}", node.told.actions);
}

#[test]
fn a_load_that_comes_back_soon_makes_it_stay_longer() {
    let mut node = Simulation::new(Node::SMALL, settings(), 26);
    node.forecaster = None;
    // A quarter of an hour in each, for a day.
    node.run(86_400, |at| {
        let loaded = at % 2_700.0 < 900.0;
        vec![closed(if loaded { 700.0 } else { 50.0 })]
    });
    let shortened = node.told.of(Purpose::Shorten).count();
    assert!((2..=8).contains(&shortened), "{:?}", node.told.actions);
    check(&node, &settings()).expect("it holds");
}
