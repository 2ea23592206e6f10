//! `cargo xtask bench`: what ctpressure costs the kernel per connection, next to its peers in the same run.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::cache::Cache;
use crate::groups::Group;
use crate::initramfs::Content;
use crate::qemu::Machine;
use crate::vm::{Guest, Outcome, Stream};
use crate::{bench_census, bench_ring, command, project, setup, vm_command};

const SCRIPT: &str = include_str!("../guest/bench.sh");
/// The contestant that the others are compared with.
const BARE: &str = "bare";
/// Who is measured, in the order of the guest's script.
const CONTESTANTS: &[Contestant] = &[
    Contestant {
        name: BARE,
        title: "nothing attached",
        budget: None,
    },
    Contestant {
        name: "ctpressure-fentry",
        title: "ctpressure, fentry/fexit",
        budget: Some(Budget {
            new: 600.0,
            ended: 400.0,
        }),
    },
    Contestant {
        name: "ctpressure-kprobe",
        title: "ctpressure, kprobes",
        budget: Some(Budget {
            new: 1100.0,
            ended: 700.0,
        }),
    },
    Contestant {
        name: "ctpressure-fentry-records",
        title: "ctpressure, fentry/fexit, every insert recorded, read",
        budget: None,
    },
    Contestant {
        name: "ctpressure-kprobe-records",
        title: "ctpressure, kprobes, every insert recorded, read",
        budget: None,
    },
    Contestant {
        name: "bpftrace",
        title: "bpftrace, four probes, counts only",
        budget: None,
    },
    Contestant {
        name: "conntrack-events",
        title: "conntrack -E -e NEW to a file",
        budget: None,
    },
    // How far the base moved during the run.
    Contestant {
        name: "bare-again",
        title: "nothing attached, again at the end",
        budget: None,
    },
];

/// One line of the table.
#[derive(Debug)]
struct Contestant {
    /// Its name in the guest's script.
    name: &'static str,
    title: &'static str,
    budget: Option<Budget>,
}

/// The most instructions that may be added to one connection.
#[derive(Debug)]
struct Budget {
    new: f64,
    ended: f64,
}

/// What `cargo xtask bench` takes.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Kernel to boot, by version prefix
    #[arg(long, value_name = "PREFIX", default_value = "6.12")]
    kernel: String,
    /// Exit with status 1 when a figure misses its budget or could not be measured
    #[arg(long)]
    check: bool,
    /// Only the census (`ctpressure table`) against `conntrack -L`
    #[arg(long)]
    census: bool,
}

/// Instructions per connection, one figure a run.
#[derive(Debug, Default, PartialEq)]
struct Figures {
    send: Vec<f64>,
    end: Vec<f64>,
    skipped: Option<String>,
}

