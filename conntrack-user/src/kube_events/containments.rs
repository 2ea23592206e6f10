//! What is to be said of the node when somebody contains an owner.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use ctpressure_model::{
    containment::{ContainAction, ContainNote},
    kubernetes::{About, Notice, Severity},
};

use super::{bucket::Bucket, queue::Queue};

/// Events at once, then one each ...
const AT_ONCE: u32 = 10;
/// ... so often: a person does less, a script may not.
const EVERY: Duration = Duration::from_secs(30);

/// Says what was done.
#[derive(Debug)]
pub(crate) struct ContainEvents {
    node: String,
    queue: Queue,
    begin: Instant,
    bucket: Mutex<Bucket>,
}

impl ContainEvents {
    pub(super) fn new(node: &str, queue: Queue) -> Self {
        Self {
            node: node.to_owned(),
            queue,
            begin: Instant::now(),
            bucket: Mutex::new(Bucket::new(AT_ONCE, EVERY)),
        }
    }

    /// One Event on the node, if there may be one.
    pub(crate) fn say(&self, done: &ContainNote) {
        let at = self.begin.elapsed();
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        if bucket.take(at) {
            self.queue.push(notice(&self.node, done));
        }
    }
}

fn notice(node: &str, done: &ContainNote) -> Notice {
    let (reason, action) = match done.action {
        ContainAction::Limit => ("ConntrackOwnerContained", "Contain"),
        ContainAction::Delete => ("ConntrackEntriesDeleted", "Delete"),
        ContainAction::Lift => ("ConntrackContainmentLifted", "Lift"),
    };
    let text = format!("Node {node}: {}.", done.text);
    Notice::new(About::Node, Severity::Normal, reason, action, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_action_has_its_reason() {
        let of = |action| {
            let text = "shop/web: 10 new entries a second".to_owned();
            notice("n1", &ContainNote { action, text })
        };
        let reasons = ContainAction::ALL.map(|action| of(action).reason);
        let expected = [
            "ConntrackOwnerContained",
            "ConntrackEntriesDeleted",
            "ConntrackContainmentLifted",
        ];
        assert_eq!(reasons, expected);
        let note = of(ContainAction::Limit).note;
        assert_eq!(note, "Node n1: shop/web: 10 new entries a second.");
    }
}
