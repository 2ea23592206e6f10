//! What the controller has to remember, also over its own end: what is its own, what others wanted,
//! when it acted last. Times are since boot (`CLOCK_BOOTTIME`), so they mean nothing after the next
//! one: then the kernel has its own limit again, and nothing is ours.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::change::{Purpose, Size};

/// A give-back that is followed by a raise within this time was a mistake.
const REGRET: Duration = Duration::from_hours(24);
/// A restored timeout that is shortened again within this time was restored too soon.
const HASTY: Duration = Duration::from_hours(1);

/// A limit that the controller wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ours {
    /// What was there before the first raise.
    pub from: u64,
    /// What was written last.
    pub limit: u64,
}

/// A struggle with somebody who lowers the limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Struggle {
    /// How often it was lowered below what the traffic needs.
    pub rounds: u32,
    /// When that was last.
    pub lowered: Duration,
    /// The limit to put back; `None`: it is back.
    pub wanted: Option<u64>,
    /// No more: it is left as it is.
    pub given_up: bool,
    /// Who seems to do it.
    pub who: Option<String>,
}

/// A timeout that the controller wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortened {
    /// What was there before, in seconds.
    pub from: u64,
    /// What was written, in seconds.
    pub to: u64,
    /// When that was, since boot.
    pub at: Duration,
}

/// The timeout of closed connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TimeoutLedger {
    /// It is shortened, and nobody else has changed it since.
    pub shortened: Option<Shortened>,
    /// When it was restored last.
    pub restored: Option<Duration>,
    /// Restores in a row that were followed by another shortening within an hour: each doubles the
    /// time before the next one.
    pub hasty: u32,
    /// When somebody else changed it while it was shortened.
    pub foreign: Option<Duration>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LimitLedger {
    /// What the controller wrote, as long as nobody else has changed it.
    pub ours: Option<Ours>,
    /// The highest limit that somebody else wanted (or a person set by hand) since boot: it is never
    /// lowered below that.
    pub highest_foreign: u64,
    /// The limit that was seen or written last; 0: none yet.
    pub known: u64,
    pub raised: Option<Duration>,
    pub gave_back: Option<Duration>,
    /// Give-backs that were followed by a raise within a day: each doubles the calm that the next one
    /// needs.
    pub regrets: u32,
    /// Somebody lowers the limit.
    pub struggle: Struggle,
    /// The timeout of closed connections.
    #[serde(default)]
    pub timeout: TimeoutLedger,
}

impl LimitLedger {
    /// Takes down that this was done.
    pub(crate) fn done(&mut self, purpose: Purpose, before: Size, after: Size, at: Duration) {
        match purpose {
            Purpose::Raise => {
                let recently = |then: Duration| at.saturating_sub(then) < REGRET;
                if self.gave_back.is_some_and(recently) {
                    self.regrets += 1;
                    self.gave_back = None;
                }
                self.raised = Some(at);
                self.own(before.limit, after.limit);
            }
            Purpose::Reapply => {
                self.struggle.wanted = None;
                self.own(before.limit, after.limit);
            }
            Purpose::GiveBack => {
                self.gave_back = Some(at);
                self.ours = None;
                self.known = after.limit;
            }
            Purpose::Set => {
                // A person has spoken: that is what counts from now on.
                self.ours = None;
                self.highest_foreign = after.limit;
                self.known = after.limit;
                self.struggle = Struggle::default();
            }
            Purpose::Found => self.known = after.limit,
            Purpose::Buckets => {}
            Purpose::Shorten => {
                let timeout = &mut self.timeout;
                let hasty = |then: Duration| at.saturating_sub(then) < HASTY;
                timeout.hasty = if timeout.restored.is_some_and(hasty) {
                    timeout.hasty.saturating_add(1)
                } else {
                    0
                };
                timeout.shortened = before
                    .time_wait
                    .zip(after.time_wait)
                    .map(|(from, to)| Shortened { from, to, at });
            }
            Purpose::Restore => {
                self.timeout.shortened = None;
                self.timeout.restored = Some(at);
            }
        }
    }

    fn own(&mut self, before: u64, after: u64) {
        let from = self.ours.map_or(before, |ours| ours.from);
        self.ours = Some(Ours { from, limit: after });
        self.known = after;
    }

    /// Takes down that somebody else set the limit.
    pub(crate) fn foreign(&mut self, limit: u64) {
        self.ours = None;
        self.known = limit;
        self.highest_foreign = self.highest_foreign.max(limit);
    }

    /// What there would be after a give-back: what was there before, and what anybody wanted since.
    pub(crate) fn give_back_to(&self) -> Option<u64> {
        let ours = self.ours?;
        let to = ours.from.max(self.highest_foreign);
        (to < ours.limit).then_some(to)
    }
}
