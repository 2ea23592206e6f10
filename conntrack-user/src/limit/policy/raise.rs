//! Raising: how far, and what stands against it.

use std::time::Duration;

use ctpressure_model::{
    cost::{buckets_for, chain},
    pressure::{as_count, as_f64},
    verdict::Verdict,
    words::{figure, grouped, list, plural, seconds, seconds_f64},
};

use super::{Action, Composition, Observation, Policy, tracking::LimitPressure};
use crate::limit::change::Purpose;

/// After a raise the demand is at this part of the share that counts as pressure.
const AFTERWARDS: f64 = 0.75;
/// A raise is at least by this part of the limit.
const STEP: u64 = 4;
/// A raise that the ceiling leaves is worth it from this part of the limit on.
const WORTH_IT: u64 = 16;
/// A raise is at most to so many times the limit: the next one is based on what this one led to.
const LEAP: u64 = 4;
/// Limits are multiples of this.
const ROUND: u64 = 1024;
/// What the table is made of is not looked at more often.
const LOOK: Duration = Duration::from_secs(5);
/// Chains of this length on average can't wait for a quiet second.
const CHAINS_TOO_LONG: f64 = 12.0;

/// Why more room is wanted and not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// A higher limit would only hold more of this.
    Verdict(&'static str),
    Ceiling,
}

/// No raise: what is to be recorded of it, and why.
pub(super) type Refused = (Option<Refusal>, String);

impl Policy {
    /// The raise that the pressure calls for, or why not.
    pub(super) fn raise(
        &mut self,
        seen: &Observation,
        pressure: LimitPressure,
        look: &mut dyn FnMut(u32) -> Option<Composition>,
    ) -> Result<Action, Refused> {
        if let Some(raised) = self.ledger.raised {
            let since = seen.at.saturating_sub(raised);
            if since < self.settings.cooldown {
                let left = self.settings.cooldown.saturating_sub(since).as_secs();
                return Err((
                    None,
                    format!(
                        "more room is wanted ({}), the last raise was {} ago: the next one in {} at the earliest",
                        why(pressure),
                        seconds(since.as_secs()),
                        seconds(left)
                    ),
                ));
            }
        }
        let limit = seen.size.limit;
        let demand = self
            .tracking
            .demand(self.settings.cooldown + self.settings.raise_for);
        let (target, besides) = self.target(seen, demand, pressure, look)?;
        let ceiling = self.ceiling(seen);
        if ceiling.limit < limit + limit / WORTH_IT {
            let reason = ceiling.by;
            self.advice.push(format!(
                "the limit can't be raised beyond {} ({reason}): give the node more memory, allow more, or see `ctpressure top` \
                 for who fills the table",
                ceiling.limit.max(limit)
            ));
            return Err((
                Some(Refusal::Ceiling),
                format!(
                    "{}, but the ceiling is {}: {reason}",
                    why(pressure),
                    grouped(ceiling.limit)
                ),
            ));
        }
        let target = target.min(ceiling.limit);
        let table = seen.fullest_of(&self.settings);
        let (name, entries) = table.map_or(("", 0), |table| (table.name.as_str(), table.entries));
        let in_use = self.full_tables(seen).in_use;
        let full = |limit| seen.cost.bytes(in_use.when_full(limit), seen.size.buckets);
        let more = full(target).beyond(&full(limit));
        let reason = format!(
            "{}: {} in table {name}, {} expected{besides}; {} more when full",
            why(pressure),
            plural(entries, "entry", "entries"),
            grouped(as_count(demand)),
            more.in_words()
        );
        Ok(Action::new(Purpose::Raise, seen.size, target, reason))
    }

