//! A table with a limit, simulated flow by flow; the limit that would have held is known from the same
//! flows in a table without one.

use std::collections::{BTreeMap, HashSet};

use ctpressure_model::{owner::OwnerKind, tests::series::Random};

use super::*;
use crate::evidence::{EvidencePoint, Span};

/// Ticks of a simulated second.
const TICKS: u64 = 20;

/// Flows of one owner.
struct Load {
    /// New flows a second, by second.
    rate: fn(u64) -> u64,
    /// Seconds that a flow lives.
    life: u64,
    /// The kernel may evict its entries.
    evictable: bool,
    /// A refused flow is tried again after 1, 3, 7 ... seconds, as often as this.
    retries: u32,
    /// An evicted flow sends again after a second.
    sends_again: bool,
}

#[derive(Clone, Copy)]
struct Flow {
    load: usize,
    id: u64,
    tries: u32,
    /// Ticks when it would end without any limit.
    ends: u64,
}

/// The evidence of a table with this limit, by second, and the smallest limit that loses nothing.
#[expect(clippy::too_many_lines, reason = "one table, step by step")]
fn simulate(loads: &[Load], seconds: u64, limit: impl Fn(u64) -> u64) -> (Evidence, u64) {
    let mut refused_once: HashSet<u64> = HashSet::new();
    let mut random = Random::new(7);
    let mut owners: Vec<OwnerEvidence> = (0..loads.len())
        .map(|load| {
            let number = usize::try_from(seconds).unwrap();
            OwnerEvidence::new(&format!("shop/{load}"), OwnerKind::Pod, number)
        })
        .collect();
    let mut points = Vec::new();
    let mut table: Vec<Flow> = Vec::new();
    let mut due: BTreeMap<u64, Vec<Flow>> = BTreeMap::new();
    let mut ended: HashSet<u64> = HashSet::new();
    let (mut unlimited, mut most, mut next) = (BTreeMap::<u64, u64>::new(), 0, 0);
    let mut evicted_once: HashSet<u64> = HashSet::new();
    for second in 0..seconds {
        let limit = limit(second);
        let mut point = EvidencePoint {
            seconds: 1,
            limit,
            ..EvidencePoint::default()
        };
        let at = usize::try_from(second).unwrap();
        for tick in second * TICKS..(second + 1) * TICKS {
            unlimited = unlimited.split_off(&(tick + 1));
            table.retain(|flow| {
                let stays = flow.ends > tick;
                if !stays {
                    ended.insert(flow.id);
                    owners[flow.load].points[at].deletes += 1;
                }
                stays
            });
            let mut tries = due.remove(&tick).unwrap_or_default();
            for (load, Load { rate, life, .. }) in loads.iter().enumerate() {
                let per_tick = |tick: u64| rate(second) * tick / TICKS;
                let within = tick % TICKS;
                for _ in per_tick(within)..per_tick(within + 1) {
                    next += 1;
                    let ends = tick + life * TICKS;
                    *unlimited.entry(ends).or_default() += 1;
                    tries.push(Flow {
                        load,
                        id: next,
                        tries: 0,
                        ends,
                    });
                }
            }
            most = most.max(unlimited.values().sum());
            for mut flow in tries {
                if table.len() as u64 >= limit {
                    let evictable: Vec<usize> = (0..table.len())
                        .filter(|at| loads[table[*at].load].evictable)
                        .collect();
                    if evictable.is_empty() {
                        let owner = &mut owners[flow.load].points[at];
                        owner.refused += 1;
                        owner.refused_first += u32::from(refused_once.insert(flow.id));
                        point.drops[0] += 1;
                        if flow.tries < loads[flow.load].retries {
                            let wait = TICKS << flow.tries;
                            flow.tries += 1;
                            due.entry(tick + wait).or_default().push(flow);
                        }
                        continue;
                    }
                    let chosen = random.below(evictable.len() as u64);
                    let victim = table.swap_remove(evictable[usize::try_from(chosen).unwrap()]);
                    let owner = &mut owners[victim.load].points[at];
                    owner.deletes += 1;
                    owner.victims += 1;
                    owner.victims_again += u32::from(!evicted_once.insert(victim.id));
                    point.evictions += 1;
                    if loads[victim.load].sends_again {
                        due.entry(tick + TICKS).or_default().push(victim);
                    }
                }
                // A connection that got in late is used as long as one that got in at once.
                flow.ends = flow.ends.max(tick + loads[flow.load].life * TICKS);
                owners[flow.load].points[at].inserts += 1;
                table.push(flow);
            }
            point.entries_most = point.entries_most.max(table.len() as u64);
        }
        for (load, owner) in owners.iter_mut().enumerate() {
            let live = table.iter().filter(|flow| flow.load == load).count();
            owner.points[at].live = u32::try_from(live).unwrap();
        }
        points.push(point);
    }
    for owner in &mut owners {
        owner.drops[0] = owner
            .points
            .iter()
            .map(|point| u64::from(point.refused))
            .sum();
        owner.victims = owner
            .points
            .iter()
            .map(|point| u64::from(point.victims))
            .sum();
        owner.evicted.told = owner.victims;
        owner.lost.told = owner.drops[0];
    }
    let span = Span {
        from: 0,
        until: seconds,
    };
    let evidence = Evidence {
        focus: span,
        shown: span,
        step: 1,
        points,
        owners,
        ..Evidence::default()
    };
    (evidence, most)
}

