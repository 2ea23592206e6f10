//! A change, step by step (see the [controller](super)).

use std::time::{Duration, SystemTime};

use ctpressure_model::words::{grouped, time::JsonTime};

use super::{
    Action, By, Change, ChangeOutcome, ChangeTally, Controller, ControllerStep, Knob,
    PendingChange, Size,
};
use crate::limit::{knobs::KnobError, ledger::LimitLedger};

impl Controller {
    /// Finds out what came of a change during which the controller ended.
    pub(super) fn finish_pending(&mut self, at: Duration) {
        let Some(pending) = self.state.pending.take() else {
            return;
        };
        let Ok(now) = self.knobs.read() else {
            // Conntrack is gone, and what was set with it.
            self.state.ledger = LimitLedger::default();
            return;
        };
        let PendingChange {
            action,
            by,
            who,
            at: begun,
            time,
        } = pending;
        let knob = Knob::of_purpose(action.purpose);
        let (outcome, found) = if knob.of(now) == knob.of(action.after)
            || (knob == Knob::Buckets && now.buckets > action.before.buckets)
        {
            self.state
                .ledger
                .done(action.purpose, action.before, action.after, begun.min(at));
            (ChangeOutcome::Applied, "it was done")
        } else if knob.of(now) == knob.of(action.before) {
            (ChangeOutcome::Failed, "it was not done")
        } else {
            (
                ChangeOutcome::Failed,
                "somebody else has set another value since",
            )
        };
        let action = Action {
            reason: format!(
                "{} (the controller ended meanwhile; found at its next start: {found})",
                action.reason
            ),
            ..action
        };
        let change = Self::change(&action, by, who, outcome);
        let change = Change { time, ..change };
        self.record(change);
    }

    /// Makes a change, step by step (see the [controller](super)).
    pub(super) fn carry_out(
        &mut self,
        action: &Action,
        by: By,
        who: Option<String>,
        at: Duration,
    ) -> Change {
        let result = self.take_steps(action, by, who.clone(), at);
        let mut action = action.clone();
        let outcome = match &result {
            Ok(now) => {
                action.after = *now;
                ChangeOutcome::Applied
            }
            Err(error) => {
                action.reason = format!("{}; but {error}", action.reason);
                ChangeOutcome::Failed
            }
        };
        self.policy.done(&action, result.is_ok(), at);
        self.state.pending = None;
        self.state.ledger = self.policy.ledger().clone();
        let change = Self::change(&action, by, who, outcome);
        let change = self.record(change);
        let stepped = self.place.stepped;
        match self
            .store
            .save(&self.state, || stepped(ControllerStep::ResultDrafted))
        {
            Ok(()) => stepped(ControllerStep::ResultKept),
            // What was intended is kept: the next start finds out.
            Err(error) => tracing::error!("{error}"),
        }
        change
    }

    fn take_steps(
        &mut self,
        action: &Action,
        by: By,
        who: Option<String>,
        at: Duration,
    ) -> Result<Size, String> {
        let stepped = self.place.stepped;
        let explain = |error: KnobError| format!("{error}; {}", error.help());
        self.state.pending = Some(PendingChange {
            action: action.clone(),
            by,
            who,
            at,
            time: JsonTime(SystemTime::now()),
        });
        self.store
            .save(&self.state, || stepped(ControllerStep::IntentDrafted))?;
        stepped(ControllerStep::IntentKept);
        let knob = Knob::of_purpose(action.purpose);
        let now = self.knobs.read().map_err(|error| error.to_string())?;
        if knob.of(now) != knob.of(action.before) {
            return Err(match knob.of(now) {
                Some(now) => format!("somebody else set it to {now} at the same moment"),
                None => format!("{} can't be read", knob.name()),
            });
        }
        let value = knob
            .of(action.after)
            .ok_or_else(|| format!("no value of {} is asked for", knob.name()))?;
        self.knobs.write(knob, value).map_err(explain)?;
        stepped(ControllerStep::Written);
        let now = self.knobs.confirm(knob, value).map_err(explain)?;
        stepped(ControllerStep::Confirmed);
        Ok(now)
    }

    pub(super) fn change(
        action: &Action,
        by: By,
        who: Option<String>,
        outcome: ChangeOutcome,
    ) -> Change {
        Change {
            sequence: 0,
            time: JsonTime(SystemTime::now()),
            by,
            who,
            purpose: action.purpose,
            before: action.before,
            after: action.after,
            outcome,
            reason: action.reason.clone(),
        }
    }

    /// Adds it to the history, counts it, logs it.
    pub(super) fn record(&mut self, change: Change) -> Change {
        let key = (change.by, change.outcome);
        let tallies = &mut self.report.tallies;
        match tallies
            .iter_mut()
            .find(|tally| (tally.by, tally.outcome) == key)
        {
            Some(tally) => tally.number += 1,
            None => tallies.push(ChangeTally {
                by: change.by,
                outcome: change.outcome,
                number: 1,
            }),
        }
        let change = self.state.history.add(change).clone();
        let Change { before, after, .. } = &change;
        let what = change.timeout().unwrap_or_else(|| {
            format!(
                "limit {} -> {}, buckets {} -> {}",
                grouped(before.limit),
                grouped(after.limit),
                grouped(before.buckets),
                grouped(after.buckets)
            )
        });
        let who = change.who.as_deref();
        let (purpose, by, outcome) = (change.purpose.name(), change.by, change.outcome);
        let message = format!("{what} ({purpose}, {outcome}, by {by}): {}", change.reason);
        if outcome == ChangeOutcome::Failed || by == By::SomebodyElse {
            tracing::warn!(who, "{message}");
        } else {
            tracing::info!(who, "{message}");
        }
        change
    }
}
