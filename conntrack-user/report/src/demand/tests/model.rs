//! A table as the kernel keeps it, simulated flow by flow; the smallest limit that holds is the most entries that the same flows
//! have in a table without one.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashSet},
};

use ctpressure_model::{
    owner::OwnerKind,
    pressure::{as_count, as_f64},
};

use crate::evidence::{Evidence, EvidencePoint, OwnerEvidence, OwnerStep, Span};

/// Ticks of a simulated second.
const TICKS: u64 = 20;
/// Buckets that `early_drop` looks through (`NF_CT_EVICTION_RANGE`).
const EVICTION_RANGE: usize = 8;

/// How long flows live, in seconds.
#[derive(Clone, Copy)]
pub(super) enum Life {
    Each(u64),
    /// On average; each tick is as likely as any other to be the last.
    Mean(u64),
    /// As many percent live as long as the first, the others as long as the second.
    Two(u64, u64, u64),
}

/// What a client does that gets no answer.
#[derive(Clone, Copy)]
pub(super) enum Again {
    Never,
    /// The same packet, after 1, 3, 7 ... seconds, as often as this: a SYN.
    Syn(u32),
    /// From another port, so that it is another flow: after so many seconds, as often as this.
    NewPort(u64, u32),
}

/// Flows of one owner.
#[derive(Clone, Copy)]
pub(super) struct Load {
    /// New flows a second, by second.
    pub(super) rate: fn(u64) -> u64,
    pub(super) life: Life,
    /// As many percent may be evicted by the kernel.
    pub(super) evictable: u64,
    pub(super) refused: Again,
    /// An evicted flow sends again after so many seconds.
    pub(super) sends_again: Option<u64>,
}

impl Load {
    pub(super) const fn tcp(rate: fn(u64) -> u64, life: Life) -> Self {
        Self {
            rate,
            life,
            evictable: 0,
            refused: Again::Syn(6),
            sends_again: None,
        }
    }

    pub(super) const fn udp(rate: fn(u64) -> u64, life: Life) -> Self {
        Self {
            evictable: 100,
            refused: Again::Never,
            ..Self::tcp(rate, life)
        }
    }

    pub(super) const fn again(self, refused: Again) -> Self {
        Self { refused, ..self }
    }
}

/// One incident.
pub(super) struct Incident {
    pub(super) loads: Vec<Load>,
    pub(super) seconds: u64,
    pub(super) limit: fn(u64) -> u64,
    pub(super) buckets: usize,
    /// Seconds of a step of the journal.
    pub(super) step: u64,
    /// Other flows, and other luck.
    pub(super) seed: u64,
}

#[derive(Clone, Copy)]
struct Flow {
    load: usize,
    id: u64,
    tries: u32,
    lives: u64,
    /// Ticks when it would end without any limit.
    ends: u64,
    evictable: bool,
}

/// What came of an incident.
pub(super) struct Outcome {
    pub(super) evidence: Evidence,
    pub(super) lost: u64,
    /// Most entries at a time.
    pub(super) most: u64,
}

/// A number that is always the same for one flow.
fn dice(id: u64, of: u64, sides: u64) -> u64 {
    let mut x = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ of.wrapping_mul(0xd1b5_4a32_d192_ed03);
    x ^= x >> 29;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^= x >> 32;
    x % sides
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap()
}

impl Life {
    /// In ticks.
    fn of(self, id: u64) -> u64 {
        let ticks = |seconds: u64| seconds * TICKS;
        match self {
            Self::Each(each) => ticks(each),
            Self::Mean(mean) => {
                let share = as_f64(dice(id, 1, 1_000_000) + 1) / 1_000_001.0;
                as_count(-share.ln() * as_f64(mean * TICKS)).max(1)
            }
            Self::Two(percent, one, other) => ticks(if dice(id, 1, 100) < percent {
                one
            } else {
                other
            }),
        }
    }
}

