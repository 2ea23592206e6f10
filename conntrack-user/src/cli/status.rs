//! `ctpressure status`: all that the agent says of itself.

use std::time::Duration;

use clap::Args;
use ctpressure_model::command_line;

use super::{
    args::{LogArgs, SocketArgs},
    logging, thread,
};
use crate::serve::socket::Remote;

/// Print the running agent's state, as JSON
///
/// Attached probes and why others are not, tables, the top owners with their destinations, journal, limit
/// controller, Kubernetes, and problems.
#[derive(Args, Debug)]
pub(super) struct Status {
    /// Output format; JSON is the only one
    #[arg(
        short = 'o',
        long = "output",
        value_name = "FORMAT",
        value_parser = ["json"],
        default_value = "json"
    )]
    _output: String,
    #[command(flatten)]
    socket: SocketArgs,
    #[command(flatten)]
    log: LogArgs,
}

impl Status {
    pub(super) fn run(self) -> anyhow::Result<()> {
        logging::start(self.log.log, self.log.verbose, tracing::Level::ERROR);
        let path = self.socket.socket;
        let ask = async { Ok(Remote::status(&path).await?) };
        match thread::block_on(Duration::ZERO, ask)? {
            Some(status) => {
                let json = serde_json::to_string_pretty(&status)?;
                Ok(command_line::print(&format!("{json}\n"))?)
            }
            None => Err(super::no_agent(&path)),
        }
    }
}
