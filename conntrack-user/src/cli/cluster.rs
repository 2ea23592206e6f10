//! `ctpressure cluster`: the door to the view over all nodes, which is `kubectl-ctpressure` too.

use std::process::ExitCode;

use clap::Args;

#[cfg(not(feature = "kube"))]
use super::Failure;
use super::examples;

/// One view over the agents of all nodes: what `kubectl ctpressure` does
///
/// Finds the agents' pods by your kubeconfig, and asks each by running `ctpressure` in its container. Exit status: 0 if all nodes answered,
/// 1 after an error, 2 after wrong usage, 3 if some nodes did not answer.
#[cfg(feature = "kube")]
#[derive(Args, Debug)]
#[command(subcommand_required = true, after_help = examples::CLUSTER)]
pub(super) struct Cluster {
    #[command(subcommand)]
    command: ctpressure_cluster::ClusterCommand,
}

#[cfg(feature = "kube")]
impl Cluster {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        self.command.run()
    }
}

/// One view over the agents of all nodes (needs the cargo feature `kube`)
#[cfg(not(feature = "kube"))]
#[derive(Args, Debug)]
#[command(disable_help_flag = true, after_help = examples::CLUSTER)]
pub(super) struct Cluster {
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

#[cfg(not(feature = "kube"))]
impl Cluster {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        drop(self.rest);
        Err(Failure {
            what: "this ctpressure was built without the cargo feature `kube`".to_owned(),
            help: "use kubectl-ctpressure, or build it with `cargo build --features kube`"
                .to_owned(),
        }
        .into())
    }
}
