//! Somebody else writes the limit, too.
//!
//! What they raise stays. What they lower stays as well, unless the controller had raised it and the
//! traffic needs it: kube-proxy of some versions sets its own value at each start. Then the limit
//! is put back: after seconds at first, then after one, four, eight and sixteen minutes. After that it is left as it is,
//! for a day or until a person sets the limit: whoever writes the same value again and again can't be seen.

use std::time::Duration;

use ctpressure_model::{pressure::as_f64, words::grouped};

use super::{Action, Observation, Policy};
use crate::limit::{
    change::{Purpose, Size},
    ledger::Struggle,
};

/// How long to wait before the limit is put back, in each round.
const BACK_OFF: [Duration; 5] = [
    Duration::from_secs(5),
    Duration::from_mins(1),
    Duration::from_mins(4),
    Duration::from_mins(8),
    Duration::from_mins(16),
];
/// After this long without being lowered the struggle is over.
const QUIET: Duration = Duration::from_hours(1);
/// The same after having given up.
const TRUCE: Duration = Duration::from_hours(24);

impl Policy {
    /// Whether this limit would be too low for the traffic of the last minutes.
    pub(super) fn is_too_low(&self, limit: u64, at: Duration) -> bool {
        limit > 0
            && (as_f64(self.tracking.peak()) >= self.settings.raise_at * as_f64(limit)
                || limit < self.settings.min_limit
                || self.tracking.is_dropping(at))
    }

    /// Takes note of a limit that somebody else has set.
    pub(super) fn foreign(&mut self, seen: &Observation) -> Option<Action> {
        let known = self.ledger.known;
        let limit = seen.size.limit;
        if known == limit {
            return None;
        }
        if known == 0 && self.ledger.ours.is_none() && !self.unlimited {
            // The first look: this is what was there.
            self.ledger.foreign(limit);
            return None;
        }
        let was_ours = self.ledger.ours.filter(|ours| ours.limit == known);
        let lowered = limit != 0 && (limit < known || known == 0);
        let struggle = &self.ledger.struggle;
        // Lowered further while it was waited for: what was ours before is still wanted.
        let wanted = struggle.wanted.or(was_ours.map(|ours| ours.limit));
        let reason = match wanted {
            Some(wanted) if lowered && self.is_too_low(limit, seen.at) => {
                self.lowered(seen, wanted)
            }
            _ => {
                self.ledger.struggle.wanted = None;
                self.ledger.foreign(limit);
                if lowered {
                    "lowered; it is enough for the traffic, or was not raised by the controller: it stays"
                        .to_owned()
                } else {
                    "raised: it stays".to_owned()
                }
            }
        };
        let before = Size {
            limit: known,
            ..seen.size
        };
        Some(Action::new(Purpose::Found, before, limit, reason))
    }

    fn lowered(&mut self, seen: &Observation, wanted: u64) -> String {
        self.ledger.foreign(seen.size.limit);
        let struggle = &mut self.ledger.struggle;
        struggle.rounds = struggle.rounds.saturating_add(1);
        struggle.lowered = seen.at;
        let round = usize::try_from(struggle.rounds).unwrap_or(usize::MAX);
        match BACK_OFF.get(round - 1) {
            Some(wait) if !struggle.given_up => {
                struggle.wanted = Some(wanted);
                format!(
                    "lowered below what the traffic needs (round {round}): put back to {} in {} s",
                    grouped(wanted),
                    wait.as_secs()
                )
            }
            _ => {
                struggle.wanted = None;
                struggle.given_up = true;
                format!(
                    "lowered below what the traffic needs for the {round}th time: given up; find out who sets it, \
                     then `ctpressure limit set {wanted}`"
                )
            }
        }
    }

    /// Puts the limit back if it is time to.
    pub(super) fn reapply(&mut self, seen: &Observation) -> Option<Action> {
        let wanted = self.ledger.struggle.wanted?;
        if !self.is_too_low(seen.size.limit, seen.at) {
            self.ledger.struggle.wanted = None;
            return None;
        }
        let rounds = self.ledger.struggle.rounds;
        let round = usize::try_from(rounds).unwrap_or(usize::MAX);
        let wait = BACK_OFF.get(round.saturating_sub(1))?;
        if seen.at.saturating_sub(self.ledger.struggle.lowered) < *wait {
            return None;
        }
        let to = wanted.min(self.ceiling(seen).limit);
        if to <= seen.size.limit {
            self.ledger.struggle.wanted = None;
            return None;
        }
        let reason = format!(
            "somebody else lowered it below what the traffic needs; round {rounds} of {}",
            BACK_OFF.len()
        );
        Some(Action::new(Purpose::Reapply, seen.size, to, reason))
    }

    /// Ends a struggle after a quiet time.
    pub(super) fn end_struggle(&mut self, at: Duration) {
        let struggle = &self.ledger.struggle;
        let quiet = if struggle.given_up { TRUCE } else { QUIET };
        if struggle.rounds > 0
            && struggle.wanted.is_none()
            && at.saturating_sub(struggle.lowered) >= quiet
        {
            self.ledger.struggle = Struggle::default();
        }
    }
}
