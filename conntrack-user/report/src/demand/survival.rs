//! How long the entries of an owner live, by what entered, what ended and what was there.

use ctpressure_model::pressure::as_f64;

use crate::evidence::OwnerStep;

/// Entries that have to enter before it is asked how their lives differ.
const ENOUGH: u64 = 50;
/// Parts that end at once, in tenths, which are tried.
const SHORT: [u32; 6] = [0, 1, 3, 5, 7, 9];

/// How many of those that began at one time are still there some steps later.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Survival {
    /// The part that ends within the first step.
    short: f64,
    /// Steps that the others live; `None`: longer than this is about.
    life: Option<f64>,
    /// Each of these lives as long; else they do on average, and any step may be the last.
    alike: bool,
}

impl Survival {
    /// All live for as many steps; `None`: longer than this is about.
    pub(super) const fn alike(life: Option<f64>) -> Self {
        Self {
            short: 0.0,
            life,
            alike: true,
        }
    }

    /// Of the entries of one owner: that of which there would be as many as there were, given what entered.
    pub(super) fn of(points: &[OwnerStep]) -> Self {
        let life = natural_life(points);
        let mut best = Self::alike(life);
        let began: u64 = points.iter().map(|point| u64::from(point.inserts)).sum();
        let (Some(mean), Some(first)) = (life, points.first()) else {
            return best;
        };
        if began < ENOUGH {
            return best;
        }
        let before = f64::from((first.live + first.deletes).saturating_sub(first.inserts));
        let mut least = f64::INFINITY;
        for alike in [true, false] {
            for tenths in SHORT {
                let short = f64::from(tenths) / 10.0;
                // With that all live as long as they do on average.
                let life = Some(((mean - short / 2.0) / (1.0 - short)).max(0.1));
                let one = Self { short, life, alike };
                let off = one.off(points, before);
                if off < least {
                    (best, least) = (one, off);
                }
            }
        }
        best
    }

    /// Whether one that has lived for some time lives on for less time than a new one.
    pub(super) const fn ages(&self) -> bool {
        self.alike
    }

    /// The steps that they live; `None`: longer than this is about.
    pub(super) const fn life(&self) -> Option<f64> {
        self.life
    }

    /// What is left at the end of a step of those that began, evenly spread, in this step or as many before it.
    fn left(&self, steps: f64) -> f64 {
        let Some(life) = self.life else {
            return 1.0;
        };
        let others = if self.alike {
            (life - steps).clamp(0.0, 1.0)
        } else {
            life * ((-steps / life).exp() - (-(steps + 1.0) / life).exp())
        };
        let short = if steps > 0.0 { 0.0 } else { 0.5 };
        self.short * short + (1.0 - self.short) * others
    }

    /// The same for each number of steps.
    pub(super) fn curve(&self, steps: usize) -> Vec<f64> {
        (0..steps).map(|steps| self.left(index(steps))).collect()
    }

    /// What is left of those that were there at the begin, of any age.
    fn left_of_older(&self, steps: f64) -> f64 {
        match self.life {
            None => 1.0,
            Some(life) if self.alike => (1.0 - steps / life).max(0.0),
            Some(life) => (-steps / life).exp(),
        }
    }

    /// By how much there would have been more or less than there was.
    fn off(&self, points: &[OwnerStep], before: f64) -> f64 {
        let left = self.curve(points.len());
        let off = points.iter().enumerate().map(|(at, point)| {
            let since = points[..=at].iter().rev();
            let began: f64 = since
                .zip(&left)
                .map(|(point, left)| f64::from(point.inserts) * left)
                .sum();
            let older = before * self.left_of_older(index(at + 1));
            (older + began - f64::from(point.live)).powi(2)
        });
        off.sum()
    }
}

fn index(number: usize) -> f64 {
    as_f64(number as u64)
}

/// Steps that an owner's entries live on average if nothing evicts them: all the time that its entries lived,
/// by those that ended. `None`: hardly any ended.
fn natural_life(points: &[OwnerStep]) -> Option<f64> {
    let (mut lived, mut ended, mut began) = (0.0, 0.0, 0.0);
    for point in points {
        lived += f64::from(point.live);
        ended += f64::from(point.deletes.saturating_sub(point.victims));
        began += f64::from(point.inserts);
    }
    // A tenth that ended is too few to tell how long the others live.
    (ended > 0.0 && ended * 10.0 >= began).then(|| (lived / ended).max(0.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a step sees of as many that begin in each of the first steps, and of which `left` says how many are left after so many.
    fn steps(left: impl Fn(usize) -> f64) -> Vec<OwnerStep> {
        const BEGIN: usize = 20;
        let live_after = |at: usize| -> f64 {
            let began = 0..=at.min(BEGIN - 1);
            began.map(|since| 1000.0 * left(at - since)).sum()
        };
        let mut before = 0.0;
        let step = |at: usize| {
            let live = live_after(at);
            let inserts = if at < BEGIN { 1000.0 } else { 0.0 };
            let deletes = before + inserts - live;
            before = live;
            let whole =
                |number: f64| u32::try_from(ctpressure_model::pressure::as_count(number)).unwrap();
            OwnerStep {
                live: whole(live),
                inserts: whole(inserts),
                deletes: whole(deletes),
                ..OwnerStep::default()
            }
        };
        (0..120).map(step).collect()
    }

    #[test]
    fn lives_are_told_by_how_the_entries_grew() {
        let ten = Survival::of(&steps(|after| if after < 10 { 1.0 } else { 0.0 }));
        assert!(ten.ages() && ten.short == 0.0, "{ten:?}");
        assert!((9.5..=10.5).contains(&ten.life().unwrap()), "{ten:?}");
        let any = Survival::of(&steps(|after| (-index(after) / 15.0).exp()));
        assert!(!any.ages() && any.short < 0.2, "{any:?}");
        let few = Survival::of(&steps(|after| match after {
            0 => 0.6,
            1..40 => 0.3,
            _ => 0.0,
        }));
        assert!(few.short > 0.4 && few.life() > Some(25.0), "{few:?}");
    }

    #[test]
    fn without_an_end_they_live_longer_than_this_is_about() {
        let leak = Survival::of(&steps(|_| 1.0));
        assert_eq!(leak, Survival::alike(None));
        assert_eq!(leak.curve(3), [1.0; 3]);
    }
}
