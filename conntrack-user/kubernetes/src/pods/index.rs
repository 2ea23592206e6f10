//! The pods that are known, kept up by what the watch says. Pure.

use std::{mem, sync::Arc};

use ctpressure_model::{
    kubernetes::{LabelKey, Pod, Pods},
    owner::Workload,
};
use k8s_openapi::api::core::v1::Pod as ApiPod;
use kube::{core::PartialObjectMeta, runtime::watcher::Event};

use super::{
    jobs::{Jobs, Wanted},
    metadata,
};

/// UIDs that are kept: far more than a node has pods, and less than two megabytes.
const MOST: usize = 4096;

/// The pods of this node.
#[derive(Debug)]
pub(super) struct Index {
    labels: Arc<[LabelKey]>,
    most: usize,
    pods: Arc<Pods>,
    /// Those of the list that is coming in.
    listed: Option<Pods>,
    full: bool,
    jobs: Jobs,
}

/// What became of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IndexChange {
    /// The pods are not the same as before.
    pub(super) changed: bool,
    /// A list has come in whole.
    pub(super) listed: bool,
}

impl Index {
    pub(super) fn new(labels: Arc<[LabelKey]>) -> Self {
        Self {
            labels,
            most: MOST,
            pods: Arc::default(),
            listed: None,
            full: false,
            jobs: Jobs::default(),
        }
    }

    /// The pods, of a list only when it is whole.
    pub(super) const fn pods(&self) -> &Arc<Pods> {
        &self.pods
    }

    /// There are more pods than are kept.
    pub(super) const fn is_full(&self) -> bool {
        self.full
    }

    /// Takes over an event of the watch.
    pub(super) fn take(&mut self, event: Event<PartialObjectMeta<ApiPod>>) -> IndexChange {
        let mut listed = false;
        let changed = match event {
            Event::Init => {
                self.jobs.ask_again();
                self.listed = Some(Pods::new());
                self.full = false;
                false
            }
            Event::InitApply(pod) => {
                let mut pods = self.listed.take().unwrap_or_default();
                self.put(&mut pods, &pod);
                self.listed = Some(pods);
                false
            }
            Event::InitDone => {
                listed = true;
                let pods = self.listed.take().unwrap_or_default();
                let changed = pods != *self.pods;
                if changed {
                    self.pods = Arc::new(pods);
                    self.forget_jobs();
                }
                changed
            }
            Event::Apply(pod) => {
                let mut pods = mem::take(&mut self.pods);
                let changed = self.differs(&pods, &pod) && {
                    self.put(Arc::make_mut(&mut pods), &pod);
                    true
                };
                self.pods = pods;
                changed
            }
            Event::Delete(pod) => {
                let gone: Vec<_> = metadata::uids(&pod.metadata)
                    .filter(|uid| self.pods.contains_key(uid))
                    .collect();
                for uid in &gone {
                    Arc::make_mut(&mut self.pods).remove(uid);
                }
                self.forget_jobs();
                !gone.is_empty()
            }
        };
        IndexChange { changed, listed }
    }

    /// What is kept of a pod.
    fn read(&self, pod: &PartialObjectMeta<ApiPod>) -> Option<Pod> {
        let mut pod = metadata::pod(&pod.metadata, &self.labels)?;
        if let Some(cron_job) = pod.job.as_deref().and_then(|job| self.jobs.cron_job(job)) {
            pod.workload = Some(of_cron_job(cron_job));
        }
        Some(pod)
    }

    /// A Job that is to be looked at.
    pub(super) fn wanted_job(&self) -> Option<Wanted> {
        self.pods.values().find_map(|pod| {
            let uid = pod.job.as_ref().filter(|job| self.jobs.is_wanted(job))?;
            Some(Wanted {
                uid: Arc::clone(uid),
                namespace: pod.namespace.clone(),
                name: pod.workload.as_ref()?.name.clone(),
            })
        })
    }

    /// The Job has this `CronJob`, or none; whether that changes anything.
    pub(super) fn learn_job(&mut self, job: &Arc<str>, cron_job: Option<String>) -> bool {
        self.jobs.learn(Arc::clone(job), cron_job.clone());
        let Some(cron_job) = cron_job else {
            return false;
        };
        let mut changed = false;
        for pod in Arc::make_mut(&mut self.pods).values_mut() {
            if pod.job.as_ref() == Some(job) {
                Arc::make_mut(pod).workload = Some(of_cron_job(&cron_job));
                changed = true;
            }
        }
        changed
    }

    /// The Job could not be looked at; not again before the next list.
    pub(super) fn fail_job(&mut self, job: &Arc<str>) {
        self.jobs.fail(Arc::clone(job));
    }

    fn forget_jobs(&mut self) {
        self.jobs
            .keep(self.pods.values().filter_map(|pod| pod.job.as_ref()));
    }

    /// Most events are changes of a status, which leave no trace here.
    fn differs(&self, pods: &Pods, pod: &PartialObjectMeta<ApiPod>) -> bool {
        let new = self.read(pod);
        metadata::uids(&pod.metadata).any(|uid| pods.get(&uid).map(Arc::as_ref) != new.as_ref())
    }

    fn put(&mut self, pods: &mut Pods, pod: &PartialObjectMeta<ApiPod>) {
        let Some(kept) = self.read(pod) else {
            return;
        };
        let kept = Arc::new(kept);
        for uid in metadata::uids(&pod.metadata) {
            if pods.len() < self.most || pods.contains_key(&uid) {
                pods.insert(uid, Arc::clone(&kept));
            } else {
                self.full = true;
            }
        }
    }
}

