//! `ctgen` as a process: here, in another network namespace, in the background.

use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use super::command;
use crate::traffic::tally::Tally;

/// A run of `ctgen send`.
#[derive(Debug)]
#[must_use = "call `finish`"]
pub struct Sending(Option<Child>);

/// Starts `ctgen send` with these arguments (split at spaces), in `namespace` if one is given.
pub fn start(namespace: Option<&str>, arguments: &str) -> Result<Sending> {
    let mut command = match namespace {
        Some(namespace) => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", namespace, "ctgen"]);
            command
        }
        None => Command::new("ctgen"),
    };
    command.arg("send").args(arguments.split_whitespace());
    let child = command::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    Ok(Sending(Some(child)))
}

/// Runs `ctgen send` to its end.
pub fn send(namespace: Option<&str>, arguments: &str) -> Result<Tally> {
    start(namespace, arguments)?.finish()
}

/// What a `ctgen` that ends by itself has counted; its output is piped.
///
/// # Errors
///
/// What it says when it fails.
pub fn counted(child: Child) -> Result<Tally> {
    let output = child.wait_with_output().context("waiting for ctgen")?;
    ensure!(
        output.status.success(),
        "ctgen: {}: {}",
        output.status,
        command::one_line(&String::from_utf8_lossy(&output.stderr))
    );
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).with_context(|| format!("reading the counts `{text}`"))
}

impl Sending {
    /// Waits for the end and reads the counts; a flow is either accepted or refused with `EPERM`.
    pub fn finish(mut self) -> Result<Tally> {
        let Some(child) = self.0.take() else {
            bail!("the generator was already ended")
        };
        let tally = counted(child)?;
        ensure!(
            tally.accepted + tally.error("EPERM") == tally.sent,
            "ctgen met other errors than a full table: {:?}",
            tally.errors
        );
        Ok(tally)
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            // Either it is already gone, or it is to be.
            drop(child.kill());
            drop(child.wait());
        }
    }
}
