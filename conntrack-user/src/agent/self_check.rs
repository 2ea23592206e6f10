//! Whether the agent's own numbers agree with each other and with the kernel's, checked every second.
//!
//! A number that is wrong is worse than none, so what should hold always is looked at always: a difference is told by a metric, for an
//! alert. Both sides of a comparison are read one after the other while packets come, so a difference counts only when it is there in two
//! samples one after another; and what was said is never taken back.

use serde::Serialize;

use super::LossCounts;

/// By how much numbers were wrong so far, for each check; 0: they never were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SelfCheck {
    /// Inserts and deletes of all owners against those of all.
    pub owners: u64,
    /// Entries that a census found against what was known before.
    pub census: u64,
    /// Packets that only the kernel counted as lost.
    pub drops: u64,
    /// Entries that only the kernel counted as evicted.
    pub evictions: u64,
}

impl SelfCheck {
    /// As one has them.
    pub(super) const fn new(owners: u64, census: u64, unexplained: LossCounts) -> Self {
        Self {
            owners,
            census,
            drops: unexplained.drops,
            evictions: unexplained.evictions,
        }
    }

    /// Each check by the value of its label.
    pub const fn by_name(&self) -> [(&'static str, u64); 4] {
        [
            ("owners", self.owners),
            ("census", self.census),
            ("drops", self.drops),
            ("evictions", self.evictions),
        ]
    }
}

/// Inserts and deletes at one moment, over all owners.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Entries that entered a table.
    pub inserts: u64,
    /// Entries that left it.
    pub deletes: u64,
}

/// The sum over owners against the count of all.
#[derive(Clone, Debug, Default)]
pub(super) struct OwnersCheck {
    last: Moved,
    /// By how much it was off in the sample before.
    before: u64,
    told: u64,
}

impl OwnersCheck {
    /// Takes one more sample. The programs count each entry for all first and then for its owner: `before` and `after` are
    /// the counts of all, read before and after those of owners; `waiting` inserts have no owner yet. Of `contexts` that
    /// run programs at once each may be in between.
    pub(super) fn add(
        &mut self,
        before: Moved,
        owners: Moved,
        after: Moved,
        waiting: u64,
        contexts: u64,
    ) -> u64 {
        let rests = before == after && before == self.last;
        self.last = after;
        let slack = if rests { 0 } else { contexts };
        let off =
            |low: u64, is: u64, high: u64| low.saturating_sub(is).max(is.saturating_sub(high));
        let inserts = off(
            before.inserts.saturating_sub(waiting + slack),
            owners.inserts,
            after.inserts,
        );
        let deletes = off(
            before.deletes.saturating_sub(slack),
            owners.deletes,
            after.deletes,
        );
        let now = inserts + deletes;
        self.told = self.told.max(now.min(self.before));
        self.before = now;
        self.told
    }

    /// The probes were attached anew: all begin at 0.
    pub(super) fn restart(&mut self) {
        *self = Self {
            told: self.told,
            ..Self::default()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn moved(inserts: u64, deletes: u64) -> Moved {
        Moved { inserts, deletes }
    }

    #[test]
    fn what_comes_between_two_readings_is_no_difference() {
        let mut check = OwnersCheck::default();
        for second in 1..10 {
            let (before, after) = (moved(second * 100, 50), moved(second * 100 + 30, 60));
            assert_eq!(
                check.add(before, moved(second * 100 + 7, 55), after, 0, 2),
                0
            );
            // Two programs have counted for all and not yet for the owner.
            assert_eq!(
                check.add(after, moved(after.inserts - 2, after.deletes), after, 0, 2),
                0
            );
        }
    }

    #[test]
    fn a_difference_that_stays_is_told_to_the_entry() {
        let mut check = OwnersCheck::default();
        let all = moved(100, 50);
        for expected in [0, 0, 1] {
            assert_eq!(check.add(all, moved(99, 50), all, 0, 2), expected);
        }
        assert_eq!(check.add(all, all, all, 0, 2), 1, "it is not taken back");
        let mut check = OwnersCheck::default();
        for _ in 0..5 {
            assert_eq!(
                check.add(all, moved(99, 50), all, 1, 2),
                0,
                "it waits for its socket"
            );
        }
        for _ in 0..2 {
            check.add(all, moved(100, 57), all, 0, 2);
        }
        assert_eq!(check.add(all, moved(100, 57), all, 0, 2), 7);
    }
}
