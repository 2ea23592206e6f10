//! When nothing else helps: one timeout is shortened for a while (`--shorten-timeouts`).
//!
//! It is the one of `TIME_WAIT`, in the host's table. Such connections were closed by both sides, so
//! nobody loses one; they are kept for two minutes by default, and the kernel may not remove them early
//! (`early_drop` spares what is assured). Every other state is one of a living connection (also
//! `FIN_WAIT` and `CLOSE_WAIT`: one side may send on), has a short timeout anyway, or is removed
//! early by the kernel itself.
//!
//! Entries keep the timeout with which they came into the state: the table gets smaller over what
//! was the timeout before. It is restored when the table would have room with it, not sooner than after
//! ten minutes, when the controller ends, and when one begins after another was killed.

use std::time::Duration;

use ctpressure_model::{
    pressure::{as_count, as_f64},
    words::{grouped, seconds},
};

use super::{Action, Composition, Observation, Policy, tracking::LimitPressure};
use crate::{
    kernel::tables::HOST_NAME,
    limit::{
        change::{Purpose, Size},
        ledger::Shortened,
    },
};

/// It is shortened to this part.
const PART: u64 = 4;
/// But not below so many seconds: a last packet that was lost is sent again within them.
const LEAST: u64 = 15;
/// It is not restored sooner, and that time is doubled each time that it was too soon, up to so often.
const HOLD: Duration = Duration::from_mins(10);
const DOUBLED: u32 = 5;
/// How often it is looked at whether it can be restored.
const LOOK: Duration = Duration::from_mins(1);
/// With the restored timeout the table would be at this part of the share that counts as pressure.
const ROOM: f64 = 0.75;
/// When somebody else has set it, it is left alone for this time.
const TRUCE: Duration = Duration::from_hours(24);

impl Policy {
    /// Takes note of a timeout that somebody else has set while it was shortened: it is theirs.
    pub(super) fn foreign_timeout(&mut self, seen: &Observation) -> Option<Action> {
        let timeout = &mut self.ledger.timeout;
        let Shortened { from, to, .. } = timeout.shortened?;
        let now = seen.size.time_wait?;
        if now == to {
            return None;
        }
        timeout.shortened = None;
        timeout.foreign = Some(seen.at);
        self.inherited = false;
        Some(Action {
            purpose: Purpose::Found,
            before: Size {
                time_wait: Some(to),
                ..seen.size
            },
            after: seen.size,
            reason: format!(
                "set while it was shortened from {}: it stays, and is left alone for a day",
                seconds(from)
            ),
        })
    }

    /// A shorter timeout, if closed connections are most of a table that can't be given more room.
    pub(super) fn shorten(
        &mut self,
        seen: &Observation,
        pressure: LimitPressure,
        look: &mut dyn FnMut(u32) -> Option<Composition>,
    ) -> Option<Action> {
        let timeout = self.ledger.timeout;
        let lately = |then: Option<Duration>, time: Duration| {
            then.is_some_and(|then| seen.at.saturating_sub(then) < time)
        };
        if !self.settings.shorten_timeouts
            || timeout.shortened.is_some()
            || lately(timeout.foreign, TRUCE)
            || lately(timeout.restored, self.settings.cooldown)
            || matches!(pressure, LimitPressure::Forecast(_))
        {
            return None;
        }
        let from = seen.size.time_wait?;
        let to = (from / PART).max(LEAST);
        // Less than half of it would not be worth it.
        if to.saturating_mul(2) > from || seen.fullest_of(&self.settings)?.name != HOST_NAME {
            return None;
        }
        let Composition {
            entries, time_wait, ..
        } = self.composition(seen, look)?;
        if time_wait == 0 || time_wait.saturating_mul(2) < entries {
            return None;
        }
        let reason = format!(
            "the ceiling is reached, and {} of {} entries are closed connections (TIME_WAIT): \
             forgotten after {} instead of {}, for a while",
            grouped(time_wait),
            grouped(entries),
            seconds(to),
            seconds(from)
        );
        Some(Action::new(Purpose::Shorten, seen.size, to, reason))
    }

    /// The timeout as it was, if it is time to.
    pub(super) fn restore(
        &mut self,
        seen: &Observation,
        look: &mut dyn FnMut(u32) -> Option<Composition>,
    ) -> Option<Action> {
        let Shortened { from, to, at } = self.ledger.timeout.shortened?;
        if self.inherited {
            return self.restored(seen.size, "a controller that ended left it shortened");
        }
        if seen.size.limit == 0 {
            return self.restored(seen.size, "there is no limit");
        }
        let doubled = 1 << self.ledger.timeout.hasty.min(DOUBLED);
        if seen.at.saturating_sub(at) < HOLD.saturating_mul(doubled) {
            return None;
        }
        let room = self.settings.raise_at * ROOM * as_f64(seen.size.limit);
        let peak = as_f64(self.tracking.peak());
        let longer = as_f64(from) / as_f64(to.max(1));
        let mut expected = peak * longer;
        if expected > room {
            let again = |asked: Duration| seen.at.saturating_sub(asked) >= LOOK;
            // It would be more even if none of them were closed connections.
            if peak > room || !self.asked.is_none_or(again) {
                return None;
            }
            self.asked = Some(seen.at);
            let host = seen.tables.iter().find(|table| table.name == HOST_NAME)?;
            let composition = look(host.netns)?;
            let closed = as_f64(composition.time_wait) / as_f64(composition.entries.max(1));
            expected = peak * (1.0 + closed.min(1.0) * (longer - 1.0));
        }
        if expected > room {
            return None;
        }
        let reason = format!(
            "with it the table would hold {} entries at most",
            grouped(as_count(expected))
        );
        self.restored(seen.size, &reason)
    }

    /// Restores a shortened timeout, unless somebody else has set it since.
    pub(super) fn restored(&self, now: Size, reason: &str) -> Option<Action> {
        let Shortened { from, to, .. } = self.ledger.timeout.shortened?;
        (now.time_wait == Some(to)).then(|| {
            let reason = format!("as it was before it was shortened: {reason}");
            Action::new(Purpose::Restore, now, from, reason)
        })
    }

    /// What is to be put back when the controller ends, `now` being there.
    pub(crate) fn at_end(&self, now: Size) -> Option<Action> {
        self.restored(now, "the controller ends")
    }
}
