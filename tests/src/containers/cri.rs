//! The container runtime interface as a kubelet speaks it, version `runtime.v1`: the calls that make
//! and remove a pod, and of their messages the fields that are used (numbers of `api.proto` in
//! `k8s.io/cri-api`; what is left out is empty, as the format has it).

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Result;
use prost::Message;

use super::grpc;

/// Making a sandbox takes some seconds under emulation, and many are made at once.
const LIMIT: Duration = Duration::from_mins(3);

/// The runtime behind a socket.
#[derive(Clone, Debug)]
pub struct Cri {
    socket: PathBuf,
}

/// `PodSandboxMetadata`
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SandboxMetadata {
    /// Name of the pod.
    #[prost(string, tag = "1")]
    pub name: String,
    /// UID of the pod.
    #[prost(string, tag = "2")]
    pub uid: String,
    /// Namespace of the pod.
    #[prost(string, tag = "3")]
    pub namespace: String,
}

/// `DNSConfig`
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Dns {
    /// Addresses of resolvers.
    #[prost(string, repeated, tag = "1")]
    pub servers: Vec<String>,
}

/// `PortMapping`; the protocol left out is TCP.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PortMapping {
    /// Port in the pod.
    #[prost(int32, tag = "2")]
    pub container_port: i32,
    /// Port of the node.
    #[prost(int32, tag = "3")]
    pub host_port: i32,
}

/// `NamespaceOption`
#[derive(Clone, PartialEq, Eq, Message)]
pub struct NamespaceOption {
    /// Of the pod (0) or of the node (2).
    #[prost(int32, tag = "1")]
    pub network: i32,
    /// Of the pod (0), the container (1) or the node (2).
    #[prost(int32, tag = "2")]
    pub pid: i32,
}

/// `NamespaceMode::CONTAINER`: what a kubelet asks for process ids.
pub const OF_CONTAINER: i32 = 1;
/// `NamespaceMode::NODE`
pub const OF_NODE: i32 = 2;

/// `LinuxSandboxSecurityContext`
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SandboxSecurity {
    /// Namespaces.
    #[prost(message, optional, tag = "1")]
    pub namespaces: Option<NamespaceOption>,
}

/// `LinuxPodSandboxConfig`
#[derive(Clone, PartialEq, Eq, Message)]
pub struct LinuxSandbox {
    /// The cgroup of the pod.
    #[prost(string, tag = "1")]
    pub cgroup_parent: String,
    /// Namespaces and rights.
    #[prost(message, optional, tag = "2")]
    pub security: Option<SandboxSecurity>,
}

