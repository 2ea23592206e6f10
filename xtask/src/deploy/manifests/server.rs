//! A real API server on loopback, with etcd, for a dry run of what is to be applied.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::cache::Cache;
use crate::command;
use crate::kubernetes::Programs;

/// Only this process and its children know it, and only loopback is listened on.
const TOKEN: &str = "dry-run";
/// How long the server may take to answer, on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// The server; it ends with the value.
pub(super) struct ApiServer {
    folder: tempfile::TempDir,
    processes: Vec<Child>,
    port: u16,
}

impl ApiServer {
    /// Starts the programs, which are built if they are not there.
    pub(super) fn start(cache: &Cache) -> Result<Self> {
        let programs = Programs::get(cache)?;
        let folder = tempfile::tempdir().context("make a folder for the API server")?;
        let [client, peer, port] = free_ports()?;
        let mut server = Self {
            folder,
            processes: Vec::new(),
            port,
        };
        let at = |port: u16| format!("http://127.0.0.1:{port}");
        let mut etcd = Command::new(&programs.etcd);
        etcd.arg("--data-dir").arg(server.path("etcd"));
        for (flag, value) in [
            ("--listen-client-urls", at(client)),
            ("--advertise-client-urls", at(client)),
            ("--listen-peer-urls", at(peer)),
            ("--initial-advertise-peer-urls", at(peer)),
            ("--initial-cluster", format!("default={}", at(peer))),
        ] {
            etcd.args([flag, &value]);
        }
        server.spawn("etcd", &mut etcd)?;
        let key = server.path("key.pem");
        let mut openssl = command::required("openssl", "openssl", "makes the server's key")?;
        command::output(openssl.args(["genrsa", "-out", &key, "2048"]))?;
        fs::write(
            server.path("tokens"),
            format!("{TOKEN},admin,1,system:masters\n"),
        )?;
        let mut api = Command::new(&programs.api_server);
        api.args(["--etcd-servers", &at(client), "--bind-address", "127.0.0.1"]);
        api.args(["--secure-port", &port.to_string(), "--insecure-port", "0"]);
        api.args(["--cert-dir", &server.path("certificates")]);
        api.args(["--service-cluster-ip-range", "10.0.0.0/24"]);
        api.args(["--service-account-key-file", &key]);
        api.args(["--service-account-signing-key-file", &key]);
        api.args(["--service-account-issuer", "https://kubernetes.default.svc"]);
        api.args(["--authorization-mode=RBAC", "--allow-privileged=true"]);
        api.args(["--token-auth-file", &server.path("tokens")]);
        server.spawn("kube-apiserver", &mut api)?;
        Ok(server)
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_string_lossy().into_owned()
    }

    fn spawn(&mut self, name: &str, command: &mut Command) -> Result<()> {
        let log = File::create(self.path(&format!("{name}.log")))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        self.processes.push(child);
        Ok(())
    }

    fn kubectl(&self, kubectl: &Path) -> Command {
        let mut command = Command::new(kubectl);
        command.args(["--kubeconfig=/dev/null", "--insecure-skip-tls-verify"]);
        command.arg(format!("--server=https://127.0.0.1:{}", self.port));
        command.arg(format!("--token={TOKEN}"));
        command.arg(format!("--cache-dir={}", self.path("cache")));
        command
    }

    /// Waits until the server has the namespace that the objects go to.
    fn wait(&self, kubectl: &Path) -> Result<()> {
        let began = Instant::now();
        loop {
            let mut create = self.kubectl(kubectl);
            create.args(["create", "namespace", "ctpressure"]);
            match command::output(&mut create) {
                Ok(_) => return Ok(()),
                Err(error) if error.to_string().contains("AlreadyExists") => return Ok(()),
                Err(error) if began.elapsed() > PATIENCE => {
                    let log = fs::read_to_string(self.path("kube-apiserver.log"));
                    let log = log.unwrap_or_default();
                    let end: Vec<&str> = log.lines().rev().take(5).collect();
                    return Err(error.context(format!("its last words: {end:?}")));
                }
                Err(_) => sleep(Duration::from_millis(500)),
            }
        }
    }

    /// Has the server check the objects as if they were to be made; the result is how many. Fields that it does not
    /// know are an error.
    pub(super) fn dry_run(&self, kubectl: &Path, objects: &[Value]) -> Result<usize> {
        self.wait(kubectl)?;
        let objects: Vec<&Value> = objects
            .iter()
            .filter(|object| object["kind"] != "Namespace")
            .collect();
        let mut objects = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
        for object in objects["items"].as_array_mut().into_iter().flatten() {
            if object["kind"] != "PriorityClass" {
                object["metadata"]["namespace"] = "ctpressure".into();
            }
        }
        let file = self.path("objects.json");
        fs::write(&file, objects.to_string())?;
        let mut create = self.kubectl(kubectl);
        create.args("create --dry-run=server --validate=true -o name -f".split(' '));
        Ok(command::output(create.arg(file))?.lines().count())
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        // The API server before what it stores in.
        for mut process in self.processes.drain(..).rev() {
            // One that has ended by itself needs no end.
            drop(process.kill());
            drop(process.wait());
        }
    }
}

/// Ports that nobody listens on now.
fn free_ports() -> Result<[u16; 3]> {
    let listeners: Vec<TcpListener> = (0..3)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<std::io::Result<_>>()
        .context("find free ports")?;
    let mut ports = [0; 3];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}
