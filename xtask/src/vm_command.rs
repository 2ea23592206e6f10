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
use crate::vm::{Ended, Guest, GuestOutcome, Stream};
use crate::{command, files, project, setup};

/// What `cargo xtask vm` takes.
#[derive(Args, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
pub(crate) struct Arguments {
    /// Kernel version or its beginning, e.g. 6.12 or 7; the newest that matches is taken; 6.12-rt: the real-time one
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
    /// Cargo profile of the binaries in the guest: `guest` is quick to build after an edit, `release` is what people get
    #[arg(long, value_name = "NAME", default_value = project::GUEST)]
    profile: String,
    /// Seconds until the guest is ended with exit status 124
    #[arg(long, value_name = "S", default_value_t = 600)]
    timeout: u64,
    /// Put a file of the host into the guest, executable
    #[arg(long, value_name = "HOSTFILE:GUESTPATH", value_parser = pair::<PathBuf, String>)]
    put: Vec<(PathBuf, String)>,
    /// Fetch a file of the guest when the script has ended
    #[arg(long, value_name = "GUESTPATH:HOSTFILE", value_parser = pair::<String, PathBuf>)]
    get: Vec<(String, PathBuf)>,
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

fn pair<A: From<String>, B: From<String>>(text: &str) -> Result<(A, B), String> {
    match text.split_once(':') {
        Some((from, to)) if !from.is_empty() && !to.is_empty() => {
            Ok((from.to_owned().into(), to.to_owned().into()))
        }
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
    let cpus = arguments.cpus.unwrap_or(2);
    if arguments.icount && arguments.cpus.is_some_and(|cpus| cpus > 1) {
        bail!("--icount works with one CPU only: leave --cpus out or give 1");
    }
    let script = files::bytes(script)?;
    let profile = (!arguments.bare).then_some(arguments.profile.as_str());
    let prepared = Prepared::new(cache, prefix, profile)?;
    let (fetch, fetch_to): (Vec<_>, Vec<_>) = arguments.get.iter().cloned().unzip();
    let groups: Vec<Group> = [
        (arguments.bpftrace, Group::BPFTRACE),
        (arguments.containers, Group::CONTAINERS),
    ]
    .into_iter()
    .filter_map(|(wanted, group)| wanted.then_some(group))
    .collect();
    let machine = if arguments.icount {
        Machine::measured(arguments.memory)
    } else {
        Machine::new(cpus, arguments.memory)
    };
    let timeout = Duration::from_secs(arguments.timeout);
    let mut guest = prepared.guest(machine, timeout, &script, &groups);
    guest.content.put = &arguments.put;
    guest.content.fetch = &fetch;
    guest.fetch_to = &fetch_to;
    guest.console = arguments.console.as_deref();
    prepared.show(&guest)
}

/// What guests are booted with: brought and built once for all of them.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) cache: Cache,
    pub(crate) qemu: Qemu,
    pub(crate) kernel: Kernel,
    init: PathBuf,
    pub(crate) binaries: Vec<PathBuf>,
}

impl Prepared {
    /// With our programs, if a cargo profile to build them with is given.
    pub(crate) fn new(cache: Cache, prefix: &str, profile: Option<&str>) -> Result<Self> {
        let (qemu, kernel) = prepare(&cache, prefix, profile.is_some())?;
        let binaries = profile.map(|profile| project::binaries(&cache, profile));
        Ok(Self {
            init: project::init(&cache, profile.unwrap_or(project::GUEST))?,
            binaries: binaries.transpose()?.unwrap_or_default(),
            cache,
            qemu,
            kernel,
        })
    }

    /// A guest that runs the script; its files and its console can still be set.
    pub(crate) fn guest<'a>(
        &'a self,
        machine: Machine,
        timeout: Duration,
        script: &'a [u8],
        groups: &'a [Group],
    ) -> Guest<'a> {
        Guest {
            qemu: &self.qemu,
            kernel: &self.kernel,
            machine,
            timeout,
            content: Content {
                script,
                init: &self.init,
                binaries: &self.binaries,
                root: None,
                groups,
                put: &[],
                fetch: &[],
            },
            fetch_to: &[],
            console: None,
        }
    }

    /// Runs the guest and shows what it says; the result is its exit status.
    pub(crate) fn show(&self, guest: &Guest<'_>) -> Result<i32> {
        let ended = guest.run(&self.cache, &mut to_own_streams)?;
        explain(&self.kernel, &ended, guest.timeout);
        Ok(ended.status())
    }

    /// What a guest says that comes to the end of its script, a line `done`. All of it is shown as it comes: it takes
    /// minutes.
    pub(crate) fn output(&self, guest: &Guest<'_>, done: &str) -> Result<String> {
        let mut output = Vec::new();
        let ended = guest.run(&self.cache, &mut |stream, bytes, process| {
            if stream == Stream::Out {
                output.extend_from_slice(bytes);
            }
            to_own_streams(Stream::Err, bytes, process)
        })?;
        explain(&self.kernel, &ended, guest.timeout);
        let output = String::from_utf8_lossy(&output).into_owned();
        if ended.outcome != GuestOutcome::Exited(0) || !output.lines().any(|line| line == done) {
            bail!("the guest did not get to the end of its script");
        }
        Ok(output)
    }
}

/// What every guest needs, fetched if it isn't there.
pub(crate) fn prepare(cache: &Cache, prefix: &str, binaries: bool) -> Result<(Qemu, Kernel)> {
    setup::ensure(cache, &setup::steps_for_guests(cache.arch(), binaries))?;
    let Some(qemu) = Qemu::find(cache) else {
        bail!("no QEMU of version 8 or newer: run `cargo xtask setup`, which fetches one");
    };
    setup::ensure(cache, &[setup::SetupStep::Kernel(prefix.to_owned())])?;
    let kernel = kernels::newest_cached(cache, prefix)?;
    Ok((qemu, kernel.with_context(|| format!("no kernel {prefix}"))?))
}

/// Hands the script's output on as it comes.
fn to_own_streams(stream: Stream, bytes: &[u8], _process: u32) -> Result<()> {
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
        GuestOutcome::Exited(_) => return,
        GuestOutcome::TimedOut => {
            format!("did not end within {} s (--timeout)", timeout.as_secs())
        }
        GuestOutcome::Died(why) => format!("died: {why}"),
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
    let mut versions: Vec<(&str, String)> = available
        .iter()
        .filter(|offer| !is_cached(&offer.version))
        .map(|offer| {
            let missing = offer.missing.join(", ");
            let mark = if missing.is_empty() {
                missing
            } else {
                format!("can't be had: the archive has no {missing}")
            };
            (offer.version.as_str(), mark)
        })
        .collect();
    // Debian removes versions from its archive; those in the cache still work.
    versions.extend(
        cached
            .iter()
            .map(|kernel| (kernel.version.as_str(), "cached".to_owned())),
    );
    versions.sort_by_key(|(version, _)| std::cmp::Reverse(crate::apt::version_numbers(version)));
    let mut out = io::stdout().lock();
    for (version, mark) in versions {
        writeln!(out, "{}", format!("{version:<40} {mark}").trim_end())
            .context("write the list")?;
    }
    Ok(0)
}