/// The entries and their places.
struct Table {
    entries: Vec<Option<Flow>>,
    free: Vec<u32>,
    buckets: Vec<Vec<u32>>,
    ends: BinaryHeap<Reverse<(u64, u32, u64)>>,
    count: u64,
}

impl Table {
    fn places(&self, flow: &Flow) -> [usize; 2] {
        [2, 3].map(|of| index(dice(flow.id, of, self.buckets.len() as u64)))
    }

    fn insert(&mut self, flow: Flow) {
        let at = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            u32::try_from(self.entries.len() - 1).unwrap()
        });
        for place in self.places(&flow) {
            self.buckets[place].push(at);
        }
        self.ends.push(Reverse((flow.ends, at, flow.id)));
        self.entries[at as usize] = Some(flow);
        self.count += 1;
    }

    fn remove(&mut self, at: u32) -> Option<Flow> {
        let flow = self.entries[at as usize].take()?;
        for place in self.places(&flow) {
            self.buckets[place].retain(|one| *one != at);
        }
        self.free.push(at);
        self.count -= 1;
        Some(flow)
    }

    fn ended(&mut self, tick: u64) -> Vec<Flow> {
        let mut ended = Vec::new();
        while let Some(Reverse((ends, at, id))) = self.ends.peek().copied() {
            if ends > tick {
                break;
            }
            self.ends.pop();
            if self.entries[at as usize].is_some_and(|flow| flow.id == id && flow.ends == ends) {
                ended.extend(self.remove(at));
            }
        }
        ended
    }

    /// As `early_drop` does: all that may go of the first bucket that has any.
    fn early_drop(&mut self, flow: &Flow) -> Vec<Flow> {
        let first = self.places(flow)[0];
        for place in 0..EVICTION_RANGE {
            let bucket = (first + place) % self.buckets.len();
            let mut victims: Vec<u32> = self.buckets[bucket]
                .iter()
                .copied()
                .filter(|at| self.entries[*at as usize].is_some_and(|flow| flow.evictable))
                .collect();
            victims.dedup();
            if !victims.is_empty() {
                return victims
                    .into_iter()
                    .filter_map(|at| self.remove(at))
                    .collect();
            }
        }
        Vec::new()
    }
}

impl Incident {
    pub(super) fn new(loads: Vec<Load>, seconds: u64, limit: fn(u64) -> u64) -> Self {
        Self {
            loads,
            seconds,
            limit,
            buckets: 1024,
            step: 1,
            seed: 0,
        }
    }

    /// As long as the kernel keeps what it may evict, where that is known by its kind.
    pub(super) fn longest(&self, owner: &OwnerEvidence) -> Option<u64> {
        let number: usize = owner.name.trim_start_matches("shop/").parse().ok()?;
        match self.loads[number] {
            Load {
                evictable: 100,
                life: Life::Each(seconds),
                ..
            } => Some(seconds),
            _ => None,
        }
    }

