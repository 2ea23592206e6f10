//! How many entries there would have been with room for all: the limit that would have held.
//!
//! At each step that is the entries in the table, and the flows that would be there and are not:
//! those refused by a full table and those evicted to make room. Followed by owner:
//!
//! * A refused flow waits outside from its first refusal; more refusals of it (a SYN that is sent
//!   again) are the same flow. It leaves when it gets in on a later try. That is not seen, but how many
//!   do can be told: the kernel can't tell first tries from later ones, so the part of later ones is the
//!   same among the accepted as among the refused. When nothing is refused any more, what enters
//!   is what waited.
//! * An evicted flow is outside, too, until it sends again. Which did is not seen either, but a victim
//!   is a random one of those inside: the part of victims that had been evicted before is the part
//!   of such flows in the table.
//! * Both end when they would have ended: after the lifetime that the owner's entries have.
//!
//! What is outside was never seen living, so the sum is an estimate; [`Demand::sure`] says how much of
//! it was seen.

use std::collections::VecDeque;

use ctpressure_model::{
    pressure::{as_count, as_f64},
    words::time::serialize_seconds,
};
use serde::Serialize;

use super::evidence::{Evidence, OwnerEvidence, OwnerStep};

/// Steps after the last refusal in which what enters is still part old, part new.
const AFTERMATH: usize = 3;
/// Weight of the newest step in what is true of late.
const RECENT: f64 = 0.3;
/// Room above the demand for what the samples don't show: it moves between two of them.
const MARGIN: f64 = 1.1;

/// What a table needs at its fullest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Demand {
    /// When, seconds since 1970.
    #[serde(serialize_with = "serialize_seconds")]
    pub(crate) at: u64,
    /// Entries that there were then.
    pub(crate) entries: u64,
    /// Flows that were refused, and would have been there.
    pub(crate) refused: u64,
    /// Entries that were evicted, and would have been there.
    pub(crate) evicted: u64,
    /// Whether how many flows were refused more than once is known for all of them.
    pub(crate) exact: bool,
}

impl Demand {
    /// Entries that there would have been.
    pub(crate) const fn entries_in_all(&self) -> u64 {
        self.entries + self.refused + self.evicted
    }

    /// The limit that would have held, rounded up.
    pub(crate) fn limit(&self) -> u64 {
        round_up(as_count(as_f64(self.entries_in_all()) * MARGIN))
    }
}

/// Up to three figures that are easy to read: 4,180 becomes 4,200, and 262,145 becomes 263,000.
pub(crate) fn round_up(number: u64) -> u64 {
    let mut unit: u64 = 1;
    while number / unit >= 200 {
        unit = unit.saturating_mul(10);
    }
    number.div_ceil(unit).saturating_mul(unit)
}

/// Flows by the step since when they are outside; evicted ones since when they live.
#[derive(Default)]
struct Waiting(VecDeque<(usize, f64)>);

impl Waiting {
    fn add(&mut self, at: usize, number: f64) {
        if number > 0.0 {
            self.0.push_back((at, number));
        }
    }

    /// Those that would have ended by now go.
    fn end(&mut self, at: usize, life: Option<usize>) {
        if let Some(life) = life {
            self.0.retain(|(since, _)| since + life >= at);
        }
    }

    /// As many get in, the youngest first: they try most often. What is left of the number.
    fn let_in(&mut self, mut number: f64) -> f64 {
        while number > 0.0
            && let Some((_, waiting)) = self.0.back_mut()
        {
            if *waiting > number {
                *waiting -= number;
                return 0.0;
            }
            number -= *waiting;
            self.0.pop_back();
        }
        number
    }

    fn sum(&self) -> f64 {
        self.0.iter().map(|(_, number)| number).sum()
    }
}

/// What one owner has outside.
struct Outside<'a> {
    owner: &'a OwnerEvidence,
    /// Steps that a connection lives, and that an evicted entry would have lived on; `None`: longer than
    /// this is about.
    lives: [Option<usize>; 2],
    refused: Waiting,
    evicted: Waiting,
    /// Part of later tries among what is refused.
    later: f64,
    /// Part of victims that had been evicted before, of late.
    again: f64,
    /// When something was refused, and when anything was.
    last_refused: Option<usize>,
    last: Option<usize>,
}

impl<'a> Outside<'a> {
    fn new(owner: &'a OwnerEvidence, step: u64, longest: Option<u64>) -> Self {
        let natural = natural_life(&owner.points, step);
        let evicted = [natural, longest].into_iter().flatten().min();
        let steps = |life: Option<u64>| {
            life.and_then(|seconds| usize::try_from(seconds.div_ceil(step.max(1))).ok())
        };
        Self {
            owner,
            lives: [steps(natural), steps(evicted)],
            refused: Waiting::default(),
            evicted: Waiting::default(),
            later: 0.0,
            again: 0.0,
            last_refused: None,
            last: None,
        }
    }

