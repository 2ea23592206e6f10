//! How the cluster is reached and whom to ask: flags as kubectl has them, and how long to wait.

use std::{path::PathBuf, time::Duration};

use clap::Args;

/// Where the agent is in its image.
const PROGRAM: &str = "/ctpressure";
/// What the manifests and the chart call all that they make.
const LABEL: &str = "app.kubernetes.io/name=ctpressure";

/// Which cluster, and as whom.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct ClusterArgs {
    /// The kubeconfig file [default: KUBECONFIG, or ~/.kube/config; in a pod its service account]
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig
    #[arg(long, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// The user of the kubeconfig
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// Act as this user
    #[arg(long = "as", value_name = "USER")]
    pub(crate) as_user: Option<String>,
    /// Act as one of this group; may be given several times
    #[arg(long = "as-group", value_name = "GROUP", requires = "as_user")]
    pub(crate) as_group: Vec<String>,
}

/// Whom to ask, and how.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Agents")]
pub(crate) struct AgentArgs {
    /// The namespace of the agents [default: ctpressure, and all namespaces if none is there]
    #[arg(short, long, value_name = "NAME", conflicts_with = "all_namespaces")]
    pub(crate) namespace: Option<String>,
    /// Look for agents in all namespaces
    #[arg(short = 'A', long)]
    pub(crate) all_namespaces: bool,
    /// The agents' pods, by label
    #[arg(short = 'l', long, value_name = "SELECTOR", default_value = LABEL)]
    pub(crate) selector: String,
    /// The agent's container in its pod [default: ctpressure, or the first]
    #[arg(short, long, value_name = "NAME")]
    pub(crate) container: Option<String>,
    /// The agent's program in its container
    #[arg(long, value_name = "PATH", default_value = PROGRAM)]
    pub(crate) agent_program: String,
    /// Nodes that are asked at a time
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) concurrency: u16,
    /// How long each node may take, such as 4s or 1m [default: 3.5s; of doctor and incidents 10s, of reports 30s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Option<Duration>,
}

/// Where the agents are unless it is said.
pub(crate) const NAMESPACE: &str = "ctpressure";

impl AgentArgs {
    /// How long each node may take, unless the caller said so.
    pub(crate) fn patience(&self, default: Duration) -> Duration {
        self.timeout.unwrap_or(default)
    }
}
