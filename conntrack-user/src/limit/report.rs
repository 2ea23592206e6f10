//! What the controller says of itself.

use ctpressure_model::cost::EntryCost;
use serde::{Deserialize, Serialize};

use super::{
    change::{By, Change, ChangeOutcome},
    knobs::Knob,
    ledger::Shortened,
    settings::Mode,
};

/// What it can do now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case", tag = "state", content = "why")]
pub enum Standing {
    /// It has not seen a sample yet.
    #[default]
    Starting,
    /// It acts, or says what it would do.
    Acting,
    /// Another controller acts on this node: this one watches, and takes over when that one ends.
    Standby(String),
    /// It can't act: what is in the way, and what to do about it.
    Blocked(String),
}

/// A struggle with somebody who lowers the limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Fight {
    /// How often the limit was lowered below what the traffic needs, and put back.
    pub rounds: u32,
    /// The controller has given up, for a day or until a person sets the limit.
    pub given_up: bool,
    /// Who seems to do it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
}

/// A timeout that is shortened for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ShortenedTimeout {
    /// The name of the sysctl.
    pub name: String,
    /// What it was, in seconds.
    pub from: u64,
    /// What it is, in seconds.
    pub to: u64,
}

impl From<Shortened> for ShortenedTimeout {
    fn from(shortened: Shortened) -> Self {
        Self {
            name: Knob::TimeWait.name().to_owned(),
            from: shortened.from,
            to: shortened.to,
        }
    }
}

/// How often something was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ChangeTally {
    /// Who made these changes.
    pub by: By,
    /// What came of these changes.
    pub outcome: ChangeOutcome,
    /// How often, since the agent began.
    pub number: u64,
}

/// What the controller says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Report {
    /// What it may do.
    pub mode: Mode,
    /// What it can do now.
    #[serde(flatten)]
    pub standing: Standing,
    /// The highest limit that it would set now; `None`: not known.
    pub ceiling: Option<u64>,
    /// What makes the ceiling, in words.
    pub ceiling_reason: Option<String>,
    /// What one entry costs.
    pub entry_bytes: Option<EntryCost>,
    /// The node's memory, in bytes.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// Kernel memory, in bytes, of all tables and the buckets when those that may fill up are full, if each entry has an
    /// extension; `None`: there is no limit, or it isn't known.
    pub bytes_when_full: Option<u64>,
    /// The same if no entry has an extension but those that must.
    #[serde(default)]
    pub bytes_when_full_least: Option<u64>,
    /// As `bytes_when_full`, at the ceiling, with the buckets that it asks for.
    pub bytes_at_ceiling: Option<u64>,
    /// As `bytes_when_full_least`, at the ceiling.
    #[serde(default)]
    pub bytes_at_ceiling_least: Option<u64>,
    /// Names of tables for which the limit is raised besides the host's (`--raise-netns`).
    #[serde(default)]
    pub raise_netns: Vec<String>,
    /// Tables that the ceiling counts as full: those that have held an entry while they were watched.
    #[serde(default)]
    pub tables_in_use: u64,
    /// Tables of all network namespaces that are seen.
    #[serde(default)]
    pub tables_in_all: u64,
    /// As `bytes_when_full`, if the table of each network namespace was filled, also those that never held an entry.
    #[serde(default)]
    pub bytes_if_all_full: Option<u64>,
    /// What was there before the controller raised it; `None`: nothing is to be given back.
    pub raised_from: Option<u64>,
    /// A timeout that the controller shortened and has not restored; `None`: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shortened: Option<ShortenedTimeout>,
    /// Somebody keeps lowering the limit.
    pub fight: Option<Fight>,
    /// What it does now, or waits for, in words.
    pub now: String,
    /// What else would help, or would not.
    pub advice: Vec<String>,
    /// The last changes, the oldest first; as many as [`change::History`](super::change::History) keeps. Whoever follows them
    /// remembers the [`Change::sequence`] seen last.
    pub changes: Vec<Change>,
    /// Changes since the agent began, by who and with which result; only those that happened.
    pub tallies: Vec<ChangeTally>,
}

impl Report {
    /// Changes after the one with this number, the oldest first.
    pub fn since(&self, sequence: u64) -> impl Iterator<Item = &Change> {
        self.changes
            .iter()
            .filter(move |change| change.sequence > sequence)
    }
}
