//! Days of traffic in seconds: the policy against a model of tables, and what has to hold whatever the traffic.

use std::{collections::VecDeque, time::Duration};

use ctpressure_model::{
    cost::EntryCost,
    pressure::{PressureSample, as_count, as_f64, forecast::Forecaster},
    tests::series::Random,
    verdict::{Composition, Part},
};

use crate::{
    kernel::memory::NodeMemory,
    limit::{
        Settings,
        change::{Purpose, Size},
        ledger::LimitLedger,
        policy::{Action, Observation, Policy, TableLosses, TableSeen},
    },
};

mod properties;
mod stories;
mod timeouts;

const GIB: u64 = 1 << 30;
/// As the kernel has it, in seconds.
const TIME_WAIT: u64 = 120;

/// Connections of one kind: so many a second, which live so long.
#[derive(Clone, Copy, Debug)]
struct Load {
    per_second: f64,
    seconds: f64,
    /// One-way connections of one sender.
    flood: bool,
    /// Closed at once: they live as long as the timeout says when they come.
    closed: bool,
}

/// A node: its memory, what the kernel began with.
#[derive(Clone, Copy, Debug)]
struct Node {
    gib: u64,
    size: Size,
}

impl Node {
    /// As the kernel makes it from 5.15 on.
    const SMALL: Self = Self {
        gib: 2,
        size: Size {
            limit: 65_536,
            buckets: 65_536,
            time_wait: Some(TIME_WAIT),
        },
    };
    const LARGE: Self = Self {
        gib: 512,
        size: Size {
            limit: 262_144,
            buckets: 262_144,
            time_wait: Some(TIME_WAIT),
        },
    };
}

/// One kind of connections in the table.
#[derive(Clone, Debug, Default)]
struct Class {
    live: f64,
    /// Inserts of each step that have not expired, the oldest first, and when they do.
    ends: VecDeque<(f64, f64)>,
}

#[derive(Clone, Debug, Default)]
struct Told {
    actions: Vec<(Duration, Action)>,
    refusals: Vec<(Duration, String)>,
    /// Timeouts that somebody else set, and when.
    foreign_timeouts: Vec<(Duration, u64)>,
    /// Limits that somebody else set, and when.
    foreign: Vec<(Duration, u64)>,
    /// Connections lost, and when the first and the last one was.
    lost: f64,
    first_loss: Option<Duration>,
    last_loss: Option<Duration>,
    /// The highest limit that the ceiling allowed when something was raised to it.
    ceilings: Vec<(Duration, u64)>,
    /// The same when a timeout was shortened.
    ceilings_of_timeouts: Vec<(Duration, u64)>,
    advice: Vec<String>,
}

impl Told {
    fn of(&self, purpose: Purpose) -> impl Iterator<Item = &(Duration, Action)> {
        self.actions
            .iter()
            .filter(move |(_, action)| action.purpose == purpose)
    }

    /// The ceiling when a timeout was shortened at this time.
    fn ceiling_at(&self, at: Duration) -> u64 {
        let mut ceilings = self.ceilings_of_timeouts.iter();
        ceilings
            .find(|(then, _)| *then == at)
            .map_or(u64::MAX, |(_, limit)| *limit)
    }

    fn raises(&self) -> usize {
        self.of(Purpose::Raise).count()
    }
}

/// The table, the policy, and a clock.
struct Simulation {
    at: f64,
    step: f64,
    size: Size,
    memory: NodeMemory,
    /// Memory that others take comes and goes.
    classes: Vec<Class>,
    inserts: f64,
    deletes: f64,
    drops: f64,
    /// `None`: forecasts are crude ones, by the last two steps; cheap, and worse than the real ones.
    forecaster: Option<Forecaster>,
    before: f64,
    policy: Policy,
    random: Random,
    told: Told,
}

const COST: EntryCost = EntryCost {
    least: 256.0,
    slab: 256.0,
    extension: 128.0,
    measured: true,
};

impl Simulation {
    fn new(node: Node, settings: Settings, seed: u64) -> Self {
        Self {
            at: 10_000.0,
            step: 1.0,
            size: node.size,
            memory: NodeMemory {
                total: node.gib * GIB,
                available: node.gib * GIB / 2,
            },
            classes: Vec::new(),
            inserts: 0.0,
            deletes: 0.0,
            drops: 0.0,
            forecaster: Some(Forecaster::default()),
            before: 0.0,
            policy: Policy::new(settings, LimitLedger::default()),
            random: Random::new(seed),
            told: Told::default(),
        }
    }

    fn now(&self) -> Duration {
        Duration::from_secs_f64(self.at)
    }

    fn entries(&self) -> f64 {
        self.classes.iter().map(|class| class.live).sum()
    }

    /// Somebody else sets the limit.
    fn set_by_somebody_else(&mut self, limit: u64) {
        self.size.limit = limit;
        self.told.foreign.push((self.now(), limit));
    }

    /// Somebody else sets the timeout of closed connections.
    fn time_wait_set_by_somebody_else(&mut self, seconds: u64) {
        self.size.time_wait = Some(seconds);
        self.told.foreign_timeouts.push((self.now(), seconds));
    }

