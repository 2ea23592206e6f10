//! Reading the Prometheus text format back.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};

/// One line of values.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Metric name.
    pub name: String,
    /// Labels by name.
    pub labels: BTreeMap<String, String>,
    /// Value.
    pub value: f64,
}

/// One exposition.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    samples: Vec<Sample>,
    types: BTreeMap<String, String>,
    helps: BTreeMap<String, String>,
}

impl Metrics {
    /// Reads an exposition; every line has to be well formed.
    pub fn parse(text: &str) -> Result<Self> {
        let mut metrics = Self::default();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            metrics
                .line(line)
                .with_context(|| format!("metrics line `{line}`"))?;
        }
        Ok(metrics)
    }

    fn line(&mut self, line: &str) -> Result<()> {
        let Some(comment) = line.strip_prefix('#') else {
            self.samples.push(sample(line)?);
            return Ok(());
        };
        let mut words = comment.trim_start().splitn(3, ' ');
        let into = match words.next() {
            Some("HELP") => &mut self.helps,
            Some("TYPE") => &mut self.types,
            _ => return Ok(()),
        };
        let (name, text) = (words.next().context("no name")?, words.next().unwrap_or(""));
        ensure!(
            into.insert(name.to_owned(), text.to_owned()).is_none(),
            "{name} is described twice"
        );
        Ok(())
    }

    /// All samples, in order.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// The type of a metric, as its `# TYPE` line has it.
    pub fn type_of(&self, name: &str) -> Option<&str> {
        self.types.get(name).map(String::as_str)
    }

    /// The help text of a metric.
    pub fn help_of(&self, name: &str) -> Option<&str> {
        self.helps.get(name).map(String::as_str)
    }

    /// No counter that was there before is less now.
    ///
    /// # Errors
    ///
    /// When one is.
    pub fn check_counters_since(&self, before: &Self) -> Result<()> {
        let key = |sample: &Sample| (sample.name.clone(), sample.labels.clone());
        let earlier: BTreeMap<_, f64> = before
            .samples
            .iter()
            .map(|sample| (key(sample), sample.value))
            .collect();
        for sample in &self.samples {
            let is_counter = self.type_of(&sample.name) == Some("counter");
            if let Some(earlier) = earlier.get(&key(sample)).filter(|_| is_counter) {
                ensure!(
                    sample.value >= *earlier,
                    "{}{:?} went back from {earlier} to {}",
                    sample.name,
                    sample.labels,
                    sample.value
                );
            }
        }
        Ok(())
    }

    /// The samples of a metric that carry these labels (and perhaps others).
    pub fn select<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|&(label, value)| sample.labels.get(label).is_some_and(|has| has == value))
        })
    }

    /// The value of the only sample with these labels.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut found = self.select(name, labels);
        let sample = found.next()?;
        found.next().is_none().then_some(sample.value)
    }

    /// The sum of all samples with these labels, as a count; 0 when there is none.
    ///
    /// # Errors
    ///
    /// When the sum is no whole number.
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> Result<u64> {
        // From +0.0: the sum of nothing is -0.0 otherwise.
        let sum = self
            .select(name, labels)
            .fold(0.0, |sum, sample| sum + sample.value);
        // Text is the exact way from f64 to u64.
        format!("{sum:.0}")
            .parse()
            .ok()
            .filter(|_| sum.fract() == 0.0)
            .with_context(|| format!("{name}{labels:?} is {sum}, not a count"))
    }
}

fn sample(line: &str) -> Result<Sample> {
    let end = line.find(['{', ' ']).context("no value")?;
    let (name, rest) = line.split_at(end);
    ensure!(!name.is_empty(), "no name");
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (BTreeMap::new(), rest),
    };
    let value = rest.split_whitespace().next().context("no value")?;
    let value = match value {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        number => number.parse().context("not a number")?,
    };
    Ok(Sample {
        name: name.to_owned(),
        labels,
        value,
    })
}

/// Reads `a="b",c="d"}` and returns what follows it.
fn labels(mut text: &str) -> Result<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        if let Some(rest) = text.strip_prefix('}') {
            return Ok((labels, rest));
        }
        let (name, rest) = text.split_once("=\"").context("a label without a value")?;
        let (value, rest) = quoted(rest)?;
        ensure!(
            labels.insert(name.to_owned(), value).is_none(),
            "label {name} is there twice"
        );
        text = match rest.strip_prefix(',') {
            Some(rest) => rest,
            None if rest.starts_with('}') => rest,
            None => bail!("text after the value of label {name}"),
        };
    }
}

/// Reads up to the closing quote and returns what follows it.
fn quoted(text: &str) -> Result<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => match chars.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, other)) => value.push(other),
                None => break,
            },
            other => value.push(other),
        }
    }
    bail!("a label value without an end")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# HELP ctpressure_drops_total Packets lost, by reason.
# TYPE ctpressure_drops_total counter
ctpressure_drops_total{reason=\"table_full\"} 12
ctpressure_drops_total{reason=\"clash\"} 3 1700000000
# TYPE ctpressure_table_limit gauge
ctpressure_table_limit 20000
odd{a=\"x,}\\\"y\\\\\",b=\"\\n\",} 1.5
up +Inf
";

    #[test]
    fn a_counter_that_goes_back_is_noticed() {
        let read = |value: u64, kind: &str| {
            Metrics::parse(&format!("# TYPE a {kind}\na{{b=\"c\"}} {value}\n")).unwrap()
        };
        let (one, two) = (read(1, "counter"), read(2, "counter"));
        assert!(two.check_counters_since(&one).is_ok());
        assert!(one.check_counters_since(&two).is_err());
        assert!(read(1, "gauge").check_counters_since(&two).is_ok());
    }

    #[test]
    fn samples_types_and_sums() {
        let metrics = Metrics::parse(TEXT).unwrap();
        assert_eq!(metrics.count("ctpressure_drops_total", &[]).unwrap(), 15);
        let full = [("reason", "table_full")];
        assert_eq!(metrics.count("ctpressure_drops_total", &full).unwrap(), 12);
        assert_eq!(metrics.value("ctpressure_drops_total", &[]), None);
        assert_eq!(metrics.value("ctpressure_table_limit", &[]), Some(20_000.0));
        assert_eq!(metrics.type_of("ctpressure_drops_total"), Some("counter"));
        assert_eq!(
            metrics.help_of("ctpressure_drops_total"),
            Some("Packets lost, by reason.")
        );
        assert_eq!(metrics.help_of("ctpressure_table_limit"), None);
        assert_eq!(metrics.count("absent", &[]).unwrap(), 0);
        assert!(metrics.count("odd", &[]).is_err());
        let odd = metrics.select("odd", &[]).next().unwrap();
        assert_eq!(
            (odd.labels["a"].as_str(), odd.labels["b"].as_str()),
            ("x,}\"y\\", "\n")
        );
        assert_eq!(metrics.value("up", &[]), Some(f64::INFINITY));
        assert_eq!(metrics.samples().len(), 5);
    }

    #[test]
    fn malformed_lines_are_errors() {
        for text in [
            "name",
            "name x",
            "name{a=\"b} 1",
            "name{a} 1",
            "a{b=\"c\"d} 1",
            "a{b=\"c\",b=\"d\"} 1",
        ] {
            assert!(Metrics::parse(text).is_err(), "{text}");
        }
        assert!(Metrics::parse("# TYPE a gauge\n# TYPE a counter\n").is_err());
    }
}
