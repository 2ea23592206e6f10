//! One pod, made as a kubelet makes it.

use std::{
    collections::HashMap,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{
    cri::{
        Container, Cri, Dns, LinuxSandbox, Mount, NamespaceOption, OF_CONTAINER, OF_NODE,
        PortMapping, SandboxConfig, SandboxMetadata, SandboxSecurity,
    },
    image::PROGRAM,
    network::Network,
    runtime::APPLICATION,
};
use crate::{
    guest::command::wait_for,
    traffic::{
        tally::Tally,
        worker::{self, Running},
    },
};

/// Where pods answer flows.
pub const PORT: u16 = 7000;
/// Folder of the node in which the workers' sockets are, and where containers see it.
const SOCKETS: &str = "/run/pod-workers";
const SOCKETS_INSIDE: &str = "/workers";

/// What a pod is to be.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its namespace.
    pub namespace: &'static str,
    /// Its name.
    pub name: String,
    /// How it is connected.
    pub network: Network,
    /// A port of the node that leads to [`PORT`].
    pub host_port: Option<u16>,
}

/// A running pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its addresses; none with the node's network.
    pub addresses: Vec<IpAddr>,
    /// The name of its network namespace below `/run/netns`; none with the node's network.
    pub netns: Option<String>,
    sandbox: String,
    container: String,
}

impl Wanted {
    /// A pod of the namespace `shop`.
    pub fn new(name: impl Into<String>, network: Network) -> Self {
        Self {
            namespace: "shop",
            name: name.into(),
            network,
            host_port: None,
        }
    }

    /// Makes the pod and waits until its worker listens. `number` tells its UID from others'.
    pub fn make(&self, cri: &Cri, number: u32) -> Result<Pod> {
        self.try_make(cri, number)
            .with_context(|| format!("making the pod {}/{}", self.namespace, self.name))
    }

    fn try_make(&self, cri: &Cri, number: u32) -> Result<Pod> {
        let uid = format!("5f0e{number:04x}-6d1c-4b7a-9e35-c0a8{number:08x}");
        let config = self.config(&uid)?;
        let sandbox = cri.run_sandbox(&config, self.network.name())?;
        let container = cri.run_container(&sandbox, &config, self.container(&uid))?;
        let status = cri.sandbox_status(&sandbox)?;
        let addresses = if self.network == Network::Host {
            Vec::new()
        } else {
            let addresses: Result<Vec<IpAddr>, _> =
                status.addresses.iter().map(|text| text.parse()).collect();
            addresses.context("reading its addresses")?
        };
        let pod = Pod {
            namespace: self.namespace.to_owned(),
            name: self.name.clone(),
            uid,
            addresses,
            netns: netns(&status.info)?,
            sandbox,
            container,
        };
        let socket = pod.socket();
        wait_for("its worker's socket", Duration::from_mins(1), || {
            Ok(socket.exists().then_some(()))
        })?;
        Ok(pod)
    }

    fn config(&self, uid: &str) -> Result<SandboxConfig> {
        let log_directory = format!("/var/log/pods/{}_{}_{uid}", self.namespace, self.name);
        let cgroup_parent = format!("/kubepods/burstable/pod{uid}");
        // Both are the kubelet's part, before it asks the runtime.
        for folder in [
            &log_directory,
            &format!("/sys/fs/cgroup{cgroup_parent}"),
            SOCKETS,
        ] {
            fs::create_dir_all(folder).with_context(|| format!("making {folder}"))?;
        }
        let host = self.network == Network::Host;
        Ok(SandboxConfig {
            metadata: Some(SandboxMetadata {
                name: self.name.clone(),
                uid: uid.to_owned(),
                namespace: self.namespace.to_owned(),
            }),
            hostname: if host {
                String::new()
            } else {
                self.name.clone()
            },
            log_directory,
            dns: Some(Dns {
                servers: vec!["10.96.0.10".to_owned()],
            }),
            ports: self
                .host_port
                .iter()
                .map(|port| PortMapping {
                    container_port: PORT.into(),
                    host_port: (*port).into(),
                })
                .collect(),
            labels: self.labels(uid),
            linux: Some(LinuxSandbox {
                cgroup_parent,
                security: Some(SandboxSecurity {
                    namespaces: Some(NamespaceOption {
                        network: if host { OF_NODE } else { 0 },
                        pid: OF_CONTAINER,
                    }),
                }),
            }),
        })
    }

