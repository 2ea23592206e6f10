//! Who holds a table, and who fills it now: two questions, and often two answers.

use std::cmp::Ordering;

use serde::Serialize;

/// What is known of one owner (or one owner in one direction).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Holding<K> {
    /// Who.
    pub owner: K,
    /// Entries that it has in the table.
    pub live: u64,
    /// Its inserts in the last ten seconds, a second.
    pub insert_rate: f64,
    /// Its dropped packets in the last ten seconds, a second.
    pub drop_rate: f64,
}

/// One owner's part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Share<K> {
    /// Who.
    pub owner: K,
    /// Entries that it has in the table.
    pub live: u64,
    /// Of all that owners have, 0 to 1.
    pub live_share: f64,
    /// Of the limit, 0 to 1 (more if the table is over it); `None`: there is no limit.
    pub limit_share: Option<f64>,
    /// Its inserts a second, over ten seconds.
    pub insert_rate: f64,
    /// Of all inserts, 0 to 1.
    pub insert_share: f64,
    /// Its dropped packets a second, over ten seconds.
    pub drop_rate: f64,
    /// Of all drops, 0 to 1.
    pub drop_share: f64,
}

/// What to sort by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// Who holds most.
    #[default]
    Live,
    /// Who fills it now.
    InsertRate,
    /// Who suffers.
    DropRate,
}

/// The part of each owner, in the order given. `limit` is the table's; 0: none.
pub fn shares<K: Copy>(holdings: &[Holding<K>], limit: u64) -> Vec<Share<K>> {
    let sum = |of: fn(&Holding<K>) -> f64| holdings.iter().map(of).sum::<f64>();
    let all_live = sum(|holding| super::as_f64(holding.live));
    let all_inserts = sum(|holding| holding.insert_rate);
    let all_drops = sum(|holding| holding.drop_rate);
    let part = |of: f64, all: f64| if all > 0.0 { of / all } else { 0.0 };
    holdings
        .iter()
        .map(|holding| Share {
            owner: holding.owner,
            live: holding.live,
            live_share: part(super::as_f64(holding.live), all_live),
            limit_share: (limit > 0).then(|| super::as_f64(holding.live) / super::as_f64(limit)),
            insert_rate: holding.insert_rate,
            insert_share: part(holding.insert_rate, all_inserts),
            drop_rate: holding.drop_rate,
            drop_share: part(holding.drop_rate, all_drops),
        })
        .collect()
}

/// The first `count` owners by `by`, highest first; without those that have nothing of it.
///
/// The order is the same for the same numbers, whatever order they come in: equals are told apart
/// by live entries, then by owner.
pub fn top<K: Copy + Ord>(shares: &[Share<K>], by: By, count: usize) -> Vec<Share<K>> {
    let value = |share: &Share<K>| match by {
        By::Live => super::as_f64(share.live),
        By::InsertRate => share.insert_rate,
        By::DropRate => share.drop_rate,
    };
    let order = |one: &Share<K>, other: &Share<K>| -> Ordering {
        value(other)
            .total_cmp(&value(one))
            .then(other.live.cmp(&one.live))
            .then(one.owner.cmp(&other.owner))
    };
    let mut top: Vec<_> = shares
        .iter()
        .filter(|share| value(share) > 0.0)
        .copied()
        .collect();
    if count < top.len() {
        if count > 0 {
            top.select_nth_unstable_by(count - 1, order);
        }
        top.truncate(count);
    }
    top.sort_unstable_by(order);
    top
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holding(owner: u32, live: u64, insert_rate: f64, drop_rate: f64) -> Holding<u32> {
        Holding {
            owner,
            live,
            insert_rate,
            drop_rate,
        }
    }

    #[test]
    fn who_holds_it_who_fills_it_and_who_suffers_are_told_apart() {
        let parts = shares(
            &[
                holding(2, 900, 10.0, 0.0),
                holding(3, 100, 990.0, 0.0),
                holding(4, 0, 0.0, 5.0),
            ],
            2000,
        );
        let first = |by| {
            let top = top(&parts, by, 5);
            (top[0].owner, top.len())
        };
        assert_eq!(first(By::Live), (2, 2));
        assert_eq!(first(By::InsertRate), (3, 2));
        assert_eq!(first(By::DropRate), (4, 1));
        assert!((parts[0].live_share - 0.9).abs() < 1e-9);
        assert!((parts[1].insert_share - 0.99).abs() < 1e-9);
        assert!((parts[2].drop_share - 1.0).abs() < 1e-9);
        assert_eq!(parts[0].limit_share, Some(0.45));
    }

    #[test]
    fn nothing_and_no_limit_make_no_odd_numbers() {
        let parts = shares(&[holding(2, 0, 0.0, 0.0)], 0);
        assert_eq!(
            parts[0],
            Share {
                owner: 2,
                ..Share::default()
            }
        );
        assert!(top(&parts, By::Live, 3).is_empty());
        assert!(top(&shares(&[holding(2, 1, 0.0, 0.0)], 0), By::Live, 0).is_empty());
    }

    proptest! {
        #[test]
        fn the_top_is_the_start_of_the_whole_order_however_it_comes(
            lives in proptest::collection::vec(0_u64..5, 0..40),
            count in 0_usize..45,
            turn in 0_usize..40,
        ) {
            let mut holdings: Vec<_> = lives
                .iter()
                .enumerate()
                .map(|(index, live)| holding(u32::try_from(index).unwrap_or(0), *live, 0.0, 0.0))
                .collect();
            let whole = top(&shares(&holdings, 10), By::Live, usize::MAX);
            let ordered = |pair: &[Share<u32>]| {
                (pair[1].live, pair[0].owner) < (pair[0].live, pair[1].owner)
            };
            prop_assert!(whole.windows(2).all(ordered));
            if !holdings.is_empty() {
                let turn = turn % holdings.len();
                holdings.rotate_left(turn);
            }
            let parts = shares(&holdings, 10);
            let some = top(&parts, By::Live, count);
            prop_assert_eq!(&some[..], &whole[..count.min(whole.len())]);
            let all: f64 = parts.iter().map(|part| part.live_share).sum();
            prop_assert!(whole.is_empty() || (all - 1.0).abs() < 1e-9);
        }
    }
}
