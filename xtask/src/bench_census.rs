//! What a census costs: `ctpressure table` against `conntrack -L` on the same table, on this machine in a network
//! namespace of its own; and in a guest its memory for a million entries, and what the agent's own costs by the number of
//! network namespaces.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike as _};
use serde_json::{Value, json};

use crate::cache::Cache;
use crate::qemu::Machine;
use crate::vm_command::Prepared;
use crate::{command, guest_tools, project};

mod busy_node;
mod latency;
mod namespace;
mod walk;

use namespace::{BenchNamespace, inside};

/// Entries in the namespace's table.
const ENTRIES: u64 = 250_000;
/// How often each contestant is run, in turn.
const RUNS: usize = 9;
/// Of what kinds of flows: the mix of a node, not what suits a contestant.
const FLOWS: &str = "--protocol udp,tcp,icmp,sctp --family 4,6";
const PEER: &str = "conntrack -L";
const OURS: &str = "ctpressure table";
/// The most wall time and user-space CPU, as shares of the peer's. The kernel's own part, the system time, is the
/// same for both, and most of what a census costs: no program that asks for the same list can have less of it. It
/// alone is about half of the peer's time, so wall time has a margin for what runs differ by.
const MOST_WALL: f64 = 0.55;
const MOST_USER: f64 = 1.0 / 3.0;
/// The most memory for a million entries, KiB.
const MOST_MEMORY: u64 = 20 << 10;
const MILLION: u64 = 1_000_000;

/// Seconds of one run.
#[derive(Clone, Copy, Debug)]
struct CensusRun {
    wall: f64,
    user: f64,
    system: f64,
}

/// What is taken of a run.
type Figure = fn(&CensusRun) -> f64;

/// The figures of a run, as the JSON calls them.
const FIGURES: [(&str, Figure); 4] = [
    ("wall", |run| run.wall),
    ("user", |run| run.user),
    ("system", |run| run.system),
    ("cpu", |run| run.user + run.system),
];

/// One run, with a real-time priority: what else this machine does hits nobody.
fn measure(program: &Command) -> Result<CensusRun> {
    let mut first = command::required("chrt", "util-linux", "gives a real-time priority")?;
    first.args(["--fifo", "10"]).arg(program.get_program());
    let mut program = inside(first.args(program.get_args()))?;
    let seconds = |usage: &Usage| {
        let of = |time: TimeVal| {
            let micros = time.num_microseconds().try_into().unwrap_or_default();
            Duration::from_micros(micros).as_secs_f64()
        };
        (of(usage.user_time()), of(usage.system_time()))
    };
    let before = seconds(&getrusage(UsageWho::RUSAGE_CHILDREN)?);
    let start = Instant::now();
    let status = program
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .with_context(|| format!("start `{}`", command::shown(&program)))?;
    let wall = start.elapsed().as_secs_f64();
    let after = seconds(&getrusage(UsageWho::RUSAGE_CHILDREN)?);
    if !status.success() {
        bail!("`{}`: {status}", command::shown(&program));
    }
    Ok(CensusRun {
        wall,
        user: after.0 - before.0,
        system: after.1 - before.1,
    })
}

