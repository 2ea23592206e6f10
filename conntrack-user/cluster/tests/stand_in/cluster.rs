//! A cluster that is none: a stand-in for its API server, and the program that asks it.

use std::{fs, process::Output, sync::Arc};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::{
    agents::{node, number, pod},
    server::{Counts, Reply, World, serve},
};

pub(crate) const NODES: usize = 200;
const NAMESPACE: &str = "ctpressure";

/// A cluster, and the way to it.
pub(crate) struct Cluster {
    pub(crate) counts: Arc<Counts>,
    pub(crate) folder: TempDir,
}

impl Cluster {
    pub(crate) async fn start(world: World) -> Self {
        let (address, counts) = serve(world).await;
        let folder = tempfile::tempdir().expect("a folder");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "other",
            "clusters": [
                {"name": "test", "cluster": {"server": format!("http://{address}")}},
                {"name": "nowhere", "cluster": {"server": "http://127.0.0.1:1"}},
            ],
            "users": [{"name": "test", "user": {"token": "secret"}}],
            "contexts": [
                {"name": "test", "context": {"cluster": "test", "user": "test"}},
                {"name": "other", "context": {"cluster": "nowhere", "user": "test"}},
            ],
        });
        fs::write(folder.path().join("config"), config.to_string()).expect("a kubeconfig");
        Self { counts, folder }
    }

    pub(crate) async fn run(&self, arguments: &str) -> Output {
        let words = arguments.split_whitespace();
        let output = Command::new(env!("CARGO_BIN_EXE_kubectl-ctpressure"))
            .args(words)
            .args(["--context", "test"])
            .env("KUBECONFIG", self.folder.path().join("config"))
            .env_remove("CTPRESSURE_OUTPUT")
            .current_dir(self.folder.path())
            .output();
        output.await.expect("the program runs")
    }

    /// Runs it, and reads its JSON.
    pub(crate) async fn json(&self, arguments: &str, status: i32) -> Value {
        let output = self.run(&format!("{arguments} -o json")).await;
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{arguments}: {error}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// Runs it, and checks that its text is fit for a terminal.
    pub(crate) async fn text(&self, arguments: &str, status: i32) -> String {
        let output = self.run(arguments).await;
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{arguments}: {error}");
        let text = String::from_utf8(output.stdout).expect("text");
        for line in text.lines() {
            let is_command = line.contains("kubectl ctpressure report") || line.contains("sysctl");
            assert!(line.chars().count() <= 100 || is_command, "{line}");
            assert!(!line.chars().any(char::is_control), "{line:?}");
        }
        text
    }
}

/// A cluster of so many nodes, each with an agent.
pub(crate) fn world(
    nodes: usize,
    reply: impl Fn(usize, &[String]) -> Reply + Send + Sync + 'static,
) -> World {
    World {
        pods: (0..nodes).map(|at| pod(at, NAMESPACE)).collect(),
        nodes: Some((0..nodes).map(node).collect()),
        reply: Box::new(move |pod, command| {
            assert_eq!(command[0], "/ctpressure");
            reply(number(pod), &command[1..])
        }),
    }
}

pub(crate) fn is(command: &[String], words: &[&str]) -> bool {
    words.iter().all(|word| command.iter().any(|it| it == word))
}

/// What an agent says of an error.
pub(crate) fn fails(what: &str, help: &str) -> Reply {
    Reply::Prints {
        out: Vec::new(),
        error: format!("ctpressure: error: {what}\nhelp: {help}\n"),
        status: 1,
    }
}
