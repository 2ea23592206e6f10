//! `cargo xtask`: everything a developer types.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod apt;
mod arch;
mod bench;
mod bench_agent;
mod bench_census;
mod bench_ring;
mod cache;
mod command;
mod cpio;
mod cross;
mod debian;
mod demo;
mod deploy;
mod docs;
mod emulator_fault;
mod files;
#[path = "../guest/src/frame.rs"]
mod frame;
mod groups;
mod guest_jobs;
mod guest_queue;
mod guest_report;
mod guest_tests;
mod guest_tools;
mod helm;
mod initramfs;
mod kernels;
mod kubernetes;
mod modules;
mod named_tests;
mod project;
mod qemu;
mod report_command;
mod report_program;
mod setup;
mod stolen;
mod tally;
mod test;
mod times;
mod torture;
mod torture_seed;
mod vm;
mod vm_command;

/// Set-up, guest machines, tests, benchmarks and the demo of ctpressure.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Bring what this machine lacks: eBPF toolchain, QEMU, kernels, guest tools
    Setup(setup::Arguments),
    /// See a table fill up in a guest, and what ctpressure says about it
    Demo(demo::Arguments),
    /// Measure what ctpressure and its peers cost the kernel per connection
    Bench(bench::Arguments),
    /// Run every test: lints, unit tests, and the scenarios on each kernel
    Test(test::Arguments),
    /// Do everything at once to a guest, by chance, and compare every count with the truth; what fails is made as short as it can be
    Torture(torture::Arguments),
    /// Write the files in deploy/ and docs/ that are made from others: dashboard, metrics reference, manifests, the chart's README
    Generate(deploy::generate::Arguments),
    /// Build the documents as a site, and check its links
    Docs(docs::Arguments),
    /// Make the container image: an OCI archive with one static program
    Image(deploy::image::Arguments),
    /// Make the packages for a host: .deb and .rpm, with unit, man pages and completions
    Package(deploy::package::Arguments),
    /// Run the image in containerd in a guest, as the manifests have it, with Prometheus and Alertmanager
    Container(deploy::in_guest::Arguments),
    /// Apply the manifests to a cluster in a guest: API server, controllers, scheduler, kubelet, containerd, and the image
    Cluster(deploy::cluster::Arguments),
    /// Pack the chart, with rules and dashboard
    Chart(deploy::chart::Arguments),
    /// Check the manifests and the chart with kubectl, Helm and a real API server
    Manifests(deploy::manifests::Arguments),
    /// Build the report program for Windows and macOS, where a copied journal is read, and kubectl-ctpressure for Windows
    ReportProgram(report_command::Arguments),
    /// Boot a kernel and run a script in it
    Vm(vm_command::Arguments),
}

fn main() -> ExitCode {
    let done: Result<i32> = match Arguments::parse().task {
        Task::Setup(arguments) => setup::run(&arguments),
        Task::Demo(arguments) => demo::run(&arguments),
        Task::Bench(arguments) => bench::run(&arguments),
        Task::Test(arguments) => test::run(&arguments),
        Task::Torture(arguments) => torture::run(&arguments),
        Task::Generate(arguments) => deploy::generate::run(&arguments),
        Task::Docs(arguments) => docs::run(&arguments),
        Task::Container(arguments) => deploy::container::run(&arguments),
        Task::Cluster(arguments) => deploy::cluster::run(&arguments),
        Task::Image(arguments) => deploy::image::run(&arguments),
        Task::Package(arguments) => deploy::package::run(&arguments),
        Task::Chart(arguments) => deploy::chart::run(&arguments),
        Task::Manifests(arguments) => deploy::manifests::run(&arguments),
        Task::ReportProgram(arguments) => report_command::run(&arguments),
        Task::Vm(arguments) => vm_command::run(&arguments),
    };
    match done {
        Ok(status) => u8::try_from(status).map_or(ExitCode::FAILURE, ExitCode::from),
        Err(error) => {
            eprintln!("xtask: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;
    use ctpressure_tests::documents::{DOCUMENTS, command_lines};

    use super::*;

    fn is_taken(line: &str) -> Result<(), clap::Error> {
        let words = std::iter::once("cargo xtask").chain(line.split_whitespace());
        match Arguments::try_parse_from(words) {
            // It asks for help.
            Err(error) if error.exit_code() == 0 => Ok(()),
            // A sentence names a command and does not go on.
            Err(error) if error.kind() == ErrorKind::MissingRequiredArgument => Ok(()),
            taken => taken.map(drop),
        }
    }

    #[test]
    fn command_lines_in_the_documents_are_taken() {
        let mut lines = 0;
        for (document, text) in DOCUMENTS {
            for line in command_lines(text, "cargo xtask") {
                // `cargo xtask <command>` stands for all of them.
                if !line.is_empty() {
                    is_taken(&line).unwrap_or_else(|error| panic!("{document}: {line}: {error}"));
                    lines += 1;
                }
            }
        }
        assert!(lines >= 12, "{lines}");
        for wrong in ["tests", "vm --kernels 6"] {
            assert!(is_taken(wrong).is_err(), "{wrong}");
        }
    }
}
