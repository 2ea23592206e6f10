//! Inserts that wait for their socket, and those that were left: the end of their call was missed, as when the probes were
//! attached in the middle of it. The kernel's side charges these to the host, but only when their place is needed, which on a
//! CPU at rest is never.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::probes::WaitingInsert;

/// No call takes that long, also not one of a task that was put aside in it.
const LEFT: Duration = Duration::from_secs(3);

/// Those that wait, and since when.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    since: HashMap<WaitingInsert, Instant>,
    left: Vec<WaitingInsert>,
}

impl Waiting {
    /// Takes over who waits `now`.
    pub(super) fn look(&mut self, inserts: &[WaitingInsert], now: Instant) {
        self.since.retain(|insert, _| inserts.contains(insert));
        for insert in inserts {
            self.since.entry(*insert).or_insert(now);
        }
        let is_old = |since: &Instant| now.saturating_duration_since(*since) >= LEFT;
        let left = self.since.iter().filter(|(_, since)| is_old(since));
        self.left = left.map(|(insert, _)| *insert).collect();
    }

    /// Whether one that was left before is given to the host between two looks: then what was counted in between may have it or
    /// not.
    pub(super) fn are_given(&self, before: &[WaitingInsert], after: &[WaitingInsert]) -> bool {
        let mut left = self.left.iter();
        left.any(|insert| before.contains(insert) && !after.contains(insert))
    }

    /// Whose owner is about to be known.
    pub(super) fn waiting(&self) -> u64 {
        (self.since.len() - self.left.len()) as u64
    }

    /// The host's, though it was not counted there yet.
    pub(super) const fn left(&self) -> u64 {
        self.left.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn insert(turn: u32) -> WaitingInsert {
        WaitingInsert {
            cpu: 1,
            place: 0,
            turn,
        }
    }

    #[test]
    fn one_that_stays_is_left_and_one_that_follows_another_is_not() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut waiting = Waiting::default();
        for (seconds, turn, expected) in [
            (0, 1, (1, 0)),
            (2, 1, (1, 0)),
            (3, 1, (0, 1)),
            (4, 1, (0, 1)),
            (5, 2, (1, 0)),
            (7, 3, (1, 0)),
        ] {
            waiting.look(&[insert(turn)], at(seconds));
            let is = (waiting.waiting(), waiting.left());
            assert_eq!(is, expected, "after {seconds} s");
        }
        waiting.look(&[insert(3)], at(10));
        assert!(waiting.are_given(&[insert(3)], &[]));
        assert!(!waiting.are_given(&[insert(3)], &[insert(3)]));
        assert!(!waiting.are_given(&[insert(4)], &[]), "it only ended");
        waiting.look(&[], at(11));
        assert_eq!((waiting.waiting(), waiting.left()), (0, 0));
    }
}
