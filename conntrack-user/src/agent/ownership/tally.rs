//! What has been counted for one owner.

use conntrack_ebpf::owner::{Direction, OwnerCounts, OwnerState};
use ctpressure_model::pressure::{
    lifetime::FlowCounts,
    rate::{self, Series, Timeline},
};

use super::bounds::{Baseline, Bounds, signed};
use crate::agent::owner_sample::{Activity, OwnerTotals};

/// Entries of one owner, from when it got its slot.
#[derive(Clone, Debug)]
pub(super) struct OwnerTally {
    /// What the kernel had counted for the slot when this owner got it.
    pub(super) from: OwnerState,
    /// What has been counted since, in the maps that there are.
    pub(super) counts: OwnerState,
    /// What was counted in maps of earlier probes.
    pub(super) earlier: OwnerState,
    /// Entries that were there before the counts began, by direction.
    pub(super) baseline: [Baseline; 2],
    /// Inserts and deletes when the census that is under way began.
    pub(super) at_census: Option<[(u64, u64); 2]>,
    /// Inserts, deletes and drops over time.
    pub(super) series: Series<3>,
    /// States at the last census.
    pub(super) states: Vec<(String, u64)>,
    /// How many had left the table while packets held them, when last looked, and how many of these are still held at most.
    pub(super) held: (u64, u64),
}

impl OwnerTally {
    pub(super) fn from_now(counts: OwnerState, baseline: Baseline, timeline: &Timeline) -> Self {
        Self {
            from: counts,
            counts: OwnerState::default(),
            earlier: OwnerState::default(),
            baseline: [baseline; 2],
            at_census: None,
            series: Series::new(timeline, [0; 3]),
            states: Vec::new(),
            held: (0, 0),
        }
    }

    /// Entries of its that packets hold though they have left the table, where there are `all` of any owner.
    pub(super) fn held_at_most(&mut self, all: u64) -> u64 {
        let left: u64 = self.counts.iter().map(|counts| counts.held).sum();
        let (before, most) = self.held;
        let most = most.saturating_add(left.saturating_sub(before)).min(all);
        self.held = (left, most);
        most
    }

    /// Inserts, deletes and drops so far.
    pub(super) fn sums(&self) -> [u64; 3] {
        [Direction::Egress, Direction::Ingress]
            .map(|direction| self.totals(direction))
            .iter()
            .fold([0; 3], |[inserts, deletes, drops], totals| {
                [
                    inserts + totals.inserts,
                    deletes + totals.deletes,
                    drops + totals.lost(),
                ]
            })
    }

    /// `live`: the entries that it has in both directions.
    pub(super) fn activity(&self, timeline: &Timeline, live: u64) -> Activity {
        let grown = |index| self.series.grown(timeline, rate::Window::Minute, index);
        let lifetime = grown(0)
            .zip(grown(1))
            .and_then(|((inserts, seconds), (deletes, _))| {
                let flow = FlowCounts {
                    live,
                    inserts,
                    deletes,
                    seconds,
                    watched: timeline.now().saturating_sub(self.series.began()),
                };
                flow.lifetime()
            });
        Activity {
            inserts_per_second: self.series.rates(timeline, 0),
            deletes_per_second: self.series.rates(timeline, 1),
            drops_per_second: self.series.rates(timeline, 2),
            lifetime,
            states: self.states.clone(),
            ..Activity::default()
        }
    }

    /// The entries that it has; `None`: not known yet.
    pub(super) fn live(&self, direction: Direction) -> Option<Bounds> {
        let (inserts, deletes) = self.moved()[direction as usize];
        self.baseline[direction as usize].live(signed(inserts) - signed(deletes))
    }

    /// Whether it has no entries for certain.
    pub(super) fn is_idle(&self) -> bool {
        [Direction::Egress, Direction::Ingress]
            .iter()
            .all(|direction| self.live(*direction).is_some_and(|live| live.upper == 0))
    }

    /// Whether the entries that it has are known exactly.
    pub(super) fn is_exact(&self) -> bool {
        self.baseline.iter().all(|baseline| baseline.is_exact())
    }

    pub(super) fn moved(&self) -> [(u64, u64); 2] {
        [0, 1].map(|direction| {
            let counts = &self.counts[direction];
            (counts.inserts, counts.deletes)
        })
    }

    /// Takes over what a census found; gives how far that is off what was known before.
    pub(super) fn recounted(
        &mut self,
        direction: Direction,
        found: &Found,
        window: &Window,
    ) -> u64 {
        let index = direction as usize;
        let Some(before) = self.at_census.map(|moved| moved[index]) else {
            return 0;
        };
        let now = self.moved()[index];
        let (inserts, deletes) = (now.0 - before.0, now.1 - before.1);
        let others = (window.inserts + window.deletes).saturating_sub(inserts + deletes);
        let under = deletes
            + found.untagged.min(others)
            + if window.claims_changed {
                window.inserts
            } else {
                0
            };
        let over = inserts + found.elsewhere + window.clashes;
        let grown = signed(now.0) - signed(now.1);
        self.baseline[index].narrow(
            signed(found.entries) - signed(under + window.unsure) - grown,
            signed(found.entries) + signed(over + window.unsure) - grown,
        )
    }

    /// All but `live`, which depends on all owners.
    pub(super) fn totals(&self, direction: Direction) -> OwnerTotals {
        let sum = sum(
            &self.counts[direction as usize],
            &self.earlier[direction as usize],
        );
        OwnerTotals {
            inserts: sum.inserts,
            deletes: sum.deletes,
            bounds: self.live(direction),
            victims: sum.victims,
            causes: sum.causes,
            drops: sum.drops,
            ..OwnerTotals::default()
        }
    }
}

