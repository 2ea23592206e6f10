//! From the metadata of a pod to what is kept of it. Pure.

use std::{collections::BTreeMap, sync::Arc};

use ctpressure_model::{
    kubernetes::{LabelKey, Pod},
    owner::Workload,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// The label by which a `ReplicaSet` of a Deployment tells its pods: the end of its own name.
const TEMPLATE_HASH: &str = "pod-template-hash";
/// The kubelet made this pod, of the API's own, for a static one.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// The UID by which the kubelet knows a static pod: its control group and its log folder have it.
const CONFIG_HASH: &str = "kubernetes.io/config.hash";

/// UIDs by which a pod may be found on its node.
pub(super) fn uids(pod: &ObjectMeta) -> impl Iterator<Item = Arc<str>> {
    let uid = pod.uid.as_deref().filter(|uid| !uid.is_empty());
    uid.into_iter().chain(static_uid(pod)).map(Arc::from)
}

/// The UID of the static pod that this one stands for.
///
/// Whoever may make pods may annotate them as he likes. So it has to be a node's, and no UID that the API gives: a
/// static pod's is the 32 digits of a hash.
fn static_uid(pod: &ObjectMeta) -> Option<&str> {
    let annotations = pod.annotations.as_ref()?;
    let hash = annotations.get(CONFIG_HASH)?;
    let is_hash = hash.len() == 32
        && hash
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    (annotations.contains_key(MIRROR) && is_hash && controller(pod)?.kind == "Node")
        .then_some(hash.as_str())
}

/// What is kept; `None` of something that has no name.
pub(super) fn pod(metadata: &ObjectMeta, labels: &[LabelKey]) -> Option<Pod> {
    let of_pod = metadata.labels.as_ref();
    let shown = |key: &LabelKey| {
        let value = of_pod?
            .get(key.as_str())
            .filter(|value| !value.is_empty())?;
        Some((key.as_str().to_owned(), value.clone()))
    };
    let made_by = controller(metadata);
    Some(Pod {
        namespace: metadata.namespace.clone()?,
        name: metadata.name.clone()?,
        workload: made_by.and_then(|owner| workload(metadata, owner)),
        job: made_by
            .filter(|owner| owner.kind == "Job" && owner.api_version.starts_with("batch/"))
            .map(|owner| owner.uid.as_str().into()),
        labels: labels.iter().filter_map(shown).collect::<BTreeMap<_, _>>(),
    })
}

/// The one owner that manages the pod.
fn controller(pod: &ObjectMeta) -> Option<&OwnerReference> {
    let mut owners = pod.owner_references.iter().flatten();
    owners.find(|owner| owner.controller == Some(true))
}

/// What made the pod's owner, as far as its name tells for sure; else the owner: whether a `CronJob` made a Job only
/// that Job tells (see [`super::jobs`]).
fn workload(pod: &ObjectMeta, owner: &OwnerReference) -> Option<Workload> {
    let made_by = |kind: &str, name: &str| {
        Some(Workload {
            kind: kind.to_owned(),
            name: name.to_owned(),
        })
    };
    match owner.kind.as_str() {
        "Node" => None,
        "ReplicaSet" => match deployment(pod, &owner.name) {
            Some(name) => made_by("Deployment", name),
            None => made_by(&owner.kind, &owner.name),
        },
        kind => made_by(kind, &owner.name),
    }
}

/// A Deployment calls its `ReplicaSet`s by its own name, `-`, and the hash that is a label of their pods.
fn deployment<'a>(pod: &ObjectMeta, replica_set: &'a str) -> Option<&'a str> {
    let hash = pod.labels.as_ref()?.get(TEMPLATE_HASH)?;
    let name = replica_set.strip_suffix(hash.as_str())?.strip_suffix('-')?;
    (!hash.is_empty() && !name.is_empty()).then_some(name)
}

