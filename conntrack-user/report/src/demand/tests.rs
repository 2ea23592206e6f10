//! What is advised after an incident holds when the same comes again, and is not much more than that takes.

use super::*;

mod incidents;
mod model;

use incidents::incidents;
use model::{Incident, Life, Load};

/// Runs of each incident, with other flows.
const SEEDS: u64 = 2;

#[test]
fn a_limit_holds_when_the_same_comes_again_and_is_at_most_1_3_times_the_smallest_or_a_range() {
    let (mut wrong, mut ranges) = (Vec::new(), 0);
    for (what, mut incident) in incidents() {
        for seed in 0..SEEDS {
            incident.seed = seed;
            let seen = incident.run(None);
            assert!(seen.lost > 0, "{what}: nothing was lost");
            let smallest = incident.run(Some(0)).most;
            let demand = demand(&seen.evidence, |owner| incident.longest(owner));
            assert!(demand.exact, "{what}");
            let advised = demand.limit();
            let lost = incident.run(Some(advised)).lost;
            let least = demand.limit_at_least();
            println!(
                "{what}: {smallest} needed, {advised} advised ({:.2}), {least:?} at least, {lost} lost with that",
                as_f64(advised) / as_f64(smallest)
            );
            ranges += u64::from(least.is_some());
            let close = match least {
                None => advised <= smallest * 13 / 10,
                Some(least) => least <= smallest,
            };
            if lost > 0 || !close {
                wrong.push(format!("{what}: {smallest} needed, {demand:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let runs = SEEDS * incidents().len() as u64;
    assert!(ranges * 2 < runs, "{ranges} of {runs} are ranges");
}

#[test]
fn nothing_lost_is_the_peak_and_nothing_at_all_is_nothing() {
    let loads = vec![Load::tcp(|_| 100, Life::Each(10))];
    let seen = Incident::new(loads, 60, |_| 5_000).run(None);
    assert_eq!(demand(&seen.evidence, |_| None).entries_in_all(), seen.most);
    assert_eq!(
        demand(&Evidence::default(), |_| None),
        Demand {
            exact: true,
            ..Demand::default()
        }
    );
}

#[test]
fn a_limit_that_is_raised_while_packets_are_lost_is_not_reached() {
    let loads = vec![Load::tcp(|_| 100, Life::Each(300))];
    let mut evidence = Incident::new(loads, 30, |_| 1_000).run(None).evidence;
    let raised = evidence
        .points
        .iter_mut()
        .rev()
        .find(|point| point.drops[0] > 0);
    raised.unwrap().limit = 200_000;
    let demand = demand(&evidence, |_| None);
    assert_eq!(demand.entries, 1_000, "{demand:?}");
}

#[test]
fn round_numbers() {
    for (number, round) in [
        (0, 0),
        (7, 7),
        (199, 199),
        (200, 200),
        (1_234, 1_240),
        (4_181, 4_200),
        (262_145, 270_000),
    ] {
        assert_eq!(round_up(number), round, "{number}");
    }
    assert_eq!(round_up(u64::MAX), u64::MAX);
}
