//! How many entries there would have been with room for all: the limit that would have held.
//!
//! At each step that is the entries in the table, and the flows that would be there and are not:
//! those refused by a full table and those evicted to make room. Followed by owner:
//!
//! * A refused flow would be in the table from its first refusal on; more refusals of it (a SYN that is sent
//!   again) are the same flow. If it gets in on a later try, it is there when it would have ended. That is not seen, but how many
//!   get in late can be told: the kernel can't tell first tries from later ones, so the part of later ones is about the
//!   same among the accepted as among the refused. When nothing is refused any more, what enters
//!   is what waited. Who tries again from another port can't be told from who is new.
//! * An evicted flow is outside, too, until it sends again. Which did is not seen either, but a victim
//!   is a random one of those inside: the part of victims that had been evicted before is the part
//!   of such flows in the table.
//! * Both end when they would have ended: as the owner's other entries do ([`survival`]).
//!
//! What is outside was never seen living, so the sum is an estimate: [`Demand::least`] is what there was without doubt. A second
//! incident that is the same should find room ([`MARGIN`]), and no more room than it needs.

use ctpressure_model::{
    pressure::{as_count, as_f64},
    words::time::serialize_seconds,
};
use serde::Serialize;

use super::evidence::{Evidence, OwnerEvidence};

mod outside;
mod survival;
#[cfg(test)]
mod tests;

use outside::{Outside, OutsideNow};

/// Room above the demand for what the samples don't show: it moves between two of them.
const MARGIN: f64 = 1.15;
/// How many times what was surely needed the limit may be, and still be told without that.
const SURE: f64 = 1.3;

/// What a table needs at its fullest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Demand {
    /// When, seconds since 1970.
    #[serde(serialize_with = "serialize_seconds")]
    #[cfg_attr(test, schemars(with = "String"))]
    pub(crate) at: u64,
    /// Entries that there were then.
    pub(crate) entries: u64,
    /// Flows that were refused, and would have been there.
    pub(crate) refused: u64,
    /// Entries that were evicted, and would have been there.
    pub(crate) evicted: u64,
    /// Entries that there would surely have been. Where that is far less than all of these, what was refused may be few connections
    /// that were tried again and again.
    pub(crate) least: u64,
    /// Whether how many flows were refused more than once is known for all of them.
    pub(crate) exact: bool,
}

impl Demand {
    /// Entries that there would have been.
    pub(crate) const fn entries_in_all(&self) -> u64 {
        self.entries + self.refused + self.evicted
    }

    /// The least limit that may have held, where that is far below the one that would have.
    pub(crate) fn limit_at_least(&self) -> Option<u64> {
        (as_f64(self.limit()) > SURE * as_f64(self.least)).then_some(self.least)
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
    let (mut most, mut least) = (Demand::default(), 0);
    let focus = evidence.focus_points();
    for (at, point) in evidence.points.iter().enumerate() {
        let mut now_outside = OutsideNow::default();
        for owner in &mut outside {
            now_outside += owner.step(at);
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
            refused: as_count(now_outside.refused.max(0.0)),
            evicted: as_count(now_outside.evicted),
            least: 0,
            exact: false,
        };
        let surely = as_f64(entries) + now_outside.refused_least + now_outside.evicted;
        least = least.max(entries).max(as_count(surely));
        if now.entries_in_all() > most.entries_in_all() {
            most = now;
        }
    }
    most.least = least.min(most.entries_in_all());
    let (refused, told) = evidence.owners.iter().fold((0, 0), |(all, told), owner| {
        (
            all + owner.drops[0] + owner.victims,
            told + owner.lost.told + owner.evicted.told,
        )
    });
    most.exact = told >= refused;
    most
}
