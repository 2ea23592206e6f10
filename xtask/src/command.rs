//! Running other programs: errors that say what was run and what it said.

use std::env;
use std::ffi::OsStr;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The command as a person would type it.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs a command whose output belongs to the person in front of it. All of it goes to standard
/// error: standard output is for results.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .stdout(io::stderr())
        .status()
        .with_context(|| format!("start `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", shown(command));
    }
    Ok(())
}

/// Runs a command and hands back what it printed; what it said on standard error is in the error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let bytes = output_bytes(command)?;
    String::from_utf8(bytes).with_context(|| format!("`{}` printed no UTF-8", shown(command)))
}

/// The same for output that is not text.
pub(crate) fn output_bytes(command: &mut Command) -> Result<Vec<u8>> {
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start `{}`", shown(command)))?;
    if !status.success() {
        bail!(
            "`{}` failed: {status}\n{}",
            shown(command),
            String::from_utf8_lossy(&stderr).trim()
        );
    }
    Ok(stdout)
}

/// What it prints; what it says on standard error is seen as it comes.
pub(crate) fn heard(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("start `{}`", shown(command)))?;
    if !output.status.success() {
        bail!("`{}` failed: {}", shown(command), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Finds a program on PATH.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    // A user's PATH often lacks the folders where some of these programs are.
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

/// A command for a program that has to be there.
pub(crate) fn required(program: &str, package: &str, purpose: &str) -> Result<Command> {
    let Some(path) = find(program) else {
        bail!("`{program}` is missing: it {purpose}. Install it: sudo apt-get install {package}");
    };
    Ok(Command::new(path))
}

/// The cargo that runs this task, with these words.
pub(crate) fn cargo(words: &str) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(repository()).args(words.split(' '));
    command
}

/// The flag that keeps a program from showing how far it is, unless a person watches.
pub(crate) fn quiet(flag: &str) -> Option<&str> {
    (!watched()).then_some(flag)
}

/// What cargo says of the workspace, of its own packages only or of all that they depend on: `arguments` tell.
pub(crate) fn metadata(arguments: &[&str]) -> Result<Value> {
    let mut cargo = cargo("metadata --format-version=1");
    serde_json::from_str(&output(cargo.args(arguments))?).context("read cargo's metadata")
}

/// The root of the source tree.
pub(crate) fn repository() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest.parent().map_or(manifest.clone(), Into::into)
}

/// Whether a person watches.
pub(crate) fn watched() -> bool {
    io::stderr().is_terminal()
}

/// Says what is being done, to the person, not into the results.
pub(crate) fn say(line: &str) {
    if watched() {
        eprintln!("\x1b[1m==>\x1b[0m {line}");
    } else {
        eprintln!("==> {line}");
    }
}

/// Says each as an error; true when there is none.
pub(crate) fn complain(failures: &[String]) -> bool {
    for line in failures {
        eprintln!("xtask: error: {line}");
    }
    failures.is_empty()
}
