//! Who holds a table, and who fills it now: two questions, and often two answers.

/// What is known of one owner (or one owner in one direction).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OwnerHolding {
    /// Entries that it has in the table.
    pub live: u64,
    /// Its inserts in the last ten seconds, a second.
    pub insert_rate: f64,
    /// Its dropped packets in the last ten seconds, a second.
    pub drop_rate: f64,
}

/// The parts of the table and its traffic that one owner has.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Share {
    /// Of all that the kernel counts, 0 to 1.
    pub live_share: f64,
    /// Of the limit, 0 to 1 (more if the table is over it); `None`: there is no limit.
    pub limit_share: Option<f64>,
    /// Of all inserts, 0 to 1.
    pub insert_share: f64,
    /// Of all drops, 0 to 1.
    pub drop_share: f64,
}

/// The part of each owner, in the order given, of `counted` entries in all tables; what owners have less than that is nobody's. `limit`
/// is the table's; 0: none.
pub fn shares(holdings: &[OwnerHolding], counted: u64, limit: u64) -> Vec<Share> {
    let sum = |of: fn(&OwnerHolding) -> f64| holdings.iter().map(of).sum::<f64>();
    // The counts are of slightly different moments.
    let all_live = sum(|holding| super::as_f64(holding.live)).max(super::as_f64(counted));
    let all_inserts = sum(|holding| holding.insert_rate);
    let all_drops = sum(|holding| holding.drop_rate);
    let part = |of: f64, all: f64| if all > 0.0 { of / all } else { 0.0 };
    holdings
        .iter()
        .map(|holding| Share {
            live_share: part(super::as_f64(holding.live), all_live),
            limit_share: (limit > 0).then(|| super::as_f64(holding.live) / super::as_f64(limit)),
            insert_share: part(holding.insert_rate, all_inserts),
            drop_share: part(holding.drop_rate, all_drops),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holding(live: u64, insert_rate: f64, drop_rate: f64) -> OwnerHolding {
        OwnerHolding {
            live,
            insert_rate,
            drop_rate,
        }
    }

    #[test]
    fn who_holds_it_who_fills_it_and_who_suffers_are_told_apart() {
        let parts = shares(
            &[
                holding(900, 10.0, 0.0),
                holding(100, 990.0, 0.0),
                holding(0, 0.0, 5.0),
            ],
            1000,
            2000,
        );
        assert!((parts[0].live_share - 0.9).abs() < 1e-9);
        assert!((parts[1].insert_share - 0.99).abs() < 1e-9);
        assert!((parts[2].drop_share - 1.0).abs() < 1e-9);
        assert_eq!(parts[0].limit_share, Some(0.45));
    }

    /// Case 12 of operators: 990 entries of one that waits are in no list, and the victim has what is left.
    #[test]
    fn the_victim_does_not_hold_the_table_that_others_fill() {
        let parts = shares(&[holding(10, 0.0, 50.0)], 1000, 1000);
        assert!((parts[0].live_share - 0.01).abs() < 1e-9);
    }

    #[test]
    fn nothing_and_no_limit_make_no_odd_numbers() {
        let parts = shares(&[holding(0, 0.0, 0.0)], 0, 0);
        assert_eq!(parts[0], Share::default());
    }
}