/// The `CronJob` that made a job.
pub(super) fn cron_job(job: &ObjectMeta) -> Option<&str> {
    let owner = controller(job)?;
    (owner.kind == "CronJob").then_some(owner.name.as_str())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod as ApiPod;
    use kube::core::PartialObjectMeta;

    use super::*;

    /// In the shape in which an API server gives the metadata of pods.
    const FIXTURES: &[(&str, &str)] = &[
        ("deployment", include_str!("fixtures/deployment.json")),
        ("statefulset", include_str!("fixtures/statefulset.json")),
        ("daemonset", include_str!("fixtures/daemonset.json")),
        ("job", include_str!("fixtures/job.json")),
        ("cronjob", include_str!("fixtures/cronjob.json")),
        ("bare", include_str!("fixtures/bare.json")),
        ("mirror", include_str!("fixtures/mirror.json")),
    ];

    fn fixture(name: &str) -> ObjectMeta {
        let (_, json) = FIXTURES.iter().find(|(known, _)| *known == name).unwrap();
        let pod: PartialObjectMeta<ApiPod> = serde_json::from_str(json).unwrap();
        pod.metadata
    }

    fn made_by(pod: &ObjectMeta) -> String {
        match super::pod(pod, &[]).unwrap().workload {
            Some(workload) => format!("{} {}", workload.kind, workload.name),
            None => "nothing".to_owned(),
        }
    }

    #[test]
    fn workloads() {
        assert_eq!(made_by(&fixture("deployment")), "Deployment cart-api");
        assert_eq!(made_by(&fixture("statefulset")), "StatefulSet db");
        assert_eq!(made_by(&fixture("daemonset")), "DaemonSet node-agent");
        assert_eq!(made_by(&fixture("job")), "Job import-20240101");
        assert_eq!(made_by(&fixture("cronjob")), "Job report-29321460");
        assert_eq!(made_by(&fixture("bare")), "nothing");
        assert_eq!(made_by(&fixture("mirror")), "nothing");
    }

    #[test]
    fn names_uids_and_labels() {
        let labels: Vec<LabelKey> = ["app.kubernetes.io/name", "tier", "none"]
            .map(|key| key.parse().unwrap())
            .into();
        let metadata = fixture("deployment");
        let pod = pod(&metadata, &labels).unwrap();
        assert_eq!(
            (pod.namespace.as_str(), pod.name.as_str()),
            ("shop", "cart-api-6b7f9c8d54-x2k9q")
        );
        assert_eq!(
            pod.labels,
            BTreeMap::from([("app.kubernetes.io/name".to_owned(), "cart".to_owned())])
        );
        let uids: Vec<_> = uids(&metadata).collect();
        assert_eq!(uids, ["3f1c6a52-9d0e-4b7a-8a57-0d9c2e4b1f60".into()]);
    }

    #[test]
    fn a_replica_set_without_a_deployment_is_the_workload() {
        let mut pod = fixture("deployment");
        pod.labels.as_mut().unwrap().remove(TEMPLATE_HASH);
        assert_eq!(made_by(&pod), "ReplicaSet cart-api-6b7f9c8d54");
        let hash = "54".to_owned();
        pod.labels
            .as_mut()
            .unwrap()
            .insert(TEMPLATE_HASH.into(), hash);
        assert_eq!(
            made_by(&pod),
            "ReplicaSet cart-api-6b7f9c8d54",
            "no dash before the hash"
        );
    }

    #[test]
    fn an_owner_that_does_not_manage_is_none() {
        let mut pod = fixture("daemonset");
        pod.owner_references.as_mut().unwrap()[0].controller = None;
        assert_eq!(made_by(&pod), "nothing");
    }

    #[test]
    fn what_made_a_job() {
        let reference = |kind: &str| {
            let job: PartialObjectMeta<ApiPod> = serde_json::from_value(serde_json::json!({
                "metadata": {"ownerReferences": [{"apiVersion": "batch/v1", "kind": kind, "name": "report", "uid": "1",
                    "controller": true}]},
            }))
            .unwrap();
            job.metadata
        };
        assert_eq!(cron_job(&reference("CronJob")), Some("report"));
        assert_eq!(cron_job(&reference("Workflow")), None);
        assert_eq!(cron_job(&ObjectMeta::default()), None);
        let uid = pod(&fixture("cronjob"), &[]).unwrap().job;
        assert_eq!(uid, Some("7d0f5b1e-52a4-4c0f-9b0e-6f2f6d1c9a05".into()));
        assert_eq!(pod(&fixture("deployment"), &[]).unwrap().job, None);
    }

    #[test]
    fn a_mirror_pod_is_found_by_its_hash_and_by_nothing_that_it_could_steal() {
        let hash: Arc<str> = "c9a1f0d2e3b4a5968778695a4b3c2d1e".into();
        let pod = fixture("mirror");
        assert_eq!(uids(&pod).nth(1), Some(Arc::clone(&hash)));
        let without = |change: fn(&mut ObjectMeta)| {
            let mut pod = fixture("mirror");
            change(&mut pod);
            uids(&pod).nth(1)
        };
        assert_eq!(without(|pod| pod.owner_references = None), None);
        let annotate = |pod: &mut ObjectMeta, value: &str| {
            let annotations = pod.annotations.as_mut().unwrap();
            annotations.insert(CONFIG_HASH.into(), value.into());
        };
        let mut pod = fixture("mirror");
        annotate(&mut pod, "3f1c6a52-9d0e-4b7a-8a57-0d9c2e4b1f60");
        assert_eq!(uids(&pod).nth(1), None, "a UID of the API");
        assert_eq!(
            without(|pod| {
                pod.annotations.as_mut().unwrap().remove(MIRROR);
            }),
            None
        );
    }
}
