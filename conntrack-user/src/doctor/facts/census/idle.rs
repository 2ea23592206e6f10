//! For how long entries had no packet, as far as that can be told: the kernel keeps no time of the last packet. It says when an entry
//! expires, and a packet sets that anew, most often to the timeout of the entry's state. What is gone of that timeout is the time since
//! the last packet, unless the entry had another one:
//!
//! * a connection that waits for an acknowledgement, or was seen one way only, is given a shorter one
//!   (`nf_conntrack_tcp_timeout_unacknowledged`, `_max_retrans`);
//! * whoever makes an entry by ctnetlink (conntrackd) gives it any that he likes;
//! * the setting may have been another one when the last packet came, and a rule may give some entries one of their own.
//!
//! So an entry is judged only where no shorter timeout explains what is left, and for no longer than the machine runs or the entry is
//! there. And since a timeout from elsewhere moves all of its entries by the same time, those beyond a gap are not judged either:
//! entries that go idle one after another leave none.

use crate::kernel::entries::TableEntry;

/// The timeout in force is cut into so many ranges.
const RANGES: usize = 16;
/// A range with less than one in so many of the entries is a gap.
const GAP: u64 = 100;

/// What bounds the time since the last packet, seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct IdleBounds {
    /// The longest of the timeouts that the kernel gives some TCP connections in place of that of their state.
    pub(super) replacement: u64,
    /// Since the machine began; `None`: not known, so nothing is judged.
    pub(super) uptime: Option<u64>,
    /// Nanoseconds of Unix time now.
    pub(super) now: u64,
}

impl IdleBounds {
    /// Seconds since the last packet of an entry whose state has this timeout; `None`: it can't be told.
    fn idle(&self, entry: &TableEntry, timeout: u64) -> Option<u64> {
        let left = u64::from(entry.timeout?);
        let gone = timeout.checked_sub(left)?;
        let replaced = entry.original.protocol == 6
            && (left <= self.replacement && timeout > self.replacement
                || !entry.status.seen_reply() && entry.state.name() == Some("ESTABLISHED"));
        let there = entry
            .start
            .map(|start| self.now.saturating_sub(start) / 1_000_000_000 + 1);
        let longest = self.uptime?.min(there.unwrap_or(u64::MAX));
        (!replaced && !entry.status.has_fixed_timeout() && gone <= longest).then_some(gone)
    }
}

/// Entries of one timeout by the time since their last packet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct IdleCount {
    judged: [u64; RANGES],
    /// Of these: the ones that are idle for too long.
    idle: [u64; RANGES],
}

impl IdleCount {
    /// Counts an entry whose state has this timeout, and is of no use after `enough` seconds without a packet.
    pub(super) fn add(
        &mut self,
        entry: &TableEntry,
        bounds: &IdleBounds,
        timeout: u64,
        enough: u64,
    ) {
        let Some(idle) = bounds.idle(entry, timeout) else {
            return;
        };
        let range = idle.saturating_mul(RANGES as u64) / timeout.max(1);
        let range = usize::try_from(range).map_or(RANGES - 1, |range| range.min(RANGES - 1));
        self.judged[range] += 1;
        self.idle[range] += u64::from(idle > enough);
    }

    /// Those that are idle for too long for certain.
    pub(super) fn idle(&self) -> u64 {
        let all: u64 = self.judged.iter().sum();
        let ranges = self.judged.iter().zip(self.idle);
        ranges
            .take_while(|(judged, _)| **judged > 0 && **judged * GAP >= all)
            .map(|(_, idle)| idle)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::entry;
    use super::*;
    use crate::kernel::entries::{EntryState, EntryStatus};

    const DAY: u64 = 86_400;
    const ESTABLISHED: u64 = 5 * DAY;
    const BOUNDS: IdleBounds = IdleBounds {
        replacement: 300,
        uptime: Some(100 * DAY),
        now: 1_000_000 * 1_000_000_000,
    };

    /// An assured connection with so much left.
    fn connection(left: u64) -> TableEntry {
        TableEntry {
            status: EntryStatus(0b1110),
            ..entry(
                6,
                EntryState::Tcp(3),
                Some(u32::try_from(left).unwrap()),
                2_000,
            )
        }
    }

    fn idle(entries: impl IntoIterator<Item = TableEntry>, bounds: &IdleBounds) -> u64 {
        let mut count = IdleCount::default();
        for entry in entries {
            count.add(&entry, bounds, ESTABLISHED, 7_440);
        }
        count.idle()
    }

    /// One after another over so many seconds, each a minute after the one before.
    fn leak(over: u64) -> impl Iterator<Item = TableEntry> {
        (0..over)
            .step_by(60)
            .map(|gone| connection(ESTABLISHED - gone))
    }

    #[test]
    fn connections_that_are_left_behind_one_after_another() {
        assert_eq!(idle(leak(2 * DAY), &BOUNDS), 2 * DAY / 60 - 7_440 / 60 - 1);
        let rebooted = IdleBounds {
            uptime: Some(7_000),
            ..BOUNDS
        };
        assert_eq!(idle(leak(2 * DAY), &rebooted), 0);
        let unknown = IdleBounds {
            uptime: None,
            ..BOUNDS
        };
        assert_eq!(idle(leak(2 * DAY), &unknown), 0);
    }

    /// The cases 10 and 23 of operators: each of these entries is seconds old.
    #[test]
    fn what_had_another_timeout_is_not_idle() {
        let few = |left| (0..900).map(move |number| connection(left - number / 60));
        // Data that nobody has acknowledged; a program made them; the setting was an hour; a rule gives a day.
        for left in [300, 3_000, 3_600, DAY] {
            assert_eq!(idle(few(left), &BOUNDS), 0, "{left}");
            // Among others that are in use.
            assert_eq!(
                idle(few(left).chain(few(ESTABLISHED)), &BOUNDS),
                0,
                "{left}"
            );
        }
        let one_way = few(ESTABLISHED - 9_000).map(|entry| TableEntry {
            status: EntryStatus(0b1000),
            ..entry
        });
        assert_eq!(idle(one_way, &BOUNDS), 0);
        let fixed = leak(DAY).map(|entry| TableEntry {
            status: EntryStatus(1 << 10 | 0b1110),
            ..entry
        });
        assert_eq!(idle(fixed, &BOUNDS), 0);
        let young = leak(DAY).map(|entry| TableEntry {
            start: Some(BOUNDS.now - 5_000 * 1_000_000_000),
            ..entry
        });
        assert_eq!(idle(young, &BOUNDS), 0, "they are there for 5,000 s");
        let shortened = few(ESTABLISHED + 400);
        assert_eq!(idle(shortened, &BOUNDS), 0);
    }
}
