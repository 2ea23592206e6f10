//! The kernel's statistics of tables, summed up by the name of a table: what follows under a name goes on where the one before ended. A
//! pod that is made anew has another network namespace and the same name, and a counter that falls is a restart to whoever scrapes.
//!
//! The host's are as the kernel has them: there is only one.

use std::collections::{HashMap, HashSet};

use crate::{agent::Table, kernel::stats::KernelStats};

/// Names that are remembered, so that one that comes again soon goes on. With more, only those that are there are.
const MOST: usize = 2048;

/// What is counted of a table, by statistic; `None`: the kernel does not count it.
type Counts = Vec<(&'static str, Option<u64>)>;

#[derive(Debug, Default)]
struct TableSum {
    netns: u32,
    last: Counts,
    /// Of those that had the name before.
    earlier: HashMap<&'static str, u64>,
}

/// The sums so far.
#[derive(Debug, Default)]
pub(super) struct TableSums {
    by_name: HashMap<String, TableSum>,
}

impl TableSums {
    /// What to say of this table.
    pub(super) fn add(&mut self, table: &Table, stats: &KernelStats) -> Counts {
        let now = stats.named().to_vec();
        if table.is_host() {
            return now;
        }
        let sum = self.by_name.entry(table.name.clone()).or_default();
        let fell = |(now, before): (&(_, Option<u64>), &(_, Option<u64>))| now.1 < before.1;
        if sum.netns != table.netns || now.iter().zip(&sum.last).any(fell) {
            for (stat, value) in &sum.last {
                *sum.earlier.entry(stat).or_default() += value.unwrap_or(0);
            }
        }
        sum.netns = table.netns;
        sum.last.clone_from(&now);
        let earlier = |stat| sum.earlier.get(stat).copied().unwrap_or(0);
        now.into_iter()
            .map(|(stat, value)| (stat, value.map(|value| value + earlier(stat))))
            .collect()
    }

    /// Forgets names that nobody has, if there are too many.
    pub(super) fn forget(&mut self, tables: &[&Table]) {
        if self.by_name.len() > MOST {
            let there: HashSet<&str> = tables.iter().map(|table| table.name.as_str()).collect();
            self.by_name.retain(|name, _| there.contains(name.as_str()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dropped(sums: &mut TableSums, name: &str, netns: u32, drop: u64) -> Option<u64> {
        let table = Table {
            netns,
            name: name.to_owned(),
            ..Table::default()
        };
        let stats = KernelStats {
            drop,
            ..KernelStats::default()
        };
        let counts = sums.add(&table, &stats);
        counts.iter().find(|(stat, _)| *stat == "drop")?.1
    }

    #[test]
    fn a_pod_made_anew_under_its_name_goes_on_where_it_was() {
        let mut sums = TableSums::default();
        let mut of = |netns, drop| dropped(&mut sums, "shop/web-0", netns, drop);
        assert_eq!([of(7, 5), of(7, 6)], [Some(5), Some(6)]);
        // Another namespace, also where it has counted more by the next look.
        assert_eq!([of(8, 0), of(8, 2)], [Some(6), Some(8)]);
        assert_eq!(of(9, 50), Some(58));
        // One that got the same number.
        assert_eq!(of(9, 1), Some(59));
        // The first instances are not counted twice.
        assert_eq!(of(9, 2), Some(60));
    }

    #[test]
    fn the_host_s_are_the_kernel_s() {
        let mut sums = TableSums::default();
        assert_eq!(dropped(&mut sums, "host", 1, 9), Some(9));
        assert_eq!(dropped(&mut sums, "host", 1, 0), Some(0));
    }

    #[test]
    fn names_are_bounded() {
        let mut sums = TableSums::default();
        for number in 0..3_000_u32 {
            dropped(&mut sums, &format!("job-{number}"), number, 1);
            sums.forget(&[]);
        }
        assert!(sums.by_name.len() <= MOST + 1);
    }
}
