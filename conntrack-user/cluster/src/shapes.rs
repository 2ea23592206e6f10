//! What agents print with `-o json`, as far as it is read here. Agents of other versions may print more, which is passed over, or
//! less: what one answer can't do without is an error that names it, all else is `None`.
//!
//! Each command's own documentation says what the fields mean: `conntrack-user/src/serve/top.rs`, `conntrack-user/src/serve/limit.rs`,
//! `conntrack-user/src/doctor/report.rs` and `conntrack-user/report/src/document.rs`.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

/// What may be null, which says that it is not known, but has to be there.
fn null_or<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    Option::deserialize(from)
}

/// `top --once`
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct TopAnswer {
    pub(crate) state: Option<String>,
    pub(crate) reason: Option<String>,
    #[serde(deserialize_with = "null_or")]
    pub(crate) limit: Option<u64>,
    pub(crate) tables: Vec<TableAnswer>,
    #[serde(default)]
    pub(crate) other_tables: RestAnswer,
    pub(crate) totals: TotalsAnswer,
    pub(crate) owners: Vec<OwnerAnswer>,
    #[serde(default)]
    pub(crate) other_owners: RestAnswer,
}

/// One table.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct TableAnswer {
    pub(crate) name: String,
    pub(crate) entries: u64,
    pub(crate) occupancy: Option<f64>,
    pub(crate) pressure: Option<String>,
    pub(crate) seconds_to_full: Option<f64>,
    #[serde(default)]
    pub(crate) verdicts: Vec<VerdictAnswer>,
}

/// What a table is full of that a higher limit would only hold more of.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct VerdictAnswer {
    pub(crate) kind: Option<String>,
}

/// Tables or owners that have no row.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(crate) struct RestAnswer {
    #[serde(default)]
    pub(crate) number: u64,
    pub(crate) entries: Option<u64>,
    pub(crate) live: Option<u64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct TotalsAnswer {
    pub(crate) evictions: Option<u64>,
    #[serde(default)]
    pub(crate) drops: BTreeMap<String, u64>,
    pub(crate) inserts_per_second: Option<f64>,
    pub(crate) drops_per_second: Option<f64>,
}

/// One owner of one node.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct OwnerAnswer {
    pub(crate) kind: String,
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) namespace: String,
    pub(crate) workload: Option<WorkloadAnswer>,
    pub(crate) live: Option<u64>,
    pub(crate) found: Option<u64>,
    pub(crate) drops: Option<u64>,
    pub(crate) victims: Option<u64>,
    #[serde(default)]
    pub(crate) inserts_per_second: RatesAnswer,
    #[serde(default)]
    pub(crate) drops_per_second: RatesAnswer,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(crate) struct RatesAnswer {
    #[serde(rename = "10s")]
    pub(crate) ten_seconds: Option<f64>,
}

/// What made a pod. In `top` it is in the namespace of its pod, in `report` it has its own.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct WorkloadAnswer {
    #[serde(default)]
    pub(crate) namespace: String,
    pub(crate) kind: String,
    pub(crate) name: String,
}

