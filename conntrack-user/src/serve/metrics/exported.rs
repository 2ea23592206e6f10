//! What was exported last, so that no counter falls: a fall is a restart to whoever scrapes, and the whole count an increase.

use std::collections::HashMap;

use prometheus::proto::{Counter, LabelPair, Metric, MetricFamily, MetricType};

use super::table_sums::TableSums;

/// Counters of the kernel's own begin anew with what they belong to: a module that was loaded again. There a fall is a restart.
const OF_THE_KERNEL: [&str; 3] = [
    "ctpressure_kernel_stat_total",
    "ctpressure_program_run_seconds_total",
    "node_",
];

/// The counters as they were exported last.
#[derive(Debug, Default)]
pub(super) struct Exported {
    last: HashMap<String, f64>,
    fell: u64,
    tables: TableSums,
}

impl Exported {
    /// By how much counters would have fallen so far: they never should.
    pub(super) const fn fell(&self) -> u64 {
        self.fell
    }

    /// The kernel's statistics by the name of a table.
    pub(super) const fn tables(&mut self) -> &mut TableSums {
        &mut self.tables
    }

    /// A counter that would be less than before stays as it was, until it has caught up. One that was withdrawn may begin anew.
    pub(super) fn keep(&mut self, families: &mut [MetricFamily]) {
        let mut now = HashMap::with_capacity(self.last.len());
        for family in families {
            let name = family.name().to_owned();
            let of_kernel = OF_THE_KERNEL.iter().any(|own| name.starts_with(own));
            if family.get_field_type() != MetricType::COUNTER || of_kernel {
                continue;
            }
            for metric in family.mut_metric() {
                let series = series(&name, metric);
                let mut value = metric.get_counter().get_value();
                if let Some(last) = self.last.get(&series).filter(|last| **last > value) {
                    self.fell += whole(last - value);
                    value = *last;
                    let mut counter = Counter::default();
                    counter.set_value(value);
                    metric.set_counter(counter);
                }
                now.insert(series, value);
            }
        }
        self.last = now;
    }
}

/// A fall of less than one counts as one.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a positive number far below 2^64"
)]
fn whole(number: f64) -> u64 {
    number.ceil() as u64
}

/// The name and the labels of a series.
fn series(name: &str, metric: &Metric) -> String {
    let labels = metric.get_label().iter();
    let length: usize = labels.clone().map(|label| label.value().len() + 24).sum();
    let mut series = String::with_capacity(name.len() + length);
    series.push_str(name);
    for part in labels.flat_map(|label: &LabelPair| [label.name(), label.value()]) {
        series.push('\0');
        series.push_str(part);
    }
    series
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::family::Family;

    fn counter(name: &str, owner: &str, value: f64) -> MetricFamily {
        let family = Family::counter(name, "Help.").with(&[("owner_kind", owner)], value);
        family.finish().unwrap()
    }

    fn exported(exported: &mut Exported, name: &str, owner: &str, value: f64) -> String {
        let mut families = [counter(name, owner, value)];
        exported.keep(&mut families);
        families[0].get_metric()[0]
            .get_counter()
            .get_value()
            .to_string()
    }

    #[test]
    fn a_counter_that_falls_stays_until_it_has_caught_up() {
        let mut all = Exported::default();
        let mut host = |value| exported(&mut all, "ctpressure_inserts_total", "host", value);
        assert_eq!(
            [1001.0, 1000.0, 1001.0, 1002.0].map(&mut host),
            ["1001", "1001", "1001", "1002"]
        );
        assert_eq!(all.fell(), 1);
    }

    #[test]
    fn another_series_and_one_that_was_withdrawn_are_others() {
        let mut all = Exported::default();
        let name = "ctpressure_inserts_total";
        assert_eq!(exported(&mut all, name, "host", 9.0), "9");
        assert_eq!(exported(&mut all, name, "unknown", 3.0), "3");
        assert_eq!(exported(&mut all, name, "host", 1.0), "1");
        assert_eq!(all.fell(), 0);
    }

    #[test]
    fn the_kernel_s_own_may_begin_anew() {
        let mut all = Exported::default();
        let name = "ctpressure_kernel_stat_total";
        assert_eq!(exported(&mut all, name, "host", 9.0), "9");
        assert_eq!(exported(&mut all, name, "host", 0.0), "0");
        assert_eq!(all.fell(), 0);
    }
}
