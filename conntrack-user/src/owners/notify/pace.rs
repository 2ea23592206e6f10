//! How often to look around: soon after a change, but never at more than a share of a processor.

use std::time::{Duration, Instant};

/// Changes come in groups, so that it is waited for the rest of one.
const REST: Duration = Duration::from_millis(50);

/// Looks are at least this far apart.
const GAP: Duration = Duration::from_millis(200);

/// And this many times the processor time that the last one took: at most 2 % of a processor.
const SHARE: u32 = 50;

/// With no change at all there is a look this often.
const PERIOD: Duration = Duration::from_secs(10);

/// While something has just begun, the next look is after this, then twice that, and so on.
const SOON: Duration = Duration::from_millis(250);

/// Looks before that is given up until the next change.
const MOST_SOON: u32 = 5;

/// When to look next. Pure.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    last: Option<Instant>,
    took: Duration,
    /// The first change since the last look.
    changed: Option<Instant>,
    /// How often it was looked since something began.
    soon: Option<u32>,
}

impl Pace {
    /// When the next look is due; it may be over.
    pub(super) fn due(&self, now: Instant) -> Instant {
        let Some(last) = self.last else {
            return now;
        };
        let mut due = last + PERIOD;
        if let Some(changed) = self.changed {
            due = due.min(changed + REST);
        }
        if let Some(times) = self.soon {
            due = due.min(last + SOON * (1 << times));
        }
        due.max(last + GAP.max(self.took * SHARE).min(PERIOD * 6))
    }

    /// Something may have changed.
    pub(super) fn changed(&mut self, now: Instant) {
        self.changed.get_or_insert(now);
        self.soon = None;
    }

    /// It was looked, which took this much of a processor. `unsettled`: something has just begun.
    pub(super) fn looked(&mut self, now: Instant, took: Duration, unsettled: bool) {
        let times = self.soon.map_or(0, |times| times + 1);
        self.soon = (unsettled && times < MOST_SOON).then_some(times);
        self.last = Some(now);
        self.took = took;
        self.changed = None;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// The times of looks, in milliseconds, when each takes `took` and finds `unsettled`.
    fn looks(changes: &[u32], took: Duration, unsettled: bool, until: u32) -> Vec<u32> {
        let begin = Instant::now();
        let mut pace = Pace::default();
        let mut times = Vec::new();
        for ms in 0..until {
            let now = begin + MS * ms;
            if changes.contains(&ms) {
                pace.changed(now);
            }
            if pace.due(now) <= now {
                times.push(ms);
                pace.looked(now, took, unsettled);
            }
        }
        times
    }

    #[test]
    fn now_and_then_without_a_change() {
        assert_eq!(looks(&[], MS, false, 25_000), [0, 10_000, 20_000]);
    }

    #[test]
    fn soon_after_a_change_and_once_for_many() {
        assert_eq!(looks(&[3000, 3001, 3049], MS, false, 9000), [0, 3050]);
        assert_eq!(looks(&[3000, 3051], MS, false, 9000), [0, 3050, 3250]);
    }

    #[test]
    fn no_storm() {
        let always: Vec<u32> = (1..10_000).collect();
        assert_eq!(looks(&always, MS, false, 10_000).len(), 50);
        // A look that takes 20 ms of a processor: one a second.
        assert_eq!(looks(&always, MS * 20, false, 10_000).len(), 10);
    }

    #[test]
    fn again_while_something_begins() {
        let times = looks(&[], MS, true, 30_000);
        assert_eq!(
            times,
            [
                0, 250, 750, 1750, 3750, 7750, 17_750, 18_000, 18_500, 19_500, 21_500, 25_500
            ]
        );
    }

    proptest! {
        #[test]
        fn never_more_than_a_share(
            changes in prop::collection::vec(0..5000_u32, 0..50),
            took in 0..50_u32,
            unsettled: bool,
        ) {
            let times = looks(&changes, MS * took, unsettled, 5000);
            let least = 200.max(took * SHARE);
            for pair in times.windows(2) {
                prop_assert!(pair[1] - pair[0] >= least, "{:?}", times);
            }
        }
    }
}