    fn labels(&self, uid: &str) -> HashMap<String, String> {
        [
            ("io.kubernetes.pod.name", self.name.as_str()),
            ("io.kubernetes.pod.namespace", self.namespace),
            ("io.kubernetes.pod.uid", uid),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    fn container(&self, uid: &str) -> Container {
        let socket = format!("{SOCKETS_INSIDE}/{}", socket_name(uid));
        let mut command = vec![PROGRAM, "worker", "--socket", &socket];
        let listen = format!("[::]:{PORT}");
        if self.network != Network::Host {
            command.extend(["--listen", &listen]);
        }
        let mut labels = self.labels(uid);
        labels.insert("io.kubernetes.container.name".into(), "app".into());
        Container {
            name: "app".to_owned(),
            image: APPLICATION.to_owned(),
            command: command.into_iter().map(str::to_owned).collect(),
            mounts: vec![Mount {
                container_path: SOCKETS_INSIDE.to_owned(),
                host_path: SOCKETS.to_owned(),
            }],
            labels,
        }
    }
}

fn socket_name(uid: &str) -> String {
    format!("{uid}.sock")
}

/// The name below `/run/netns` in the runtime's details of a sandbox.
fn netns(info: &str) -> Result<Option<String>> {
    let info: serde_json::Value =
        serde_json::from_str(info).context("reading the sandbox's details")?;
    let namespaces = info["runtimeSpec"]["linux"]["namespaces"].as_array();
    let path = namespaces.and_then(|namespaces| {
        let network = namespaces.iter().find(|space| space["type"] == "network")?;
        network["path"].as_str()
    });
    Ok(path
        .and_then(|path| Path::new(path).file_name())
        .map(|name| name.to_string_lossy().into_owned()))
}

impl Pod {
    fn socket(&self) -> PathBuf {
        Path::new(SOCKETS).join(socket_name(&self.uid))
    }

    /// Its address, the first if it has several.
    ///
    /// # Errors
    ///
    /// When it has the node's network.
    pub fn address(&self) -> Result<IpAddr> {
        let first = self.addresses.first().copied();
        first.with_context(|| format!("the pod {} has no address of its own", self.name))
    }

    /// The name of its network namespace.
    ///
    /// # Errors
    ///
    /// When it has the node's network.
    pub fn netns(&self) -> Result<&str> {
        let name = self.netns.as_deref();
        name.with_context(|| format!("the pod {} has no network namespace", self.name))
    }

    /// Has `ctgen` run in it with these arguments (split at spaces).
    pub fn start(&self, arguments: &str) -> Result<Running> {
        worker::start(&self.socket(), arguments).with_context(|| format!("in pod {}", self.name))
    }

    /// Has `ctgen` run in it to its end, and reads its counts.
    pub fn run(&self, arguments: &str) -> Result<Tally> {
        let text = self
            .start(arguments)?
            .finish()
            .with_context(|| format!("in pod {}", self.name))?;
        serde_json::from_str(&text).with_context(|| format!("reading the counts `{text}`"))
    }

    /// Ends and removes it, and what the kubelet had made for it.
    pub fn remove(self, cri: &Cri) -> Result<()> {
        cri.remove_sandbox(&self.sandbox)
            .with_context(|| format!("removing the pod {}", self.name))?;
        let folder = format!(
            "/var/log/pods/{}_{}_{}",
            self.namespace, self.name, self.uid
        );
        fs::remove_dir_all(&folder).with_context(|| format!("removing {folder}"))?;
        let cgroup = format!("/sys/fs/cgroup/kubepods/burstable/pod{}", self.uid);
        ensure!(
            fs::remove_dir(&cgroup).is_ok() || !Path::new(&cgroup).exists(),
            "{cgroup} can't be removed"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_namespace_is_found_in_the_details() {
        let info = r#"{"pid":7,"runtimeSpec":{"linux":{"namespaces":[{"type":"pid"},
            {"type":"network","path":"/var/run/netns/cni-1"}]}}}"#;
        assert_eq!(netns(info).unwrap().as_deref(), Some("cni-1"));
        let host = r#"{"runtimeSpec":{"linux":{"namespaces":[{"type":"pid"}]}}}"#;
        assert_eq!(netns(host).unwrap(), None);
        assert!(netns("").is_err());
    }
}