/// Runs the command; the result is its exit status.
pub(crate) fn run(arguments: &Arguments) -> Result<i32> {
    let cache = Cache::open()?;
    let (qemu, kernel) = vm_command::prepare(&cache, &arguments.kernel, true)?;
    if arguments.census {
        let (init, binaries) = (project::init()?, project::binaries("release")?);
        let good = bench_census::run(&cache, &qemu, &kernel, &init, &binaries)?;
        return Ok(i32::from(arguments.check && !good));
    }
    setup::ensure(&cache, &[setup::Step::Bpftrace])?;
    command::say("building ctpressure");
    let init = project::init()?;
    let binaries = project::binaries("release")?;
    command::say(&format!(
        "measuring in a guest with Linux {}: some minutes",
        kernel.version
    ));
    let guest = Guest {
        qemu: &qemu,
        kernel: &kernel,
        machine: Machine {
            cpus: 1,
            memory_mib: 3072,
            icount: true,
        },
        timeout: Duration::from_hours(1),
        content: Content {
            script: SCRIPT.as_bytes(),
            init: &init,
            binaries: &binaries,
            groups: &[Group::Bpftrace],
            put: &[],
            fetch: &[],
        },
        fetch_to: &[],
        console: None,
    };
    let mut output = Vec::new();
    let ended = guest.run(&cache, &mut |stream, bytes| {
        if stream == Stream::Out {
            output.extend_from_slice(bytes);
        }
        // All of it is shown as it comes: a run takes minutes.
        vm_command::to_own_streams(Stream::Err, bytes)
    })?;
    vm_command::explain(&kernel, &ended, guest.timeout);
    let output = String::from_utf8_lossy(&output);
    if ended.outcome != Outcome::Exited(0) || !output.lines().any(|line| line == "BENCH DONE") {
        bail!("the benchmark did not run to its end");
    }

    let figures: Vec<_> = CONTESTANTS
        .iter()
        .map(|contestant| (contestant.name, read(&output, contestant.name)))
        .collect();
    let bare = &figures.first().context("the bare kernel is measured")?.1;
    let (Some(send), Some(end)) = (median(&bare.send), median(&bare.end)) else {
        bail!(
            "the bare kernel was not measured: {}",
            bare.skipped.as_deref().unwrap_or("no line")
        );
    };
    print!("{}", table(&kernel.version, &figures, send, end));
    write_json(&kernel.version, &qemu.describe(), &figures, send, end)?;
    let over = over_budget(&figures, send, end);
    for line in &over {
        eprintln!("xtask: error: {line}");
    }
    // What was measured in the guest is shown and kept even where this machine allows no BPF.
    let ring_fast = bench_ring::run().unwrap_or_else(|error| {
        eprintln!("xtask: error: the ring reader was not measured: {error:#}");
        false
    });
    let census_good =
        bench_census::run(&cache, &qemu, &kernel, &init, &binaries).unwrap_or_else(|error| {
            eprintln!("xtask: error: the census was not measured: {error:#}");
            false
        });
    Ok(i32::from(
        arguments.check && !(over.is_empty() && ring_fast && census_good),
    ))
}

/// The figures of one contestant from the lines of the guest.
fn read(output: &str, name: &str) -> Figures {
    let mut figures = Figures::default();
    for line in output.lines() {
        let mut words = line.splitn(4, ' ');
        if words.next() != Some("BENCH") || words.next() != Some(name) {
            continue;
        }
        let (kind, rest) = (
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        );
        let value: Value = serde_json::from_str(rest).unwrap_or_default();
        let per_flow = match (value["nanoseconds"].as_f64(), value["flows"].as_f64()) {
            (Some(nanoseconds), Some(flows)) if flows > 0.0 => Some(nanoseconds / flows),
            _ => None,
        };
        match (kind, per_flow) {
            ("send", Some(figure)) => figures.send.push(figure),
            ("end", Some(figure)) => figures.end.push(figure),
            _ => figures.skipped = Some(rest.to_owned()),
        }
    }
    figures
}

fn median(figures: &[f64]) -> Option<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

/// Half the distance between the smallest and the largest.
fn spread(figures: &[f64]) -> f64 {
    let least = figures.iter().copied().fold(f64::INFINITY, f64::min);
    let most = figures.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if figures.is_empty() {
        0.0
    } else {
        (most - least) / 2.0
    }
}

fn cell(figures: &[f64], base: f64) -> String {
    match median(figures) {
        Some(figure) => format!("{:+.0} ±{:.0}", figure - base, spread(figures)),
        None => "-".to_owned(),
    }
}

