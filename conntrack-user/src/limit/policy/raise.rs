//! Raising: how far, and what stands against it.

use std::time::Duration;

use super::{Action, Composition, Observation, Policy, tracking::Pressure};
use crate::{
    limit::{
        change::{Purpose, Size},
        cost::{self, Ceiling, CeilingBy, Sharing},
        settings::MOST,
    },
    pressure::{as_count, as_f64},
};

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
    Flood,
    Ceiling,
}

/// No raise: what is to be recorded of it, and why.
pub(super) type Refused = (Option<Refusal>, String);

impl Policy {
    /// How far the limit may be raised now.
    pub(super) fn ceiling(&self, seen: &Observation) -> Ceiling {
        cost::ceiling(
            &seen.cost,
            seen.memory,
            &seen.sharing(),
            seen.buckets,
            self.settings.max_memory_share,
            self.settings.max_limit.min(MOST),
        )
    }

    /// The ceiling in words.
    pub(super) fn ceiling_reason(&self, ceiling: &Ceiling) -> String {
        match ceiling.by {
            CeilingBy::Setting => format!("--max-limit {}", self.settings.max_limit),
            CeilingBy::Share => format!(
                "--max-memory-share: {} % of the node's memory",
                self.settings.max_memory_share * 100.0
            ),
            CeilingBy::Free => "half of the memory that is free now".to_owned(),
        }
    }

    /// The raise that the pressure calls for, or why not.
    pub(super) fn raise(
        &mut self,
        seen: &Observation,
        pressure: Pressure,
        look: &mut dyn FnMut(u32) -> Option<Composition>,
    ) -> Result<Action, Refused> {
        if let Some(raised) = self.ledger.raised {
            let since = seen.at.saturating_sub(raised);
            if since < self.settings.cooldown {
                let left = self.settings.cooldown.saturating_sub(since).as_secs();
                return Err((
                    None,
                    format!(
                        "more room is wanted ({}), the last raise was {} s ago: the next one in {left} s at the earliest",
                        why(pressure),
                        since.as_secs()
                    ),
                ));
            }
        }
        let limit = seen.limit;
        let demand = self
            .tracking
            .demand(self.settings.cooldown + self.settings.raise_for);
        let (target, besides) = self.target(seen, demand, pressure, look)?;
        let ceiling = self.ceiling(seen);
        if ceiling.limit < limit + limit / WORTH_IT {
            let reason = self.ceiling_reason(&ceiling);
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
                    ceiling.limit
                ),
            ));
        }
        let target = target.min(ceiling.limit);
        let table = seen.fullest();
        let (name, entries) = table.map_or(("", 0), |table| (table.name.as_str(), table.entries));
        let after = Size {
            limit: target,
            ..seen.size()
        };
        let cost = seen.sharing();
        let more = cost::bytes(&seen.cost, cost.when_full(target), after.buckets)
            .saturating_sub(cost::bytes(&seen.cost, cost.when_full(limit), seen.buckets));
        Ok(Action {
            purpose: Purpose::Raise,
            before: seen.size(),
            after,
            reason: format!(
                "{}: {entries} entries in table {name}, {} expected{besides}; {} MiB more when full",
                why(pressure),
                as_count(demand),
                more.div_ceil(1 << 20)
            ),
        })
    }

    /// The limit that so many entries need, and what else was taken into account; none for a flood.
    fn target(
        &mut self,
        seen: &Observation,
        demand: f64,
        pressure: Pressure,
        look: &mut dyn FnMut(u32) -> Option<Composition>,
    ) -> Result<(u64, String), Refused> {
        let limit = seen.limit;
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
        let Some(flood) = composition.flood() else {
            return Ok((target, String::new()));
        };
        self.advice.push(flood.advice());
        let rest = composition.entries.saturating_sub(flood.entries);
        let needed = room(as_f64(rest));
        if needed <= limit {
            let reason = format!(
                "{}, but not for a flood: {} of {} entries are one-way connections of {}",
                why(pressure),
                flood.entries,
                flood.of,
                flood.who
            );
            return Err((Some(Refusal::Flood), reason));
        }
        let besides = format!("; the flood of {} does not count", flood.who);
        Ok((target.min(needed.next_multiple_of(ROUND)), besides))
    }

    /// A limit that is below the floor is brought there at once.
    pub(super) fn floor(&self, seen: &Observation) -> Option<Action> {
        let floor = self.settings.min_limit;
        let ceiling = self.ceiling(seen).limit;
        let to = floor.min(ceiling);
        let recently = |raised: Duration| seen.at.saturating_sub(raised) < self.settings.cooldown;
        if to <= seen.limit || self.ledger.raised.is_some_and(recently) {
            return None;
        }
        let bound = if to < floor {
            " as far as the node's memory allows"
        } else {
            ""
        };
        Some(Action {
            purpose: Purpose::Raise,
            before: seen.size(),
            after: Size {
                limit: to,
                ..seen.size()
            },
            reason: format!("the limit is below --min-limit {floor}: brought there{bound}"),
        })
    }

    /// More buckets for a limit that was raised, in a quiet second: a resize stops all inserts.
    pub(super) fn buckets(&self, seen: &Observation) -> Option<Action> {
        self.ledger.ours?;
        let sharing: Sharing = seen.sharing();
        let wanted =
            cost::buckets_for(seen.limit, self.ceiling(seen).limit, seen.buckets, &sharing);
        if wanted <= seen.buckets {
            return None;
        }
        let now = cost::chain(sharing.now, seen.buckets);
        let calm = !self.tracking.is_dropping(seen.at) && self.tracking.is_quiet_second();
        if !calm && now < CHAINS_TOO_LONG {
            return None;
        }
        Some(Action {
            purpose: Purpose::Buckets,
            before: seen.size(),
            after: Size {
                buckets: wanted,
                ..seen.size()
            },
            reason: format!(
                "chains of full tables would have {:.0} entries on average, {:.0} with more buckets",
                cost::chain(sharing.when_full(seen.limit), seen.buckets),
                cost::chain(sharing.when_full(seen.limit), wanted),
            ),
        })
    }

    /// What the fullest table is made of, as looked at a moment ago or now.
    pub(super) fn composition(
        &mut self,
        seen: &Observation,
        look: &mut dyn FnMut(u32) -> Option<Composition>,
    ) -> Option<Composition> {
        let netns = seen.fullest()?.netns;
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
pub(super) fn why(pressure: Pressure) -> String {
    match pressure {
        Pressure::Dropping => "packets are dropped since the table is full".to_owned(),
        Pressure::Sustained(time) => format!("pressure for {} s", time.as_secs()),
        Pressure::Forecast(seconds) => format!("the table will be full in {seconds:.0} s"),
    }
}