#[track_caller]
fn holds(what: &str, loads: &[Load], seconds: u64, limit: impl Fn(u64) -> u64) {
    let (evidence, smallest) = simulate(loads, seconds, limit);
    let demand = demand(&evidence, |_| None);
    let advised = demand.limit();
    println!("{what}: {demand:?}; smallest {smallest}, advised {advised}");
    assert!(demand.exact);
    assert!(
        (smallest..=smallest * 3 / 2).contains(&advised),
        "{what}: {demand:?}: the smallest that holds is {smallest}, advised {advised}"
    );
    let (again, _) = simulate(loads, seconds, |_| advised);
    let lost: u64 = again
        .points
        .iter()
        .map(|point| point.drops[0] + point.evictions)
        .sum();
    assert_eq!(lost, 0, "{what}: a second run with {advised}");
}

const TCP: Load = Load {
    rate: |_| 0,
    life: 300,
    evictable: false,
    retries: 6,
    sends_again: false,
};

#[test]
fn the_limit_is_halved_and_backends_are_doubled() {
    let loads = [
        Load {
            rate: |second| {
                if second < 5 || (20..25).contains(&second) {
                    360
                } else {
                    0
                }
            },
            ..TCP
        },
        Load {
            rate: |second| if (20..30).contains(&second) { 30 } else { 0 },
            retries: 0,
            ..TCP
        },
    ];
    let halved = |second| if second < 15 { 4_000 } else { 2_000 };
    holds("it stays", &loads, 60, halved);
    holds(
        "then there is room again",
        &loads,
        60,
        |second| match second {
            0..15 | 30.. => 200_000,
            _ => 2_000,
        },
    );
}

#[test]
fn a_load_that_is_too_much_for_a_while() {
    for (what, life, retries) in [
        ("short, not tried again", 10, 0),
        ("short, tried again", 10, 3),
        ("long, not tried again", 60, 0),
    ] {
        let loads = [Load {
            rate: |second| if (30..90).contains(&second) { 200 } else { 50 },
            life,
            retries,
            ..TCP
        }];
        let steady = if life == 10 { 1_200 } else { 6_000 };
        holds(what, &loads, 150, |_| steady);
    }
}

#[test]
fn entries_that_are_evicted() {
    let udp = Load {
        evictable: true,
        retries: 0,
        life: 30,
        ..TCP
    };
    let burst = Load {
        rate: |second| if (10..30).contains(&second) { 150 } else { 20 },
        ..udp
    };
    holds("one-way", &[burst], 60, |_| 2_000);
    let again = Load {
        rate: |second| if second < 10 { 100 } else { 0 },
        life: 120,
        sends_again: true,
        ..udp
    };
    holds("they send again", &[again], 60, |_| 700);
}

#[test]
fn nothing_lost_is_the_peak_and_nothing_at_all_is_nothing() {
    let loads = [Load {
        rate: |_| 100,
        life: 10,
        ..TCP
    }];
    let (evidence, smallest) = simulate(&loads, 60, |_| 5_000);
    assert_eq!(demand(&evidence, |_| None).entries_in_all(), smallest);
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
    let loads = [Load {
        rate: |_| 100,
        life: 300,
        ..TCP
    }];
    let (mut evidence, _) = simulate(&loads, 30, |_| 1_000);
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
