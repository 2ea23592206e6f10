//! From 32-bit numbers of each CPU, which wrap, to sums that never go back.

use super::{CpuStats, KernelStats, STATS, StatsReading};

/// What one table's statistics add up to.
///
/// The first reading is taken as it stands, so that the sums equal the kernel's own until one of
/// its numbers wraps.
#[derive(Clone, Debug, Default)]
pub(crate) struct Accumulator {
    last: Vec<CpuStats>,
    totals: [Option<u64>; STATS],
}

impl Accumulator {
    /// Adds what has been counted since the last reading, and gives the sums.
    ///
    /// A number that is lower than before has wrapped if it was in the upper half, so read at least
    /// once every 2^31 events of a CPU; otherwise it began anew (the module was loaded again), and
    /// what it shows now is added.
    pub(crate) fn add(&mut self, reading: &StatsReading) -> KernelStats {
        self.last
            .resize(self.last.len().max(reading.rows.len()), [None; STATS]);
        for (last, row) in self.last.iter_mut().zip(&reading.rows) {
            for (total, (before, now)) in self.totals.iter_mut().zip(last.iter_mut().zip(row)) {
                let Some(now) = *now else { continue };
                let grown = grown(before.unwrap_or_default(), now);
                *total = Some(total.unwrap_or_default() + u64::from(grown));
                *before = Some(now);
            }
        }
        KernelStats::from_totals(&self.totals)
    }
}

/// What was counted from one value to the next.
fn grown(before: u32, now: u32) -> u32 {
    const HALF: u32 = 1 << 31;
    if now < before && now.wrapping_sub(before) >= HALF {
        return now;
    }
    now.wrapping_sub(before)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernel::stats::Stat;

    fn reading(drops: &[u32]) -> StatsReading {
        let rows = drops.iter().map(|value| {
            let mut row = [None; STATS];
            row[Stat::Drop as usize] = Some(*value);
            row
        });
        StatsReading {
            entries: None,
            rows: rows.collect(),
        }
    }

    #[test]
    fn the_first_reading_is_the_kernels_own() {
        let mut sums = Accumulator::default();
        let first = sums.add(&reading(&[5, u32::MAX]));
        assert_eq!(first.drop, 5 + u64::from(u32::MAX));
        assert_eq!(first.chain_too_long, None);
        assert_eq!(sums.add(&reading(&[5, u32::MAX])), first);
    }

    #[test]
    fn a_number_that_wraps_goes_on() {
        let mut sums = Accumulator::default();
        sums.add(&reading(&[u32::MAX - 1]));
        assert_eq!(sums.add(&reading(&[3])).drop, u64::from(u32::MAX - 1) + 5);
    }

    #[test]
    fn a_number_that_begins_anew_is_added() {
        let mut sums = Accumulator::default();
        sums.add(&reading(&[1000, 1]));
        assert_eq!(sums.add(&reading(&[7, 1])).drop, 1008);
    }

    proptest! {
        #[test]
        fn sums_are_exact_and_never_go_back(
            start: u32,
            steps in proptest::collection::vec((0..1_u32 << 31, 0..1_u32 << 31), 1..50),
        ) {
            let mut sums = Accumulator::default();
            let (mut one, mut two) = (start, 0_u32);
            let mut expected = u64::from(start);
            prop_assert_eq!(sums.add(&reading(&[one, two])).drop, expected);
            for (first, second) in steps {
                one = one.wrapping_add(first);
                two = two.wrapping_add(second);
                expected += u64::from(first) + u64::from(second);
                prop_assert_eq!(sums.add(&reading(&[one, two])).drop, expected);
            }
        }
    }
}
