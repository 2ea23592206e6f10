//! Makes a schedule that fails as short as it can be. Pure.

use anyhow::Result;

/// Steps that are begun together.
pub(crate) type Round<S> = Vec<S>;

/// Leaves out rounds, then single steps, as long as the rest still `fails`; asks at most `most` times. `None` if it never failed
/// again.
pub(crate) fn shrink<S: Clone>(
    rounds: &[Round<S>],
    most: u32,
    fails: impl FnMut(&[Round<S>]) -> Result<bool>,
) -> Result<Option<Vec<Round<S>>>> {
    let mut asking = Asking { left: most, fails };
    let Some(mut rounds) = asking.last_rounds(rounds)? else {
        return Ok(None);
    };
    let mut at = 0;
    while at < rounds.len() && rounds.len() > 1 {
        let mut shorter = rounds.clone();
        shorter.remove(at);
        if asking.fails(&shorter)? {
            rounds = shorter;
        } else {
            at += 1;
        }
    }
    for round in 0..rounds.len() {
        let mut at = 0;
        while at < rounds[round].len() {
            let mut shorter = rounds.clone();
            shorter[round].remove(at);
            if asking.fails(&shorter)? {
                rounds = shorter;
            } else {
                at += 1;
            }
        }
    }
    rounds.retain(|round| !round.is_empty());
    Ok(Some(rounds))
}

struct Asking<F> {
    left: u32,
    fails: F,
}

impl<F> Asking<F> {
    /// Whether these fail; they don't once enough was asked.
    fn fails<S>(&mut self, rounds: &[Round<S>]) -> Result<bool>
    where
        F: FnMut(&[Round<S>]) -> Result<bool>,
    {
        if self.left == 0 {
            return Ok(false);
        }
        self.left -= 1;
        (self.fails)(rounds)
    }

    /// The last ones that fail by themselves: one, two, four and so on, at last all.
    fn last_rounds<S: Clone>(&mut self, rounds: &[Round<S>]) -> Result<Option<Vec<Round<S>>>>
    where
        F: FnMut(&[Round<S>]) -> Result<bool>,
    {
        let mut number = 1;
        loop {
            let last = &rounds[rounds.len().saturating_sub(number)..];
            if self.fails(last)? {
                return Ok(Some(last.to_vec()));
            }
            if number >= rounds.len() || self.left == 0 {
                return Ok(None);
            }
            number *= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_matters_is_left() {
        let rounds = vec![vec![1, 2], vec![3], vec![4, 5, 6], vec![7, 8]];
        let fails = |rounds: &[Round<i32>]| {
            let all = rounds.concat();
            Ok(all.contains(&5) && all.contains(&8))
        };
        let left = shrink(&rounds, 100, fails).unwrap();
        assert_eq!(left, Some(vec![vec![5], vec![8]]));
    }

    #[test]
    fn what_fails_no_more_is_said_to() {
        let rounds = vec![vec![1], vec![2], vec![3]];
        assert_eq!(shrink(&rounds, 100, |_| Ok(false)).unwrap(), None);
    }

    proptest! {
        /// What is left fails, and no more was asked than may be.
        #[test]
        fn what_is_left_fails(rounds in prop::collection::vec(prop::collection::vec(0..20_u8, 1..4), 1..8), cause: u8, most in 1..60_u32) {
            let fails = |rounds: &[Round<u8>]| rounds.concat().contains(&(cause % 20));
            let mut asked = 0;
            let left = shrink(&rounds, most, |rounds| {
                asked += 1;
                Ok(fails(rounds))
            }).unwrap();
            prop_assert!(asked <= most);
            if let Some(left) = left {
                prop_assert!(fails(&left));
            }
        }
    }
}