/// `limit`
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct LimitAnswer {
    #[serde(deserialize_with = "null_or")]
    pub(crate) limit: Option<u64>,
    pub(crate) buckets: Option<u64>,
    pub(crate) fullest: Option<FullestAnswer>,
    pub(crate) controller: Option<ControllerAnswer>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct FullestAnswer {
    pub(crate) name: String,
    pub(crate) entries: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ControllerAnswer {
    pub(crate) mode: Option<String>,
    pub(crate) ceiling: Option<u64>,
    pub(crate) raised_from: Option<u64>,
    pub(crate) bytes_when_full: Option<u64>,
}

/// `doctor`
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct DoctorAnswer {
    pub(crate) findings: Vec<FindingAnswer>,
    #[serde(default)]
    pub(crate) could_not_look: Vec<UnseenAnswer>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct FindingAnswer {
    pub(crate) id: String,
    pub(crate) severity: String,
    pub(crate) title: String,
    #[serde(default)]
    pub(crate) evidence: String,
    #[serde(default)]
    pub(crate) consequence: String,
    #[serde(default)]
    pub(crate) fix: Vec<String>,
    #[serde(default)]
    pub(crate) advice: String,
    #[serde(default)]
    pub(crate) cost: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct UnseenAnswer {
    pub(crate) what: String,
    #[serde(default)]
    pub(crate) because: String,
    #[serde(default)]
    pub(crate) help: String,
}

/// `report`: the list.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ListAnswer {
    pub(crate) since: String,
    pub(crate) until: String,
    pub(crate) incidents: Vec<IncidentAnswer>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct IncidentAnswer {
    pub(crate) number: u64,
    #[serde(default)]
    pub(crate) table_name: String,
    pub(crate) began: String,
    pub(crate) ended: String,
    pub(crate) pressure: Option<String>,
    pub(crate) entries: u64,
    pub(crate) limit: u64,
    pub(crate) drops: u64,
    pub(crate) evictions: u64,
    pub(crate) first_drop: Option<String>,
    #[serde(default)]
    pub(crate) open: bool,
}

/// `report --incident N`
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ReportAnswer {
    pub(crate) table: NameAnswer,
    /// From and until.
    pub(crate) time: [String; 2],
    pub(crate) summary: Vec<String>,
    pub(crate) cause: CauseAnswer,
    #[serde(default)]
    pub(crate) filled_by: Vec<FillerAnswer>,
    #[serde(default)]
    pub(crate) suffered: Vec<SuffererAnswer>,
    #[serde(default)]
    pub(crate) advice: Vec<AdviceAnswer>,
    pub(crate) limit_that_holds_bytes: Option<BytesAnswer>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct NameAnswer {
    pub(crate) name: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct CauseAnswer {
    pub(crate) kind: String,
    pub(crate) why: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct FillerAnswer {
    pub(crate) owner: String,
    pub(crate) kind: String,
    pub(crate) workload: Option<WorkloadAnswer>,
    #[serde(default)]
    pub(crate) share: f64,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct SuffererAnswer {
    pub(crate) owner: String,
    pub(crate) kind: String,
    pub(crate) workload: Option<WorkloadAnswer>,
    #[serde(default)]
    pub(crate) drops: BTreeMap<String, u64>,
    #[serde(default)]
    pub(crate) evicted: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct AdviceAnswer {
    pub(crate) rule: String,
    pub(crate) text: String,
    /// A sysctl and its value.
    pub(crate) set: Option<(String, u64)>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct BytesAnswer {
    pub(crate) least: u64,
    pub(crate) most: u64,
}

/// How bad a finding is, as far as the word is known here; the worst is the greatest.
pub(crate) fn severity(word: &str) -> u8 {
    match word {
        "critical" => 3,
        "problem" => 2,
        "risk" => 1,
        _ => 0,
    }
}

/// How close a table is to losing packets; the worst is the greatest.
pub(crate) fn pressure(word: Option<&str>) -> u8 {
    match word {
        Some("full") => 3,
        Some("high") => 2,
        Some("rising") => 1,
        _ => 0,
    }
}

/// Who it is, told the same way on every node: the workload where it is known, else the owner by its own name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct Who {
    /// `Deployment` and the like; else `pod`, `cgroup`, `host` or `unknown`.
    pub(crate) kind: String,
    /// `namespace/name`, a unit or a container, `host` or `unknown`.
    pub(crate) name: String,
}

impl Who {
    pub(crate) fn new(
        kind: &str,
        name: &str,
        namespace: &str,
        workload: Option<&WorkloadAnswer>,
    ) -> Self {
        match workload {
            Some(workload) => Self {
                kind: workload.kind.clone(),
                name: if namespace.is_empty() {
                    format!("{}/{}", workload.namespace, workload.name)
                } else {
                    format!("{namespace}/{}", workload.name)
                },
            },
            None => Self {
                kind: kind.to_owned(),
                name: name.to_owned(),
            },
        }
    }

    /// Whether it is a pod whose workload nobody said.
    pub(crate) fn is_bare_pod(&self) -> bool {
        self.kind == "pod"
    }

    /// `Deployment shop/cart`, `pod shop/cart-1`, or the bare name of anything else.
    pub(crate) fn in_words(&self) -> String {
        match self.kind.as_str() {
            "cgroup" | "host" | "unknown" => self.name.clone(),
            kind => format!("{kind} {}", self.name),
        }
    }
}

impl FillerAnswer {
    pub(crate) fn who(&self) -> Who {
        Who::new(&self.kind, &self.owner, "", self.workload.as_ref())
    }
}

impl SuffererAnswer {
    pub(crate) fn who(&self) -> Who {
        Who::new(&self.kind, &self.owner, "", self.workload.as_ref())
    }
}
