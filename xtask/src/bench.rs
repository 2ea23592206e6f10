//! `cargo xtask bench`: what ctpressure costs the kernel per connection, next to its peers in the same run.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::cache::Cache;
use crate::groups::Group;
use crate::initramfs::Content;
use crate::kernels::Kernel;
use crate::qemu::{Machine, Qemu};
use crate::vm::{Guest, Outcome, Stream};
use crate::{bench_census, bench_ring, command, project, setup, vm_command};

mod contests;
mod figures;

use contests::Contest;
use figures::Results;

/// What `cargo xtask bench` takes.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Kernel to boot, by version prefix
    #[arg(long, value_name = "PREFIX", default_value = "6.12")]
    kernel: String,
    /// Exit with status 1 when a figure misses its budget or could not be measured
    #[arg(long)]
    check: bool,
    /// Only these parts
    #[arg(
        long,
        value_name = "PART",
        value_enum,
        value_delimiter = ',',
        default_values_t = [Part::Peers, Part::Owners, Part::Entries, Part::Ring, Part::Census]
    )]
    only: Vec<Part>,
}

/// What can be measured alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Instructions per connection: ctpressure, bpftrace, conntrack
    Peers,
    /// Instructions per connection that has an owner: 1 of them, 250, a host unit
    Owners,
    /// The same with 1,000 and with 1,000,000 entries in the table
    Entries,
    /// How fast records are read
    Ring,
    /// `ctpressure table` against `conntrack -L`
    Census,
}

/// What guests are made of.
#[derive(Debug)]
struct Guests {
    cache: Cache,
    qemu: Qemu,
    kernel: Kernel,
    init: PathBuf,
    binaries: Vec<PathBuf>,
}

/// Runs the command; the result is its exit status.
pub(crate) fn run(arguments: &Arguments) -> Result<i32> {
    let cache = Cache::open()?;
    let (qemu, kernel) = vm_command::prepare(&cache, &arguments.kernel, true)?;
    if arguments.only.contains(&Part::Peers) {
        setup::ensure(&cache, &[setup::Step::Bpftrace])?;
    }
    command::say("building ctpressure");
    let guests = Guests {
        init: project::init(&cache)?,
        binaries: project::binaries(&cache, "release")?,
        cache,
        qemu,
        kernel,
    };
    let mut good = true;
    for part in &arguments.only {
        // What another part measured is shown and kept even where one can't be: this machine may allow no BPF.
        good &= guests.measure(*part).unwrap_or_else(|error| {
            eprintln!("xtask: error: not measured: {error:#}");
            false
        });
    }
    Ok(i32::from(arguments.check && !good))
}

impl Guests {
    /// Measures one part and shows it; false when a figure is not as it should be.
    fn measure(&self, part: Part) -> Result<bool> {
        match part {
            Part::Peers => self.hold(&contests::PEERS),
            Part::Owners => self.hold(&contests::OWNERS),
            Part::Entries => self.hold(&contests::ENTRIES),
            Part::Ring => bench_ring::run(),
            Part::Census => bench_census::run(
                &self.cache,
                &self.qemu,
                &self.kernel,
                &self.init,
                &self.binaries,
            ),
        }
    }

    fn hold(&self, contest: &'static Contest) -> Result<bool> {
        let version = &self.kernel.version;
        command::say(&format!(
            "{} in a guest with Linux {version}: some minutes",
            contest.what
        ));
        let output = self.run(contest)?;
        let results = Results::read(contest, &output);
        print!("{}", results.table(version));
        let folder = command::repository().join("target/bench");
        let json = results.json(version, &self.qemu.describe());
        write(&folder, contest.file, &format!("{json:#}\n"))?;
        let failures = results.failures();
        for line in &failures {
            eprintln!("xtask: error: {line}");
        }
        Ok(failures.is_empty())
    }

    /// What the guest says.
    fn run(&self, contest: &Contest) -> Result<String> {
        let script = contests::script(contest);
        let guest = Guest {
            qemu: &self.qemu,
            kernel: &self.kernel,
            machine: Machine {
                cpus: 1,
                memory_mib: 3072,
                icount: true,
            },
            timeout: Duration::from_hours(1),
            content: Content {
                script: script.as_bytes(),
                init: &self.init,
                binaries: &self.binaries,
                groups: if contest.bpftrace {
                    &[Group::Bpftrace]
                } else {
                    &[]
                },
                put: &[],
                fetch: &[],
            },
            fetch_to: &[],
            console: None,
        };
        let mut output = Vec::new();
        let ended = guest.run(&self.cache, &mut |stream, bytes| {
            if stream == Stream::Out {
                output.extend_from_slice(bytes);
            }
            // All of it is shown as it comes: a run takes minutes.
            vm_command::to_own_streams(Stream::Err, bytes)
        })?;
        vm_command::explain(&self.kernel, &ended, guest.timeout);
        let output = String::from_utf8_lossy(&output).into_owned();
        if ended.outcome != Outcome::Exited(0) || !output.lines().any(|line| line == "BENCH DONE") {
            bail!("the benchmark did not run to its end");
        }
        Ok(output)
    }
}

fn write(folder: &Path, name: &str, text: &str) -> Result<()> {
    crate::test::folder(folder)?;
    let path = folder.join(name).with_extension("json");
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    command::say(&format!("written to {}", path.display()));
    Ok(())
}
