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

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::{
    change::{By, Change, Outcome, Purpose, Size},
    cost::{self, EntryCost},
    culprit,
    flood::Composition,
    knobs::{Knob, Knobs},
    lock::{self, Lock, LockError},
    look, node,
    policy::{Action, Found, Observation, Policy, TableSeen},
    report::{Mode, Report, Standing, Tally},
    settings::Settings,
    store::{Pending, State, Store},
};
use crate::{agent::Snapshot, kernel::Root};

mod hand;
#[cfg(test)]
mod tests;

pub use hand::{Set, SetError};

/// How long to wait before the lock, or what is in the way, is looked at again.
const AGAIN: Duration = Duration::from_secs(5);
/// Of the time, at most one part in so many goes into looking at tables.
const LOOK_SHARE: u32 = 20;
/// How often the cost of an entry is read.
const COST_EVERY: Duration = Duration::from_mins(1);

/// A step of a change that was just taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// What is about to be done is written down, beside the earlier state.
    IntentDrafted,
    /// It has replaced the earlier state.
    IntentKept,
    /// The kernel has the new number.
    Written,
    /// It was read back.
    Confirmed,
    /// What came of it is written down, beside the earlier state.
    ResultDrafted,
    /// It has replaced the earlier state.
    ResultKept,
}

/// What the agent saw in one second.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// All tables.
    pub tables: Vec<TableSeen>,
    /// Packets lost since a table was full, so far.
    pub drops: Option<u64>,
    /// Inserts and deletes, so far.
    pub flow: Option<(u64, u64)>,
}

impl From<&Snapshot> for Sample {
    fn from(snapshot: &Snapshot) -> Self {
        let counts = snapshot.counting.then_some(&snapshot.totals);
        Self {
            tables: snapshot
                .tables
                .iter()
                .map(|table| TableSeen {
                    netns: table.netns,
                    name: table.name.clone(),
                    entries: table.entries,
                    seconds_to_full: table.seconds_to_full,
                })
                .collect(),
            drops: counts.map(|counts| counts.drops.table_full),
            flow: counts.map(|counts| (counts.inserts, counts.deletes)),
        }
    }
}

/// Where the controller works, and how it looks at tables.
pub struct Place {
    /// Where the sysctls and what else is read are.
    pub root: Root,
    /// Name of the node's lock.
    pub lock: String,
    /// Tells what a table is made of.
    pub look: Box<dyn FnMut(u32) -> Option<Composition> + Send>,
    /// Called after each step of a change.
    pub stepped: fn(Step),
}

impl Place {
    /// This node.
    pub fn node() -> Self {
        // What was found last: a look at a large table is not repeated at once.
        let mut last: Option<(Instant, Duration, u32, Option<Composition>)> = None;
        let look = move |netns| {
            if let Some((when, took, of, found)) = &last
                && *of == netns
                && when.elapsed() < *took * LOOK_SHARE
            {
                return found.clone();
            }
            let begin = Instant::now();
            let found = look::composition(&Root::system(), netns)
                .inspect_err(|error| {
                    tracing::warn!(%error, "what fills the table could not be looked at");
                })
                .ok();
            last = Some((Instant::now(), begin.elapsed(), netns, found.clone()));
            found
        };
        Self {
            root: Root::system(),
            lock: lock::NAME.to_owned(),
            look: Box::new(look),
            stepped: |_| {},
        }
    }
}

/// The controller of a node.
pub struct Controller {
    settings: Settings,
    place: Place,
    knobs: Knobs,
    store: Store,
    boot: String,
    state: State,
    policy: Policy,
    lock: Option<Lock>,
    tried: Option<Duration>,
    standing: Standing,
    tallies: Vec<Tally>,
    cost: Option<(Duration, EntryCost)>,
    /// Of a dry run: what there is, and what it would have made of it.
    pretended: Option<(Size, Size)>,
    observation: Option<Observation>,
    report: Report,
}

impl Controller {
    /// A controller that has done nothing yet.
    pub fn new(settings: Settings, place: Place) -> Self {
        let boot = node::boot_id(&place.root);
        let store = Store::new(settings.state.clone());
        let (state, problem) = store.load(&boot);
        if let Some(problem) = problem {
            tracing::warn!("{problem}");
        }
        Self {
            knobs: Knobs::new(place.root.clone()),
            policy: Policy::new(settings.clone(), state.ledger.clone()),
            report: Report {
                mode: settings.mode,
                ..Report::default()
            },
            settings,
            place,
            store,
            boot,
            state,
            lock: None,
            tried: None,
            standing: Standing::Starting,
            tallies: Vec::new(),
            cost: None,
            pretended: None,
            observation: None,
        }
    }

    /// What it says.
    pub const fn report(&self) -> &Report {
        &self.report
    }

    /// What was seen last.
    pub const fn observation(&self) -> Option<&Observation> {
        self.observation.as_ref()
    }

