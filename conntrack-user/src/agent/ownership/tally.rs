//! What has been counted for one owner.

use conntrack_ebpf::owner::{Direction, OwnerCounts, OwnerState};
use ctpressure_model::pressure::{
    lifetime::FlowCounts,
    rate::{Series, Timeline, Window},
};

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
    pub(super) baseline: [i64; 2],
    /// A census found the baseline while nothing moved; else it is an estimate.
    pub(super) exact: [bool; 2],
    /// Inserts and deletes when the census that is under way began.
    pub(super) at_census: Option<[(u64, u64); 2]>,
    /// Inserts, deletes and drops over time.
    pub(super) series: Series<3>,
    /// States at the last census.
    pub(super) states: Vec<(String, u64)>,
}

impl OwnerTally {
    pub(super) fn from_now(counts: OwnerState, timeline: &Timeline) -> Self {
        Self {
            from: counts,
            counts: OwnerState::default(),
            earlier: OwnerState::default(),
            baseline: [0; 2],
            exact: [false; 2],
            at_census: None,
            series: Series::new(timeline, [0; 3]),
            states: Vec::new(),
        }
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
                    drops + totals.drops.iter().sum::<u64>(),
                ]
            })
    }

    pub(super) fn activity(&self, timeline: &Timeline) -> Activity {
        let live = self.totals(Direction::Egress).live + self.totals(Direction::Ingress).live;
        let grown = |index| self.series.grown(timeline, Window::Minute, index);
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

    pub(super) fn live(&self, direction: Direction) -> i64 {
        let counts = &self.counts[direction as usize];
        self.baseline[direction as usize] + signed(counts.inserts) - signed(counts.deletes)
    }

    pub(super) fn moved(&self) -> [(u64, u64); 2] {
        [0, 1].map(|direction| {
            let counts = &self.counts[direction];
            (counts.inserts, counts.deletes)
        })
    }

    /// Takes over what a census found; gives how far the count was off, if it should not have been.
    pub(super) fn recounted(&mut self, direction: Direction, entries: u64) -> u64 {
        let index = direction as usize;
        let Some(before) = self.at_census.map(|moved| moved[index]) else {
            return 0;
        };
        let now = self.moved()[index];
        if now == before {
            let off = signed(entries) - self.live(direction);
            self.baseline[index] += off;
            let known = std::mem::replace(&mut self.exact[index], true);
            return if known { off.unsigned_abs() } else { 0 };
        }
        if !self.exact[index] {
            // It saw some of what came and went meanwhile: between the two is the best guess, until
            // one is had while nothing moves.
            let grown = |(inserts, deletes): (u64, u64)| signed(inserts) - signed(deletes);
            self.baseline[index] = signed(entries) - i64::midpoint(grown(before), grown(now));
        }
        0
    }

    pub(super) fn totals(&self, direction: Direction) -> OwnerTotals {
        let sum = sum(
            &self.counts[direction as usize],
            &self.earlier[direction as usize],
        );
        OwnerTotals {
            inserts: sum.inserts,
            deletes: sum.deletes,
            live: u64::try_from(self.live(direction)).unwrap_or(0),
            victims: sum.victims,
            causes: sum.causes,
            drops: sum.drops,
        }
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
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

    fn tally(inserts: u64, deletes: u64) -> OwnerTally {
        let mut tally = OwnerTally::from_now(OwnerState::default(), &Timeline::default());
        tally.counts[0].inserts = inserts;
        tally.counts[0].deletes = deletes;
        tally
    }

    #[test]
    fn a_census_while_nothing_moves_is_the_baseline_and_no_drift() {
        let mut tally = tally(10, 3);
        tally.at_census = Some(tally.moved());
        assert_eq!(tally.recounted(EGRESS, 107), 0);
        assert_eq!((tally.live(EGRESS), tally.exact[0]), (107, true));
        tally.counts[0].deletes += 5;
        assert_eq!(tally.live(EGRESS), 102);
    }

    #[test]
    fn what_a_later_census_corrects_is_drift() {
        let mut tally = tally(10, 3);
        for (entries, drift) in [(7, 0), (7, 0), (9, 2), (8, 1)] {
            tally.at_census = Some(tally.moved());
            assert_eq!(tally.recounted(EGRESS, entries), drift);
            assert_eq!(tally.live(EGRESS), i64::try_from(entries).unwrap());
        }
    }

    #[test]
    fn a_census_while_entries_move_is_an_estimate_that_never_replaces_the_truth() {
        let mut tally = tally(0, 0);
        tally.at_census = Some(tally.moved());
        tally.counts[0].inserts = 10;
        // It saw 105 of what is now between 100 + 0 and 100 + 10.
        assert_eq!(tally.recounted(EGRESS, 105), 0);
        assert_eq!((tally.live(EGRESS), tally.exact[0]), (110, false));

        tally.at_census = Some(tally.moved());
        assert_eq!(tally.recounted(EGRESS, 111), 0);
        assert!(tally.exact[0]);
        tally.at_census = Some(tally.moved());
        tally.counts[0].deletes = 50;
        assert_eq!(tally.recounted(EGRESS, 500), 0);
        assert_eq!(tally.live(EGRESS), 61);
    }

    #[test]
    fn a_slot_that_had_another_owner_begins_at_zero() {
        let mut before = OwnerState::default();
        before[0].inserts = 500;
        before[0].drops[0] = 7;
        let mut tally = OwnerTally::from_now(before, &Timeline::default());
        let mut now = before;
        now[0].inserts = 503;
        tally.counts = difference(&now, &tally.from);
        let totals = tally.totals(EGRESS);
        assert_eq!((totals.inserts, totals.live, totals.drops[0]), (3, 3, 0));
    }
}
