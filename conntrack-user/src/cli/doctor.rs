//! `ctpressure doctor`: what is wrong or risky on this node.

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
};

use clap::Args;
use ctpressure_model::command_line::{self, Output, OutputArgs};

use super::{args::LogArgs, logging};
use crate::{
    doctor::{DoctorReport, Facts},
    kernel::Root,
};

/// Say what is wrong or risky on this node, and what to do about it
///
/// Looks once, for about a second, and changes nothing. Each finding has what was seen, what follows from it,
/// command lines that put it right, and what they cost. Works without root as far as it can, and says what it
/// could not look at. Exit status: 0 if there is nothing worse than a risk, 1 if there is a problem or
/// something critical, 2 after wrong usage.
#[derive(Args, Debug)]
pub(super) struct Doctor {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    log: LogArgs,
}

impl Doctor {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        logging::start(self.log.log, self.log.verbose, tracing::Level::ERROR);
        let report = DoctorReport::new(&Facts::gather(&Root::system()));
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