    /// Takes a sample of this time (since boot), and acts on it.
    pub fn tick(&mut self, sample: &Sample, at: Duration) {
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
                self.standing = Standing::Blocked(error);
                String::new()
            }
        };
        self.tell(now);
    }

    /// What there is now.
    fn observe(&mut self, sample: &Sample, at: Duration) -> Result<Observation, String> {
        let mut size = self.knobs.read().map_err(|error| error.to_string())?;
        if let Some((real, pretended)) = self.pretended {
            if real == size {
                size = pretended;
            } else {
                self.pretended = None;
            }
        }
        let memory = node::memory(&self.place.root).map_err(|error| error.to_string())?;
        let cost = match self.cost {
            Some((read, cost)) if at.saturating_sub(read) < COST_EVERY => cost,
            _ => {
                let cost = node::entry_cost(&self.place.root);
                self.cost = Some((at, cost));
                cost
            }
        };
        Ok(Observation {
            at,
            limit: size.limit,
            buckets: size.buckets,
            tables: sample.tables.clone(),
            drops: sample.drops,
            flow: sample.flow,
            memory,
            cost,
        })
    }

    /// Whether it is this controller's turn, and nothing is in the way.
    fn may_act(&mut self, at: Duration) -> bool {
        if self.settings.mode != Mode::On {
            self.standing = Standing::Acting;
            return true;
        }
        if let Some(lock) = &self.lock {
            lock.answer();
            if self.standing == Standing::Acting {
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
        if standing != self.standing {
            match &standing {
                Standing::Acting => tracing::info!("the limit controller is on"),
                Standing::Standby(why) | Standing::Blocked(why) => {
                    tracing::warn!("the limit controller can't act: {why}");
                }
                Standing::Starting => {}
            }
        }
        self.standing = standing;
        self.standing == Standing::Acting
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
        if let Err(error) = self.knobs.check() {
            return Standing::Blocked(format!("{error}; {}", error.help()));
        }
        match self.store.save(&self.state, || {}) {
            Ok(()) => Standing::Acting,
            Err(error) => Standing::Blocked(format!("{error}; {}", error.help())),
        }
    }

    /// Finds out what came of a change during which the controller ended.
    fn finish_pending(&mut self, at: Duration) {
        let Some(pending) = self.state.pending.take() else {
            return;
        };
        let Ok(now) = self.knobs.read() else {
            // Conntrack is gone, and what was set with it.
            self.state.ledger = super::ledger::Ledger::default();
            return;
        };
        let Pending {
            action,
            by,
            who,
            at: begun,
            unix_millis,
        } = pending;
        let knob = knob(action.purpose);
        let (outcome, found) = if knob.of(now) == knob.of(action.after)
            || (knob == Knob::Buckets && now.buckets > action.before.buckets)
        {
            self.state
                .ledger
                .done(action.purpose, action.before, action.after, begun.min(at));
            (Outcome::Applied, "it was done")
        } else if knob.of(now) == knob.of(action.before) {
            (Outcome::Failed, "it was not done")
        } else {
            (Outcome::Failed, "somebody else has set another value since")
        };
        let change = Change {
            sequence: 0,
            unix_millis,
            by,
            who,
            purpose: action.purpose,
            before: action.before,
            after: action.after,
            outcome,
            reason: format!(
                "{} (the controller ended meanwhile; found at its next start: {found})",
                action.reason
            ),
        };
        self.record(change);
    }

    /// Lets the policy decide, and does what it says; gives what is done or waited for.
    fn decide(&mut self, seen: &Observation, at: Duration) -> String {
        let decision = self.policy.observe(seen, &mut self.place.look);
        if let Some(found) = decision.found {
            self.found(found);
        }
        if let Some(refused) = decision.refused {
            let change = Self::change(&refused, By::Controller, None, Outcome::Refused);
            self.record(change);
        }
        let now = match decision.action {
            Some(action) if self.settings.mode != Mode::On => {
                self.pretend(&action, at);
                format!("would {}", decision.now)
            }
            Some(action) => {
                let change = self.carry_out(&action, By::Controller, None, at);
                if change.outcome == Outcome::Failed {
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
        let change = Self::change(action, By::Controller, None, Outcome::DryRun);
        self.record(change);
    }

    /// Records what somebody else did.
    fn found(&mut self, found: Found) {
        let who = culprit::find(&self.place.root, found.after.limit);
        self.policy.suspect(who.clone());
        let action = Action {
            purpose: Purpose::Found,
            before: found.before,
            after: found.after,
            reason: found.reason,
        };
        let change = Self::change(&action, By::SomebodyElse, who, Outcome::Applied);
        self.record(change);
    }

    /// Makes a change, step by step (see the [module](self)).
    fn carry_out(&mut self, action: &Action, by: By, who: Option<String>, at: Duration) -> Change {
        let result = self.take_steps(action, by, who.clone(), at);
        let mut action = action.clone();
        let outcome = match &result {
            Ok(now) => {
                action.after = *now;
                Outcome::Applied
            }
            Err(error) => {
                action.reason = format!("{}; but {error}", action.reason);
                Outcome::Failed
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
            .save(&self.state, || stepped(Step::ResultDrafted))
        {
            Ok(()) => stepped(Step::ResultKept),
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
        let explain = |error: super::knobs::KnobError| format!("{error}; {}", error.help());
        self.state.pending = Some(Pending {
            action: action.clone(),
            by,
            who,
            at,
            unix_millis: unix_millis(),
        });
        self.store
            .save(&self.state, || stepped(Step::IntentDrafted))
            .map_err(|error| format!("{error}; {}", error.help()))?;
        stepped(Step::IntentKept);
        let knob = knob(action.purpose);
        let now = self.knobs.read().map_err(|error| error.to_string())?;
        if knob.of(now) != knob.of(action.before) {
            return Err(format!(
                "somebody else set it to {} at the same moment",
                knob.of(now)
            ));
        }
        self.knobs
            .write(knob, knob.of(action.after))
            .map_err(explain)?;
        stepped(Step::Written);
        let now = self
            .knobs
            .confirm(knob, knob.of(action.after))
            .map_err(explain)?;
        stepped(Step::Confirmed);
        Ok(now)
    }

    fn change(action: &Action, by: By, who: Option<String>, outcome: Outcome) -> Change {
        Change {
            sequence: 0,
            unix_millis: unix_millis(),
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
    fn record(&mut self, change: Change) -> Change {
        let key = (change.by, change.outcome);
        match self
            .tallies
            .iter_mut()
            .find(|tally| (tally.by, tally.outcome) == key)
        {
            Some(tally) => tally.number += 1,
            None => self.tallies.push(Tally {
                by: change.by,
                outcome: change.outcome,
                number: 1,
            }),
        }
        let change = self.state.history.add(change).clone();
        let Change {
            by,
            who,
            purpose,
            before,
            after,
            outcome,
            reason,
            ..
        } = &change;
        let (purpose, who) = (purpose.name(), who.as_deref().unwrap_or_default());
        let message = format!(
            "limit {} -> {}, buckets {} -> {} ({purpose}, {outcome}, by {by}): {reason}",
            before.limit, after.limit, before.buckets, after.buckets
        );
        if *outcome == Outcome::Failed || *by == By::SomebodyElse {
            tracing::warn!(who, "{message}");
        } else {
            tracing::info!(who, "{message}");
        }
        change
    }

    /// Keeps on disk what was learned without an action, so that it is known after a restart.
    fn keep_if_changed(&mut self) {
        if self.settings.mode != Mode::On || self.standing != Standing::Acting {
            return;
        }
        if self.state.ledger == *self.policy.ledger() {
            return;
        }
        self.state.ledger = self.policy.ledger().clone();
        if let Err(error) = self.store.save(&self.state, || {}) {
            tracing::error!("{error}");
            self.standing = Standing::Blocked(format!("{error}; {}", error.help()));
        }
    }

    /// Makes the report.
    fn tell(&mut self, now: String) {
        let report = &mut self.report;
        report.standing = self.standing.clone();
        report.now = now;
        report.fight = self.policy.fight();
        report.raised_from = self.policy.ledger().ours.map(|ours| ours.from);
        report.changes = self.state.history.changes().to_vec();
        report.tallies.clone_from(&self.tallies);
        if self.standing != Standing::Acting {
            report.advice.clear();
        }
        let Some(seen) = &self.observation else {
            return;
        };
        let (ceiling, reason) = self.policy.ceiling_now(seen);
        let sharing = seen.sharing();
        let bytes = |limit: u64| {
            let buckets = cost::buckets_for(limit, ceiling.limit, seen.buckets, &sharing);
            cost::bytes(&seen.cost, sharing.when_full(limit), buckets)
        };
        report.bytes_at_ceiling = Some(bytes(ceiling.limit));
        report.bytes_when_full = Some(cost::bytes(
            &seen.cost,
            sharing.when_full(seen.limit),
            seen.buckets,
        ));
        report.entry_bytes = Some(seen.cost);
        report.ceiling = Some(ceiling.limit);
        report.ceiling_reason = Some(reason);
    }
}

/// Which number an action changes.
const fn knob(purpose: Purpose) -> Knob {
    match purpose {
        Purpose::Buckets => Knob::Buckets,
        Purpose::Raise | Purpose::Reapply | Purpose::GiveBack | Purpose::Set | Purpose::Found => {
            Knob::Limit
        }
    }
}

fn unix_millis() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|time| u64::try_from(time.as_millis()).ok())
        .unwrap_or_default()
}
