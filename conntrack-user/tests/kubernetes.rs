//! The watch of the Kubernetes API against a real API server.
//!
//! `cargo xtask test --kubernetes` builds one, and says by environment variables where it, etcd and a folder for both are.

use std::{
    env,
    error::Error,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use conntrack_user::owners::kube::{Kube, KubeOptions, Latest};
use k8s_openapi::api::{
    core::v1::{Namespace, Pod},
    rbac::v1::{ClusterRole, ClusterRoleBinding},
};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

type Anything<T> = Result<T, Box<dyn Error>>;

/// The longest that anything here takes: an API server's start on a busy machine, or the longest pause of the watch.
const PATIENCE: Duration = Duration::from_secs(120);
const NODE: &str = "node-1";
const OTHER_NODE: &str = "node-2";

/// A process that ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // Gone already: just as well.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// etcd and what an API server needs.
struct Cluster {
    folder: PathBuf,
    port: u16,
    etcd_port: u16,
    _etcd: Server,
}

fn set(variable: &str) -> PathBuf {
    env::var_os(variable)
        .unwrap_or_else(|| panic!("{variable} is not set: run `cargo xtask test --kubernetes`"))
        .into()
}

/// One that nobody listens on.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port on the loopback");
    listener.local_addr().expect("its number").port()
}

fn start(program: &Path, arguments: &[String], log: &Path) -> Server {
    let log = fs::File::options().create(true).append(true).open(log);
    let log = log.expect("a log file");
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("the log file again"))
        .stderr(log)
        .spawn();
    Server(child.expect("a server starts"))
}

impl Cluster {
    fn start() -> Self {
        let folder = set("CTPRESSURE_KUBERNETES_FOLDER");
        let (port, etcd_port, peer_port) = (free_port(), free_port(), free_port());
        let client = format!("http://127.0.0.1:{etcd_port}");
        let peer = format!("http://127.0.0.1:{peer_port}");
        let arguments = [
            "--name=test".to_owned(),
            format!("--data-dir={}", folder.join("etcd").display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=test={peer}"),
        ];
        let etcd = start(
            &set("CTPRESSURE_ETCD"),
            &arguments,
            &folder.join("etcd.log"),
        );
        Self {
            folder,
            port,
            etcd_port,
            _etcd: etcd,
        }
    }

    /// Starts an API server that lets in `agent` with this token.
    fn api_server(&self, agent_token: &str) -> Server {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let tokens = format!("admin,admin,1,\"system:masters\"\n{agent_token},agent,2\n");
        fs::write(self.folder.join("tokens.csv"), tokens).expect("a token file");
        let arguments = [
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
            format!("--secure-port={}", self.port),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            format!("--cert-dir={}", path("certificates")),
            format!("--token-auth-file={}", path("tokens.csv")),
            "--authorization-mode=RBAC".to_owned(),
            "--anonymous-auth=false".to_owned(),
            // Nodes, accounts and priorities of which there are none here.
            "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition,Priority".to_owned(),
            "--service-account-issuer=https://127.0.0.1".to_owned(),
            format!(
                "--service-account-signing-key-file={}",
                path("certificates/apiserver.key")
            ),
            "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
        ];
        start(
            &set("CTPRESSURE_KUBE_APISERVER"),
            &arguments,
            &self.folder.join("apiserver.log"),
        )
    }

    fn kubeconfig(&self, token: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.port),
                "certificate-authority": self.folder.join("certificates/apiserver.crt"),
            }}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        })
    }

    /// What the agent finds its way by.
    fn configure_agent(&self, token: &str) {
        let text = self.kubeconfig(token).to_string();
        fs::write(set("KUBECONFIG"), text).expect("a kubeconfig");
    }

    /// A client that may do anything, when the API server is ready.
    async fn admin(&self) -> Client {
        let client = async {
            loop {
                if let Ok(client) = self.try_admin().await {
                    return client;
                }
                sleep(Duration::from_millis(200)).await;
            }
        };
        let log = self.folder.join("apiserver.log");
        let client = timeout(PATIENCE, client).await;
        client
            .unwrap_or_else(|_| panic!("the API server does not get ready: see {}", log.display()))
    }

    async fn try_admin(&self) -> Anything<Client> {
        let kubeconfig: Kubeconfig = serde_json::from_value(self.kubeconfig("admin"))?;
        let config =
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let client = Client::try_from(config)?;
        Api::<Namespace>::all(client.clone()).get("default").await?;
        Ok(client)
    }
}

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

    let server = cluster.api_server("first");
    let admin = cluster.admin().await;
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
    let _server = cluster.api_server("second");
    let admin = cluster.admin().await;
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
