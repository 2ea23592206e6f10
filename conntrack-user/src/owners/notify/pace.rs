//! How often to look around: soon after a change, but at no more than a share of a processor. A look
//! that took long does not delay the next one by itself: the share is kept over ten seconds.

use std::time::{Duration, Instant};

/// Changes come in groups, so that it is waited for the rest of one.
const REST: Duration = Duration::from_millis(50);

/// Looks are at least this far apart.
const GAP: Duration = Duration::from_millis(200);

/// They may take one in so many parts of a processor: 2 %.
const SHARE: u32 = 50;

/// Processor time that was not used is kept for a busy time, up to this much: what ten seconds bring.
const SAVINGS: Duration = Duration::from_millis(200);

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
    /// Processor time that the looks until the last one took beyond what they may.
    owed: Duration,
    /// Processor time that they left at the last one, up to [`SAVINGS`].
    saved: Duration,
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
        due.max(last + GAP.max(self.owed * SHARE).min(PERIOD * 6))
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
        let earned = self
            .last
            .map_or(SAVINGS, |last| now.saturating_duration_since(last) / SHARE);
        let kept = (self.saved + earned).saturating_sub(self.owed).min(SAVINGS);
        self.saved = kept.saturating_sub(took);
        self.owed = took.saturating_sub(kept);
        self.last = Some(now);
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
        // A look that takes 20 ms of a processor: what was saved is used up, then one a second.
        assert_eq!(looks(&always, MS * 20, false, 10_000).len(), 20);
        let times = looks(&always, MS * 20, false, 30_000);
        assert!(
            times.iter().skip(20).is_sorted_by_key(|time| *time)
                && times[20..].windows(2).all(|pair| pair[1] - pair[0] >= 1000),
            "{times:?}"
        );
    }

    #[test]
    fn one_slow_look_does_not_delay_the_next() {
        assert_eq!(looks(&[100], MS * 40, false, 9000), [0, 200]);
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
            for pair in times.windows(2) {
                prop_assert!(pair[1] - pair[0] >= 200, "{:?}", times);
            }
            for (begin, first) in times.iter().enumerate() {
                for (end, last) in times.iter().enumerate().skip(begin) {
                    // The last one may be the one that used up what was saved.
                    let used = took * u32::try_from(end - begin).expect("a few looks");
                    let may = 200 + (last - first) / SHARE + took;
                    prop_assert!(used <= may, "{used} > {may}: {:?}", times);
                }
            }
        }
    }
}
