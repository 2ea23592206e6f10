//! `cargo xtask`: everything a developer types.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod apt;
mod arch;
mod bench;
mod bench_census;
mod bench_ring;
mod cache;
mod command;
mod cpio;
mod cross;
mod demo;
mod deploy;
#[path = "../guest/frame.rs"]
mod frame;
mod groups;
mod guest_tests;
mod guest_tools;
mod initramfs;
mod kernels;
mod kubernetes;
mod modules;
mod project;
mod qemu;
mod setup;
mod test;
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
    /// Write the files in deploy/ that are made from others: dashboard, metrics reference
    Generate(deploy::generate::Arguments),
    /// Make the container image: an OCI archive with one static program
    Image(deploy::image::Arguments),
    /// Run the image in containerd in a guest, as the manifests have it, with Prometheus and Alertmanager
    Container(deploy::in_guest::Arguments),
    /// Apply the manifests to a cluster in a guest: API server, controllers, scheduler, kubelet, containerd, and the image
    Cluster(deploy::cluster::Arguments),
    /// Check the manifests and the chart with kubectl, Helm and a real API server
    Manifests(deploy::manifests::Arguments),
    /// Boot a kernel and run a script in it
    Vm(vm_command::Arguments),
}

fn main() -> ExitCode {
    let done: Result<i32> = match Arguments::parse().task {
        Task::Setup(arguments) => setup::run(&arguments),
        Task::Demo(arguments) => demo::run(&arguments),
        Task::Bench(arguments) => bench::run(&arguments),
        Task::Test(arguments) => test::run(&arguments),
        Task::Generate(arguments) => deploy::generate::run(&arguments),
        Task::Container(arguments) => deploy::container::run(&arguments),
        Task::Cluster(arguments) => deploy::cluster::run(&arguments),
        Task::Image(arguments) => deploy::image::run(&arguments),
        Task::Manifests(arguments) => deploy::manifests::run(&arguments),
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
    use super::*;

    /// Command lines between back quotes, and at the beginning of indented lines, up to a comment.
    fn command_lines(text: &str) -> Vec<String> {
        let mut found = Vec::new();
        for line in text.lines() {
            let indented = line.strip_prefix("    ");
            let code = indented.map(|line| line.strip_prefix("$ ").unwrap_or(line));
            for code in code.into_iter().chain(line.split('`').skip(1).step_by(2)) {
                let Some(rest) = code.strip_prefix("cargo xtask ") else {
                    continue;
                };
                let end = rest.find('#').unwrap_or(rest.len());
                found.push(rest[..end].trim().to_owned());
            }
        }
        found
    }

    #[test]
    fn command_lines_in_the_documents_are_taken() {
        let mut lines = 0;
        for document in ["README.md", "deploy/README.md", "deploy/docs/principles.md"] {
            let path = command::repository().join(document);
            let text = std::fs::read_to_string(path).unwrap();
            for line in command_lines(&text) {
                // Stands for all of them.
                let line = line.replace("<command>", "test");
                let words = line.split_whitespace();
                let taken = Arguments::try_parse_from(std::iter::once("cargo xtask").chain(words));
                if let Err(error) = taken {
                    assert_eq!(error.exit_code(), 0, "{document}: {line}: {error}");
                }
                lines += 1;
            }
        }
        assert!(lines >= 12, "{lines}");
        let wrong = command_lines(
            "Try `cargo xtask tests` or\n\n    $ cargo xtask vm --kernels 6   # no\n",
        );
        assert_eq!(wrong, ["tests", "vm --kernels 6"]);
    }
}
