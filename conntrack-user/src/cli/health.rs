//! `ctpressure health`: whether the agent lives.

use std::time::Duration;

use clap::Args;
use ctpressure_model::command_line::{self, Failure, Output, OutputArgs};
use serde::Serialize;

use super::{
    args::{LogArgs, SocketArgs},
    logging, thread,
};
use crate::serve::socket::Remote;

/// Check whether the running agent is alive or ready, for probes
///
/// Asks over the local socket, which only root can reach, so clients that crowd the metrics port cannot change the
/// answer. Exit status: 0 yes, 1 no or no answer.
#[derive(Args, Debug)]
pub(super) struct Health {
    /// Check that it is ready (sampling, or waiting for conntrack to be loaded), not only alive
    #[arg(long)]
    ready: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    socket: SocketArgs,
    #[command(flatten)]
    log: LogArgs,
}

/// What `-o json` prints.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct HealthDocument {
    /// With --ready absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    alive: Option<bool>,
    /// With --ready only.
    #[serde(skip_serializing_if = "Option::is_none")]
    ready: Option<bool>,
    /// Why it is not.
    problem: Option<String>,
}

impl Health {
    pub(super) fn run(self) -> anyhow::Result<()> {
        logging::start(self.log.log, self.log.verbose, tracing::Level::ERROR);
        let path = self.socket.socket;
        let ask = async { Ok(Remote::health(&path, self.ready).await?) };
        let wanted = if self.ready { "ready" } else { "alive" };
        let health = thread::block_on(Duration::ZERO, ask)?;
        let as_json = self.output.output == Output::Json;
        if let Some(health) = health.as_ref().filter(|_| as_json) {
            let answer = HealthDocument {
                alive: (!self.ready).then_some(health.well),
                ready: self.ready.then_some(health.well),
                problem: health.problem.clone(),
            };
            command_line::print(&(serde_json::to_string(&answer)? + "\n"))?;
        }
        match health {
            Some(health) if health.well && as_json => Ok(()),
            Some(health) if health.well => Ok(command_line::print(&format!("{wanted}\n"))?),
            Some(health) => {
                let problem = health.problem.unwrap_or_default();
                let what = format!("the agent is not {wanted}: {problem}");
                let help = "`ctpressure status` and the agent's log say more".to_owned();
                Err(Failure { what, help }.into())
            }
            None => Err(super::no_agent(&path)),
        }
    }
}