    /// What happens; `limit`: another one than it had, 0: none.
    #[expect(clippy::too_many_lines, reason = "one table, step by step")]
    pub(super) fn run(&self, limit: Option<u64>) -> Outcome {
        let steps = index(self.seconds.div_ceil(self.step));
        let mut owners: Vec<OwnerEvidence> = (0..self.loads.len())
            .map(|load| OwnerEvidence::new(&format!("shop/{load}"), OwnerKind::Pod, steps))
            .collect();
        let mut points = vec![EvidencePoint::default(); steps];
        let mut table = Table {
            entries: Vec::new(),
            free: Vec::new(),
            buckets: vec![Vec::new(); self.buckets],
            ends: BinaryHeap::new(),
            count: 0,
        };
        let mut live = vec![0_u32; self.loads.len()];
        let mut due: BTreeMap<u64, Vec<Flow>> = BTreeMap::new();
        let (mut refused_once, mut evicted_once) = (HashSet::new(), HashSet::new());
        let (mut next, mut other_ports, mut most, mut lost) = (self.seed << 32, 1 << 40, 0, 0);
        for second in 0..self.seconds {
            let at = index(second / self.step);
            let limit = limit.unwrap_or_else(|| (self.limit)(second));
            let point = &mut points[at];
            point.limit = if point.seconds == 0 {
                limit
            } else {
                point.limit.min(limit)
            };
            point.seconds += 1;
            for tick in second * TICKS..(second + 1) * TICKS {
                for flow in table.ended(tick) {
                    owners[flow.load].points[at].deletes += 1;
                    live[flow.load] -= 1;
                }
                let mut tries = due.remove(&tick).unwrap_or_default();
                for (number, load) in self.loads.iter().enumerate() {
                    let rate = (load.rate)(second);
                    let within = tick % TICKS;
                    for _ in rate * within / TICKS..rate * (within + 1) / TICKS {
                        next += 1;
                        let lives = load.life.of(next);
                        tries.push(Flow {
                            load: number,
                            id: next,
                            tries: 0,
                            lives,
                            ends: tick + lives,
                            evictable: dice(next, 4, 100) < load.evictable,
                        });
                    }
                }
                // Who comes first is chance.
                tries.sort_by_key(|flow| dice(flow.id, 5 + tick, 1 << 40));
                for mut flow in tries {
                    let load = &self.loads[flow.load];
                    if limit > 0 && table.count >= limit {
                        let victims = table.early_drop(&flow);
                        for victim in &victims {
                            let owner = &mut owners[victim.load].points[at];
                            owner.deletes += 1;
                            owner.victims += 1;
                            owner.victims_again += u32::from(!evicted_once.insert(victim.id));
                            live[victim.load] -= 1;
                            point.evictions += 1;
                            lost += 1;
                            if let Some(wait) = self.loads[victim.load].sends_again {
                                // It would have lived on from then.
                                due.entry(tick + wait * TICKS).or_default().push(*victim);
                            }
                        }
                        if victims.is_empty() {
                            let owner = &mut owners[flow.load].points[at];
                            owner.refused += 1;
                            owner.refused_first += u32::from(refused_once.insert(flow.id));
                            point.drops[0] += 1;
                            lost += 1;
                            match load.refused {
                                Again::Syn(most) if flow.tries < most => {
                                    let wait = TICKS << flow.tries;
                                    flow.tries += 1;
                                    due.entry(tick + wait).or_default().push(flow);
                                }
                                Again::NewPort(wait, most) if flow.tries < most => {
                                    flow.tries += 1;
                                    other_ports += 1;
                                    flow.id = other_ports;
                                    due.entry(tick + wait * TICKS).or_default().push(flow);
                                }
                                _ => {}
                            }
                            continue;
                        }
                    }
                    // A connection that got in late is used as long as one that got in at once.
                    flow.ends = flow.ends.max(tick + flow.lives);
                    owners[flow.load].points[at].inserts += 1;
                    live[flow.load] += 1;
                    table.insert(flow);
                }
                point.entries_most = point.entries_most.max(table.count);
            }
            most = most.max(point.entries_most);
            for (owner, live) in owners.iter_mut().zip(&live) {
                owner.points[at].live = *live;
            }
        }
        for owner in &mut owners {
            let sum = |of: fn(&OwnerStep) -> u32| -> u64 {
                owner.points.iter().map(|point| u64::from(of(point))).sum()
            };
            let (refused, victims) = (sum(|point| point.refused), sum(|point| point.victims));
            let sums = (sum(|point| point.inserts), sum(|point| point.deletes));
            owner.drops[0] = refused;
            owner.victims = victims;
            owner.lost.told = refused;
            owner.evicted.told = victims;
            (owner.inserts, owner.deletes) = sums;
        }
        let span = Span {
            from: 0,
            until: self.seconds,
        };
        Outcome {
            evidence: Evidence {
                focus: span,
                shown: span,
                step: self.step,
                points,
                owners,
                ..Evidence::default()
            },
            lost,
            most,
        }
    }
}
