//! The pods that are known, kept up by what the watch says. Pure.

use std::{mem, sync::Arc};

use k8s_openapi::api::core::v1::Pod as ApiPod;
use kube::{core::PartialObjectMeta, runtime::watcher::Event};

use super::{LabelKey, Pods, metadata};

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
}

/// What became of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
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
    pub(super) fn take(&mut self, event: Event<PartialObjectMeta<ApiPod>>) -> Outcome {
        let mut listed = false;
        let changed = match event {
            Event::Init => {
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
                !gone.is_empty()
            }
        };
        Outcome { changed, listed }
    }

    /// Most events are changes of a status, which leave no trace here.
    fn differs(&self, pods: &Pods, pod: &PartialObjectMeta<ApiPod>) -> bool {
        let new = metadata::pod(&pod.metadata, &self.labels);
        metadata::uids(&pod.metadata).any(|uid| pods.get(&uid).map(Arc::as_ref) != new.as_ref())
    }

    fn put(&mut self, pods: &mut Pods, pod: &PartialObjectMeta<ApiPod>) {
        let Some(kept) = metadata::pod(&pod.metadata, &self.labels) else {
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

    fn list(index: &mut Index, pods: &[PartialObjectMeta<ApiPod>]) -> Outcome {
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
}
