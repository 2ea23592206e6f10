//! `cargo xtask demo`: from nothing to a table that fills up while ctpressure watches.

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;

use crate::cache::Cache;
use crate::qemu::Machine;
use crate::vm_command::Prepared;
use crate::{command, project};

const SCRIPT: &str = concat!(
    include_str!("../guest/steps.sh"),
    include_str!("../guest/demo.sh")
);

/// What `cargo xtask demo` takes.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Kernel to boot, by version prefix
    #[arg(long, value_name = "PREFIX", default_value = "6.12")]
    kernel: String,
}

/// Runs the command; the result is its exit status.
pub(crate) fn run(arguments: &Arguments) -> Result<i32> {
    let cache = Cache::open()?;
    let started = Instant::now();
    command::say("building ctpressure");
    let prepared = Prepared::new(cache, &arguments.kernel, Some(project::RELEASE))?;
    command::say(&format!(
        "booting Linux {} in QEMU, without touching this machine",
        prepared.kernel.version
    ));
    let timeout = Duration::from_mins(5);
    let guest = prepared.guest(Machine::new(2, 1024), timeout, SCRIPT.as_bytes(), &[]);
    let status = prepared.show(&guest)?;
    command::say(&format!(
        "took {} s; the guest is gone",
        started.elapsed().as_secs()
    ));
    Ok(status)
}