    /// Flows outside at the end of this step: refused, and evicted.
    fn step(&mut self, at: usize) -> (f64, f64) {
        let Some(point) = self.owner.points.get(at) else {
            return (0.0, 0.0);
        };
        self.refused.end(at, self.lives[0]);
        self.evicted.end(at, self.lives[1]);
        let first = f64::from(point.refused_first);
        if point.refused > 0 {
            // What was seen with detail may be counted a sample later.
            self.later = (1.0 - first / f64::from(point.refused)).max(0.0);
            self.last_refused = Some(at);
            self.last = Some(at);
        }
        if point.victims > 0 {
            let again = f64::from(point.victims_again) / f64::from(point.victims);
            self.again += RECENT * (again - self.again);
            self.last = Some(at);
        }
        let over = |last: Option<usize>| last.is_some_and(|last| at > last + AFTERMATH);
        let inserts = f64::from(point.inserts);
        if over(self.last) {
            let left = self.refused.let_in(inserts);
            self.evicted.let_in(left);
        } else if !over(self.last_refused) {
            self.refused.let_in(inserts * self.later);
        }
        self.refused.add(at, first);
        // They had lived for a time already: as long as it takes to replace all that it has.
        let left = point.deletes.max(1);
        let age = usize::try_from(point.live / left).unwrap_or(0);
        let victims = point.victims - point.victims_again.min(point.victims);
        self.evicted.add(at.saturating_sub(age), f64::from(victims));
        let back = self.again * f64::from(point.live);
        (self.refused.sum(), (self.evicted.sum() - back).max(0.0))
    }
}

/// Seconds that an owner's entries live if nothing evicts them: all the time that its entries lived,
/// by those that ended. `None`: hardly any ended.
fn natural_life(points: &[OwnerStep], step: u64) -> Option<u64> {
    let (mut lived, mut ended, mut began) = (0.0, 0.0, 0.0);
    for point in points {
        lived += f64::from(point.live);
        ended += f64::from(point.deletes.saturating_sub(point.victims));
        began += f64::from(point.inserts);
    }
    // A tenth that ended is too few to tell how long the others live.
    (ended > 0.0 && ended * 10.0 >= began).then(|| as_count(lived * as_f64(step) / ended).max(1))
}

/// The most that the table would have held in the focus. `longest`: seconds that an evicted entry of
/// this owner would have lived at most, where its kind of traffic tells.
pub(crate) fn demand(
    evidence: &Evidence,
    longest: impl Fn(&OwnerEvidence) -> Option<u64>,
) -> Demand {
    let mut outside: Vec<Outside<'_>> = evidence
        .owners
        .iter()
        .filter(|owner| {
            owner
                .points
                .iter()
                .any(|point| point.refused + point.victims > 0)
        })
        .map(|owner| Outside::new(owner, evidence.step, longest(owner)))
        .collect();
    let mut most = Demand::default();
    let focus = evidence.focus_points();
    for (at, point) in evidence.points.iter().enumerate() {
        let (mut refused, mut evicted) = (0.0, 0.0);
        for owner in &mut outside {
            let (more_refused, more_evicted) = owner.step(at);
            refused += more_refused;
            evicted += more_evicted;
        }
        if !focus.contains(&at) {
            continue;
        }
        // Where it was full between two samples nobody saw the last entry. If the limit was changed between
        // them, it is not seen either which one it was full at: the lower one, at least.
        let full = point.drops[0] + point.evictions > 0;
        let before = at.checked_sub(1).and_then(|at| evidence.points.get(at));
        let limits = [Some(point.limit), before.map(|before| before.limit)];
        let limit = limits
            .into_iter()
            .flatten()
            .filter(|limit| *limit > 0)
            .min();
        let entries = point.entries_most.max(limit.filter(|_| full).unwrap_or(0));
        let now = Demand {
            at: evidence.at(at),
            entries,
            refused: as_count(refused),
            evicted: as_count(evicted),
            exact: false,
        };
        if now.entries_in_all() > most.entries_in_all() {
            most = now;
        }
    }
    let (refused, told) = evidence.owners.iter().fold((0, 0), |(all, told), owner| {
        (
            all + owner.drops[0] + owner.victims,
            told + owner.lost.told + owner.evicted.told,
        )
    });
    most.exact = told >= refused;
    most
}

#[cfg(test)]
mod tests;
