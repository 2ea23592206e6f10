//! `ctpressure status`: all that the agent says of itself.

use std::time::Duration;

use clap::Args;
use ctpressure_model::command_line;

use super::{
    args::{LogArgs, SocketArgs},
    logging, thread,
};
use crate::serve::socket::Remote;

/// Print all that the running agent says of itself and its node, as JSON
///
/// What is attached and why not more, tables, the foremost owners with their destinations, what runs beside the
/// agent, and its problems.
#[derive(Args, Debug)]
pub(super) struct Status {
    /// The form of the output: there is this one only
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
