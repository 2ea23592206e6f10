//! What is known of a number that can't be read: it lies between two others.

use serde::{Deserialize, Serialize};

/// Entries that there are, or were: not fewer than `lower`, not more than `upper`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Bounds {
    /// It is at least this.
    pub lower: u64,
    /// It is at most this.
    pub upper: u64,
}

impl Bounds {
    /// How far they are apart: 0 where the number is known exactly.
    pub const fn width(self) -> u64 {
        self.upper - self.lower
    }
}

impl std::ops::Add for Bounds {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            lower: self.lower + other.lower,
            upper: self.upper + other.upper,
        }
    }
}

/// Entries of one owner in one direction that were there before its counts began, as far as that is known.
///
/// What it has now is this, plus what was inserted, less what was deleted since. So a census, which tells what it
/// has, tells this too; and since this never changes, each census can only narrow what those before have told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Baseline {
    lower: i64,
    /// `None`: not known yet.
    upper: Option<i64>,
}

impl Baseline {
    /// There was none.
    pub(super) const NONE: Self = Self {
        lower: 0,
        upper: Some(0),
    };
    /// Nothing is known.
    pub(super) const UNKNOWN: Self = Self {
        lower: 0,
        upper: None,
    };

    /// Whether it is known exactly.
    pub(super) fn is_exact(self) -> bool {
        self.upper == Some(self.lower)
    }

    /// Whether there is an upper bound.
    pub(super) const fn is_known(self) -> bool {
        self.upper.is_some()
    }

    /// There were not more than this.
    pub(super) fn at_most(&mut self, upper: u64) {
        let upper = signed(upper).max(self.lower);
        self.upper = Some(self.upper.map_or(upper, |known| known.min(upper)));
    }

    /// So many runs of programs were skipped: each may have missed an insert or a delete.
    pub(super) fn missed(&mut self, runs: u64) {
        self.lower -= signed(runs);
        self.upper = self.upper.map(|upper| upper.saturating_add(signed(runs)));
    }

    /// A census says that it was between these; gives how far that is from what was known, which is not at all
    /// unless something was missed. The census is believed.
    pub(super) fn narrow(&mut self, lower: i64, upper: i64) -> u64 {
        let known = self.upper.unwrap_or(i64::MAX);
        let gap = if lower > known {
            lower.abs_diff(known)
        } else if upper < self.lower {
            self.lower.abs_diff(upper)
        } else {
            0
        };
        if gap > 0 {
            (self.lower, self.upper) = (lower, Some(upper));
        } else {
            self.lower = self.lower.max(lower);
            self.upper = Some(known.min(upper));
        }
        gap
    }

    /// What there is now, where `grown` is inserts less deletes; `None`: not known yet.
    pub(super) fn live(self, grown: i64) -> Option<Bounds> {
        let at_least_none = |number: i64| u64::try_from(number).unwrap_or(0);
        let upper = at_least_none(self.upper?.saturating_add(grown));
        Some(Bounds {
            lower: at_least_none(self.lower.saturating_add(grown)).min(upper),
            upper,
        })
    }
}

pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Numbers within these bounds whose sum is `sum`, or as near to it as the bounds allow: each the same part of the way from its
/// lower bound to its upper one.
pub(super) fn values(bounds: &[Bounds], sum: u64) -> Vec<u64> {
    let all = bounds.iter().fold(Bounds::default(), |all, one| all + *one);
    let mut left = u128::from(sum.clamp(all.lower, all.upper) - all.lower);
    let mut room = u128::from(all.width());
    bounds
        .iter()
        .map(|one| {
            let width = u128::from(one.width());
            // What is left over by rounding goes to the next one, so that nothing is left at the end.
            let part = (left * width).checked_div(room).unwrap_or_default();
            left -= part;
            room -= width;
            one.lower + u64::try_from(part).unwrap_or(u64::MAX)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_census_narrows_what_is_known() {
        let mut baseline = Baseline::UNKNOWN;
        assert_eq!(baseline.live(5), None);
        baseline.at_most(1000);
        assert_eq!(baseline.narrow(90, 130), 0);
        assert_eq!(
            baseline.live(10),
            Some(Bounds {
                lower: 100,
                upper: 140
            })
        );
        assert_eq!(baseline.narrow(100, 200), 0);
        assert_eq!(baseline.narrow(80, 100), 0);
        assert!(baseline.is_exact());
        assert_eq!(baseline.live(-100), Some(Bounds::default()));
    }

    #[test]
    fn what_a_census_contradicts_was_missed_and_is_told() {
        let mut baseline = Baseline::NONE;
        assert_eq!(baseline.narrow(2, 5), 2);
        assert_eq!(baseline.narrow(0, 1), 1);
        let bounds = baseline.live(10);
        assert_eq!(
            bounds,
            Some(Bounds {
                lower: 10,
                upper: 11
            })
        );
    }

    #[test]
    fn skipped_runs_widen_it() {
        let mut baseline = Baseline::NONE;
        baseline.missed(3);
        assert_eq!(baseline.live(10).map(Bounds::width), Some(6));
        assert_eq!(baseline.narrow(1, 1), 0);
        assert!(baseline.is_exact());
    }

    fn bounds() -> impl Strategy<Value = Vec<Bounds>> {
        let one = (0..1_000_000_u64, prop_oneof![Just(0), 0..1_000_000_u64]);
        let one = one.prop_map(|(lower, width)| Bounds {
            lower,
            upper: lower + width,
        });
        prop::collection::vec(one, 1..300)
    }

    proptest! {
        #[test]
        fn values_are_within_their_bounds_and_make_the_sum(bounds in bounds(), sum in any::<u64>()) {
            let all = bounds.iter().fold(Bounds::default(), |all, one| all + *one);
            let values = values(&bounds, sum);
            for (value, bounds) in values.iter().zip(&bounds) {
                prop_assert!((bounds.lower..=bounds.upper).contains(value));
            }
            prop_assert_eq!(values.iter().sum::<u64>(), sum.clamp(all.lower, all.upper));
        }

        /// Whatever comes and goes while a census walks, the truth is within what it says.
        #[test]
        fn the_truth_never_leaves_the_bounds(
            before in 0..1000_u64,
            censuses in prop::collection::vec((0..50_u64, 0..50_u64, 0..50_u64, 0..50_u64, any::<prop::sample::Index>()), 1..10),
        ) {
            let mut baseline = Baseline::UNKNOWN;
            let (mut live, mut grown) = (signed(before), 0_i64);
            for (inserts, deletes, inside_inserts, inside_deletes, seen) in censuses {
                let deletes = deletes.min(u64::try_from(live).unwrap() + inserts);
                live += signed(inserts) - signed(deletes);
                grown += signed(inserts) - signed(deletes);
                // What was there at the begin and stays is seen; what comes and goes meanwhile may be.
                let inside_deletes = inside_deletes.min(u64::try_from(live).unwrap());
                let stays = u64::try_from(live).unwrap() - inside_deletes;
                let entries = stays + seen.index(usize::try_from(inside_inserts + inside_deletes).unwrap() + 1) as u64;
                live += signed(inside_inserts) - signed(inside_deletes);
                grown += signed(inside_inserts) - signed(inside_deletes);
                let (low, high) = (signed(entries) - signed(inside_deletes), signed(entries + inside_inserts));
                prop_assert_eq!(baseline.narrow(low - grown, high - grown), 0);
                let bounds = baseline.live(grown).unwrap();
                let truth = u64::try_from(live).unwrap();
                prop_assert!(bounds.lower <= truth && truth <= bounds.upper, "{truth} {bounds:?}");
            }
        }
    }
}
