//! When what costs each new connection something, and tells more only of lost packets, is worth it.

use std::time::Duration;

use ctpressure_model::pressure::state::Pressure;

/// How long it stays attached after the last table has room again: attaching takes the kernel some
/// milliseconds, and pressure comes and goes.
const AFTER: Duration = Duration::from_mins(1);

/// Whether a table was near its limit lately. Pure.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NearLimit {
    until: Option<Duration>,
}

impl NearLimit {
    /// `worst`: the highest pressure of all tables, `at` so long after the agent began.
    pub(super) fn update(&mut self, worst: Pressure, at: Duration) -> bool {
        if worst >= Pressure::High {
            self.until = Some(at + AFTER);
        }
        self.until.is_some_and(|until| at < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_high_pressure_on_and_for_a_while_after_it() {
        let mut near = NearLimit::default();
        let mut at = |pressure, seconds| near.update(pressure, Duration::from_secs(seconds));
        assert!(!at(Pressure::Rising, 0));
        assert!(at(Pressure::High, 1));
        assert!(at(Pressure::Calm, 60));
        assert!(!at(Pressure::Calm, 61));
        assert!(at(Pressure::Full, 100));
        assert!(at(Pressure::High, 150));
        assert!(at(Pressure::Rising, 209));
        assert!(!at(Pressure::Rising, 210));
    }
}
