//! `kubectl-ctpressure`: `kubectl ctpressure`, one view over the agents of all nodes.

use std::process::ExitCode;

use clap::Parser;
use ctpressure_cluster::{ClusterCommand, NAME};
use ctpressure_model::command_line::{self, Failure};

#[derive(Debug, Parser)]
#[command(name = NAME, bin_name = "kubectl ctpressure", version, max_term_width = 100, disable_help_subcommand = true)]
struct Program {
    #[command(subcommand)]
    command: ClusterCommand,
}

fn main() -> ExitCode {
    let program = match Program::try_parse() {
        Ok(program) => program,
        Err(error) => {
            let help = "`kubectl ctpressure --help` says what there is";
            return command_line::usage(NAME, help, &error);
        }
    };
    match program.command.run() {
        Ok(status) => status,
        Err(error) => {
            let help = error.downcast_ref::<Failure>();
            let help = help.map(|failure| failure.help.as_str());
            eprint!("{}", command_line::explain(NAME, &error, help));
            ExitCode::FAILURE
        }
    }
}
