//! The watch of the Kubernetes API against a real API server.
//!
//! `cargo xtask test --kubernetes` builds one, and says by environment variables where it, etcd and a folder for both are.

use std::time::{Duration, Instant};

use conntrack_user::owners::kube::{Kube, KubeOptions, Latest};
use k8s_openapi::api::{
    core::v1::Pod,
    rbac::v1::{ClusterRole, ClusterRoleBinding},
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::timeout;

mod cluster;

use cluster::Cluster;

/// The longest that anything here takes: an API server's start on a busy machine, or the longest pause of the watch.
const PATIENCE: Duration = Duration::from_secs(120);
const NODE: &str = "node-1";
const OTHER_NODE: &str = "node-2";

async fn create<T>(api: Api<T>, object: Value) -> T
where
    T: Clone + std::fmt::Debug + DeserializeOwned + Serialize,
{
    let object = serde_json::from_value(object).expect("an object of the API");
    let created = api.create(&PostParams::default(), &object).await;
    created.expect("the API server takes it")
}

/// Makes a pod on a node and gives its UID.
async fn pod(client: &Client, node: &str, metadata: Value) -> String {
    let spec = json!({"nodeName": node, "containers": [{"name": "main", "image": "none"}]});
    let api = Api::<Pod>::namespaced(client.clone(), "default");
    let made = create(api, json!({"metadata": metadata, "spec": spec})).await;
    made.metadata.uid.expect("a UID")
}

fn of_deployment(name: &str, tier: &str) -> Value {
    json!({
        "name": name,
        "labels": {"pod-template-hash": "6b7f9c8d54", "tier": tier},
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "cart-6b7f9c8d54",
            "uid": "7d0f5b1e-52a4-4c0f-9b0e-6f2f6d1c9a01", "controller": true}],
    })
}

/// Waits until the API says this, and tells how long that took.
async fn until(kube: &mut Kube, latest: &mut Latest, what: &str, is: impl Fn(&Latest) -> bool) {
    let began = Instant::now();
    let wait = async {
        while !is(latest) {
            *latest = kube.changed().await;
        }
    };
    if timeout(PATIENCE, wait).await.is_err() {
        panic!("not within {PATIENCE:?}: {what}; last: {latest:?}");
    }
    println!("{:>8.3} s  {what}", began.elapsed().as_secs_f64());
}

fn names(latest: &Latest) -> Vec<&str> {
    latest.pods.values().map(|pod| pod.name.as_str()).collect()
}

fn says(latest: &Latest, words: &[&str]) -> bool {
    let problem = latest.problem.as_deref().unwrap_or_default();
    words.iter().all(|word| problem.contains(word))
}