fn table(version: &str, figures: &[(&str, Figures)], send: f64, end: f64) -> String {
    let mut lines = vec![
        format!(
            "instructions per connection, Linux {version}, one CPU, QEMU -icount shift=0, -cpu max,-cx16"
        ),
        format!("bare kernel: {send:.0} to open one (the whole send), {end:.0} to end one"),
        String::new(),
        format!("{:<56} {:>16} {:>16}", "added by", "new", "ended"),
    ];
    for ((name, figures), Contestant { title, .. }) in figures.iter().zip(CONTESTANTS) {
        let (new, ended) = if *name == BARE {
            // The base itself: its spread says how far a figure can be trusted.
            (
                format!("0 ±{:.0}", spread(&figures.send)),
                format!("0 ±{:.0}", spread(&figures.end)),
            )
        } else {
            (cell(&figures.send, send), cell(&figures.end, end))
        };
        let why = figures.skipped.as_deref().unwrap_or_default();
        lines.push(
            format!("{title:<56} {new:>16} {ended:>16}   {why}")
                .trim_end()
                .to_owned(),
        );
    }
    lines.push(String::new());
    lines.join("\n")
}

fn over_budget(figures: &[(&str, Figures)], send: f64, end: f64) -> Vec<String> {
    let mut over = Vec::new();
    for ((_, figures), contestant) in figures.iter().zip(CONTESTANTS) {
        let Contestant {
            title,
            budget: Some(budget),
            ..
        } = contestant
        else {
            continue;
        };
        for (what, measured, base, most) in [
            ("new", &figures.send, send, budget.new),
            ("ended", &figures.end, end, budget.ended),
        ] {
            match median(measured) {
                Some(figure) if figure - base <= most => {}
                Some(figure) => over.push(format!(
                    "{title} adds {:.0} instructions to a connection that is {what}; the budget is {most:.0}",
                    figure - base
                )),
                None => over.push(format!("{title} was not measured ({what})")),
            }
        }
    }
    over
}

fn write_json(
    version: &str,
    qemu: &str,
    figures: &[(&str, Figures)],
    send: f64,
    end: f64,
) -> Result<()> {
    let contestants: Vec<Value> = figures
        .iter()
        .map(|(name, figures)| {
            json!({
                "name": name,
                "new_runs": figures.send,
                "ended_runs": figures.end,
                "new_added": median(&figures.send).map(|figure| figure - send),
                "ended_added": median(&figures.end).map(|figure| figure - end),
                "skipped": figures.skipped,
            })
        })
        .collect();
    let value = json!({
        "unit": "instructions per connection",
        "kernel": version,
        "qemu": qemu,
        "machine": "one CPU, -icount shift=0,sleep=off, -cpu max,-cx16, mitigations=off",
        "contestants": contestants,
    });
    let folder = command::repository().join("target/bench");
    crate::test::folder(&folder)?;
    let path = folder.join("kernel-cost.json");
    fs::write(&path, format!("{value:#}\n"))
        .with_context(|| format!("write {}", path.display()))?;
    command::say(&format!("written to {}", path.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_guest_are_read_by_contestant() {
        let output = "BENCH a send {\"flows\":10,\"nanoseconds\":200}\n\
                      BENCH b send {\"flows\":10,\"nanoseconds\":900}\n\
                      BENCH a end {\"flows\":10,\"nanoseconds\":50}\n\
                      BENCH c skipped no such probe\n";
        let a = read(output, "a");
        assert_eq!((a.send, a.end, a.skipped), (vec![20.0], vec![5.0], None));
        assert_eq!(read(output, "c").skipped.as_deref(), Some("no such probe"));
    }

    #[test]
    fn a_budget_is_met_or_named() {
        let mut figures: Vec<_> = CONTESTANTS
            .iter()
            .map(|contestant| {
                (
                    contestant.name,
                    Figures {
                        send: vec![1500.0],
                        end: vec![1300.0],
                        skipped: None,
                    },
                )
            })
            .collect();
        assert!(over_budget(&figures, 1000.0, 1000.0).is_empty());
        figures[1].1.send = vec![1601.0];
        figures[2].1.end = Vec::new();
        assert_eq!(over_budget(&figures, 1000.0, 1000.0).len(), 2);
    }

    #[test]
    fn the_median_does_not_care_for_one_that_is_far_off() {
        assert_eq!(median(&[3.0, 900.0, 1.0]), Some(3.0));
        assert_eq!(median(&[]), None);
    }
}
