//! `kubectl-ctpressure`: `kubectl ctpressure`, one view over the agents of all nodes.

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser};
use ctpressure_cluster::{ClusterCommand, NAME, for_kubectl};
use ctpressure_model::command_line::{self, Failure};

#[derive(Debug, Parser)]
#[command(name = NAME, bin_name = "kubectl ctpressure", version, max_term_width = 100, disable_help_subcommand = true)]
struct Program {
    #[command(subcommand)]
    command: ClusterCommand,
}

fn main() -> ExitCode {
    let matches = for_kubectl(Program::command()).try_get_matches();
    let program = match matches.and_then(|matches| Program::from_arg_matches(&matches)) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_help_ends_with_command_lines_that_are_taken() {
        let mut lines = 0;
        for command in for_kubectl(Program::command()).get_subcommands_mut() {
            let help = command.render_long_help().to_string();
            let (_, examples) = help.rsplit_once("\nExamples:\n").expect("examples");
            for line in examples
                .lines()
                .map(str::trim)
                .filter(|line| !line.is_empty())
            {
                let line = line.split(" | ").next().unwrap_or_default();
                let words = line
                    .strip_prefix("kubectl ")
                    .expect("the plugin's")
                    .split(' ');
                Program::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}"));
                lines += 1;
            }
        }
        assert!(lines >= 12, "{lines}");
    }
}
