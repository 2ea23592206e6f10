//! When to change the limit, and to what: pure functions over samples. No input or output, no clock:
//! times are passed in.
//!
//! Once a second [`Policy::observe`] is told what there is, and says what to do about it, with the
//! reason; [`Policy::done`] is told what came of it. A dry run is told that it was done, and goes on
//! as if it were: so it says the same things as a real one.

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub(crate) use seen::{Observation, TableLosses, TableSeen};

use super::{
    ceiling::{Ceiling, FullTables, ceiling},
    change::{Purpose, Size},
    knobs::Knob,
    ledger::LimitLedger,
    report::Fight,
    settings::{MOST, SOONEST_GIVE_BACK, Settings},
};
mod advice;
mod raise;
mod rival;
mod seen;
mod shorten;
mod tracking;

use ctpressure_model::{
    pressure::{as_count, as_f64},
    verdict::Composition,
    words::{grouped, seconds},
};
use raise::Refusal;
use tracking::Tracking;

/// Entries that count as calm, as a share of the limit that would be given back to.
const CALM: f64 = 0.5;
/// The same refusal is recorded again after this time.
const SAY_AGAIN: Duration = Duration::from_hours(1);
/// How long to wait after the kernel did not take a change: doubled each time, up to an hour.
const AFTER_FAILURE: Duration = Duration::from_mins(1);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Action {
    pub purpose: Purpose,
    pub before: Size,
    pub after: Size,
    pub reason: String,
}

impl Action {
    /// The number that this purpose is about, changed to this value.
    pub(crate) fn new(purpose: Purpose, before: Size, to: u64, reason: String) -> Self {
        Self {
            purpose,
            before,
            after: Knob::of_purpose(purpose).set(before, to),
            reason,
        }
    }
}

/// What to do now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decision {
    /// What somebody else changed, and what follows from it.
    pub found: Vec<Action>,
    pub action: Option<Action>,
    /// More room is wanted and not made, for this reason; said once in a while.
    pub refused: Option<Action>,
    /// What is done or waited for, in words.
    pub now: String,
    /// What else would help, or would not.
    pub advice: Vec<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct Policy {
    settings: Settings,
    ledger: LimitLedger,
    tracking: Tracking,
    looked: Option<(Duration, u32, Option<Composition>)>,
    /// A controller that has ended left a timeout shortened.
    inherited: bool,
    /// When it was last looked at whether a timeout can be restored.
    asked: Option<Duration>,
    refused: Option<(Refusal, Duration)>,
    advice: Vec<String>,
    failures: u32,
    blocked_until: Duration,
    unlimited: bool,
}

impl Policy {
    /// A policy that goes on from what is remembered.
    pub(crate) fn new(settings: Settings, ledger: LimitLedger) -> Self {
        Self {
            settings,
            inherited: ledger.timeout.shortened.is_some(),
            asked: None,
            ledger,
            tracking: Tracking::default(),
            looked: None,
            refused: None,
            advice: Vec::new(),
            failures: 0,
            blocked_until: Duration::ZERO,
            unlimited: false,
        }
    }

    /// What has to be remembered.
    pub(crate) const fn ledger(&self) -> &LimitLedger {
        &self.ledger
    }

    /// Says what to do. `look` tells what the table of a network namespace is made of, if that can
    /// be told; it is asked only before a raise.
    pub(crate) fn observe(
        &mut self,
        seen: &Observation,
        look: &mut dyn FnMut(u32) -> Option<Composition>,
    ) -> Decision {
        self.advice.clear();
        self.tracking
            .add(seen, &self.settings, self.calm_below().unwrap_or(0));
        let found = self.foreign(seen).into_iter();
        let found = found.chain(self.foreign_timeout(seen)).collect();
        self.unlimited = seen.size.limit == 0;
        self.advise(seen);
        self.end_struggle(seen.at);
        let mut decision = Decision {
            found,
            ..Decision::default()
        };
        if seen.at < self.blocked_until {
            decision.now = format!(
                "the kernel did not take the last change: the next attempt in {} s",
                self.blocked_until.saturating_sub(seen.at).as_secs()
            );
        } else if let Some(action) = self.restore(seen, look) {
            act(&mut decision, action);
        } else if seen.size.limit == 0 || seen.size.limit > MOST {
            "there is no limit: nothing to raise".clone_into(&mut decision.now);
        } else {
            self.decide(seen, look, &mut decision);
        }
        decision.advice.clone_from(&self.advice);
        decision
    }

