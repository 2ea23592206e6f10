//! What a finding is.

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// Nothing is lost now; under load, after a restart or in time something may be.
    Risk,
    /// Packets or connections are lost from time to time, or will be at the next busy hour.
    Problem,
    /// Packets are being lost now, or are about to be.
    Critical,
}

impl Severity {
    /// As bad as the part of the whole makes it, from these shares on, per cent.
    pub(crate) fn of_share(part: u64, whole: u64, risk: u64, problem: u64) -> Option<Self> {
        let reaches = |share: u64| part * 100 >= whole * share;
        let worst = reaches(problem).then_some(Self::Problem);
        worst.or_else(|| reaches(risk).then_some(Self::Risk))
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Risk => "risk",
            Self::Problem => "problem",
            Self::Critical => "critical",
        })
    }
}

/// Something that is wrong, or may go wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Finding {
    /// Stays the same from version to version.
    pub id: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in one sentence.
    pub title: String,
    /// What was seen, with its numbers.
    pub evidence: String,
    /// What follows from it.
    pub consequence: String,
    /// Command lines that put it right until the next boot or restart; each works as it stands.
    pub fix: Vec<String>,
    /// What no command line can say: where it has to be set to last, or what else to do.
    pub advice: String,
    /// What the fix costs: memory, time, side effects.
    pub cost: String,
}

/// Something that could not be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Unseen {
    pub what: &'static str,
    pub because: String,
    /// What to do about it.
    pub help: Cow<'static, str>,
}

impl Unseen {
    /// Whether there is a table at all.
    pub(crate) const LOADED: &str = "whether conntrack is loaded";
    /// Which network namespace is the node's.
    pub(crate) const NODE: &str = "the node's network namespace";
    /// What all tables share.
    pub(crate) const LIMIT: &str = "the limit and the buckets";
    /// Any table.
    pub(crate) const TABLES: &str = "the tables";
    /// Some of them.
    pub(crate) const SOME_TABLES: &str = "some tables";
    /// Without these nothing can be said of whether the node is well; all else adds detail.
    pub(crate) const VITAL: [&str; 5] = [
        Self::LOADED,
        Self::NODE,
        Self::LIMIT,
        Self::TABLES,
        Self::SOME_TABLES,
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worst_is_greatest() {
        assert!(Severity::Critical > Severity::Problem && Severity::Problem > Severity::Risk);
        assert_eq!(format!("{:>8}", Severity::Risk), "    risk");
    }
}
