//! `cargo xtask vm`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::arch::Arch;
use crate::cache::Cache;
use crate::groups::Group;
use crate::initramfs::Content;
use crate::kernels::{self, Kernel};
use crate::qemu::{Machine, Qemu};
use crate::vm::{Ended, Guest, Outcome, Stream};
use crate::{command, project, setup};

/// What `cargo xtask vm` takes.
#[derive(Args, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
pub(crate) struct Arguments {
    /// Kernel version or its beginning, e.g. 6.12 or 7; the newest that matches is taken
    #[arg(long, value_name = "PREFIX", required_unless_present = "list")]
    kernel: Option<String>,
    /// Architecture of the guest
    #[arg(long, value_enum, default_value_t)]
    arch: Arch,
    /// Script of the host that /bin/sh runs as root in the guest
    #[arg(long, value_name = "FILE", required_unless_present = "list")]
    script: Option<PathBuf>,
    /// Show the kernels that can be had and which of them are cached
    #[arg(long, conflicts_with_all = ["kernel", "script"])]
    list: bool,
    /// CPUs of the guest [default: 2, or 1 with --icount]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: Option<u32>,
    /// Memory of the guest
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(256..))]
    memory: u32,
    /// Let the guest's clock count instructions: timings are the same in every run
    #[arg(long)]
    icount: bool,
    /// Cargo profile of the binaries in the guest
    #[arg(long, value_name = "NAME", default_value = "release")]
    profile: String,
    /// Seconds until the guest is ended with exit status 124
    #[arg(long, value_name = "S", default_value_t = 600)]
    timeout: u64,
    /// Put a file of the host into the guest, executable
    #[arg(long, value_name = "HOSTFILE:GUESTPATH", value_parser = pair)]
    put: Vec<(String, String)>,
    /// Fetch a file of the guest when the script has ended
    #[arg(long, value_name = "GUESTPATH:HOSTFILE", value_parser = pair)]
    get: Vec<(String, String)>,
    /// Add bpftrace to the guest (300 MB; give it --memory 2048)
    #[arg(long)]
    bpftrace: bool,
    /// Add containerd, runc and CNI plugins to the guest (130 MB; give it --memory 2048)
    #[arg(long)]
    containers: bool,
    /// Build and add none of this project's binaries, only the guest tools
    #[arg(long)]
    bare: bool,
    /// Keep all that the guest's kernel says in a file
    #[arg(long, value_name = "FILE")]
    console: Option<PathBuf>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((from, to)) if !from.is_empty() && !to.is_empty() => Ok((from.into(), to.into())),
        _ => Err("expected two paths with a colon between them".to_owned()),
    }
}

/// Runs the command; the result is its exit status.
pub(crate) fn run(arguments: &Arguments) -> Result<i32> {
    let cache = Cache::open()?.of(arguments.arch);
    if arguments.list {
        return list(&cache);
    }
    let (Some(prefix), Some(script)) = (&arguments.kernel, &arguments.script) else {
        bail!("--kernel and --script are needed");
    };
    let cpus = match (arguments.icount, arguments.cpus) {
        (true, Some(cpus)) if cpus > 1 => {
            bail!("--icount works with one CPU only: leave --cpus out or give 1")
        }
        (true, _) => 1,
        (false, cpus) => cpus.unwrap_or(2),
    };
    let script = std::fs::read(script).with_context(|| format!("read {}", script.display()))?;
    let (qemu, kernel) = prepare(&cache, prefix, !arguments.bare)?;
    let init = project::init(&cache)?;
    let binaries = if arguments.bare {
        Vec::new()
    } else {
        project::binaries(&cache, &arguments.profile)?
    };
    let put: Vec<_> = arguments
        .put
        .iter()
        .map(|(from, to)| (from.into(), to.clone()))
        .collect();
    let (fetch, fetch_to): (Vec<_>, Vec<_>) = arguments
        .get
        .iter()
        .map(|(from, to)| (from.clone(), PathBuf::from(to)))
        .unzip();
    let groups: Vec<Group> = [
        (arguments.bpftrace, Group::Bpftrace),
        (arguments.containers, Group::Containers),
    ]
    .into_iter()
    .filter_map(|(wanted, group)| wanted.then_some(group))
    .collect();
    let guest = Guest {
        qemu: &qemu,
        kernel: &kernel,
        machine: Machine {
            cpus,
            memory_mib: arguments.memory,
            icount: arguments.icount,
        },
        timeout: Duration::from_secs(arguments.timeout),
        content: Content {
            script: &script,
            init: &init,
            binaries: &binaries,
            groups: &groups,
            put: &put,
            fetch: &fetch,
        },
        fetch_to: &fetch_to,
        console: arguments.console.as_deref(),
    };
    let ended = guest.run(&cache, &mut to_own_streams)?;
    explain(&kernel, &ended, guest.timeout);
    Ok(ended.status())
}

/// What every guest needs, fetched if it isn't there.
pub(crate) fn prepare(cache: &Cache, prefix: &str, binaries: bool) -> Result<(Qemu, Kernel)> {
    setup::ensure(cache, &setup::steps_for_guests(cache.arch(), binaries))?;
    let Some(qemu) = Qemu::find(cache) else {
        bail!("no QEMU of version 8 or newer: run `cargo xtask setup`, which fetches one");
    };
    setup::ensure(cache, &[setup::Step::Kernel(prefix.to_owned())])?;
    Ok((qemu, kernels::get(cache, prefix)?))
}

/// Hands the script's output on as it comes.
pub(crate) fn to_own_streams(stream: Stream, bytes: &[u8]) -> Result<()> {
    match stream {
        Stream::Out => {
            let mut out = io::stdout().lock();
            out.write_all(bytes)
                .and_then(|()| out.flush())
                .context("write the script's output")
        }
        Stream::Err => io::stderr()
            .write_all(bytes)
            .context("write the script's output"),
    }
}

/// Says why a guest ended other than by its script's end.
pub(crate) fn explain(kernel: &Kernel, ended: &Ended, timeout: Duration) {
    for file in &ended.missing {
        eprintln!("xtask: error: the guest could not give a file: {file}");
    }
    let why = match &ended.outcome {
        Outcome::Exited(_) => return,
        Outcome::TimedOut => {
            format!("did not end within {} s (--timeout)", timeout.as_secs())
        }
        Outcome::Died(why) => format!("died: {why}"),
    };
    eprintln!(
        "xtask: error: the guest with kernel {} {why}",
        kernel.version
    );
    if ended.console_tail.is_empty() {
        eprintln!("its kernel said nothing");
    } else {
        eprintln!("the end of what its kernel said:");
        for line in &ended.console_tail {
            eprintln!("  {line}");
        }
    }
}

fn list(cache: &Cache) -> Result<i32> {
    let cached = kernels::cached(cache)?;
    let is_cached = |version: &str| cached.iter().any(|kernel| kernel.version == version);
    let available = match kernels::available(cache) {
        Ok(available) => available,
        Err(error) => {
            command::say(&format!("only cached kernels are shown: {error:#}"));
            Vec::new()
        }
    };
    let mut versions: Vec<&str> = available.iter().map(String::as_str).collect();
    // Debian removes versions from its archive; those in the cache still work.
    versions.extend(cached.iter().map(|kernel| kernel.version.as_str()));
    versions.sort_by_key(|version| std::cmp::Reverse(crate::apt::version_numbers(version)));
    versions.dedup();
    let mut out = io::stdout().lock();
    for version in versions {
        let mark = if is_cached(version) { "cached" } else { "" };
        writeln!(out, "{version:<40} {mark}").context("write the list")?;
    }
    Ok(0)
}
