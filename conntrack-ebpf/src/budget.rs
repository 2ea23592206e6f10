//! How many detail records one CPU may make, and what each stands for.
//!
//! A budget is a number of records for each window of time. The clock is read only when a window
//! may have ended: the caller hands in a cheap tick (jiffies) and a closure for the real time, so
//! the common path costs a compare.

/// Length of a window, nanoseconds.
pub const WINDOW_NS: u64 = 100_000_000;
/// What windows without an event leave for one that has many, as far as the budget of these windows goes: of a short burst on a quiet
/// node all is seen.
const BURST: u64 = 64;

/// The state of one budget on one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Budget {
    /// When the current window began, nanoseconds.
    window_start_ns: u64,
    /// The tick at which the clock was last read: its lower half.
    checked_tick: u32,
    /// What this window had at first.
    granted: u32,
    /// Records left in this window.
    left: u32,
    /// Events since the last record of this kind.
    skipped: u32,
}

impl Budget {
    /// Begins a new window when the last one is over, or has less than one would have that begins now: who asks for more is not
    /// kept waiting.
    #[inline(always)]
    fn refill(
        &mut self,
        per_window: impl FnOnce() -> u32,
        tick: u64,
        now_ns: impl FnOnce() -> u64,
    ) {
        #[expect(clippy::cast_possible_truncation, reason = "neighbours differ in it")]
        let tick = tick as u32;
        if tick == self.checked_tick {
            return;
        }
        self.checked_tick = tick;
        let (now, per_window) = (now_ns(), per_window());
        let windows = now.wrapping_sub(self.window_start_ns) / WINDOW_NS;
        if windows > 0 || per_window > self.granted {
            self.window_start_ns = now;
            let saved = windows.min(BURST) * u64::from(per_window);
            let saved = saved.min(BURST) as u32;
            self.left = per_window.max(saved);
            self.granted = per_window;
        }
    }

    /// One more event of a sampled kind: the weight of its record if one is to be made.
    ///
    /// Within the budget every event gets a record; beyond it one in `one_in` (0: none). The
    /// weight counts this event and those skipped before it, so that weights add up to events.
    ///
    /// All but the state is asked for by closures: this is on the path of each new connection,
    /// where an unneeded load counts.
    #[inline(always)]
    pub fn sample(
        &mut self,
        per_window: impl FnOnce() -> u32,
        one_in: impl FnOnce() -> u32,
        tick: impl FnOnce() -> u64,
        now_ns: impl FnOnce() -> u64,
    ) -> Option<u32> {
        let weight = self.skipped.wrapping_add(1);
        if self.left == 0 {
            self.refill(per_window, tick(), now_ns);
        }
        if self.left > 0 {
            self.left -= 1;
        } else {
            let one_in = one_in();
            if one_in == 0 || weight < one_in {
                self.skipped = weight;
                return None;
            }
        }
        self.skipped = 0;
        Some(weight)
    }

    /// One more event of a kind that is never sampled: whether it may have a record.
    #[inline(always)]
    pub fn take(&mut self, per_window: u32, tick: u64, now_ns: impl FnOnce() -> u64) -> bool {
        if self.left == 0 {
            self.refill(|| per_window, tick, now_ns);
        }
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn within_the_budget_each_event_has_a_record() {
        let mut budget = Budget::default();
        for _ in 0..10 {
            assert_eq!(budget.sample(|| 10, || 64, || 1, || WINDOW_NS), Some(1));
        }
        assert_eq!(
            budget.sample(|| 10, || 64, || 1, || unreachable!("same tick")),
            None
        );
    }

    #[test]
    fn beyond_the_budget_weights_add_up_to_events() {
        let mut budget = Budget::default();
        let (mut weights, mut events, mut records) = (0u64, 0u64, 0u64);
        for tick in 1..=5_000u64 {
            for _ in 0..7 {
                events += 1;
                if let Some(weight) = budget.sample(|| 3, || 10, || tick, || tick * WINDOW_NS / 40)
                {
                    weights += u64::from(weight);
                    records += 1;
                }
            }
        }
        assert_eq!(weights + u64::from(budget.skipped), events);
        assert!(
            records < events / 5,
            "{records} records for {events} events"
        );
    }

    #[test]
    fn one_in_zero_means_budget_only() {
        let mut budget = Budget::default();
        let made = (0..1000)
            .filter(|_| budget.sample(|| 5, || 0, || 1, || WINDOW_NS).is_some())
            .count();
        assert_eq!(made, 5);
    }

    #[test]
    fn a_new_window_refills_and_carries_what_was_skipped() {
        let mut budget = Budget::default();
        assert!(budget.take(1, 1, || WINDOW_NS));
        assert!(!budget.take(1, 1, || WINDOW_NS * 9));
        assert!(!budget.take(1, 2, || WINDOW_NS + WINDOW_NS / 2));
        assert!(budget.take(1, 3, || WINDOW_NS * 2));

        let mut budget = Budget::default();
        assert_eq!(budget.sample(|| 1, || 0, || 1, || WINDOW_NS), Some(1));
        assert_eq!(budget.sample(|| 1, || 0, || 1, || 0), None);
        assert_eq!(budget.sample(|| 1, || 0, || 1, || 0), None);
        assert_eq!(budget.sample(|| 1, || 0, || 2, || WINDOW_NS * 2), Some(3));
    }

    #[test]
    fn who_asks_for_more_has_it_with_the_next_tick() {
        let mut budget = Budget::default();
        let mut made = |most, tick| {
            budget
                .sample(|| most, || 0, || tick, || WINDOW_NS)
                .is_some()
        };
        assert!(made(1, 1));
        assert!(!made(1, 2));
        assert!(!made(100, 2), "the same tick");
        assert!((0..100).all(|_| made(100, 3)));
        assert!(!made(100, 4), "the window is not over");
        assert!(!made(1, 5));
    }

    #[test]
    fn a_burst_after_a_rest_has_what_was_not_used() {
        let mut budget = Budget::default();
        let mut made = |tick: u64| {
            let window = || tick * WINDOW_NS;
            budget.sample(|| 1, || 0, || tick, window).is_some()
        };
        assert!(made(1));
        assert_eq!((0..1000).filter(|_| made(2)).count(), 1);
        assert_eq!((0..1000).filter(|_| made(32)).count(), 30);
        assert_eq!((0..1000).filter(|_| made(3_200)).count(), 64);
        assert_eq!((0..1000).filter(|_| made(3_201)).count(), 1);
        // What a window may have is not more for that.
        let mut budget = Budget::default();
        let many = |budget: &mut Budget| {
            (0..1000)
                .filter(|_| budget.take(100, 9, || 9_000 * WINDOW_NS))
                .count()
        };
        assert_eq!(many(&mut budget), 100);
    }

    #[test]
    fn a_budget_of_zero_gives_nothing() {
        let mut budget = Budget::default();
        for tick in 1..100 {
            assert!(!budget.take(0, tick, || tick * WINDOW_NS));
        }
    }
}
