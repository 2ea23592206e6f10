//! The kernel's own statistics.

use std::{collections::BTreeMap, time::Duration};

use super::recording::Recording;
use crate::{JournalError, KernelGrowth, KernelPoint, NetnsId};

impl Recording<'_> {
    /// The kernel's own statistics by bucket, in order of time. A bucket in which nothing was
    /// counted for a table has no point of it. For sums take one bucket for the whole range.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn kernel_points(&self, bucket: Duration) -> Result<Vec<KernelPoint>, JournalError> {
        self.ask(|_| {
            let mut points: BTreeMap<(i64, NetnsId), KernelPoint> = BTreeMap::new();
            let query = "SELECT tick, netns, found, invalid, insert_failed, dropped, early_drop, \
                 clash_resolve, chain_too_long FROM kernel_stat \
                 WHERE tick BETWEEN ?1 AND ?2 ORDER BY tick";
            self.each_row(query, |tick, row| {
                let index = self.bucket_of(self.ticks[tick], bucket);
                let netns = NetnsId(row.get(1)?);
                let point = points.entry((index, netns)).or_insert(KernelPoint {
                    at: self.begin_of(index, bucket),
                    netns,
                    growth: KernelGrowth::default(),
                });
                for (sum, column) in point.growth.counts().into_iter().zip(2..) {
                    let number: Option<u64> = row.get(column)?;
                    *sum = sum.saturating_add(number.unwrap_or(0));
                }
                Ok(())
            })?;
            Ok(points.into_values().collect())
        })
    }
}
