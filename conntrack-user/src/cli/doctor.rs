//! `ctpressure doctor`: what is wrong or risky on this node.

use std::{
    io::{self, IsTerminal as _},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use ctpressure_model::command_line::{self, Output, OutputArgs};

use super::{
    args::{LogArgs, SocketArgs},
    logging, owners, thread,
};
use crate::{
    doctor::{DoctorReport, Facts, PluginAnswer, RefusedRequests},
    kernel::Root,
    serve::socket::Remote,
};

/// Say what is wrong or risky on this node, and what to do about it
///
/// Checks once, for about a second; changes nothing. Each finding has the evidence, the consequence, the
/// commands that fix it, and what they cost. Works without root as far as possible, and lists what it could not
/// check. Asks a running agent only for what the kernel does not count. Exit status: 0 if there is nothing worse
/// than a risk, 1 for a problem or something critical, 2 for wrong usage, and with --npd for unknown.
#[derive(Args, Debug)]
pub(super) struct Doctor {
    /// Answer as a custom plugin of node-problem-detector: one line; exit status 0 no problem, 1 problem, 2 unknown
    #[arg(long, conflicts_with = "output")]
    npd: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    socket: SocketArgs,
    #[command(flatten)]
    log: LogArgs,
}

/// What a running agent has seen of requests that were refused: the kernel has no count of them. `None`: no agent tells.
fn refused(socket: &Path) -> Option<RefusedRequests> {
    let ask = async {
        match Remote::top(socket, true).await? {
            Some(mut remote) => Ok(Some(remote.next().await?)),
            None => Ok(None),
        }
    };
    let answer = thread::block_on(Duration::ZERO, ask).inspect_err(|error: &anyhow::Error| {
        tracing::info!(%error, "the running agent does not say what it has seen");
    });
    let sample = answer.ok().flatten()?;
    let owners = sample.owners.iter();
    let most = owners
        .filter(|owner| owner.refused > Some(0))
        .max_by_key(|owner| owner.refused);
    Some(RefusedRequests {
        number: sample.totals.refused?,
        owner: most.map(|owner| owner.name.clone()),
        seconds: sample.uptime_seconds,
    })
}

/// What is so on this node, and what follows from it.
fn look(socket: &Path) -> DoctorReport {
    let root = Root::system();
    let mut facts = Facts::gather(&root, &|| owners::addresses(&root, socket));
    facts.refused = refused(socket);
    DoctorReport::new(&facts)
}

impl Doctor {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        logging::start(self.log.log, self.log.verbose, tracing::Level::ERROR);
        let report = look(&self.socket.socket);
        if self.npd {
            let answer = PluginAnswer::new(&report);
            // What failed must not be taken for a problem of the node.
            let printed = command_line::print(&(answer.line + "\n")).inspect_err(|error| {
                tracing::error!(%error, "no answer");
            });
            let status = printed.map_or(PluginAnswer::UNKNOWN, |()| answer.status);
            return Ok(ExitCode::from(status));
        }
        let text = match self.output.output {
            Output::Text => {
                let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
                report.text(colour)
            }
            Output::Json => serde_json::to_string(&report)? + "\n",
        };
        command_line::print(&text)?;
        Ok(if report.is_bad() {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }
}
