//! What one owner has outside of the table: flows that were refused, and entries that were evicted.

use super::survival::Survival;
use crate::evidence::{OwnerEvidence, OwnerStep};
use ctpressure_model::pressure::as_f64;

/// Steps after the last refusal in which what enters is still part old, part new.
const AFTERMATH: usize = 3;
/// Weight of the newest step in what is true of late.
const RECENT: f64 = 0.3;
/// A later try is a little less likely to get in than a first one: it comes so long after a moment in which more wanted in than could.
const LATER: f64 = 0.9;
/// Steps before the first refusal of which the highest rate of tries is taken, and how much more than that may be tries from other
/// ports.
const BUSIEST: usize = 10;
const MORE_TRIES: f64 = 1.2;
/// How many times as many as were seen to be new in a step may have been in one in which they can't be told from tries from other
/// ports: what rises so much while a table is full is rare, and clients that try every second are not.
const RISEN: f64 = 3.0;

/// Flows by the step since when they are counted.
#[derive(Default)]
struct Waiting(Vec<f64>);

impl Waiting {
    fn add(&mut self, at: usize, number: f64) {
        if self.0.len() <= at {
            self.0.resize(at + 1, 0.0);
        }
        self.0[at] += number;
    }

    /// Those that would not have ended by the end of this step.
    fn left(&self, at: usize, curve: &[f64]) -> f64 {
        let since = self.0.iter().enumerate();
        let left = since.map(|(since, number)| number * curve[at.saturating_sub(since)]);
        left.sum()
    }
}

/// Refused flows that got in on a later try, by when they did: they live on from then.
#[derive(Default)]
struct Late {
    in_table: Waiting,
    /// How many did not get in yet.
    out: f64,
}

impl Late {
    fn add(&mut self, at: usize, refused: f64, late: f64) {
        let late = late.min(self.out);
        self.out += refused - late;
        self.in_table.add(at, late);
    }
}

/// Flows that would be in the table and are not, less those that are in it and would not be any more.
#[derive(Clone, Copy, Default)]
pub(super) struct OutsideNow {
    pub(super) refused: f64,
    /// As few as there can be.
    pub(super) refused_least: f64,
    pub(super) evicted: f64,
}

impl std::ops::AddAssign for OutsideNow {
    fn add_assign(&mut self, more: Self) {
        self.refused += more.refused;
        self.refused_least += more.refused_least;
        self.evicted += more.evicted;
    }
}

/// What one owner has outside.
pub(super) struct Outside<'a> {
    owner: &'a OwnerEvidence,
    /// How much of what began is left after so many steps; the same of evicted entries.
    curves: [Vec<f64>; 2],
    /// An evicted entry would have ended the sooner the older it was.
    ages: bool,
    refused: Waiting,
    /// What got in of the refused ones, if a later try is about as likely to as a first one.
    late: Late,
    /// The same, if nothing else got in as long as there were any.
    all_late: Late,
    /// Its tries became more when it was refused: it may have tried again from other ports, and then each try looks like another
    /// connection.
    other_ports: Option<OtherPorts>,
    evicted: Waiting,
    /// First refusals and all refusals of a step, of late.
    lately: [f64; 2],
    /// Part of later tries among what is refused.
    later: f64,
    /// Part of victims that had been evicted before, of late.
    again: f64,
    /// When something was refused, and when anything was.
    last_refused: Option<usize>,
    last: Option<usize>,
}

impl<'a> Outside<'a> {
    /// `longest`: seconds that an evicted entry of this owner would have lived at most, where its kind of traffic tells.
    pub(super) fn new(owner: &'a OwnerEvidence, step: u64, longest: Option<u64>) -> Self {
        let natural = Survival::of(&owner.points);
        let longest = longest.map(|seconds| as_f64(seconds) / as_f64(step.max(1)));
        let evicted = match longest {
            Some(longest) if natural.life().is_none_or(|life| longest < life) => {
                Survival::alike(Some(longest))
            }
            _ => natural,
        };
        let steps = owner.points.len();
        Self {
            owner,
            curves: [natural.curve(steps), evicted.curve(steps)],
            ages: evicted.ages(),
            refused: Waiting::default(),
            late: Late::default(),
            all_late: Late::default(),
            other_ports: OtherPorts::of(&owner.points, step),
            evicted: Waiting::default(),
            lately: [0.0; 2],
            later: 0.0,
            again: 0.0,
            last_refused: None,
            last: None,
        }
    }

