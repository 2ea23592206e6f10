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
    /// Always 0, so that no byte is undefined.
    reserved: u32,
}

/// Which events of a sampled kind have a record on one CPU, by the number of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Sampler {
    budget: Budget,
    /// The number of the last event that had a record.
    recorded: u64,
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

impl Sampler {
    /// The event of this number, of which none before the [next](Self::next) one needs to be told of: the weight of its record if one
    /// is to be made.
    ///
    /// Within the budget every event gets a record; beyond it one in `one_in` (0: none). The
    /// weight counts this event and those skipped before it, so that weights add up to events.
    #[inline(always)]
    pub fn sample(
        &mut self,
        event: u64,
        per_window: impl FnOnce() -> u32,
        one_in: u32,
        tick: u64,
        now_ns: impl FnOnce() -> u64,
    ) -> Option<u32> {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a record comes long before"
        )]
        let weight = event.saturating_sub(self.recorded) as u32;
        if weight == 0 {
            // A later one that interrupted has a record, which stands for this one too.
            return None;
        }
        if self.budget.left == 0 {
            self.budget.refill(per_window, tick, now_ns);
        }
        if self.budget.left > 0 {
            self.budget.left -= 1;
        } else if one_in == 0 || weight < one_in {
            return None;
        }
        self.recorded = event;
        Some(weight)
    }

    /// The number of the next event after this one that has a record, unless a new window begins before.
    #[inline(always)]
    pub const fn next(&self, event: u64, one_in: u32) -> u64 {
        if self.budget.left > 0 {
            event + 1
        } else if one_in == 0 {
            u64::MAX
        } else {
            self.recorded + one_in as u64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Events that are numbered as they come.
    #[derive(Default)]
    struct Events {
        sampler: Sampler,
        number: u64,
    }

    impl Events {
        fn one(&mut self, per_window: u32, one_in: u32, tick: u64, now_ns: u64) -> Option<u32> {
            self.number += 1;
            self.sampler
                .sample(self.number, || per_window, one_in, tick, || now_ns)
        }

        fn made(&mut self, events: u32, per_window: u32, tick: u64) -> usize {
            (0..events)
                .filter(|_| self.one(per_window, 0, tick, tick * WINDOW_NS).is_some())
                .count()
        }
    }

    #[test]
    fn within_the_budget_each_event_has_a_record() {
        let mut events = Events::default();
        for _ in 0..10 {
            assert_eq!(events.one(10, 64, 1, WINDOW_NS), Some(1));
        }
        assert_eq!(
            events.one(10, 64, 1, 100 * WINDOW_NS),
            None,
            "the same tick"
        );
    }

    #[test]
    fn beyond_the_budget_weights_add_up_to_events() {
        let mut events = Events::default();
        let (mut weights, mut records) = (0u64, 0u64);
        for tick in 1..=5_000u64 {
            for _ in 0..7 {
                if let Some(weight) = events.one(3, 10, tick, tick * WINDOW_NS / 40) {
                    weights += u64::from(weight);
                    records += 1;
                }
            }
        }
        let skipped = events.number - events.sampler.recorded;
        assert_eq!(weights + skipped, events.number);
        assert!(
            records < events.number / 5,
            "{records} records for {} events",
            events.number
        );
    }

    #[test]
    fn none_before_the_next_one_has_a_record_in_its_window() {
        let mut events = Events::default();
        for tick in 1..2_000 {
            let next = events.sampler.next(events.number, 10);
            let made = events
                .one(3, 10, tick / 20, tick / 20 * WINDOW_NS)
                .is_some();
            let is_new_window = tick % 20 == 0;
            assert!(
                events.number >= next || is_new_window || !made,
                "{} before {next}",
                events.number
            );
        }
        assert_eq!(Sampler::default().next(7, 0), u64::MAX);
    }

    #[test]
    fn one_that_was_overtaken_is_in_the_weight_of_the_other() {
        let mut sampler = Sampler::default();
        let mut weight = |event| sampler.sample(event, || 100, 0, 1, || WINDOW_NS);
        assert_eq!(weight(1), Some(1));
        assert_eq!(weight(3), Some(2));
        assert_eq!(weight(2), None);
        assert_eq!(weight(4), Some(1));
    }

    #[test]
    fn one_in_zero_means_budget_only() {
        assert_eq!(Events::default().made(1000, 5, 1), 5);
    }

    #[test]
    fn a_new_window_refills_and_carries_what_was_skipped() {
        let mut budget = Budget::default();
        assert!(budget.take(1, 1, || WINDOW_NS));
        assert!(!budget.take(1, 1, || WINDOW_NS * 9));
        assert!(!budget.take(1, 2, || WINDOW_NS + WINDOW_NS / 2));
        assert!(budget.take(1, 3, || WINDOW_NS * 2));

        let mut events = Events::default();
        assert_eq!(events.one(1, 0, 1, WINDOW_NS), Some(1));
        assert_eq!(events.one(1, 0, 1, 0), None);
        assert_eq!(events.one(1, 0, 1, 0), None);
        assert_eq!(events.one(1, 0, 2, WINDOW_NS * 2), Some(3));
    }

    #[test]
    fn who_asks_for_more_has_it_with_the_next_tick() {
        let mut events = Events::default();
        let mut made = |most, tick| events.one(most, 0, tick, WINDOW_NS).is_some();
        assert!(made(1, 1));
        assert!(!made(1, 2));
        assert!(!made(100, 2), "the same tick");
        assert!((0..100).all(|_| made(100, 3)));
        assert!(!made(100, 4), "the window is not over");
        assert!(!made(1, 5));
    }

    #[test]
    fn a_burst_after_a_rest_has_what_was_not_used() {
        let mut events = Events::default();
        assert_eq!(events.made(1, 1, 1), 1);
        assert_eq!(events.made(1000, 1, 2), 1);
        assert_eq!(events.made(1000, 1, 32), 30);
        assert_eq!(events.made(1000, 1, 3_200), 64);
        assert_eq!(events.made(1000, 1, 3_201), 1);
        // What a window may have is not more for that.
        assert_eq!(Events::default().made(1000, 100, 9_000), 100);
    }

    #[test]
    fn a_budget_of_zero_gives_nothing() {
        let mut budget = Budget::default();
        for tick in 1..100 {
            assert!(!budget.take(0, tick, || tick * WINDOW_NS));
        }
    }
}