/// `PodSandboxConfig`
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SandboxConfig {
    /// Who it is.
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<SandboxMetadata>,
    /// Host name inside; empty with the node's network.
    #[prost(string, tag = "2")]
    pub hostname: String,
    /// Folder of the logs of its containers.
    #[prost(string, tag = "3")]
    pub log_directory: String,
    /// What `/etc/resolv.conf` is made of.
    #[prost(message, optional, tag = "4")]
    pub dns: Option<Dns>,
    /// Ports of the node that lead into it.
    #[prost(message, repeated, tag = "5")]
    pub ports: Vec<PortMapping>,
    /// Labels by name.
    #[prost(map = "string, string", tag = "6")]
    pub labels: HashMap<String, String>,
    /// Linux' part.
    #[prost(message, optional, tag = "8")]
    pub linux: Option<LinuxSandbox>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct RunSandboxRequest {
    #[prost(message, optional, tag = "1")]
    config: Option<SandboxConfig>,
    #[prost(string, tag = "2")]
    runtime_handler: String,
}

/// The answer of a call that makes something, and the request of one that is about it.
#[derive(Clone, PartialEq, Eq, Message)]
struct Id {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct ContainerMetadata {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct ImageSpec {
    #[prost(string, tag = "1")]
    image: String,
}

/// `Mount`
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Mount {
    /// Where the container has it.
    #[prost(string, tag = "1")]
    pub container_path: String,
    /// Where the node has it.
    #[prost(string, tag = "2")]
    pub host_path: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct ContainerSecurity {
    #[prost(message, optional, tag = "3")]
    namespaces: Option<NamespaceOption>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct LinuxContainer {
    #[prost(message, optional, tag = "2")]
    security: Option<ContainerSecurity>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct ContainerConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ContainerMetadata>,
    #[prost(message, optional, tag = "2")]
    image: Option<ImageSpec>,
    #[prost(string, repeated, tag = "3")]
    command: Vec<String>,
    #[prost(message, repeated, tag = "7")]
    mounts: Vec<Mount>,
    #[prost(map = "string, string", tag = "9")]
    labels: HashMap<String, String>,
    #[prost(string, tag = "11")]
    log_path: String,
    #[prost(message, optional, tag = "15")]
    linux: Option<LinuxContainer>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct CreateContainerRequest {
    #[prost(string, tag = "1")]
    sandbox: String,
    #[prost(message, optional, tag = "2")]
    config: Option<ContainerConfig>,
    #[prost(message, optional, tag = "3")]
    sandbox_config: Option<SandboxConfig>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Ip {
    #[prost(string, tag = "1")]
    ip: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct SandboxNetwork {
    #[prost(string, tag = "1")]
    ip: String,
    #[prost(message, repeated, tag = "2")]
    additional: Vec<Ip>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct SandboxStatus {
    #[prost(message, optional, tag = "5")]
    network: Option<SandboxNetwork>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct StatusRequest {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(bool, tag = "2")]
    verbose: bool,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct SandboxStatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<SandboxStatus>,
    #[prost(map = "string, string", tag = "2")]
    info: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Empty {}

/// `VersionResponse`
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Version {
    /// Name of the runtime.
    #[prost(string, tag = "2")]
    pub runtime: String,
    /// Its own version.
    #[prost(string, tag = "3")]
    pub version: String,
}

/// What a container is started with.
#[derive(Clone, Debug)]
pub struct Container {
    /// Its name in the pod.
    pub name: String,
    /// Its image.
    pub image: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Folders of the node that it sees.
    pub mounts: Vec<Mount>,
    /// Labels by name.
    pub labels: HashMap<String, String>,
}

/// What the runtime says of a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Addresses, the first one first; none with the node's network.
    pub addresses: Vec<String>,
    /// The runtime's own details: JSON text.
    pub info: String,
}

impl Cri {
    /// The runtime that listens at `socket`.
    pub fn at(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    fn call<A: Message + Default>(&self, method: &str, request: &impl Message) -> Result<A> {
        let method = format!("runtime.v1.RuntimeService/{method}");
        grpc::call(&self.socket, &method, request, LIMIT)
    }

    /// Asks whether it is there.
    pub fn version(&self) -> Result<Version> {
        self.call("Version", &Empty {})
    }

    /// Makes and starts a sandbox with the runtime class `handler`; returns its id.
    pub fn run_sandbox(&self, config: &SandboxConfig, handler: &str) -> Result<String> {
        let request = RunSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: handler.to_owned(),
        };
        Ok(self.call::<Id>("RunPodSandbox", &request)?.id)
    }

    /// Makes and starts a container in a sandbox; returns its id.
    pub fn run_container(
        &self,
        sandbox: &str,
        sandbox_config: &SandboxConfig,
        container: Container,
    ) -> Result<String> {
        let namespaces = sandbox_config
            .linux
            .as_ref()
            .and_then(|linux| linux.security.as_ref()?.namespaces.clone());
        let request = CreateContainerRequest {
            sandbox: sandbox.to_owned(),
            config: Some(ContainerConfig {
                log_path: format!("{}/0.log", container.name),
                metadata: Some(ContainerMetadata {
                    name: container.name,
                }),
                image: Some(ImageSpec {
                    image: container.image,
                }),
                command: container.command,
                mounts: container.mounts,
                labels: container.labels,
                linux: Some(LinuxContainer {
                    security: Some(ContainerSecurity { namespaces }),
                }),
            }),
            sandbox_config: Some(sandbox_config.clone()),
        };
        let made: Id = self.call("CreateContainer", &request)?;
        self.call::<Empty>("StartContainer", &made)?;
        Ok(made.id)
    }

    /// What the runtime says of a sandbox.
    pub fn sandbox_status(&self, id: &str) -> Result<Status> {
        let request = StatusRequest {
            id: id.to_owned(),
            verbose: true,
        };
        let mut answer: SandboxStatusResponse = self.call("PodSandboxStatus", &request)?;
        let network = answer.status.and_then(|status| status.network);
        let network = network.unwrap_or_default();
        let others = network.additional.into_iter().map(|other| other.ip);
        Ok(Status {
            addresses: std::iter::once(network.ip)
                .chain(others)
                .filter(|ip| !ip.is_empty())
                .collect(),
            info: answer.info.remove("info").unwrap_or_default(),
        })
    }

    /// Ends a sandbox with all its containers, and removes it.
    pub fn remove_sandbox(&self, id: &str) -> Result<()> {
        let id = Id { id: id.to_owned() };
        self.call::<Empty>("StopPodSandbox", &id)?;
        self.call::<Empty>("RemovePodSandbox", &id).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_numbers_of_api_proto() {
        let config = SandboxConfig {
            metadata: Some(SandboxMetadata {
                name: "a".into(),
                uid: "b".into(),
                namespace: "c".into(),
            }),
            log_directory: "/l".into(),
            linux: Some(LinuxSandbox {
                cgroup_parent: "/p".into(),
                security: Some(SandboxSecurity {
                    namespaces: Some(NamespaceOption {
                        network: OF_NODE,
                        pid: OF_CONTAINER,
                    }),
                }),
            }),
            ..SandboxConfig::default()
        };
        let bytes = config.encode_to_vec();
        assert_eq!(
            bytes,
            b"\x0a\x09\x0a\x01a\x12\x01b\x1a\x01c\x1a\x02/l\x42\x0c\x0a\x02/p\x12\x06\x0a\x04\x08\x02\x10\x01"
        );
    }
}