#[tokio::test]
#[ignore = "needs an API server: cargo xtask test --kubernetes"]
async fn names_come_from_a_real_api_server() {
    let cluster = Cluster::start();
    cluster.configure_agent("first");
    let options = KubeOptions::new(
        NODE.parse().expect("a node"),
        &["tier".parse().expect("a label")],
    );
    let mut kube = Kube::watch(options.expect("one label"), || {}).expect("a thread");
    let mut latest = Latest::default();
    until(
        &mut kube,
        &mut latest,
        "nothing listens: a problem",
        |latest| says(latest, &["the Kubernetes API can't be watched", "names"]),
    )
    .await;

    let mut server = cluster.api_server("first");
    let admin = cluster.admin(&mut server).await;
    let elsewhere = pod(
        &admin,
        OTHER_NODE,
        of_deployment("cart-6b7f9c8d54-other", "x"),
    )
    .await;
    until(
        &mut kube,
        &mut latest,
        "no right to read pods: a problem that says which",
        |latest| says(latest, &["forbidden", "grant get, list and watch on pods"]),
    )
    .await;
    let rules =
        json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]);
    let role = json!({"metadata": {"name": "ctpressure"}, "rules": rules});
    create(Api::<ClusterRole>::all(admin.clone()), role).await;
    let binding = json!({
        "metadata": {"name": "ctpressure"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "ctpressure"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "agent"}],
    });
    create(Api::<ClusterRoleBinding>::all(admin.clone()), binding).await;
    until(
        &mut kube,
        &mut latest,
        "no pod on that node: a problem that says so",
        |latest| says(latest, &["no pod on a node called node-1"]),
    )
    .await;
    assert!(latest.pods.is_empty(), "{latest:?}");

    let uid = pod(&admin, NODE, of_deployment("cart-6b7f9c8d54-aaaaa", "x")).await;
    until(&mut kube, &mut latest, "a pod", |latest| {
        latest.pods.contains_key(uid.as_str())
    })
    .await;
    let seen = &latest.pods[uid.as_str()];
    let workload = seen.workload.as_ref().expect("a workload");
    assert_eq!(
        (workload.kind.as_str(), workload.name.as_str()),
        ("Deployment", "cart")
    );
    assert_eq!(
        (seen.namespace.as_str(), seen.labels["tier"].as_str()),
        ("default", "x")
    );

    let pods = Api::<Pod>::namespaced(admin.clone(), "default");
    let label = Patch::Merge(json!({"metadata": {"labels": {"tier": "y"}}}));
    let as_usual = PatchParams::default();
    let patched = pods.patch("cart-6b7f9c8d54-aaaaa", &as_usual, &label);
    patched.await.expect("a label can be changed");
    until(&mut kube, &mut latest, "a label changes", |latest| {
        latest.pods[uid.as_str()].labels["tier"] == "y"
    })
    .await;

    let hash = "c9a1f0d2e3b4a5968778695a4b3c2d1e";
    let mirror = json!({
        "name": "proxy-node-1",
        "annotations": {"kubernetes.io/config.mirror": hash, "kubernetes.io/config.hash": hash},
        "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": NODE, "controller": true,
            "uid": "7d0f5b1e-52a4-4c0f-9b0e-6f2f6d1c9a07"}],
    });
    pod(&admin, NODE, mirror).await;
    until(
        &mut kube,
        &mut latest,
        "a static pod, by its hash",
        |latest| latest.pods.contains_key(hash),
    )
    .await;
    until(&mut kube, &mut latest, "no problem any more", |latest| {
        latest.problem.is_none()
    })
    .await;

    // Made anew under another name, as a Deployment does: the only way a pod is ever renamed.
    let at_once = DeleteParams::default().grace_period(0);
    let deleted = pods.delete("cart-6b7f9c8d54-aaaaa", &at_once).await;
    deleted.expect("a pod can be deleted");
    let renamed = pod(&admin, NODE, of_deployment("cart-6b7f9c8d54-bbbbb", "x")).await;
    until(&mut kube, &mut latest, "deleted, and made anew", |latest| {
        !latest.pods.contains_key(uid.as_str()) && latest.pods.contains_key(renamed.as_str())
    })
    .await;

    // An outage, during which the agent's token is renewed.
    drop(server);
    until(&mut kube, &mut latest, "an outage: a problem", |latest| {
        says(latest, &["can't be watched", "are kept"])
    })
    .await;
    assert!(
        names(&latest).contains(&"cart-6b7f9c8d54-bbbbb"),
        "{latest:?}"
    );
    cluster.configure_agent("second");
    let mut server = cluster.api_server("second");
    let admin = cluster.admin(&mut server).await;
    let later = pod(&admin, NODE, of_deployment("cart-6b7f9c8d54-ccccc", "x")).await;
    until(
        &mut kube,
        &mut latest,
        "over: a pod made since, and no problem",
        |latest| latest.pods.contains_key(later.as_str()) && latest.problem.is_none(),
    )
    .await;
    assert!(
        !latest.pods.contains_key(elsewhere.as_str()),
        "another node's"
    );
    let mut known = names(&latest);
    known.sort_unstable();
    known.dedup();
    assert_eq!(
        known,
        [
            "cart-6b7f9c8d54-bbbbb",
            "cart-6b7f9c8d54-ccccc",
            "proxy-node-1"
        ]
    );
    assert_eq!(kube.problem(), None);
}