    /// Flows outside at the end of this step.
    pub(super) fn step(&mut self, at: usize) -> OutsideNow {
        let Some(point) = self.owner.points.get(at) else {
            return OutsideNow::default();
        };
        let first = f64::from(point.refused_first);
        if point.refused > 0 {
            // What was seen with detail may be counted a sample later.
            self.lately[0] += RECENT * (first - self.lately[0]);
            self.lately[1] += RECENT * (f64::from(point.refused) - self.lately[1]);
            self.later = (1.0 - self.lately[0] / self.lately[1]).max(0.0);
            (self.last_refused, self.last) = (Some(at), Some(at));
        }
        if point.victims > 0 {
            let again = f64::from(point.victims_again) / f64::from(point.victims);
            self.again += RECENT * (again - self.again);
            self.last = Some(at);
        }
        self.add_refused(at, *point);
        self.add_evicted(at, *point);
        let [curve, evicted] = &self.curves;
        let refused = self.refused.left(at, curve);
        let least = if self.other_ports.is_some() {
            0.0
        } else {
            refused
        };
        let back = self.again * f64::from(point.live);
        OutsideNow {
            refused: refused - self.late.in_table.left(at, curve),
            refused_least: least - self.all_late.in_table.left(at, curve),
            evicted: (self.evicted.left(at, evicted) - back).max(0.0),
        }
    }

    fn add_refused(&mut self, at: usize, point: OwnerStep) {
        let (inserts, first) = (f64::from(point.inserts), f64::from(point.refused_first));
        let tries_again = self.later > 0.0;
        let over = |last: Option<usize>| last.is_some_and(|last| at > last + AFTERMATH);
        let late = match over(self.last_refused) {
            true if tries_again => inserts,
            true => 0.0,
            false => inserts * self.later * LATER,
        };
        self.late.add(at, first, late);
        let all_late = if tries_again || self.other_ports.is_some() {
            inserts
        } else {
            0.0
        };
        self.all_late.add(at, first, all_late);
        let new = match &mut self.other_ports {
            Some(ports) => ports.may_be_new(inserts, first),
            None => first,
        };
        self.refused.add(at, new);
    }

    fn add_evicted(&mut self, at: usize, point: OwnerStep) {
        // They had lived for a time already: as long as it takes to replace all that it has.
        let age = usize::try_from(point.live / point.deletes.max(1)).unwrap_or(0);
        let since = if self.ages {
            at.saturating_sub(age)
        } else {
            at
        };
        let first = point.victims.saturating_sub(point.victims_again);
        self.evicted.add(since, f64::from(first));
    }
}

/// Of an owner that may try again from other ports.
struct OtherPorts {
    /// The most tries of a step that can't have been others before.
    new: f64,
    /// Refused ones of which each may try again.
    out: f64,
}

impl OtherPorts {
    /// `None`: it did not try more often when it was refused.
    fn of(points: &[OwnerStep], step: u64) -> Option<Self> {
        let first = points.iter().position(|point| point.refused > 0)?;
        let tries = |point: &OwnerStep| f64::from(point.inserts) + f64::from(point.refused_first);
        // Nobody tries again within a second.
        let before = &points[..first + usize::from(step <= 1)];
        let new = before.iter().rev().take(BUSIEST).map(tries);
        let new = new.fold(0.0, f64::max);
        let refused = points.iter().filter(|point| point.refused > 0).map(tries);
        let (sum, steps) =
            refused.fold((0.0, 0.0), |(sum, steps), tries| (sum + tries, steps + 1.0));
        (sum > MORE_TRIES * new * steps).then_some(Self { new, out: 0.0 })
    }

    /// Of those that are refused as if for the first time, as many as may not have tried before.
    fn may_be_new(&mut self, inserts: f64, first: f64) -> f64 {
        let tries = inserts + first;
        let again = tries.min(self.out);
        self.new = self.new.max(tries - again);
        self.out += first - again;
        first.min((RISEN * self.new - inserts).max(0.0))
    }
}
