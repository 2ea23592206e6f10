//! Ties it together: samples in, decisions made, carried out one step at a time, and told.
//!
//! # The steps of a change
//!
//! 1. What is about to be done is kept on disk (drafted, then in place of the earlier state).
//! 2. If the number is still the one that the decision was made for, the new one is written.
//! 3. It is read back.
//! 4. What came of it is kept on disk.
//!
//! After an end between any two of them the next start compares the kernel's number with both: the
//! new one is there, so it was done; the old one, so it was not; another one, so somebody else has set
//! it since, and it is theirs. Between reading and writing in step 2 there are microseconds in which somebody
//! else's change would be overwritten unseen: a sysctl can't be compared and set.

use std::time::Duration;

use ctpressure_model::{
    cost::{EntryCost, WhenFull},
    verdict::Composition,
};

use crate::kernel::{memory, slab};

use super::{
    change::{By, Change, ChangeOutcome, Purpose, Size},
    culprit,
    knobs::{Knob, Knobs},
    lock::{Lock, LockError},
    look, node,
    policy::{Action, Observation, Policy, TableSeen},
    report::{ChangeTally, Report, ShortenedTimeout, Standing},
    settings::{Mode, Settings},
    store::{ControllerState, PendingChange, StateFile},
};
mod hand;
mod place;
mod steps;
#[cfg(test)]
mod tests;

pub(crate) use hand::{LimitSet, SetError, SetRequest};
pub(crate) use place::{ControllerPlace, ControllerSample, ControllerStep};

/// How long to wait before the lock, or what is in the way, is looked at again.
const AGAIN: Duration = Duration::from_secs(5);
/// How often the cost of an entry is read.
const COST_EVERY: Duration = Duration::from_mins(1);

/// The controller of a node.
pub(crate) struct Controller {
    settings: Settings,
    place: ControllerPlace,
    knobs: Knobs,
    store: StateFile,
    boot: String,
    state: ControllerState,
    policy: Policy,
    lock: Option<Lock>,
    tried: Option<Duration>,
    cost: Option<(Duration, EntryCost)>,
    /// Of a dry run: what there is, and what it would have made of it.
    pretended: Option<(Size, Size)>,
    observation: Option<Observation>,
    report: Report,
}

impl Controller {
    /// A controller that has done nothing yet.
    pub(crate) fn new(settings: Settings, place: ControllerPlace) -> Self {
        let boot = node::boot_id(&place.root);
        let store = StateFile::new(settings.state.clone());
        let (state, problem) = store.load(&boot);
        if let Some(problem) = problem {
            tracing::warn!("{problem}");
        }
        Self {
            knobs: Knobs::new(place.root.clone()),
            policy: Policy::new(settings.clone(), state.ledger.clone()),
            report: Report {
                mode: settings.mode,
                raise_netns: settings.raise_netns.clone(),
                ..Report::default()
            },
            settings,
            place,
            store,
            boot,
            state,
            lock: None,
            tried: None,
            cost: None,
            pretended: None,
            observation: None,
        }
    }

    pub(crate) const fn report(&self) -> &Report {
        &self.report
    }

    /// What was seen last.
    pub(crate) const fn observation(&self) -> Option<&Observation> {
        self.observation.as_ref()
    }

    /// Takes a sample of this time (since boot), and acts on it.
    pub(crate) fn tick(&mut self, sample: &ControllerSample, at: Duration) {
        let now = match self.observe(sample, at) {
            Ok(seen) => {
                let now = if self.may_act(at) {
                    self.decide(&seen, at)
                } else {
                    String::new()
                };
                self.observation = Some(seen);
                now
            }
            Err(error) => {
                self.report.standing = Standing::Blocked(error);
                String::new()
            }
        };
        self.tell(now);
    }

    /// Ends in order, at this time: reverts temporary settings. A raised limit stays.
    /// Gives the changes that this took.
    pub(crate) fn end(&mut self, at: Duration) -> Vec<Change> {
        // Without the lock it is another controller's.
        if self.settings.mode != Mode::On || self.lock.is_none() {
            return Vec::new();
        }
        self.restore(at)
    }