    /// One step with this load.
    fn step(&mut self, loads: &[Load]) {
        self.classes
            .resize_with(loads.len().max(self.classes.len()), Class::default);
        for class in &mut self.classes {
            while class.ends.front().is_some_and(|(end, _)| *end <= self.at) {
                let Some((_, number)) = class.ends.pop_front() else {
                    break;
                };
                class.live -= number;
                self.deletes += number;
            }
        }
        for (index, load) in loads.iter().enumerate() {
            let noise = 1.0 + 0.05 * self.random.normal() / as_f64(1).max(load.per_second).sqrt();
            let wanted = (load.per_second * self.step * noise).max(0.0);
            let room = (as_f64(self.size.limit) - self.entries()).max(0.0);
            let come = wanted.min(room);
            let lost = wanted - come;
            if lost >= 1.0 {
                self.drops += lost;
                self.told.lost += lost;
                let now = self.now();
                self.told.first_loss.get_or_insert(now);
                self.told.last_loss = Some(now);
            }
            let class = &mut self.classes[index];
            class.live += come;
            let lives = match self.size.time_wait {
                Some(timeout) if load.closed => as_f64(timeout),
                _ => load.seconds,
            };
            let end = self.at + lives;
            // Who came before may end after: entries keep the timeout that they began with.
            let sooner = class.ends.partition_point(|(other, _)| *other <= end);
            class.ends.insert(sooner, (end, come));
            self.inserts += come;
        }
        self.decide(loads);
        self.at += self.step;
    }

    fn forecast(&mut self, entries: u64) -> Option<f64> {
        let (now, limit) = (self.entries(), as_f64(self.size.limit));
        let slope = (now - std::mem::replace(&mut self.before, now)) / self.step;
        let sample = PressureSample {
            at: self.now(),
            entries,
            limit: self.size.limit,
            flow: Some((as_count(self.inserts), as_count(self.deletes))),
            ..PressureSample::default()
        };
        match &mut self.forecaster {
            // Far from pressure there is nothing to foresee, and days pass faster.
            Some(forecaster) if now <= 0.3 * limit => {
                *forecaster = Forecaster::default();
                None
            }
            Some(forecaster) => forecaster.add(&sample).seconds_to_full,
            None => (slope > 0.01 * now).then(|| (limit - now).max(0.0) / slope),
        }
    }

    fn observation(&mut self) -> Observation {
        let entries = as_count(self.entries());
        let seconds_to_full = self.forecast(entries);
        Observation {
            at: self.now(),
            size: self.size,
            tables: vec![TableSeen {
                netns: 1,
                name: "host".to_owned(),
                entries,
                seconds_to_full,
                losses: Some(TableLosses {
                    drop: as_count(self.drops),
                    ..TableLosses::default()
                }),
                ..TableSeen::default()
            }],
            flow: Some((as_count(self.inserts), as_count(self.deletes))),
            memory: self.memory,
            cost: COST,
        }
    }

    fn decide(&mut self, loads: &[Load]) {
        let seen = self.observation();
        let live = |of: fn(&Load) -> bool| -> f64 {
            let classes = self.classes.iter().zip(loads);
            let of_these = classes.filter(|(_, load)| of(load));
            of_these.map(|(class, _)| class.live).sum()
        };
        let (flood, closed) = (live(|load| load.flood), live(|load| load.closed));
        let part = |name: &str| {
            Some(Part {
                name: name.to_owned(),
                entries: as_count(flood),
            })
        };
        let composition = Composition {
            entries: as_count(self.entries()),
            count: None,
            one_way: as_count(flood),
            time_wait: as_count(closed),
            source: part("203.0.113.9"),
            opener: None,
            destination: part("10.0.0.9:80 tcp"),
            ..Composition::default()
        };
        let decision = self
            .policy
            .observe(&seen, &mut |_| Some(composition.clone()));
        if let Some(refused) = decision.refused {
            self.told.refusals.push((seen.at, refused.reason));
            self.told.advice.extend(decision.advice);
        }
        let Some(action) = decision.action else {
            return;
        };
        assert_eq!(action.before, self.size, "{action:?}");
        if action.after.limit > action.before.limit {
            let ceiling = self.policy.ceiling(&seen).limit;
            self.told.ceilings.push((seen.at, ceiling));
        }
        if action.purpose == Purpose::Shorten {
            let ceiling = self.policy.ceiling(&seen).limit;
            self.told.ceilings_of_timeouts.push((seen.at, ceiling));
        }
        self.size = action.after;
        self.policy.done(&action, true, seen.at);
        self.told.actions.push((seen.at, action));
    }

    /// So many seconds of what `load` says for each (from 0 on).
    fn run(&mut self, seconds: u64, mut load: impl FnMut(f64) -> Vec<Load>) {
        let begin = self.at;
        while self.at - begin < as_f64(seconds) {
            let loads = load(self.at - begin);
            self.step(&loads);
        }
    }
}

/// So many connections a second that live so long, and are answered.
fn plain(per_second: f64, seconds: f64) -> Load {
    Load {
        per_second,
        seconds,
        flood: false,
        closed: false,
    }
}

/// So many connections a second that are closed at once.
fn closed(per_second: f64) -> Load {
    Load {
        per_second,
        seconds: 0.0,
        flood: false,
        closed: true,
    }
}

fn flood(per_second: f64, seconds: f64) -> Load {
    Load {
        per_second,
        seconds,
        flood: true,
        closed: false,
    }
}
