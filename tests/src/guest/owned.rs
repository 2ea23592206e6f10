//! Counts by owner, as `/metrics` and `watch` have them.

use std::{collections::BTreeMap, fmt};

use anyhow::{Result, ensure};
use serde_json::Value;

use super::{checks::Checks, prom::Metrics};

/// Who a count is charged to; names that don't apply are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// `pod`, `cgroup`, `host` or `unknown`.
    pub kind: String,
    /// Namespace of a pod.
    pub namespace: String,
    /// Name of a pod.
    pub pod: String,
    /// Unit of a control group.
    pub unit: String,
}

impl Owner {
    /// A pod.
    pub fn pod(namespace: &str, pod: &str) -> Self {
        Self {
            kind: "pod".to_owned(),
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            unit: String::new(),
        }
    }

    /// A systemd unit.
    pub fn unit(unit: &str) -> Self {
        Self {
            kind: "cgroup".to_owned(),
            unit: unit.to_owned(),
            ..Self::default()
        }
    }

    /// The host.
    pub fn host() -> Self {
        Self {
            kind: "host".to_owned(),
            ..Self::default()
        }
    }

    /// Nobody that is known.
    pub fn unknown() -> Self {
        Self {
            kind: "unknown".to_owned(),
            ..Self::default()
        }
    }

    /// The owner in an event of `watch`: an object with these four names.
    pub fn of_event(object: &Value) -> Self {
        let text = |name: &str| object[name].as_str().unwrap_or_default().to_owned();
        Self {
            kind: text("kind"),
            namespace: text("namespace"),
            pod: text("pod"),
            unit: text("unit"),
        }
    }

    fn of_labels(labels: &BTreeMap<String, String>) -> Self {
        let text = |name: &str| labels.get(name).cloned().unwrap_or_default();
        Self {
            kind: text("owner_kind"),
            namespace: text("namespace"),
            pod: text("pod"),
            unit: text("unit"),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind.as_str() {
            "pod" => write!(formatter, "{}/{}", self.namespace, self.pod),
            "cgroup" => formatter.write_str(&self.unit),
            other => formatter.write_str(other),
        }
    }
}

/// An owner and the value of one more label: a direction, a reason or a role.
pub type Share = (Owner, String);

/// Counts by owner and one more label.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ByOwner(pub BTreeMap<Share, u64>);

impl ByOwner {
    /// The samples of a metric (without its prefix) by owner and the label `beside`, summed over
    /// every other label.
    pub fn read(metrics: &Metrics, name: &str, beside: &str) -> Result<Self> {
        let name = format!("ctpressure_{name}");
        let mut counts = Self::default();
        for sample in metrics.select(&name, &[]) {
            let owner = Owner::of_labels(&sample.labels);
            ensure!(!owner.kind.is_empty(), "{name} without an owner");
            let label = sample.labels.get(beside).cloned().unwrap_or_default();
            // Text is the exact way from f64 to u64.
            let value = format!("{:.0}", sample.value).parse()?;
            counts.add(owner, &label, value);
        }
        Ok(counts)
    }

    /// Adds to one of them.
    pub fn add(&mut self, owner: Owner, label: &str, count: u64) {
        *self.0.entry((owner, label.to_owned())).or_default() += count;
    }

    /// One of them; 0 when it is not there.
    pub fn get(&self, owner: &Owner, label: &str) -> u64 {
        let share = (owner.clone(), label.to_owned());
        self.0.get(&share).copied().unwrap_or(0)
    }

    /// All of one owner.
    pub fn of(&self, owner: &Owner) -> u64 {
        let own = self.0.iter().filter(|((other, _), _)| other == owner);
        own.map(|(_, count)| count).sum()
    }

    /// All of them together.
    pub fn sum(&self) -> u64 {
        self.0.values().sum()
    }

    /// Growth since `before`; counts that did not grow are left out.
    ///
    /// # Errors
    ///
    /// When one went back.
    pub fn since(&self, before: &Self) -> Result<Self> {
        let mut growth = Self::default();
        for ((owner, label), count) in &self.0 {
            let earlier = before.get(owner, label);
            ensure!(
                *count >= earlier,
                "the count of {owner} {label} went back from {earlier} to {count}"
            );
            if *count > earlier {
                growth.add(owner.clone(), label, count - earlier);
            }
        }
        Ok(growth)
    }

    /// How many are lacking of what each should be, together.
    pub fn lacking(&self, expected: &Self) -> u64 {
        let lacking = expected
            .0
            .iter()
            .map(|((owner, label), expected)| expected.saturating_sub(self.get(owner, label)));
        lacking.sum()
    }

    /// Each is what it should be, and nobody else has any.
    pub fn check(&self, checks: &mut Checks, name: &str, expected: &Self) {
        let mut all: BTreeMap<_, _> = self.0.keys().map(|share| (share.clone(), 0)).collect();
        all.extend(expected.0.clone());
        for ((owner, label), expected) in all {
            let is = self.get(&owner, &label);
            checks.equal(
                format!("{name} of {owner} {label}"),
                is,
                "expected",
                expected,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
ctpressure_inserts_total{owner_kind="pod",namespace="a",pod="b",unit="",direction="egress"} 5
ctpressure_inserts_total{owner_kind="pod",namespace="a",pod="b",unit="",direction="ingress"} 2
ctpressure_inserts_total{owner_kind="cgroup",namespace="",pod="",unit="x.service",direction="egress"} 1
"#;

    #[test]
    fn counts_are_read_by_owner_and_compared() {
        let read = |text: &str| {
            let metrics = Metrics::parse(text).unwrap();
            ByOwner::read(&metrics, "inserts_total", "direction").unwrap()
        };
        let before = read(TEXT);
        let now = read(&TEXT.replace("} 5", "} 9"));
        let pod = Owner::pod("a", "b");
        assert_eq!((now.of(&pod), now.sum()), (11, 12));
        assert_eq!(now.get(&Owner::unit("x.service"), "egress"), 1);
        let growth = now.since(&before).unwrap();
        assert_eq!((growth.get(&pod, "egress"), growth.sum()), (4, 4));
        assert!(before.since(&now).is_err());

        let mut expected = ByOwner::default();
        expected.add(pod, "egress", 4);
        let mut checks = Checks::new();
        growth.check(&mut checks, "inserts", &expected);
        assert_eq!((growth.lacking(&expected), before.lacking(&now)), (0, 4));
        assert!(checks.finish().is_ok());
        let mut checks = Checks::new();
        now.check(&mut checks, "inserts", &expected);
        let said = checks.finish().unwrap_err().to_string();
        assert!(
            said.contains("inserts of a/b egress 9 != expected 4"),
            "{said}"
        );
        assert!(
            said.contains("inserts of x.service egress 1 != expected 0"),
            "{said}"
        );
    }

    #[test]
    fn an_event_names_its_owner() {
        let event = serde_json::json!({"kind": "pod", "namespace": "a", "pod": "b", "unit": ""});
        assert_eq!(Owner::of_event(&event), Owner::pod("a", "b"));
        assert_eq!(Owner::of_event(&Value::Null), Owner::default());
    }
}