    /// Reverts temporary settings left by a controller that was killed, on a node whose controller is off now. Does nothing
    /// where another controller holds the lock. Returns the changes that it made.
    pub(crate) fn put_back(mut self, at: Duration) -> Vec<Change> {
        if self.state.pending.is_none() && self.state.ledger.timeout.shortened.is_none() {
            return Vec::new();
        }
        match self.stand(at) {
            Standing::Acting => self.restore(at),
            Standing::Blocked(why) => {
                tracing::warn!("what an earlier limit controller shortened stays so: {why}");
                Vec::new()
            }
            Standing::Standby(_) | Standing::Starting => Vec::new(),
        }
    }

    /// Reverts temporary settings; returns the change, if there was one to make.
    fn restore(&mut self, at: Duration) -> Vec<Change> {
        let now = self.knobs.read().ok();
        let action = now.and_then(|now| self.policy.at_end(now));
        action
            .map(|action| self.carry_out(&action, By::Controller, None, at))
            .into_iter()
            .collect()
    }

    /// What there is now.
    fn observe(&mut self, sample: &ControllerSample, at: Duration) -> Result<Observation, String> {
        let mut size = self.knobs.read().map_err(|error| error.to_string())?;
        if let Some((real, pretended)) = self.pretended {
            if real == size {
                size = pretended;
            } else {
                self.pretended = None;
            }
        }
        let memory = memory::read(&self.place.root).map_err(|error| error.to_string())?;
        let cost = match self.cost {
            Some((read, cost)) if at.saturating_sub(read) < COST_EVERY => cost,
            _ => {
                let cost = slab::entry_cost(&self.place.root);
                self.cost = Some((at, cost));
                cost
            }
        };
        Ok(Observation {
            at,
            size,
            tables: sample.tables.clone(),
            flow: sample.flow,
            memory,
            cost,
        })
    }

    /// Whether it is this controller's turn, and nothing is in the way.
    fn may_act(&mut self, at: Duration) -> bool {
        if self.settings.mode != Mode::On {
            self.report.standing = Standing::Acting;
            return true;
        }
        // Of a module that is gone: another controller can't see it.
        if self.lock.as_ref().is_some_and(|lock| !lock.is_current()) {
            self.lock = None;
            self.report.standing = Standing::Starting;
        }
        if let Some(lock) = &self.lock {
            lock.answer();
            if self.report.standing == Standing::Acting {
                return true;
            }
        }
        if self
            .tried
            .is_some_and(|tried| at.saturating_sub(tried) < AGAIN)
        {
            return false;
        }
        self.tried = Some(at);
        let standing = self.stand(at);
        if standing != self.report.standing {
            match &standing {
                Standing::Acting => tracing::info!("the limit controller is on"),
                Standing::Standby(why) | Standing::Blocked(why) => {
                    tracing::warn!("the limit controller can't act: {why}");
                }
                Standing::Starting => {}
            }
        }
        self.report.standing = standing;
        self.report.standing == Standing::Acting
    }

