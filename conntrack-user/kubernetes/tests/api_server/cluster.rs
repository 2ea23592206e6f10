//! A control plane on the loopback: etcd and a Kubernetes API server.

use std::{
    env, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use tokio::time::sleep;

/// Looks for a server that is starting, 100 ms apart: two minutes, on a busy machine.
const LOOKS: usize = 1200;
/// Lines of a server's log that are shown when it does not start.
const LOG_LINES: usize = 20;

/// A process that ends with the test.
pub(crate) struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // Gone already: just as well.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// etcd and what an API server needs.
pub(crate) struct Cluster {
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
    pub(crate) fn start() -> Self {
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
    pub(crate) fn api_server(&self, agent_token: &str) -> Server {
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
            format!(
                "--service-account-key-file={}",
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
    pub(crate) fn configure_agent(&self, token: &str) {
        let text = self.kubeconfig(token).to_string();
        fs::write(set("KUBECONFIG"), text).expect("a kubeconfig");
    }

    /// A client that may do anything, when the API server is ready.
    pub(crate) async fn admin(&self, server: &mut Server) -> Client {
        let log = self.folder.join("apiserver.log");
        let mut last = String::new();
        for _ in 0..LOOKS {
            match self.try_admin().await {
                Ok(client) => return client,
                Err(error) => last = error.to_string(),
            }
            if let Ok(Some(status)) = server.0.try_wait() {
                panic!("the API server ended with {status}:\n{}", end_of(&log));
            }
            sleep(Duration::from_millis(100)).await;
        }
        panic!(
            "the API server does not get ready ({last}):\n{}",
            end_of(&log)
        );
    }

    async fn try_admin(&self) -> Result<Client, Box<dyn std::error::Error>> {
        let kubeconfig: Kubeconfig = serde_json::from_value(self.kubeconfig("admin"))?;
        let config =
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let client = Client::try_from(config)?;
        Api::<Namespace>::all(client.clone()).get("default").await?;
        Ok(client)
    }
}

/// The last lines of a log.
fn end_of(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}
