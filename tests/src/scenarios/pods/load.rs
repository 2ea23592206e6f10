//! Generators of a scenario, each with the owner that its flows have to be charged to.

use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};

use super::{Owner, UNIT};
use crate::{
    containers::{network::OUTSIDE, pod::Pod},
    guest::{command, generator, unit::in_unit},
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
            Self::Unit => in_unit(UNIT, "ctgen"),
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

impl Started {
    /// Waits for the end and reads the counts.
    pub(super) fn finish(self) -> Result<Tally> {
        match self {
            Self::InPod(running) => {
                let text = running.finish()?;
                serde_json::from_str(&text).with_context(|| format!("reading the counts `{text}`"))
            }
            Self::Here(child) => generator::counted(child),
        }
    }
}