    /// What it may have to write.
    fn writes(&self) -> &'static [Knob] {
        let shortened = self.state.ledger.timeout.shortened.is_some();
        if self.settings.shorten_timeouts || shortened {
            &[Knob::Limit, Knob::Buckets, Knob::TimeWait]
        } else {
            &[Knob::Limit, Knob::Buckets]
        }
    }

    /// Takes the lock and the state, and sees what is in the way.
    fn stand(&mut self, at: Duration) -> Standing {
        if self.lock.is_none() {
            match Lock::take(&self.place.root, &self.place.lock) {
                Ok(lock) => self.lock = Some(lock),
                Err(error @ LockError::Held(_)) => return Standing::Standby(error.to_string()),
                Err(error) => return Standing::Blocked(error.to_string()),
            }
            // Whoever had it before may have changed something.
            let (state, problem) = self.store.load(&self.boot);
            if let Some(problem) = problem {
                tracing::warn!("{problem}");
            }
            self.state = state;
            self.finish_pending(at);
            self.policy = Policy::new(self.settings.clone(), self.state.ledger.clone());
        }
        if let Err(error) = self.knobs.check(self.writes()) {
            return Standing::Blocked(format!("{error}; {}", error.help()));
        }
        match self.store.save(&self.state, || {}) {
            Ok(()) => Standing::Acting,
            Err(error) => Standing::Blocked(error),
        }
    }

    /// Lets the policy decide, and does what it says; gives what is done or waited for.
    fn decide(&mut self, seen: &Observation, at: Duration) -> String {
        let decision = self.policy.observe(seen, &mut self.place.look);
        for found in &decision.found {
            self.found(found);
        }
        if let Some(refused) = decision.refused {
            let change = Self::change(&refused, By::Controller, None, ChangeOutcome::Refused);
            self.record(change);
        }
        let now = match decision.action {
            Some(action) if self.settings.mode != Mode::On => {
                self.pretend(&action, at);
                format!("would {}", decision.now)
            }
            Some(action) => {
                let change = self.carry_out(&action, By::Controller, None, at);
                if change.outcome == ChangeOutcome::Failed {
                    change.reason
                } else {
                    decision.now
                }
            }
            None => decision.now,
        };
        self.report.advice = decision.advice;
        self.keep_if_changed();
        now
    }

    /// Goes on as if it had been done.
    fn pretend(&mut self, action: &Action, at: Duration) {
        if let Ok(real) = self.knobs.read() {
            self.pretended = Some((real, action.after));
        }
        self.policy.done(action, true, at);
        let change = Self::change(action, By::Controller, None, ChangeOutcome::DryRun);
        self.record(change);
    }

    /// Records what somebody else did.
    fn found(&mut self, found: &Action) {
        let mut who = None;
        if found.before.limit != found.after.limit {
            who = culprit::find(&self.place.root, found.after.limit);
            self.policy.suspect(who.clone());
        }
        let change = Self::change(found, By::SomebodyElse, who, ChangeOutcome::Applied);
        self.record(change);
    }

    /// Keeps on disk what was learned without an action, so that it is known after a restart.
    fn keep_if_changed(&mut self) {
        if self.settings.mode != Mode::On || self.report.standing != Standing::Acting {
            return;
        }
        if self.state.ledger == *self.policy.ledger() {
            return;
        }
        self.state.ledger = self.policy.ledger().clone();
        if let Err(error) = self.store.save(&self.state, || {}) {
            tracing::error!("{error}");
            self.report.standing = Standing::Blocked(error);
        }
    }

    fn tell(&mut self, now: String) {
        let report = &mut self.report;
        report.now = now;
        report.fight = self.policy.fight();
        let ledger = self.policy.ledger();
        report.raised_from = ledger.ours.map(|ours| ours.from);
        report.shortened = ledger.timeout.shortened.map(ShortenedTimeout::from);
        report.changes = self.state.history.changes().to_vec();
        if report.standing != Standing::Acting {
            report.advice.clear();
        }
        let Some(seen) = &self.observation else {
            return;
        };
        let ceiling = self.policy.ceiling(seen);
        let sharing = seen.sharing();
        let tables = self.policy.full_tables(seen);
        let full = WhenFull::of(&seen.cost, seen.size.limit, seen.size.buckets, &sharing);
        report.bytes_when_full = full.map(|full| full.bytes.most);
        report.bytes_when_full_least = full.map(|full| full.bytes.least);
        let full = WhenFull::with_buckets_for(
            &seen.cost,
            ceiling.limit,
            seen.size.buckets,
            &tables.in_use,
        );
        report.bytes_at_ceiling = full.map(|full| full.bytes.most);
        report.bytes_at_ceiling_least = full.map(|full| full.bytes.least);
        report.tables_in_use = tables.in_use.busy;
        report.tables_in_all = tables.all.busy;
        let all = WhenFull::of(&seen.cost, seen.size.limit, seen.size.buckets, &tables.all);
        report.bytes_if_all_full = all.map(|full| full.bytes.most);
        report.memory_bytes = Some(seen.memory.total);
        report.entry_bytes = Some(seen.cost);
        report.ceiling = Some(ceiling.limit);
        report.ceiling_reason = Some(ceiling.by.to_string());
    }
}