fn of_cron_job(name: &str) -> Workload {
    Workload {
        kind: "CronJob".to_owned(),
        name: name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, name: &str, tier: &str) -> PartialObjectMeta<ApiPod> {
        serde_json::from_value(serde_json::json!({
            "metadata": {"uid": uid, "name": name, "namespace": "shop", "labels": {"tier": tier}},
        }))
        .unwrap()
    }

    fn index() -> Index {
        Index::new(["tier".parse().unwrap()].into())
    }

    fn names(index: &Index) -> Vec<&str> {
        index.pods().values().map(|pod| pod.name.as_str()).collect()
    }

    fn list(index: &mut Index, pods: &[PartialObjectMeta<ApiPod>]) -> IndexChange {
        index.take(Event::Init);
        for pod in pods {
            index.take(Event::InitApply(pod.clone()));
        }
        index.take(Event::InitDone)
    }

    #[test]
    fn a_list_counts_when_it_is_whole() {
        let mut index = index();
        let both = [pod("1", "a", "x"), pod("2", "b", "x")];
        let outcome = list(&mut index, &both);
        assert!(outcome.changed && outcome.listed);
        assert_eq!(names(&index), ["a", "b"]);
        // The next one breaks off, and a third finds one of them gone.
        index.take(Event::Init);
        index.take(Event::InitApply(both[0].clone()));
        assert_eq!(names(&index), ["a", "b"], "known names are kept");
        assert!(list(&mut index, &both[1..]).changed);
        assert_eq!(names(&index), ["b"]);
        assert!(!list(&mut index, &both[1..]).changed);
    }

    #[test]
    fn changes() {
        let mut index = index();
        list(&mut index, &[pod("1", "a", "x")]);
        assert!(
            !index.take(Event::Apply(pod("1", "a", "x"))).changed,
            "its status only"
        );
        assert!(index.take(Event::Apply(pod("1", "a", "y"))).changed);
        assert_eq!(index.pods()["1"].labels["tier"], "y");
        assert!(index.take(Event::Apply(pod("2", "b", "x"))).changed);
        assert!(index.take(Event::Delete(pod("1", "a", "y"))).changed);
        assert!(!index.take(Event::Delete(pod("1", "a", "y"))).changed);
        assert_eq!(names(&index), ["b"]);
    }

    #[test]
    fn what_was_handed_out_stays_as_it_was() {
        let mut index = index();
        list(&mut index, &[pod("1", "a", "x")]);
        let before = Arc::clone(index.pods());
        index.take(Event::Apply(pod("2", "b", "x")));
        assert_eq!((before.len(), index.pods().len()), (1, 2));
    }

    #[test]
    fn memory_is_bounded() {
        let mut index = index();
        index.most = 2;
        list(&mut index, &[pod("1", "a", "x"), pod("2", "b", "x")]);
        assert!(!index.is_full());
        index.take(Event::Apply(pod("3", "c", "x")));
        assert!(index.is_full() && index.pods().len() == 2);
        assert!(
            index.take(Event::Apply(pod("2", "b", "y"))).changed,
            "one that is known"
        );
        list(&mut index, &[pod("3", "c", "x")]);
        assert!(!index.is_full());
    }
    #[test]
    fn a_job_tells_its_cron_job_once() {
        let of_job = |uid: &str, job: &str| -> PartialObjectMeta<ApiPod> {
            serde_json::from_value(serde_json::json!({
                "metadata": {"uid": uid, "name": uid, "namespace": "shop", "ownerReferences": [
                    {"apiVersion": "batch/v1", "kind": "Job", "name": job, "uid": job, "controller": true}]},
            }))
            .unwrap()
        };
        let made_by = |index: &Index, pod: &str| {
            let workload = index.pods()[pod].workload.clone().unwrap();
            format!("{} {}", workload.kind, workload.name)
        };
        let mut index = index();
        list(
            &mut index,
            &[
                of_job("1", "report-29321460"),
                of_job("2", "import-1700000000"),
            ],
        );
        let first = index.wanted_job().unwrap();
        assert_eq!(
            (first.namespace.as_str(), first.name.as_str()),
            ("shop", "report-29321460")
        );
        assert!(index.learn_job(&first.uid, Some("report".into())));
        assert_eq!(made_by(&index, "1"), "CronJob report");
        let second = index.wanted_job().unwrap();
        assert!(
            !index.learn_job(&second.uid, None),
            "a job that somebody made"
        );
        assert_eq!(made_by(&index, "2"), "Job import-1700000000");
        assert_eq!(index.wanted_job(), None, "nothing is asked twice");
        assert!(
            !index
                .take(Event::Apply(of_job("1", "report-29321460")))
                .changed
        );
        assert!(
            index
                .take(Event::Apply(of_job("3", "report-29321460")))
                .changed
        );
        assert_eq!(made_by(&index, "3"), "CronJob report", "its next pod");
        // One that can't be seen is not asked for again before the next list.
        index.take(Event::Apply(of_job("4", "other")));
        index.fail_job(&index.wanted_job().unwrap().uid);
        assert_eq!(index.wanted_job(), None);
        list(&mut index, &[of_job("4", "other")]);
        assert_eq!(index.wanted_job().unwrap().name, "other");
        list(&mut index, &[of_job("1", "report-29321460")]);
        assert!(
            index.wanted_job().is_some(),
            "what no pod is of is forgotten"
        );
    }
}
