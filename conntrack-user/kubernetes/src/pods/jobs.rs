//! Which `CronJob` a Job is of: only the Job itself tells, so each is asked for once. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A Job that is to be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) uid: Arc<str>,
    pub(super) namespace: String,
    pub(super) name: String,
}

/// The Jobs of the pods that are known; as many as pods at most.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    /// Their `CronJob`s; `None`: they have none.
    known: BTreeMap<Arc<str>, Option<String>>,
    /// Those that were asked for in vain: not again before [`Jobs::ask_again`].
    failed: BTreeSet<Arc<str>>,
}

impl Jobs {
    /// The `CronJob` of a Job, as far as it is known.
    pub(super) fn cron_job(&self, job: &str) -> Option<&str> {
        self.known.get(job)?.as_deref()
    }

    /// Whether the Job is to be asked for.
    pub(super) fn is_wanted(&self, job: &str) -> bool {
        !self.known.contains_key(job) && !self.failed.contains(job)
    }

    /// The Job has been seen, or is not there any more.
    pub(super) fn learn(&mut self, job: Arc<str>, cron_job: Option<String>) {
        self.failed.remove(&job);
        self.known.insert(job, cron_job);
    }

    /// The Job could not be seen.
    pub(super) fn fail(&mut self, job: Arc<str>) {
        self.failed.insert(job);
    }

    /// Another try for all that failed.
    pub(super) fn ask_again(&mut self) {
        self.failed.clear();
    }

    /// Forgets the Jobs that no pod is of any more.
    pub(super) fn keep<'a>(&mut self, jobs: impl Iterator<Item = &'a Arc<str>>) {
        if self.known.is_empty() && self.failed.is_empty() {
            return;
        }
        let there: BTreeSet<_> = jobs.collect();
        self.known.retain(|job, _| there.contains(job));
        self.failed.retain(|job| there.contains(job));
    }
}
