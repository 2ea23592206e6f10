//! What `ctpressure` and `ctpressure-report` do the same way at a terminal.

use std::{
    fmt::Display,
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{Args, ValueEnum, error::ErrorKind};

use crate::words::clean_lines;

/// Exit status after wrong usage.
pub const USAGE: u8 = 2;

/// How results are printed.
#[derive(Args, Clone, Copy, Debug)]
pub struct OutputArgs {
    /// Text for people, or JSON for programs
    #[arg(
        short,
        long,
        env = "CTPRESSURE_OUTPUT",
        value_name = "FORMAT",
        value_enum,
        default_value_t
    )]
    pub output: Output,
}

/// A form of output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

/// An error with advice.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Failure {
    /// What went wrong, for the first line.
    pub what: String,
    /// What to do about it.
    pub help: String,
}

/// `PROGRAM: error: ...` and `help: ...`, each with its line end.
///
/// Messages carry their cause themselves, so only the outermost is shown. What somebody else said may be
/// in it, and must not move the cursor.
pub fn explain(program: &str, error: &impl Display, help: Option<&str>) -> String {
    let error = error.to_string();
    let error = clean_lines(&error);
    let help = help.unwrap_or("please report this with the version of your system");
    format!("{program}: error: {error}\nhelp: {help}\n")
}

/// Prints help and version as asked for, and anything else as an error of the program, with this advice.
pub fn usage(program: &str, help: &str, error: &clap::Error) -> ExitCode {
    let printed = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A closed pipe is no error: whoever closed it has seen enough.
            drop(error.print());
            return ExitCode::SUCCESS;
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            "error: a subcommand is missing\n".to_owned()
        }
        _ => error.render().to_string(),
    };
    let text = printed
        .split("\nFor more information")
        .next()
        .unwrap_or(&printed)
        .trim_end();
    eprintln!("{program}: {text}\nhelp: {help}");
    ExitCode::from(USAGE)
}

/// Prints to standard output.
///
/// # Errors
/// As [`finish`] says.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    finish(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// What came of writing to standard output. A closed pipe is no error: whoever closed it has seen enough.
///
/// # Errors
/// When it could not be written.
pub fn finish(written: io::Result<()>) -> Result<(), Failure> {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure {
            what: format!("the output could not be written: {error}"),
            help: "is the disk full?".to_owned(),
        }),
        Ok(()) | Err(_) => Ok(()),
    }
}
