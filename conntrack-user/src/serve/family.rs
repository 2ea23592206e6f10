//! A family of metrics, as Prometheus scrapes it.

use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

/// A family that is being filled.
pub(super) struct Family {
    described: MetricFamily,
    kind: MetricType,
    samples: Vec<Metric>,
}

impl Family {
    pub(super) fn gauge(name: &str, help: &str) -> Self {
        Self::new(name, help, MetricType::GAUGE)
    }

    pub(super) fn counter(name: &str, help: &str) -> Self {
        Self::new(name, help, MetricType::COUNTER)
    }

    fn new(name: &str, help: &str, kind: MetricType) -> Self {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        Self {
            described: family,
            kind,
            samples: Vec::new(),
        }
    }

    pub(super) fn with(mut self, labels: &[(&str, &str)], value: f64) -> Self {
        let labels = labels
            .iter()
            .map(|(name, value)| {
                let mut pair = LabelPair::default();
                pair.set_name((*name).to_owned());
                pair.set_value((*value).to_owned());
                pair
            })
            .collect();
        let mut metric = Metric::from_label(labels);
        if self.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.samples.push(metric);
        self
    }

    /// Adds a sample if there is a value.
    pub(super) fn maybe(self, labels: &[(&str, &str)], value: Option<f64>) -> Self {
        match value {
            Some(value) => self.with(labels, value),
            None => self,
        }
    }

    /// Adds a sample for each item.
    pub(super) fn each<T>(
        self,
        items: impl IntoIterator<Item = T>,
        add: impl FnMut(Self, T) -> Self,
    ) -> Self {
        items.into_iter().fold(self, add)
    }

    /// The family; `None` without samples: the text format has no empty ones.
    pub(super) fn finish(mut self) -> Option<MetricFamily> {
        if self.samples.is_empty() {
            return None;
        }
        self.described.set_metric(self.samples);
        Some(self.described)
    }
}

/// The number as a sample's value.
#[expect(clippy::cast_precision_loss, reason = "a sample is a double")]
pub(super) const fn f(number: u64) -> f64 {
    number as f64
}
