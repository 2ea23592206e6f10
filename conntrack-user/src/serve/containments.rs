//! What `ctpressure contain` has done, as it tells the agent: counted, and noted in the journal and as an Event. The agent itself contains nobody.

use std::sync::atomic::{AtomicU64, Ordering};

use ctpressure_model::{
    containment::{ContainAction, ContainNote},
    words::clean_within,
};
use serde::{Deserialize, Serialize};

use super::family::{Family, f};
use crate::{kube_events::ContainEvents, recorder::JournalQueue};

/// Bytes of a note that are kept.
const NOTE_BYTES: usize = 800;

/// Counts what the command tells, and hands it on to the journal and to Kubernetes.
#[derive(Debug, Default)]
pub struct Containments {
    counts: [AtomicU64; ContainAction::ALL.len()],
    journal: Option<JournalQueue>,
    events: Option<ContainEvents>,
}

/// How often each was done since the agent began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ContainCounts {
    /// What an owner opens was limited.
    pub limit: u64,
    /// An owner's entries were deleted.
    pub delete: u64,
    /// A limit was ended by hand; not counted where its time was over.
    pub lift: u64,
}

/// The answer to a note.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ContainNoted {
    /// The agent writes a journal, and has handed it on.
    pub journal: bool,
    /// The same of Kubernetes Events.
    pub events: bool,
}

impl Containments {
    /// Notes go there, where there is such a thing.
    pub(crate) fn new(journal: Option<JournalQueue>, events: Option<ContainEvents>) -> Self {
        Self {
            journal,
            events,
            ..Self::default()
        }
    }

    /// Takes one note.
    pub(crate) fn note(&self, note: &ContainNote) -> ContainNoted {
        let note = ContainNote {
            action: note.action,
            text: clean_within(&note.text, NOTE_BYTES),
        };
        self.counts[note.action as usize].fetch_add(1, Ordering::Relaxed);
        tracing::info!(action = note.action.name(), "{}", note.text);
        if let Some(journal) = &self.journal {
            journal.contain(note.text.clone());
        }
        if let Some(events) = &self.events {
            events.say(&note);
        }
        ContainNoted {
            journal: self.journal.is_some(),
            events: self.events.is_some(),
        }
    }

    /// How often each was done.
    pub(super) fn counts(&self) -> ContainCounts {
        let [limit, delete, lift] =
            ContainAction::ALL.map(|action| self.counts[action as usize].load(Ordering::Relaxed));
        ContainCounts {
            limit,
            delete,
            lift,
        }
    }
}

impl ContainCounts {
    /// For `/metrics`.
    pub(super) fn family(self) -> Family {
        let counts = [self.limit, self.delete, self.lift];
        Family::counter(
            "ctpressure_contain_actions_total",
            "What `ctpressure contain OWNER` did to owners by hand, by what it was (limit, delete, lift), as far as this agent was told.",
        )
        .each(ContainAction::ALL.into_iter().zip(counts), |family, (action, number)| {
            family.with(&[("action", action.name())], f(number))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_note_is_counted() {
        let containments = Containments::default();
        let note = |action| ContainNote {
            action,
            text: "x".repeat(10_000),
        };
        for action in [
            ContainAction::Limit,
            ContainAction::Delete,
            ContainAction::Limit,
        ] {
            let noted = containments.note(&note(action));
            assert_eq!((noted.journal, noted.events), (false, false));
        }
        let expected = ContainCounts {
            limit: 2,
            delete: 1,
            lift: 0,
        };
        assert_eq!(containments.counts(), expected);
    }
}
