//! `ctpressure-report`: reads a journal that was copied from a node, on any system.

use std::process::ExitCode;

use clap::Parser;
use ctpressure_journal::JournalError;
use ctpressure_model::command_line::{self, Failure};
use ctpressure_report::ReportCommand;

#[derive(Debug, Parser)]
#[command(name = NAME, version, max_term_width = 100, after_help = EXAMPLES)]
struct Program {
    #[command(flatten)]
    report: ReportCommand,
}

const NAME: &str = "ctpressure-report";

const EXAMPLES: &str = "\
Examples:
  ctpressure-report --journal journal.db                                # the incidents in it
  ctpressure-report --journal journal.db --incident 1 --html page.html
  ctpressure-report --journal journal.db --since 03:00 --until 03:30 -o json";

fn main() -> ExitCode {
    let program = match Program::try_parse() {
        Ok(program) => program,
        Err(error) => {
            return command_line::usage(
                NAME,
                "`ctpressure-report --help` says what there is",
                &error,
            );
        }
    };
    let Err(error) = program.report.run() else {
        return ExitCode::SUCCESS;
    };
    let help = error
        .downcast_ref::<Failure>()
        .map(|failure| failure.help.as_str())
        .or_else(|| error.downcast_ref().map(JournalError::help));
    eprint!("{}", command_line::explain(NAME, &error, help));
    ExitCode::FAILURE
}
