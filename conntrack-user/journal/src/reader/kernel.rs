//! The kernel's own statistics.

use std::{collections::BTreeMap, time::Duration};

use super::recording::{Recording, seconds};
use crate::{JournalError, KernelPoint, NetnsId};

impl Recording<'_> {
    /// The kernel's own statistics by bucket, in order of time. A bucket in which nothing was
    /// counted for a table has no point of it. For sums take one bucket for the whole range.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn kernel_points(&self, bucket: Duration) -> Result<Vec<KernelPoint>, JournalError> {
        self.ask(|_| {
            let recorded = self.recorded(bucket);
            let mut points: BTreeMap<(i64, NetnsId), KernelPoint> = BTreeMap::new();
            let query =
                "SELECT tick, netns, found, invalid, insert_failed, dropped, early_drop, icmp_error, \
                 search_restart, clash_resolve, chain_too_long FROM kernel_stat \
                 WHERE tick BETWEEN ?1 AND ?2 ORDER BY tick";
            self.each_row(query, |tick, row| {
                let index = self.bucket_of(self.ticks[tick], bucket);
                let netns = NetnsId(row.get(1)?);
                let point = points.entry((index, netns)).or_insert(KernelPoint {
                    at: self.begin_of(index, bucket),
                    seconds: seconds(recorded.get(&index).copied().unwrap_or(0)),
                    netns,
                    found: 0,
                    invalid: 0,
                    insert_failed: 0,
                    dropped: 0,
                    early_drop: 0,
                    icmp_error: 0,
                    search_restart: 0,
                    clash_resolve: None,
                    chain_too_long: None,
                });
                for (sum, column) in [
                    &mut point.found,
                    &mut point.invalid,
                    &mut point.insert_failed,
                    &mut point.dropped,
                    &mut point.early_drop,
                    &mut point.icmp_error,
                    &mut point.search_restart,
                ]
                .into_iter()
                .zip(2..)
                {
                    *sum = sum.saturating_add(row.get(column)?);
                }
                for (sum, column) in [&mut point.clash_resolve, &mut point.chain_too_long]
                    .into_iter()
                    .zip(9..)
                {
                    if let Some(number) = row.get::<_, Option<u64>>(column)? {
                        *sum = Some(sum.unwrap_or(0).saturating_add(number));
                    }
                }
                Ok(())
            })?;
            Ok(points.into_values().collect())
        })
    }
}