fn median(runs: &[CensusRun], of: Figure) -> f64 {
    let mut values: Vec<f64> = runs.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Runs both parts, prints them and keeps their JSON; false when a figure is too high.
pub(crate) fn run(prepared: &Prepared) -> Result<bool> {
    let results = contest(&prepared.cache, &prepared.binaries)?;
    print!("{}", table(&results));
    let memory = memory(prepared)?;
    let version = &prepared.kernel.version;
    for (what, kib) in &memory {
        println!("`{what}` of {MILLION} entries (Linux {version}): {kib} KiB");
    }
    let costs = walk::run(prepared)?;
    print!("{}", costs.table(version));
    let latency = latency::run(prepared)?;
    print!("{}", latency::table(&latency, version));
    let times = busy_node::run(prepared)?;
    print!("{}", busy_node::table(&times, version));
    let mut figures = json(&results, &memory, version);
    figures["walk"] = costs.json();
    figures["insert_times"] = latency::json(&latency);
    figures["first_census"] = busy_node::json(&times);
    project::keep_figures("census", &figures)?;
    let mut complaints = too_high(&results, &memory);
    complaints.extend(costs.too_much());
    complaints.extend(latency::too_long(&latency));
    complaints.extend(busy_node::too_long(&times));
    Ok(command::complain(&complaints))
}

type CensusRuns = Vec<(&'static str, Vec<CensusRun>)>;

fn contest(cache: &Cache, binaries: &[PathBuf]) -> Result<CensusRuns> {
    let binary = |name: &str| {
        binaries
            .iter()
            .find(|path| path.ends_with(name))
            .with_context(|| format!("cargo built no {name}"))
    };
    command::say(&format!("a census of {ENTRIES} entries on this machine"));
    let ctpressure = |arguments: &[&str]| -> Result<Command> {
        let mut command = Command::new(binary("ctpressure")?);
        command.arg("table").args(arguments);
        Ok(command)
    };
    let mut conntrack = guest_tools::on_this_machine(cache, "conntrack", &[])?;
    conntrack.arg("-L");
    let contestants = [
        (OURS, ctpressure(&["--census", "ctnetlink"])?),
        ("ctpressure table --list", ctpressure(&["--list"])?),
        (PEER, conntrack),
    ];
    let namespace = BenchNamespace::new(cache)?;
    BenchNamespace::fill(binary("ctgen")?)?;
    let mut results: CensusRuns = contestants
        .iter()
        .map(|(name, _)| (*name, Vec::new()))
        .collect();
    // In turn, so that what else the machine does hits all alike; the first round is not counted.
    for round in 0..=RUNS {
        for ((_, program), (_, runs)) in contestants.iter().zip(&mut results) {
            let run = measure(program)?;
            if round > 0 {
                runs.push(run);
            }
        }
    }
    drop(namespace);
    Ok(results)
}

fn peer(results: &CensusRuns) -> &[CensusRun] {
    results
        .iter()
        .find(|(name, _)| *name == PEER)
        .map_or(&[], |(_, runs)| runs)
}

fn table(results: &CensusRuns) -> String {
    let mut lines = vec![format!(
        "\n{:<26} {:>8} {:>8} {:>8} {:>8}   of {PEER}: wall, user, CPU",
        format!("{ENTRIES} entries, seconds"),
        "wall",
        "user",
        "system",
        "CPU"
    )];
    let base = peer(results);
    for (name, runs) in results {
        let [wall, user, system, cpu] = FIGURES.map(|(_, of)| median(runs, of));
        let [of_wall, of_user, _, of_cpu] =
            FIGURES.map(|(_, of)| median(runs, of) / median(base, of));
        lines.push(format!(
            "{name:<26} {wall:>8.3} {user:>8.3} {system:>8.3} {cpu:>8.3}   {of_wall:.2}, {of_user:.2}, {of_cpu:.2}"
        ));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// Peak memory, KiB, by what was run.
fn memory(prepared: &Prepared) -> Result<BTreeMap<String, u64>> {
    command::say(&format!(
        "the memory of a census of {MILLION} entries, in a guest: two minutes"
    ));
    let script = include_bytes!("../guest/census.sh");
    let timeout = Duration::from_mins(20);
    let guest = prepared.guest(Machine::new(2, 3072), timeout, script, &[]);
    let output = prepared.output(&guest, "CENSUS DONE")?;
    figures(&output)
}

/// `CENSUS <KiB> <entries> <what>`.
fn figures(output: &str) -> Result<BTreeMap<String, u64>> {
    let mut memory = BTreeMap::new();
    for line in output.lines() {
        let Some(rest) = line.strip_prefix("CENSUS ").filter(|rest| *rest != "DONE") else {
            continue;
        };
        let mut words = rest.splitn(3, ' ');
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        let (Some(kib), Some(entries)) = (number(), number()) else {
            bail!("the guest said `{line}`");
        };
        if entries != MILLION {
            bail!("{entries} entries were found, not {MILLION}: `{line}`");
        }
        memory.insert(words.next().unwrap_or_default().trim().to_owned(), kib);
    }
    Ok(memory)
}

fn too_high(results: &CensusRuns, memory: &BTreeMap<String, u64>) -> Vec<String> {
    let mut lines = Vec::new();
    let base = peer(results);
    let ours = results.iter().find(|(name, _)| *name == OURS);
    let ours = ours.map_or(&[][..], |(_, runs)| runs);
    for (what, most, of) in [
        ("wall time", MOST_WALL, (|run| run.wall) as Figure),
        ("user-space CPU", MOST_USER, |run| run.user),
    ] {
        let share = median(ours, of) / median(base, of);
        // Also when nothing was measured.
        if share.is_nan() || share > most {
            lines.push(format!(
                "`{OURS}` takes {share:.2} of the {what} of `{PEER}`; the most is {most:.2}"
            ));
        }
    }
    if memory.is_empty() {
        lines.push("the memory of a census was not measured".to_owned());
    }
    for (what, kib) in memory.iter().filter(|(_, kib)| **kib > MOST_MEMORY) {
        lines.push(format!(
            "`{what}` of {MILLION} entries takes {kib} KiB; the most is {MOST_MEMORY}"
        ));
    }
    lines
}

fn json(results: &CensusRuns, memory: &BTreeMap<String, u64>, guest: &str) -> Value {
    let contestants: Vec<Value> = results
        .iter()
        .map(|(name, runs)| {
            let mut figures = json!({ "name": name });
            for (figure, of) in FIGURES {
                figures[figure] = median(runs, of).into();
                if figure != "cpu" {
                    let all: Vec<f64> = runs.iter().map(of).collect();
                    figures[format!("{figure}_runs")] = all.into();
                }
            }
            figures
        })
        .collect();
    let own = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({
        "unit": "seconds; KiB",
        "kernel": own.trim(),
        "entries": ENTRIES,
        "flows": FLOWS,
        "contestants": contestants,
        "memory": {"kernel": guest, "entries": MILLION, "peak_kib": memory},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(wall: f64, user: f64) -> Vec<CensusRun> {
        [0.9, 1.0, 5.0]
            .map(|factor| CensusRun {
                wall: wall * factor,
                user: user * factor,
                system: 0.3,
            })
            .to_vec()
    }

    #[test]
    fn figures_are_met_or_named() {
        let memory: BTreeMap<_, _> = [("table".to_owned(), 6_000)].into();
        let good: CensusRuns = vec![(OURS, runs(0.4, 0.05)), (PEER, runs(1.0, 0.4))];
        assert!(too_high(&good, &memory).is_empty());
        assert!(table(&good).contains("0.40, 0.12"), "{}", table(&good));
        let bad: CensusRuns = vec![(OURS, runs(0.7, 0.2)), (PEER, runs(1.0, 0.4))];
        let much: BTreeMap<_, _> = [("table --list".to_owned(), 30_000)].into();
        assert_eq!(too_high(&bad, &much).len(), 3);
        assert_eq!(too_high(&Vec::new(), &BTreeMap::new()).len(), 3);
    }

    #[test]
    fn lines_of_the_guest_are_read() {
        let memory = figures("noise\nCENSUS 5948 1000000 table \nCENSUS DONE\n").unwrap();
        assert_eq!(memory, [("table".to_owned(), 5948)].into());
        assert!(figures("CENSUS 5948 999999 table\n").is_err());
        assert!(figures("CENSUS  1000000 table\n").is_err());
    }
}