/// What a census found of one owner in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Entries in the tables that it walked.
    pub(super) entries: u64,
    /// Of those: the ones that should have a tag and have none. They are its own unless they came or went just then.
    pub(super) untagged: u64,
    /// Entries in tables that it did not walk, as far as they may be its own.
    pub(super) elsewhere: u64,
}

/// What happened while a census walked, over all owners.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Window {
    /// Entries that entered a table.
    pub(super) inserts: u64,
    /// Entries that left it.
    pub(super) deletes: u64,
    /// Entries that a listing does not show, since they lost a clash.
    pub(super) clashes: u64,
    /// Who is charged was changed: what entered since then may have been taken for another's.
    pub(super) claims_changed: bool,
    /// Entries whose count is not certain: runs of programs that were skipped, inserts that wait for their socket.
    pub(super) unsure: u64,
}

pub(super) fn sum(a: &OwnerCounts, b: &OwnerCounts) -> OwnerCounts {
    a.with(b, |a, b| a + b)
}

pub(super) fn difference(now: &OwnerState, from: &OwnerState) -> OwnerState {
    [0, 1].map(|direction| now[direction].with(&from[direction], u64::saturating_sub))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EGRESS: Direction = Direction::Egress;

    fn tally(baseline: Baseline) -> OwnerTally {
        OwnerTally::from_now(OwnerState::default(), baseline, &Timeline::default())
    }

    fn entries(entries: u64) -> Found {
        Found {
            entries,
            ..Found::default()
        }
    }

    const fn bounds(lower: u64, upper: u64) -> Bounds {
        Bounds { lower, upper }
    }

    #[test]
    fn a_census_while_nothing_moves_is_exact() {
        let mut tally = tally(Baseline::UNKNOWN);
        tally.counts[0].inserts = 10;
        tally.counts[0].deletes = 3;
        assert_eq!(tally.live(EGRESS), None);
        tally.at_census = Some(tally.moved());
        assert_eq!(
            tally.recounted(EGRESS, &entries(107), &Window::default()),
            0
        );
        assert_eq!(tally.live(EGRESS), Some(bounds(107, 107)));
        tally.counts[0].deletes += 5;
        assert_eq!(tally.live(EGRESS), Some(bounds(102, 102)));
    }

    #[test]
    fn one_while_entries_move_gives_bounds_that_the_next_one_narrows() {
        let mut tally = tally(Baseline::UNKNOWN);
        for (found, expected) in [
            (105, bounds(105, 115)),
            (112, bounds(115, 122)),
            (125, bounds(125, 132)),
        ] {
            tally.at_census = Some(tally.moved());
            tally.counts[0].inserts += 10;
            let window = Window {
                inserts: 10,
                ..Window::default()
            };
            assert_eq!(tally.recounted(EGRESS, &entries(found), &window), 0);
            assert_eq!(tally.live(EGRESS), Some(expected));
        }
    }

    #[test]
    fn what_may_be_anothers_is_within_the_bounds() {
        let of = |found: Found, window: Window| {
            let mut tally = tally(Baseline::UNKNOWN);
            tally.at_census = Some(tally.moved());
            tally.recounted(EGRESS, &found, &window);
            tally.live(EGRESS).unwrap()
        };
        let found = Found {
            entries: 100,
            untagged: 40,
            elsewhere: 0,
        };
        assert_eq!(of(found, Window::default()), bounds(100, 100));
        let moving = Window {
            inserts: 3,
            deletes: 4,
            ..Window::default()
        };
        assert_eq!(of(found, moving), bounds(93, 100));
        assert_eq!(of(entries(100), moving), bounds(100, 100), "of others");
        let elsewhere = Found {
            elsewhere: 7,
            ..entries(100)
        };
        assert_eq!(of(elsewhere, Window::default()), bounds(100, 107));
        let clashes = Window {
            clashes: 2,
            unsure: 1,
            ..Window::default()
        };
        assert_eq!(of(entries(100), clashes), bounds(99, 103));
        let changed = Window {
            claims_changed: true,
            ..moving
        };
        assert_eq!(of(entries(100), changed), bounds(97, 100));
    }

    #[test]
    fn what_is_held_is_not_more_than_what_left_so_nor_than_all_that_is() {
        let mut tally = tally(Baseline::NONE);
        assert_eq!(tally.held_at_most(50), 0);
        tally.counts[0].held = 40;
        tally.counts[1].held = 5;
        assert_eq!(tally.held_at_most(50), 45);
        assert_eq!(tally.held_at_most(12), 12);
        tally.counts[0].held = 43;
        assert_eq!(tally.held_at_most(50), 15);
        assert_eq!(tally.held_at_most(0), 0);
    }

    #[test]
    fn a_slot_that_had_another_owner_begins_at_zero() {
        let mut before = OwnerState::default();
        before[0].inserts = 500;
        before[0].drops[0] = 7;
        let mut tally = OwnerTally::from_now(before, Baseline::NONE, &Timeline::default());
        assert!(tally.is_idle());
        let mut now = before;
        now[0].inserts = 503;
        tally.counts = difference(&now, &tally.from);
        let totals = tally.totals(EGRESS);
        assert_eq!(
            (totals.inserts, totals.bounds, totals.drops[0]),
            (3, Some(bounds(3, 3)), 0)
        );
    }
}