    /// The limit that so many entries need, and what else was taken into account; none for a flood.
    fn target(
        &mut self,
        seen: &Observation,
        demand: f64,
        pressure: LimitPressure,
        look: &mut dyn FnMut(u32) -> Option<Composition>,
    ) -> Result<(u64, String), Refused> {
        let limit = seen.size.limit;
        let part = self.settings.raise_at * AFTERWARDS;
        let room = |demand: f64| as_count((demand / part).ceil());
        let step = limit + limit / STEP;
        let target = room(demand)
            .max(step)
            .min(limit.saturating_mul(LEAP))
            .next_multiple_of(ROUND);
        let Some(composition) = self.composition(seen, look) else {
            let target = target.min(limit + limit / 2).max(step);
            let besides = "; what the table holds could not be looked at, so one step only";
            return Ok((target, besides.to_owned()));
        };
        let verdicts = composition.verdicts();
        let Some(first) = verdicts.first() else {
            return Ok((target, String::new()));
        };
        self.advice.extend(verdicts.iter().map(Verdict::advice));
        let needed = room(as_f64(composition.needed()));
        if needed <= limit {
            let parts: Vec<_> = verdicts.iter().map(Verdict::seen).collect();
            let reason = format!(
                "{}, but not for {}: {}",
                why(pressure),
                first.what(),
                parts.join("; ")
            );
            return Err((Some(Refusal::Verdict(first.name())), reason));
        }
        let parts: Vec<_> = verdicts.iter().map(Verdict::which).collect();
        let besides = format!("; {} does not count", list(&parts));
        Ok((target.min(needed.next_multiple_of(ROUND)), besides))
    }

    /// A limit that is below the floor is brought there at once.
    pub(super) fn floor(&self, seen: &Observation) -> Option<Action> {
        let floor = self.settings.min_limit;
        let ceiling = self.ceiling(seen).limit;
        let to = floor.min(ceiling);
        let recently = |raised: Duration| seen.at.saturating_sub(raised) < self.settings.cooldown;
        if to <= seen.size.limit || self.ledger.raised.is_some_and(recently) {
            return None;
        }
        let bound = if to < floor {
            " as far as the node's memory allows"
        } else {
            ""
        };
        let reason = format!("the limit is below --min-limit {floor}: brought there{bound}");
        Some(Action::new(Purpose::Raise, seen.size, to, reason))
    }

    /// More buckets for a limit that was raised, in a quiet second: a resize stops all inserts.
    pub(super) fn buckets(&self, seen: &Observation) -> Option<Action> {
        self.ledger.ours?;
        let sharing = seen.sharing();
        let full = sharing.when_full(seen.size.limit);
        let buckets = seen.size.buckets;
        let wanted = buckets_for(full, buckets);
        if wanted <= buckets {
            return None;
        }
        let now = chain(sharing.now, buckets);
        let calm = !self.tracking.is_dropping(seen.at) && self.tracking.is_quiet_second();
        if !calm && now < CHAINS_TOO_LONG {
            return None;
        }
        let reason = format!(
            "chains of full tables would have {} entries on average, {} with more buckets",
            figure(chain(full, buckets)),
            figure(chain(full, wanted)),
        );
        Some(Action::new(Purpose::Buckets, seen.size, wanted, reason))
    }

    /// What the fullest table is made of, as looked at a moment ago or now.
    pub(super) fn composition(
        &mut self,
        seen: &Observation,
        look: &mut dyn FnMut(u32) -> Option<Composition>,
    ) -> Option<Composition> {
        let netns = seen.fullest_of(&self.settings)?.netns;
        match &self.looked {
            Some((at, of, composition)) if *of == netns && seen.at.saturating_sub(*at) < LOOK => {
                composition.clone()
            }
            _ => {
                let composition = look(netns);
                self.looked = Some((seen.at, netns, composition.clone()));
                composition
            }
        }
    }
}

/// The pressure in words.
pub(super) fn why(pressure: LimitPressure) -> String {
    match pressure {
        LimitPressure::Dropping => "packets are dropped since the table is full".to_owned(),
        LimitPressure::Sustained(time) => format!("pressure for {}", seconds(time.as_secs())),
        LimitPressure::Forecast(left) => {
            format!("the table will be full in {}", seconds_f64(left.round()))
        }
    }
}

#[cfg(test)]
mod tests {
    use ctpressure_model::verdict::NEEDED_FITS;

    use super::*;
    use crate::limit::Settings;

    /// The doctor and a report, which know no settings, advise a raise where the controller makes one.
    #[test]
    fn what_is_needed_fits_for_all_alike() {
        let part = Settings::default().raise_at * AFTERWARDS;
        assert!((part - as_f64(NEEDED_FITS) / 100.0).abs() < 1e-9, "{part}");
    }
}
