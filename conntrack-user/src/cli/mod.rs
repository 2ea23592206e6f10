//! The command line: one file for each subcommand, nothing but arguments and printing.

mod access_args;
mod args;
mod cluster;
mod contain;
mod doctor;
mod examples;
mod failure;
mod health;
mod kubernetes;
mod limit;
mod limit_args;
mod logging;
mod output;
mod owners;
mod report;
mod run;
#[cfg(test)]
mod schemas;
mod signals;
mod status;
mod table;
mod thread;
mod top;
mod watch;

use std::{path::Path, process::ExitCode};

use clap::{CommandFactory as _, Parser, Subcommand};
use ctpressure_model::command_line::{self, Failure, USAGE};

/// What to do about wrong usage.
const HELP: &str = "`ctpressure --help` and `ctpressure <COMMAND> --help` say what there is";

/// What `--version` says; `-V` has the first line only.
const LONG_VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    "\ncommit    ",
    env!("CTPRESSURE_BUILT_COMMIT"),
    "\nfeatures  ",
    env!("CTPRESSURE_BUILT_FEATURES"),
    "\ntarget    ",
    env!("CTPRESSURE_BUILT_TARGET"),
);

/// See who fills the conntrack table, and whom it costs packets
#[derive(Debug, Parser)]
#[command(
    name = "ctpressure",
    version,
    long_version = LONG_VERSION,
    after_help = examples::ALL,
    max_term_width = 100,
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(after_help = examples::RUN)]
    Run(run::Run),
    #[command(after_help = examples::TOP)]
    Top(top::Top),
    #[command(after_help = examples::WATCH)]
    Watch(watch::Watch),
    #[command(after_help = examples::TABLE)]
    Table(table::Table),
    #[command(after_help = examples::REPORT)]
    Report(report::Report),
    #[command(after_help = examples::DOCTOR)]
    Doctor(doctor::Doctor),
    #[command(after_help = examples::LIMIT)]
    Limit(limit::Limit),
    #[command(after_help = examples::CONTAIN)]
    Contain(contain::Contain),
    #[command(after_help = examples::STATUS)]
    Status(status::Status),
    #[command(after_help = examples::HEALTH)]
    Health(health::Health),
    #[cfg_attr(not(feature = "kube"), command(hide = true))]
    Cluster(cluster::Cluster),
}

/// What the program takes: for checking command lines that are written down somewhere.
pub fn definition() -> clap::Command {
    Cli::command()
}

/// Runs the program with the arguments of the process; the exit status is 0 if all went well, 1
/// after an error or a bad finding of `doctor`, 2 after wrong usage.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return command_line::usage("ctpressure", HELP, &error),
    };
    let result = match cli.command {
        Command::Run(run) => run.run().map(|()| ExitCode::SUCCESS),
        Command::Top(top) => top.run().map(|()| ExitCode::SUCCESS),
        Command::Watch(watch) => watch.run().map(|()| ExitCode::SUCCESS),
        Command::Table(table) => table.run().map(|()| ExitCode::SUCCESS),
        Command::Report(report) => report.run().map(|()| ExitCode::SUCCESS),
        Command::Doctor(doctor) => doctor.run(),
        Command::Limit(limit) => limit.run().map(|()| ExitCode::SUCCESS),
        Command::Contain(contain) => contain.run().map(|()| ExitCode::SUCCESS),
        Command::Status(status) => status.run().map(|()| ExitCode::SUCCESS),
        Command::Health(health) => health.run().map(|()| ExitCode::SUCCESS),
        Command::Cluster(cluster) => cluster.run(),
    };
    match result {
        Ok(status) => status,
        Err(error) => {
            logging::print_error(&failure::explain(&error));
            if error.is::<limit::SettingsError>() {
                ExitCode::from(USAGE)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

/// Nobody listens where a command asks.
fn no_agent(socket: &Path) -> anyhow::Error {
    let what = format!("no agent listens on {}", socket.display());
    let help = "start `ctpressure run`, or say where its socket is with --socket".to_owned();
    Failure { what, help }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_several_commands_take_is_under_no_heading() {
        fn check(command: &clap::Command) {
            for argument in command.get_arguments() {
                let shared = ["log", "node_exporter_names", "output", "socket", "verbose"];
                if shared.contains(&argument.get_id().as_str()) {
                    let name = command.get_name();
                    assert_eq!(argument.get_help_heading(), None, "{name}: {argument}");
                }
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }
}
