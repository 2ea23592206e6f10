//! The part of the benchmark that runs on this machine: how fast the agent's reader takes records from the ring.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{command, project};

/// Records a second on one core that the reader has to take.
const LEAST: f64 = 3e6;

/// Runs conntrack-user's `ring_reader`, prints its figure and keeps its JSON; false when it is too slow.
pub(crate) fn run() -> Result<bool> {
    command::say("measuring the ring reader on this machine");
    let mut cargo = command::cargo("bench --quiet --package conntrack-user --bench ring_reader");
    let output =
        command::heard(&mut cargo).context("it needs root, and a kernel that allows BPF")?;
    let value: Value = output
        .lines()
        .find_map(|line| serde_json::from_str(line).ok())
        .context("the benchmark of the ring reader printed no JSON")?;
    let figure = |name: &str| value["records_per_second"][name].as_f64();
    let (Some(min), Some(median), Some(max)) = (figure("min"), figure("median"), figure("max"))
    else {
        bail!("the benchmark of the ring reader printed no records_per_second: {value}");
    };
    println!(
        "ring reader: {:.1} million records/s on one core of this machine ({:.1} to {:.1})",
        median / 1e6,
        min / 1e6,
        max / 1e6
    );
    project::keep_figures("ring-reader", &value)?;
    if median < LEAST {
        eprintln!(
            "xtask: error: the ring reader takes fewer than {:.0} million records/s",
            LEAST / 1e6
        );
    }
    Ok(median >= LEAST)
}
