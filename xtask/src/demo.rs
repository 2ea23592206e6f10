//! `cargo xtask demo`: from nothing to a table that fills up while ctpressure watches.

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;

use crate::cache::Cache;
use crate::initramfs::Content;
use crate::qemu::Machine;
use crate::vm::Guest;
use crate::{command, project, vm_command};

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
    let (qemu, kernel) = vm_command::prepare(&cache, &arguments.kernel, true)?;
    command::say("building ctpressure");
    let init = project::init(&cache)?;
    let binaries = project::binaries(&cache, "release")?;
    command::say(&format!(
        "booting Linux {} in QEMU, without touching this machine",
        kernel.version
    ));
    let guest = Guest {
        qemu: &qemu,
        kernel: &kernel,
        machine: Machine {
            cpus: 2,
            memory_mib: 1024,
            icount: false,
        },
        timeout: Duration::from_mins(5),
        content: Content {
            script: SCRIPT.as_bytes(),
            init: &init,
            binaries: &binaries,
            groups: &[],
            put: &[],
            fetch: &[],
        },
        fetch_to: &[],
        console: None,
    };
    let ended = guest.run(&cache, &mut vm_command::to_own_streams)?;
    vm_command::explain(&kernel, &ended, guest.timeout);
    command::say(&format!(
        "took {} s; the guest is gone",
        started.elapsed().as_secs()
    ));
    Ok(ended.status())
}