    fn decide(
        &mut self,
        seen: &Observation,
        look: &mut dyn FnMut(u32) -> Option<Composition>,
        decision: &mut Decision,
    ) {
        if let Some(action) = self.reapply(seen) {
            return act(decision, action);
        }
        let struggle = &self.ledger.struggle;
        if struggle.given_up {
            "somebody else keeps lowering the limit: it is left as it is"
                .clone_into(&mut decision.now);
            return;
        }
        if let Some(wanted) = struggle.wanted {
            decision.now = format!(
                "somebody else lowered the limit: it is put back to {} soon",
                grouped(wanted)
            );
            return;
        }
        if let Some(action) = self.floor(seen) {
            return act(decision, action);
        }
        if let Some(pressure) = self.tracking.pressure(seen, &self.settings) {
            match self.raise(seen, pressure, look) {
                Ok(action) => {
                    self.refused = None;
                    return act(decision, action);
                }
                Err((refusal, reason)) => {
                    decision.refused = self.refuse(seen, refusal, &reason);
                    decision.now = reason;
                    let at_ceiling = refusal == Some(Refusal::Ceiling);
                    let other = self.buckets(seen);
                    let other = other.or_else(|| {
                        at_ceiling
                            .then(|| self.shorten(seen, pressure, look))
                            .flatten()
                    });
                    if let Some(action) = other {
                        act(decision, action);
                    }
                    return;
                }
            }
        }
        if let Some(action) = self.buckets(seen).or_else(|| self.give_back(seen)) {
            return act(decision, action);
        }
        let Some(fullest) = seen.fullest_of(&self.settings) else {
            "no table is seen that the limit is raised for".clone_into(&mut decision.now);
            return;
        };
        let share = as_f64(fullest.entries) / as_f64(seen.size.limit);
        decision.now = if share >= self.settings.raise_at {
            format!(
                "pressure, since less than {} s",
                self.settings.raise_for.as_secs()
            )
        } else {
            "nothing to do".to_owned()
        };
    }

    /// What is recorded of a refusal: the first of its kind, then one an hour.
    fn refuse(
        &mut self,
        seen: &Observation,
        refusal: Option<Refusal>,
        reason: &str,
    ) -> Option<Action> {
        let refusal = refusal?;
        if let Some((last, at)) = self.refused
            && last == refusal
            && seen.at.saturating_sub(at) < SAY_AGAIN
        {
            return None;
        }
        self.refused = Some((refusal, seen.at));
        let Size { limit, .. } = seen.size;
        Some(Action::new(
            Purpose::Raise,
            seen.size,
            limit,
            reason.to_owned(),
        ))
    }

    /// Entries up to which it is calm enough to give back.
    fn calm_below(&self) -> Option<u64> {
        let to = self.ledger.give_back_to()?;
        Some(as_count(as_f64(to) * self.settings.raise_at * CALM))
    }

    /// Back to what was there, after a long calm.
    fn give_back(&self, seen: &Observation) -> Option<Action> {
        let needed = self.settings.give_back?;
        // Each mistake doubles it, up to sixty-four times.
        let needed = needed.saturating_mul(1 << self.ledger.regrets.min(6));
        let to = self.ledger.give_back_to()?;
        let raised = self.ledger.raised.unwrap_or_default();
        // What a shortened timeout makes of the table is no calm.
        let restored = self.ledger.timeout.restored.unwrap_or_default();
        let calm = self.tracking.calm_for(seen.at);
        let calm = calm.min(seen.at.saturating_sub(restored));
        if calm < needed
            || self.ledger.timeout.shortened.is_some()
            || seen.at.saturating_sub(raised) < needed.max(SOONEST_GIVE_BACK)
            || to < self.settings.min_limit
        {
            return None;
        }
        let reason = format!(
            "calm for {}: at most {} entries, half of what would be pressure at {}",
            seconds(calm.as_secs()),
            grouped(self.calm_below().unwrap_or(0)),
            grouped(to),
        );
        Some(Action::new(Purpose::GiveBack, seen.size, to, reason))
    }

    /// Takes note of what came of an action: whether the kernel has it now.
    pub(crate) fn done(&mut self, action: &Action, applied: bool, at: Duration) {
        if applied {
            self.failures = 0;
            if action.purpose == Purpose::Restore {
                self.inherited = false;
            }
            self.ledger
                .done(action.purpose, action.before, action.after, at);
            return;
        }
        let wait = AFTER_FAILURE.saturating_mul(1 << self.failures.min(6));
        self.failures = self.failures.saturating_add(1);
        self.blocked_until = at + wait.min(Duration::from_hours(1));
    }

    /// Who lowers the limit, as far as that was found out.
    pub(crate) fn suspect(&mut self, who: Option<String>) {
        if self.ledger.struggle.rounds > 0 && who.is_some() {
            self.ledger.struggle.who = who;
        }
    }

    /// How far the limit may be raised now, and what makes that.
    pub(crate) fn ceiling(&self, seen: &Observation) -> Ceiling {
        ceiling(
            &seen.cost,
            seen.memory,
            &self.full_tables(seen),
            seen.size.buckets,
            &self.settings,
        )
    }

    /// The tables that the ceiling counts.
    pub(crate) fn full_tables(&self, seen: &Observation) -> FullTables {
        self.tracking.full_tables(seen)
    }

    /// The struggle with somebody else, if there is one.
    pub(crate) fn fight(&self) -> Option<Fight> {
        let struggle = &self.ledger.struggle;
        (struggle.rounds > 0).then(|| Fight {
            rounds: struggle.rounds,
            given_up: struggle.given_up,
            who: struggle.who.clone(),
        })
    }

    /// The most entries that any table had in the last minutes.
    pub(crate) fn peak_of_any(&self) -> u64 {
        self.tracking.peak_of_any()
    }

    pub(crate) const fn settings(&self) -> &Settings {
        &self.settings
    }
}

fn act(decision: &mut Decision, action: Action) {
    let knob = Knob::of_purpose(action.purpose);
    let what = match knob {
        Knob::TimeWait => format!(" {}", knob.name()),
        Knob::Limit | Knob::Buckets => String::new(),
    };
    let to = knob.of(action.after).unwrap_or_default();
    decision.now = format!("{}{what} to {to}: {}", action.purpose.name(), action.reason);
    decision.action = Some(action);
}
