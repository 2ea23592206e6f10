//! The record of one change of the limit: what logs, metrics, the journal, the state on disk and
//! `ctpressure limit` show.

use std::{
    fmt,
    time::{Duration, UNIX_EPOCH},
};

use serde::{Deserialize, Deserializer, Serialize};

use crate::words::time::JsonTime;

/// Changes that are kept: in a report, and on disk.
const KEPT: usize = 64;
/// Bytes of a reason or of a name that are kept.
const TEXT_BYTES: usize = 400;

/// Who changed the limit, as far as the controller can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// The controller, by itself.
    Controller,
    /// A person, by `ctpressure limit set`.
    Hand,
    /// Somebody else on the node: kube-proxy, an init container, sysctl(8).
    SomebodyElse,
}

/// Why it was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// More room, since it was needed.
    Raise,
    /// Back to what it was, since somebody lowered it below what the traffic needs.
    Reapply,
    /// Back to what was there before the controller raised it.
    GiveBack,
    /// More buckets for the same limit.
    Buckets,
    /// A shorter timeout for closed connections, since nothing else helps.
    Shorten,
    /// The timeout as it was before.
    Restore,
    /// A person asked for this value.
    Set,
    /// Somebody else's change, as it was found.
    Found,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ChangeOutcome {
    /// It was written, and read back.
    Applied,
    /// It would have been written.
    DryRun,
    /// A guard rail said no: the reason says which.
    Refused,
    /// The kernel did not take it: the reason says why.
    Failed,
}

/// The numbers that the controller writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
pub struct Size {
    /// Entries that each table may hold (`nf_conntrack_max`).
    pub limit: u64,
    /// Buckets of the hash that all tables share (`nf_conntrack_buckets`).
    pub buckets: u64,
    /// Seconds for which the host's table keeps a TCP connection that is closed
    /// (`nf_conntrack_tcp_timeout_time_wait`); `None`: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_wait: Option<u64>,
}

/// One change, made or found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
pub struct Change {
    /// Numbered without gaps since the state on disk was made; a lost state begins anew with 1.
    pub sequence: u64,
    /// When it was made, or found.
    #[serde(alias = "unix_millis", deserialize_with = "time_or_millis")]
    pub time: JsonTime,
    /// Which of three made it.
    pub by: By,
    /// Who exactly, as far as that is known: a user, or the process that seems to have done it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    /// What it was made for.
    pub purpose: Purpose,
    /// Limit, buckets and timeout before it.
    pub before: Size,
    /// What is there now; what was wanted, if the outcome is another than [`ChangeOutcome::Applied`].
    pub after: Size,
    /// What came of it.
    pub outcome: ChangeOutcome,
    /// What led to it, in words.
    pub reason: String,
}

/// A time as it is written now, or in milliseconds of Unix time as a state on disk from before has it: what an earlier
/// version raised must still be known as our own.
pub fn time_or_millis<'de, D: Deserializer<'de>>(from: D) -> Result<JsonTime, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Time(JsonTime),
        Millis(u64),
    }
    Ok(match Either::deserialize(from)? {
        Either::Time(time) => time,
        Either::Millis(millis) => JsonTime(UNIX_EPOCH + Duration::from_millis(millis)),
    })
}

impl By {
    /// All of them, in the order of the metrics.
    pub const ALL: [Self; 3] = [Self::Controller, Self::Hand, Self::SomebodyElse];

    /// The name in metrics and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Controller => "controller",
            Self::Hand => "hand",
            Self::SomebodyElse => "somebody_else",
        }
    }
}

impl Change {
    /// What it makes of the timeout, where it is about that.
    pub fn timeout(&self) -> Option<String> {
        let seconds = |value: Option<u64>| {
            value.map_or_else(|| "?".to_owned(), |seconds| format!("{seconds} s"))
        };
        (self.before.time_wait != self.after.time_wait).then(|| {
            format!(
                "nf_conntrack_tcp_timeout_time_wait {} -> {}",
                seconds(self.before.time_wait),
                seconds(self.after.time_wait)
            )
        })
    }
}

impl Purpose {
    /// The name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raise => "raise",
            Self::Reapply => "reapply",
            Self::GiveBack => "give_back",
            Self::Buckets => "buckets",
            Self::Shorten => "shorten",
            Self::Restore => "restore",
            Self::Set => "set",
            Self::Found => "found",
        }
    }
}

impl ChangeOutcome {
    /// All of them, in the order of the metrics.
    pub const ALL: [Self; 4] = [Self::Applied, Self::DryRun, Self::Refused, Self::Failed];

    /// The name in metrics and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::DryRun => "dry_run",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for By {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::Controller => "controller",
            Self::Hand => "hand",
            Self::SomebodyElse => "somebody else",
        })
    }
}

impl fmt::Display for ChangeOutcome {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::DryRun => "dry run",
            other => other.name(),
        })
    }
}

/// Cuts a text so that the records stay small, whoever chose it.
fn shortened(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TEXT_BYTES));
    text
}

/// The last `KEPT` changes, and how many there were of each kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
pub struct History {
    /// The oldest first.
    changes: Vec<Change>,
    /// The number of the last one.
    last: u64,
}

impl History {
    /// Adds one; gives it its number.
    pub fn add(&mut self, mut change: Change) -> &Change {
        self.last += 1;
        change.sequence = self.last;
        change.reason = shortened(change.reason);
        change.who = change.who.map(shortened);
        if self.changes.len() >= KEPT {
            let surplus = self.changes.len() + 1 - KEPT;
            self.changes.drain(..surplus);
        }
        self.changes.push(change);
        &self.changes[self.changes.len() - 1]
    }

    /// The kept ones, the oldest first.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn change(reason: &str) -> Change {
        Change {
            sequence: 0,
            time: JsonTime::default(),
            by: By::Controller,
            who: None,
            purpose: Purpose::Raise,
            before: Size {
                limit: 1000,
                buckets: 512,
                time_wait: Some(120),
            },
            after: Size {
                limit: 2000,
                buckets: 512,
                time_wait: Some(120),
            },
            outcome: ChangeOutcome::Applied,
            reason: reason.to_owned(),
        }
    }

    #[test]
    fn the_history_is_bounded_and_numbered_on() {
        let mut history = History::default();
        for _ in 0..KEPT + 10 {
            history.add(change(&"ä".repeat(TEXT_BYTES)));
        }
        let changes = history.changes();
        assert_eq!(changes.len(), KEPT);
        assert_eq!(changes[0].sequence, 11);
        assert!(
            changes
                .windows(2)
                .all(|pair| pair[0].sequence + 1 == pair[1].sequence)
        );
        assert!(changes[0].reason.len() <= TEXT_BYTES);
    }

    #[test]
    fn names_are_those_of_the_json() {
        for by in By::ALL {
            assert_eq!(serde_json::to_value(by).unwrap(), by.name());
        }
        for outcome in ChangeOutcome::ALL {
            assert_eq!(serde_json::to_value(outcome).unwrap(), outcome.name());
        }
        let json = serde_json::to_string(&change("full")).unwrap();
        assert_eq!(
            serde_json::from_str::<Change>(&json).unwrap(),
            change("full")
        );
        let time = r#""time":"1970-01-01T00:00:00.000000000Z""#;
        assert!(json.contains(time), "{json}");
        assert_eq!(
            serde_json::from_str::<Change>(&json.replace(time, r#""unix_millis":0"#)).unwrap(),
            change("full")
        );
    }
}
