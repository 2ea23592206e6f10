//! `ctpressure limit set N`: a person's change goes through the same guards.

use std::time::Duration;

use ctpressure_model::{cost::buckets_for, pressure::as_f64, words::grouped};
use serde::{Deserialize, Serialize};

use super::{Action, By, Change, ChangeOutcome, Controller, Mode, Purpose, Standing};
use crate::limit::{
    ceiling::Ceiling,
    ledger::LimitLedger,
    policy::{Observation, Policy},
    settings::{LEAST, MOST},
};

/// What speaks against a limit of `to`; `--force` overrides it.
pub(super) fn guards(policy: &Policy, seen: &Observation, to: u64) -> Vec<String> {
    let entries = seen.fullest().map_or(0, |table| table.entries);
    let peak = policy.peak_of_any().max(entries);
    let ledger: &LimitLedger = policy.ledger();
    let mut guards = Vec::new();
    if to < entries {
        guards.push(format!(
            "a table holds {} entries: every new connection would be dropped or cost another one its entry",
            grouped(entries)
        ));
    } else if as_f64(peak) >= policy.settings().raise_at * as_f64(to) && to < seen.size.limit {
        guards.push(format!(
            "a table has held {} entries lately: it would be nearly full at once",
            grouped(peak)
        ));
    }
    let Ceiling { limit, by } = policy.ceiling(seen);
    if to > limit && to > seen.size.limit {
        guards.push(format!("the ceiling is {}: {by}", grouped(limit)));
    }
    let foreign = match ledger.ours {
        Some(_) => ledger.highest_foreign,
        None => seen.size.limit,
    };
    if to < foreign {
        guards.push(format!("somebody else wanted {}", grouped(foreign)));
    }
    guards
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LimitSet {
    /// What was done: the limit, and more buckets if it needs them.
    pub changes: Vec<Change>,
    /// What spoke against it and was overridden.
    pub overridden: Vec<String>,
}

/// Why a limit was not set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case", tag = "error", content = "why")]
pub enum SetError {
    /// Not a limit, whatever is forced.
    #[error("{0} can't be a limit: it has to be from {LEAST} to {MOST}")]
    OutOfBounds(u64),
    /// Guards spoke against it.
    #[error("not set to that limit: {}", .0.join("; and "))]
    Refused(Vec<String>),
    /// Another controller acts on this node.
    #[error("{0}")]
    Held(String),
    /// It can't be done here.
    #[error("the limit can't be set: {0}")]
    Blocked(String),
}

/// A limit that a person wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SetRequest {
    /// The limit to set, in entries.
    pub limit: u64,
    /// Override what speaks against it.
    #[serde(default)]
    pub force: bool,
    /// Who asks, for the history.
    #[serde(default)]
    pub who: Option<String>,
}

impl SetError {
    /// What to do about it.
    pub const fn help(&self) -> &'static str {
        match self {
            Self::OutOfBounds(_) => "choose a limit within these bounds",
            Self::Refused(_) => "choose another limit, or override this with --force",
            Self::Held(_) => "ask that one (--socket), or end it first",
            Self::Blocked(_) => "see what is said above; `ctpressure limit` shows what there is",
        }
    }
}

impl Controller {
    /// Sets the limit by hand, at this time since boot. A sample has to be taken before.
    ///
    /// # Errors
    /// What speaks against it, or is in the way. What was refused is recorded.
    pub(crate) fn set(
        &mut self,
        limit: u64,
        force: bool,
        who: Option<String>,
        at: Duration,
    ) -> Result<LimitSet, SetError> {
        if !(LEAST..=MOST).contains(&limit) {
            return Err(SetError::OutOfBounds(limit));
        }
        self.get_ready(at)?;
        let Some(mut seen) = self.observation.clone() else {
            return Err(SetError::Blocked("there is no sample yet".to_owned()));
        };
        // As it is now, not a second ago.
        let now = self
            .knobs
            .read()
            .map_err(|error| SetError::Blocked(error.to_string()))?;
        (seen.size.limit, seen.size.buckets) = (now.limit, now.buckets);
        let guards = guards(&self.policy, &seen, limit);
        let asked = "set by hand".to_owned();
        let mut action = Action::new(Purpose::Set, now, limit, asked);
        if !guards.is_empty() && !force {
            action.reason = format!("asked for by hand, but {}", guards.join("; and "));
            let change = Self::change(&action, By::Hand, who, ChangeOutcome::Refused);
            self.record(change);
            self.tell_again();
            return Err(SetError::Refused(guards));
        }
        if !guards.is_empty() {
            action.reason = format!("forced by hand, although {}", guards.join("; and "));
        }
        let mut changes = vec![self.carry_out(&action, By::Hand, who.clone(), at)];
        let sharing = seen.sharing();
        let buckets = buckets_for(sharing.when_full(limit), now.buckets);
        if changes[0].outcome == ChangeOutcome::Applied && buckets > now.buckets {
            let reason = "chains would be too long for the limit that was set by hand".to_owned();
            let action = Action::new(Purpose::Buckets, changes[0].after, buckets, reason);
            changes.push(self.carry_out(&action, By::Hand, who, at));
        }
        self.pretended = None;
        self.tell_again();
        match changes
            .iter()
            .find(|change| change.outcome == ChangeOutcome::Failed)
        {
            Some(failed) => Err(SetError::Blocked(failed.reason.clone())),
            None => Ok(LimitSet {
                changes,
                overridden: guards,
            }),
        }
    }

    /// Sees to it that a change can be made: by the controller that acts, or for this once.
    fn get_ready(&mut self, at: Duration) -> Result<(), SetError> {
        if self.settings.mode == Mode::On && self.report.standing == Standing::Acting {
            return Ok(());
        }
        match self.stand(at) {
            Standing::Acting => Ok(()),
            Standing::Standby(why) => Err(SetError::Held(why)),
            Standing::Blocked(why) => Err(SetError::Blocked(why)),
            Standing::Starting => Err(SetError::Blocked("there is no sample yet".to_owned())),
        }
    }

    fn tell_again(&mut self) {
        let now = std::mem::take(&mut self.report.now);
        self.tell(now);
    }
}
