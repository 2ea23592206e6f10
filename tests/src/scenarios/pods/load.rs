//! Generators of a scenario, each with the owner that its flows have to be charged to.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use super::{Owner, UNIT};
use crate::{
    containers::{network::OUTSIDE, pod::Pod},
    guest::command,
    traffic::{tally::Tally, worker::Running},
};

/// Who opens flows.
#[derive(Clone, Copy, Debug)]
pub(super) enum From<'a> {
    /// A pod.
    Pod(&'a Pod),
    /// A process of the host, in no unit.
    Host,
    /// A process of the unit [`UNIT`].
    Unit,
    /// A machine beyond the node's uplink.
    Outside,
}

/// What one generator does.
#[derive(Clone, Debug)]
pub(super) struct Load<'a> {
    /// Where it runs.
    pub(super) from: From<'a>,
    /// Arguments of `ctgen`, split at spaces.
    pub(super) arguments: String,
    /// Who has to be charged.
    pub(super) owner: Owner,
    /// As what.
    pub(super) direction: &'static str,
    /// How many tables see each flow.
    pub(super) tables: u64,
}

/// A generator that runs.
#[must_use = "call `finish`"]
pub(super) enum Started {
    /// In a pod.
    InPod(Running),
    /// A child of the scenario; ended with its process group if the scenario fails.
    Here(Child),
}

impl From<'_> {
    /// Starts `ctgen` there.
    pub(super) fn start(self, arguments: &str) -> Result<Started> {
        let mut command = match self {
            Self::Pod(pod) => return Ok(Started::InPod(pod.start(arguments)?)),
            Self::Host => Command::new("ctgen"),
            Self::Unit => in_unit("ctgen"),
            Self::Outside => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", OUTSIDE, "ctgen"]);
                command
            }
        };
        command.args(arguments.split_whitespace());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(Started::Here(command::spawn(&mut command)?))
    }
}

/// The unit's main process; ended when dropped.
pub(super) struct Unit(Child);

impl Unit {
    /// Starts it, as systemd does when the machine boots.
    pub(super) fn start() -> Result<Self> {
        let folder = unit_folder();
        fs::create_dir_all(&folder).with_context(|| format!("making {folder}"))?;
        let mut command = in_unit("sleep");
        Ok(Self(command::spawn(command.arg("3600"))?))
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        // Either it is already gone, or it is to be.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn unit_folder() -> String {
    format!("/sys/fs/cgroup/system.slice/{UNIT}")
}

/// A program by way of a shell that moves itself into the unit's control group first.
fn in_unit(program: &str) -> Command {
    let script = format!(
        "echo $$ > {}/cgroup.procs && exec {program} \"$@\"",
        unit_folder()
    );
    let mut command = Command::new("sh");
    command.args(["-c", &script, "sh"]);
    command
}

impl Started {
    /// Waits for the end and reads the counts.
    pub(super) fn finish(self) -> Result<Tally> {
        let text = match self {
            Self::InPod(running) => running.finish()?,
            Self::Here(child) => {
                let output = child.wait_with_output().context("waiting for ctgen")?;
                ensure!(
                    output.status.success(),
                    "ctgen: {}: {}",
                    output.status,
                    command::one_line(&String::from_utf8_lossy(&output.stderr))
                );
                String::from_utf8(output.stdout)?
            }
        };
        serde_json::from_str(&text).with_context(|| format!("reading the counts `{text}`"))
    }
}
