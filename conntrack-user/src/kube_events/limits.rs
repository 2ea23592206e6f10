//! What is to be said of the node: what the limit controller did, would do, or found. Pure.

use std::time::Duration;

use ctpressure_model::{
    kubernetes::{About, Notice, Severity},
    words::grouped,
};

use super::bucket::Bucket;
use crate::limit::{
    Change, Following, Report,
    change::{By, ChangeOutcome, Purpose},
};

/// Events on the node: so many at once, then one each ...
const AT_ONCE: u32 = 10;
/// ... so often. The controller does less by itself; whoever fights it may not.
const EVERY: Duration = Duration::from_secs(30);

/// Follows what the controller tells.
#[derive(Debug)]
pub(super) struct Limits {
    pub(super) node: String,
    following: Following,
    given_up: bool,
    bucket: Bucket,
    /// Changes for which there was no token.
    unsaid: u64,
}

impl Limits {
    pub(super) fn new(node: &str, following: Following) -> Self {
        Self {
            node: node.to_owned(),
            following,
            given_up: false,
            bucket: Bucket::new(AT_ONCE, EVERY),
            unsaid: 0,
        }
    }

    /// What is to be said after this report.
    pub(super) fn next(&mut self, at: Duration, report: &Report) -> Vec<Notice> {
        let changes = self.following.next(report);
        let mut notices = self.say(at, &changes);
        let fight = report.fight.as_ref().filter(|fight| fight.given_up);
        if let Some(fight) = fight.filter(|_| !self.given_up) {
            let who = fight.who.as_deref().unwrap_or("nobody who is known");
            let note = format!(
                "Node {}: the conntrack limit was lowered {} times below what the traffic needs, by {who}; it is not put \
                 back any more until somebody sets it, or a day has passed.",
                self.node, fight.rounds
            );
            notices.push(Notice::new(
                About::Node,
                Severity::Warning,
                "ConntrackLimitGivenUp",
                "GiveUp",
                &note,
            ));
        }
        self.given_up = fight.is_some();
        notices
    }

    /// What is to be said of these changes.
    pub(super) fn say(&mut self, at: Duration, changes: &[&Change]) -> Vec<Notice> {
        let mut notices = Vec::new();
        for change in changes {
            if self.bucket.take(at) {
                notices.push(self.of(change));
                self.unsaid = 0;
            } else {
                self.unsaid += 1;
            }
        }
        notices
    }

    fn of(&self, change: &Change) -> Notice {
        let (reason, action, severity) = what(change);
        let who = change.who.as_deref();
        let who = who.map_or_else(String::new, |who| format!(" ({who})"));
        let unsaid = match self.unsaid {
            0 => String::new(),
            1 => " One change before has no Event.".to_owned(),
            more => format!(" {more} changes before have no Event."),
        };
        let note = format!(
            "Node {}: {}, by {}{who}: {}.{unsaid}",
            self.node,
            numbers(change),
            match change.by {
                By::Controller => "ctpressure",
                By::Hand => "hand",
                By::SomebodyElse => "somebody else",
            },
            change.reason.trim_end_matches('.'),
        );
        Notice::new(About::Node, severity, reason, action, &note)
    }
}

/// Why there is an Event, what was done, and how bad that is.
fn what(change: &Change) -> (&'static str, &'static str, Severity) {
    let (done, action) = match change.purpose {
        Purpose::Raise => ("ConntrackLimitRaised", "Raise"),
        Purpose::Reapply => ("ConntrackLimitReapplied", "Reapply"),
        Purpose::GiveBack => ("ConntrackLimitGivenBack", "GiveBack"),
        Purpose::Buckets => ("ConntrackBucketsRaised", "GrowBuckets"),
        Purpose::Shorten => ("ConntrackTimeoutShortened", "ShortenTimeout"),
        Purpose::Restore => ("ConntrackTimeoutRestored", "RestoreTimeout"),
        Purpose::Set => ("ConntrackLimitSet", "Set"),
        Purpose::Found => ("ConntrackLimitChanged", "Find"),
    };
    let lowered = change.after.limit < change.before.limit;
    let (reason, warns) = match change.outcome {
        ChangeOutcome::Applied => match change.purpose {
            Purpose::Reapply => (done, true),
            Purpose::Found => (done, lowered),
            _ => (done, false),
        },
        ChangeOutcome::Failed => ("ConntrackLimitFailed", true),
        ChangeOutcome::Refused => ("ConntrackLimitRefused", false),
        ChangeOutcome::DryRun => ("ConntrackLimitDryRun", false),
    };
    let severity = if warns {
        Severity::Warning
    } else {
        Severity::Normal
    };
    (reason, action, severity)
}

/// What was changed, and what came of it.
fn numbers(change: &Change) -> String {
    let Change {
        before,
        after,
        outcome,
        ..
    } = change;
    let mut parts = Vec::new();
    for (name, from, to) in [
        ("limit", before.limit, after.limit),
        ("buckets", before.buckets, after.buckets),
    ] {
        if from != to {
            parts.push(format!("{name} {} -> {}", grouped(from), grouped(to)));
        }
    }
    parts.extend(change.timeout());
    if parts.is_empty() {
        parts.push(format!("limit {}", grouped(before.limit)));
    }
    let numbers = parts.join(", ");
    match outcome {
        ChangeOutcome::Applied => numbers,
        ChangeOutcome::DryRun => format!("{numbers} (dry run: not done)"),
        ChangeOutcome::Refused => format!("{numbers} (refused)"),
        ChangeOutcome::Failed => format!("{numbers} (failed)"),
    }
}
