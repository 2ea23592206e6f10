//! The watch of the Kubernetes API, and Events written by it, against a real API server.
//!
//! `cargo xtask test --kubernetes` builds one, and says by environment variables where it, etcd and a folder for both are.

use std::time::{Duration, Instant};

use conntrack_user::owners::kube::Kube;
use ctpressure_model::kubernetes::{KubeOptions, Latest, Pace};
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::Pod,
    rbac::v1::{ClusterRole, ClusterRoleBinding},
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::{sync::watch, time::timeout};

mod cluster;
mod events;

use cluster::Cluster;

/// The longest that anything here takes: an API server's start on a busy machine, or the longest pause of the watch.
const PATIENCE: Duration = Duration::from_mins(2);
const NODE: &str = "node-1";
const OTHER_NODE: &str = "node-2";
/// Of an object that nobody looks at.
const SOME_UID: &str = "7d0f5b1e-52a4-4c0f-9b0e-6f2f6d1c9a01";
/// The agent's own would make the test wait.
const PACE: Pace = Pace {
    steady: Duration::from_millis(500),
    pause: Duration::from_millis(500),
};

async fn create<T>(api: Api<T>, object: Value) -> T
where
    T: Clone + std::fmt::Debug + DeserializeOwned + Serialize,
{
    let object = serde_json::from_value(object).expect("an object of the API");
    let created = api.create(&PostParams::default(), &object).await;
    created.expect("the API server takes it")
}

/// What the API says of who made a pod.
fn made_by(kind: &str, api: &str, name: &str, uid: &str) -> Value {
    json!([{"apiVersion": api, "kind": kind, "name": name, "uid": uid, "controller": true}])
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
        "ownerReferences": made_by("ReplicaSet", "apps/v1", "cart-6b7f9c8d54", SOME_UID),
    })
}

/// A pod that something other than a Deployment made.
fn of(kind: &str, api: &str, owner: &str, uid: &str, name: &str) -> Value {
    json!({"name": name, "ownerReferences": made_by(kind, api, owner, uid)})
}

/// A role that the agent has from now on.
async fn grant(client: &Client, name: &str, rules: Value) {
    let role = json!({"metadata": {"name": name}, "rules": rules});
    create(Api::<ClusterRole>::all(client.clone()), role).await;
    let binding = json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "agent"}],
    });
    create(Api::<ClusterRoleBinding>::all(client.clone()), binding).await;
}

/// A Job, and its UID.
async fn job(client: &Client, name: &str, owner_references: Value) -> String {
    let template = json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "none"}]}});
    let metadata = json!({"name": name, "ownerReferences": owner_references});
    let api = Api::<Job>::namespaced(client.clone(), "default");
    let made = create(
        api,
        json!({"metadata": metadata, "spec": {"template": template}}),
    )
    .await;
    made.metadata.uid.expect("a UID")
}

/// `Deployment cart`, `nothing`, or `-` of a pod that is not known.
fn workload(latest: &Latest, uid: &str) -> String {
    match latest.pods.get(uid).map(|pod| pod.workload.as_ref()) {
        None => "-".to_owned(),
        Some(None) => "nothing".to_owned(),
        Some(Some(workload)) => format!("{} {}", workload.kind, workload.name),
    }
}

/// What the agent is told.
struct ToldPods {
    told: watch::Receiver<Latest>,
    latest: Latest,
}

impl ToldPods {
    /// Waits until the API says this, and tells how long that took.
    async fn until(&mut self, what: &str, is: impl Fn(&Latest) -> bool) {
        let began = Instant::now();
        let wait = async {
            while !is(&self.latest) {
                self.told.changed().await.expect("the watch goes on");
                self.latest = self.told.borrow_and_update().clone();
            }
        };
        let waited = timeout(PATIENCE, wait).await;
        assert!(
            waited.is_ok(),
            "not within {PATIENCE:?}: {what}; last: {:?}",
            self.latest
        );
        println!("{:>8.3} s  {what}", began.elapsed().as_secs_f64());
    }
}

fn says(latest: &Latest, words: &[&str]) -> bool {
    let problem = latest.problem.as_deref().unwrap_or_default();
    words.iter().all(|word| problem.contains(word))
}

