//! One view over the agents of all nodes: the program `kubectl-ctpressure`, and `ctpressure cluster`.
//!
//! The caller's kubeconfig tells the way. Each agent is asked by running its own command line in its container, which asks the agent
//! over its local socket: no port is opened, and no server is added.
//!
//! * `fleet`: which agents there are, of the pods and nodes that the API lists;
//! * `ask`: lists them, and asks many at once; all that speaks to the API is there;
//! * `shapes`: what agents print, as far as it is read here; `answer`: what a process in a container left behind;
//! * `coverage`: which nodes answered, and why the others did not;
//! * `view`: many answers made one, which is also what `-o json` prints; `text` and `page` say it for people;
//! * `command`: the command line.
//!
//! All but `ask` and `command` is pure.

#![forbid(unsafe_code)]

mod answer;
mod ask;
mod command;
mod coverage;
mod fleet;
mod options;
mod page;
mod shapes;
mod text;
mod view;

pub use command::{ClusterCommand, NAME, for_kubectl};

/// What the program `kubectl-ctpressure` takes: for checking command lines that are written down somewhere.
pub fn definition() -> clap::Command {
    command::definition()
}
