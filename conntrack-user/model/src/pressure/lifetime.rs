//! How long entries live on average, without following a single one: Little's law.
//!
//! In a table that is in balance, entries = insert rate x mean lifetime. So the mean lifetime is
//! the live entries by the insert rate, if
//!
//! * enough was inserted in the window that the rate is no accident (`ENOUGH`);
//! * as much left as entered, within `TOLERANCE` and the accidents of counting;
//! * it was watched for at least as long as the lifetime that comes out.
//!
//! Otherwise the same quotient is a bound, and said as one:
//!
//! * more entered than left: what is there has not had the time to leave, the mean is at least that;
//! * more left than entered: what is there comes from a time of more inserts, it is at most that;
//! * in balance, but longer than watched: part of the entries may be old and idle, and those that
//!   come and go live shorter. It is at most that.
//!
//! Both of the first two hold as long as the insert rate went one way (up or down) in the time
//! that entries live.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Fewer inserts in the window make no rate.
const ENOUGH: u64 = 50;
/// How far inserts and deletes may be apart, as part of the inserts, to be in balance.
const TOLERANCE: f64 = 0.1;

/// What was counted of an owner (or a table) in a window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FlowCounts {
    /// Entries that are live at the end of the window.
    pub live: u64,
    /// Entries that came in the window.
    pub inserts: u64,
    /// Entries that left in the window.
    pub deletes: u64,
    /// Length of the window in seconds.
    pub seconds: f64,
    /// Since when the owner is watched; at least the window.
    pub watched: Duration,
}

/// What a number of seconds says of the mean lifetime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// It is that, within [`Lifetime::error`].
    About,
    /// It is that or longer.
    AtLeast,
    /// It is that or shorter.
    AtMost,
}

/// The mean lifetime of entries.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
pub struct Lifetime {
    /// What the number says.
    pub is: Bound,
    /// Live entries by insert rate.
    pub seconds: f64,
    /// How far off it may be, as part of `seconds`: by what is out of balance, and by the accidents
    /// of counting (one standard deviation). Only with [`Bound::About`] the whole error.
    pub error: f64,
}

impl FlowCounts {
    /// The mean lifetime; `None`: too few inserts to say.
    pub fn lifetime(&self) -> Option<Lifetime> {
        let Self {
            live,
            inserts,
            deletes,
            seconds,
            watched,
        } = *self;
        if inserts < ENOUGH || seconds <= 0.0 {
            return None;
        }
        let (came, left) = (super::as_f64(inserts), super::as_f64(deletes));
        // The mean over the window: in the middle of it there was half of the difference less.
        let live = (super::as_f64(live) - (came - left) / 2.0).max(0.0);
        let lifetime = live * seconds / came;
        let apart = (came - left) / came;
        // Two standard deviations of the difference of two counts.
        let accidents = 2.0 * (came + left).sqrt() / came;
        let is = if apart > TOLERANCE + accidents {
            Bound::AtLeast
        } else if apart < -TOLERANCE - accidents || lifetime > watched.as_secs_f64() {
            Bound::AtMost
        } else {
            Bound::About
        };
        Some(Lifetime {
            is,
            seconds: lifetime,
            error: apart.abs() + (1.0 / came + 1.0 / live.max(1.0)).sqrt(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::series::{Life, Simulation};

    /// What is told after each second of a simulation, over the last minute.
    fn told(
        seed: u64,
        life: Life,
        seconds: u64,
        rate: impl Fn(f64) -> f64,
    ) -> Vec<Option<Lifetime>> {
        let samples = Simulation::new(seed).run(seconds, |at| (rate(at), life));
        let mut told = vec![None];
        for (index, now) in samples.iter().enumerate().skip(1) {
            let then = &samples[index.saturating_sub(60)];
            let flow = FlowCounts {
                live: now.entries,
                inserts: now.inserts - then.inserts,
                deletes: now.deletes - then.deletes,
                seconds: now.at.abs_diff(then.at).as_secs_f64(),
                watched: now.at,
            };
            told.push(flow.lifetime());
        }
        told
    }

    #[test]
    fn known_lifetimes_come_out() {
        let (mut worst, mut cases) = (0.0_f64, 0);
        for life in [
            Life::Fixed(30.0),
            Life::Memoryless(30.0),
            Life::Fixed(120.0),
            Life::Memoryless(120.0),
            Life::Fixed(0.5),
            Life::Either(1.0, 119.0),
        ] {
            for rate in [5.0, 100.0, 1000.0] {
                let told = told(11, life, 900, |_| rate);
                let last = told[899].expect("told");
                assert_eq!(last.is, Bound::About, "{life:?} {rate}/s: {last:?}");
                let error = (last.seconds / life.mean() - 1.0).abs();
                println!(
                    "{life:?} at {rate}/s: {:.2} s, off by {:.1} %",
                    last.seconds,
                    100.0 * error
                );
                assert!(error < 3.0 * last.error, "{life:?} {rate}/s: {last:?}");
                let few = rate * life.mean() < 1000.0;
                assert!(few || error < 0.1, "{life:?} {rate}/s: {last:?}");
                worst = worst.max(error);
                cases += 1;
            }
        }
        println!("{cases} cases, off by {:.1} % at worst", 100.0 * worst);
    }

    #[test]
    fn while_it_fills_it_is_a_lower_bound_and_while_it_empties_an_upper_one() {
        for life in [Life::Fixed(60.0), Life::Memoryless(60.0)] {
            let told = told(5, life, 700, |at| if at < 300.0 { 500.0 } else { 50.0 });
            for (second, lifetime) in told.iter().enumerate() {
                let Some(Lifetime { is, seconds, error }) = *lifetime else {
                    assert!(second < 2, "{life:?}: nothing told at {second} s");
                    continue;
                };
                let fits = match is {
                    Bound::AtLeast => seconds <= 60.0 * 1.1,
                    Bound::AtMost => seconds >= 60.0 / 1.1,
                    Bound::About => (seconds / 60.0 - 1.0).abs() < 2.0 * error,
                };
                assert!(fits, "{life:?} at {second} s: {lifetime:?}");
            }
            let is = |second: usize| told[second].map(|lifetime| lifetime.is);
            assert_eq!(is(20), Some(Bound::AtLeast), "{life:?}");
            assert_eq!(is(299), Some(Bound::About), "{life:?}");
            assert_eq!(is(340), Some(Bound::AtMost), "{life:?}");
            assert_eq!(is(699), Some(Bound::About), "{life:?}");
        }
    }

    #[test]
    fn old_idle_entries_are_not_taken_for_the_lifetime_of_those_that_come_and_go() {
        let flow = FlowCounts {
            live: 100_000,
            inserts: 600,
            deletes: 600,
            seconds: 60.0,
            watched: Duration::from_hours(1),
        };
        assert_eq!(flow.lifetime().map(|told| told.is), Some(Bound::AtMost));
    }

    #[test]
    fn few_inserts_tell_nothing() {
        let flow = FlowCounts {
            live: 10,
            inserts: ENOUGH - 1,
            deletes: ENOUGH - 1,
            seconds: 60.0,
            watched: Duration::from_mins(1),
        };
        assert_eq!(flow.lifetime(), None);
        let enough = FlowCounts {
            inserts: ENOUGH,
            ..flow
        };
        assert!(enough.lifetime().is_some());
        assert_eq!(
            FlowCounts {
                seconds: 0.0,
                ..enough
            }
            .lifetime(),
            None
        );
    }
}