#[tokio::test]
#[ignore = "needs an API server: cargo xtask test --kubernetes"]
async fn names_come_from_a_real_api_server_and_events_get_there() {
    let cluster = Cluster::start();
    cluster.configure_agent("first");
    let labels = ["tier".parse().expect("a label")];
    let mut options = KubeOptions::new(NODE.parse(), &labels).expect("one label");
    options.pace = PACE;
    let kube = Kube::watch(options, || {}, ctpressure_kubernetes::watch_pods);
    let mut seen = ToldPods {
        told: kube.latest().expect("the API is asked"),
        latest: Latest::default(),
    };
    seen.until("nothing listens: a problem", |latest| {
        says(latest, &["the Kubernetes API can't be watched", "names"])
    })
    .await;

    let mut server = cluster.api_server("first");
    let admin = cluster.admin(&mut server).await;
    let elsewhere = of_deployment("cart-6b7f9c8d54-other", "x");
    let elsewhere = pod(&admin, OTHER_NODE, elsewhere).await;
    refused_then_granted(&mut seen, &admin).await;
    let uid = one_pod(&mut seen, &admin).await;
    workloads(&mut seen, &admin).await;

    // Made anew under another name, as a Deployment does: the only way a pod is ever renamed.
    let pods = Api::<Pod>::namespaced(admin.clone(), "default");
    let at_once = DeleteParams::default().grace_period(0);
    let deleted = pods.delete("cart-6b7f9c8d54-aaaaa", &at_once).await;
    deleted.expect("a pod can be deleted");
    let renamed = of_deployment("cart-6b7f9c8d54-bbbbb", "x");
    let renamed = pod(&admin, NODE, renamed).await;
    seen.until("deleted, and made anew", |latest| {
        !latest.pods.contains_key(uid.as_str()) && latest.pods.contains_key(renamed.as_str())
    })
    .await;

    // An outage, during which the agent's token is renewed.
    drop(server);
    seen.until("an outage: a problem", |latest| {
        says(latest, &["can't be watched", "are kept"]) && !latest.watching
    })
    .await;
    assert_eq!(workload(&seen.latest, &renamed), "Deployment cart");
    cluster.configure_agent("second");
    let mut server = cluster.api_server("second");
    let admin = cluster.admin(&mut server).await;
    let later = of_deployment("cart-6b7f9c8d54-ccccc", "x");
    let later = pod(&admin, NODE, later).await;
    seen.until("over: a pod made since, and no problem", |latest| {
        latest.pods.contains_key(later.as_str()) && latest.problem.is_none() && latest.watching
    })
    .await;
    let latest = &seen.latest;
    assert!(
        !latest.pods.contains_key(elsewhere.as_str()),
        "another node's"
    );
    let status = kube.status();
    assert_eq!(
        (status.node.as_str(), status.pods),
        (NODE, latest.pods.len())
    );
    assert!(status.watching && status.problem.is_none(), "{status:?}");
    drop((kube, seen));
    events::are_written(&cluster, server, &admin).await;
}

async fn refused_then_granted(seen: &mut ToldPods, admin: &Client) {
    seen.until(
        "no right to read pods: a problem that says which",
        |latest| says(latest, &["forbidden", "grant list and watch on pods"]),
    )
    .await;
    let pods = json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]});
    let jobs = json!({"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get"]});
    grant(admin, "ctpressure", json!([pods, jobs])).await;
    seen.until("no pod on that node: a problem that says so", |latest| {
        says(latest, &["no pod on a node called node-1"])
    })
    .await;
    assert!(seen.latest.pods.is_empty(), "{:?}", seen.latest);
}

async fn one_pod(seen: &mut ToldPods, admin: &Client) -> String {
    let uid = of_deployment("cart-6b7f9c8d54-aaaaa", "x");
    let uid = pod(admin, NODE, uid).await;
    seen.until("a pod, and no problem any more", |latest| {
        latest.pods.contains_key(uid.as_str()) && latest.problem.is_none()
    })
    .await;
    let there = &seen.latest.pods[uid.as_str()];
    assert_eq!(
        (there.namespace.as_str(), there.name.as_str()),
        ("default", "cart-6b7f9c8d54-aaaaa")
    );
    assert_eq!(there.labels["tier"], "x");
    assert_eq!(workload(&seen.latest, &uid), "Deployment cart");

    let label = Patch::Merge(json!({"metadata": {"labels": {"tier": "y"}}}));
    let pods = Api::<Pod>::namespaced(admin.clone(), "default");
    let as_usual = PatchParams::default();
    let patched = pods.patch("cart-6b7f9c8d54-aaaaa", &as_usual, &label);
    patched.await.expect("a label can be changed");
    seen.until("a label changes", |latest| {
        latest.pods[uid.as_str()].labels["tier"] == "y"
    })
    .await;
    uid
}

async fn workloads(seen: &mut ToldPods, admin: &Client) {
    let hash = "c9a1f0d2e3b4a5968778695a4b3c2d1e";
    let mirror = json!({
        "name": "proxy-node-1",
        "annotations": {"kubernetes.io/config.mirror": hash, "kubernetes.io/config.hash": hash},
        "ownerReferences": made_by("Node", "v1", NODE, SOME_UID),
    });
    pod(admin, NODE, mirror).await;
    let set = of("StatefulSet", "apps/v1", "db", SOME_UID, "db-0");
    let set = pod(admin, NODE, set).await;
    let daemon = of("DaemonSet", "apps/v1", "agent", SOME_UID, "agent-x2k9q");
    let daemon = pod(admin, NODE, daemon).await;
    // Named as a CronJob would, by somebody else; and one of a CronJob.
    let name = "import-29321460";
    let by_hand = job(admin, name, json!([])).await;
    let by_hand = of("Job", "batch/v1", name, &by_hand, "import-29321460-m2k4p");
    let by_hand = pod(admin, NODE, by_hand).await;
    let name = "report-29321460";
    let timed = job(
        admin,
        name,
        made_by("CronJob", "batch/v1", "report", SOME_UID),
    )
    .await;
    let timed = of("Job", "batch/v1", name, &timed, "report-29321460-lm4tp");
    let timed = pod(admin, NODE, timed).await;
    seen.until("a static pod by its hash, and every workload", |latest| {
        workload(latest, hash) == "nothing"
            && workload(latest, &set) == "StatefulSet db"
            && workload(latest, &daemon) == "DaemonSet agent"
            && workload(latest, &by_hand) == "Job import-29321460"
            && workload(latest, &timed) == "CronJob report"
    })
    .await;
}
