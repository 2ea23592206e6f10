//! `cargo xtask bench`: what ctpressure costs the kernel per connection, next to its peers in the same run.

use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::cache::Cache;
use crate::groups::Group;
use crate::qemu::Machine;
use crate::vm_command::Prepared;
use crate::{bench_agent, bench_census, bench_ring, command, project, setup};

mod contests;
mod figures;

use contests::Contest;
use figures::ContestResults;

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
        default_values_t = [BenchPart::Peers, BenchPart::Owners, BenchPart::Entries, BenchPart::Ring, BenchPart::Census, BenchPart::Agent]
    )]
    only: Vec<BenchPart>,
}

/// What can be measured alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum BenchPart {
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
    /// The agent's own CPU and memory, beside `node_exporter`'s
    Agent,
}

/// Runs the command; the result is its exit status.
pub(crate) fn run(arguments: &Arguments) -> Result<i32> {
    let cache = Cache::open()?;
    if arguments.only.contains(&BenchPart::Peers) {
        setup::ensure(&cache, &[setup::SetupStep::Bpftrace])?;
    }
    command::say("building ctpressure");
    let prepared = Prepared::new(cache, &arguments.kernel, Some(project::RELEASE))?;
    let mut good = true;
    for part in &arguments.only {
        // What another part measured is shown and kept even where one can't be: this machine may allow no BPF.
        good &= measure(&prepared, *part).unwrap_or_else(|error| {
            eprintln!("xtask: error: not measured: {error:#}");
            false
        });
    }
    Ok(i32::from(arguments.check && !good))
}

/// Measures one part and shows it; false when a figure is not as it should be.
fn measure(prepared: &Prepared, part: BenchPart) -> Result<bool> {
    match part {
        BenchPart::Peers => hold(prepared, "peers"),
        BenchPart::Owners => hold(prepared, "owners"),
        BenchPart::Entries => hold(prepared, "entries"),
        BenchPart::Ring => bench_ring::run(),
        BenchPart::Census => bench_census::run(prepared),
        BenchPart::Agent => bench_agent::run(prepared),
    }
}

fn hold(prepared: &Prepared, contest: &str) -> Result<bool> {
    let contest = Contest::read(contest)?;
    let version = &prepared.kernel.version;
    command::say(&format!(
        "{} in a guest with Linux {version}: some minutes",
        contest.what
    ));
    let machine = Machine::measured(3072);
    let script = contest.script()?;
    let groups: &[Group] = if contest.bpftrace {
        &[Group::BPFTRACE]
    } else {
        &[]
    };
    let guest = prepared.guest(machine, Duration::from_hours(1), script.as_bytes(), groups);
    let results = ContestResults::read(&contest, &prepared.output(&guest, "BENCH DONE")?);
    print!("{}", results.table(version));
    let json = results.json(version, &prepared.qemu.describe());
    project::keep_figures(&contest.file, &json)?;
    Ok(command::complain(&results.failures()))
}
