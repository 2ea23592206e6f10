//! `cargo xtask torture`: everything at once to a guest, by chance; what fails is made as short as it can be.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::cache::Cache;
use crate::guest_jobs::QUICK;
use crate::guest_report::{Report, Scenario};
use crate::qemu::Machine;
use crate::stolen::Share;
use crate::times::Ending;
use crate::torture_seed::{new_seed, of_seed};
use crate::vm::Stream;
use crate::vm_command::{Prepared, explain};
use crate::{command, files, project};

mod shrink;

use shrink::Round;

/// Where the rounds are in the guest.
const ROUNDS: &str = "root/rounds.json";
/// Where what failed is kept.
const FOLDER: &str = "target/torture";

/// The guest: packets of one flow come from two CPUs at once.
pub(crate) const CPUS: u32 = 2;
pub(crate) const MEMORY_MIB: u32 = 2048;

/// What the guest takes besides the schedule: a round that has begun, and waits for a census.
const MORE: Duration = Duration::from_mins(15);

/// What `cargo xtask torture` takes.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Which schedule [default: another one each time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How long; a round that has begun is ended
    #[arg(long, value_name = "M", default_value_t = 5.0)]
    minutes: f64,
    /// Entries of a table that no round touches, so that every census meets them
    #[arg(long, value_name = "N", default_value_t = 0)]
    crowd: u64,
    /// Kernel version or its beginning, e.g. 6.12 or 7; the newest that matches is taken
    #[arg(long, value_name = "PREFIX", default_value = QUICK)]
    kernel: String,
    /// These rounds instead: a file that an earlier failure has left
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seed", "minutes"])]
    rounds: Option<PathBuf>,
    /// How many guests at most are booted to find a shorter schedule that fails; 0: don't
    #[arg(long, value_name = "N", default_value_t = 40)]
    shrink: u32,
    /// Cargo profile of the binaries in the guest
    #[arg(long, value_name = "NAME", default_value = project::GUEST)]
    profile: String,
}

/// Runs the command; the exit status is 1 when something did not hold.
pub(crate) fn run(arguments: &Arguments) -> Result<i32> {
    let prepared = Prepared::new(Cache::open()?, &arguments.kernel, Some(&arguments.profile))?;
    let (script, given) = if let Some(file) = &arguments.rounds {
        (of_file(arguments.crowd), read(file)?)
    } else {
        let seed = arguments.seed.map_or_else(new_seed, Ok)?;
        command::say(&format!("seed {seed} on {}", prepared.kernel.version));
        (
            of_seed(seed, arguments.minutes, arguments.crowd),
            Vec::new(),
        )
    };
    let limit = Duration::try_from_secs_f64(arguments.minutes * 60.0)
        .context("--minutes wants a number from 0 up")?
        + MORE;
    let guests = Guests { prepared, limit };
    let first = guests.boot(&script, &given)?;
    let Some(why) = &first.why else {
        println!("{} rounds, everything held", first.rounds.len());
        return Ok(0);
    };
    println!("round {} failed: {why}", first.rounds.len());
    let file = keep(&script, arguments, &first.rounds)?;
    if arguments.shrink == 0 {
        return Ok(1);
    }
    let mut guest = 0;
    let shrunk = shrink::shrink(&first.rounds, arguments.shrink, |rounds| {
        guest += 1;
        let steps: usize = rounds.iter().map(Vec::len).sum();
        let again = guests.boot(&of_file(arguments.crowd), rounds)?;
        let how = if again.why.is_some() {
            "fails"
        } else {
            "holds"
        };
        let (number, most) = (rounds.len(), arguments.shrink);
        command::say(&format!(
            "guest {guest} of at most {most}: {number} rounds, {steps} steps: {how}"
        ));
        Ok(again.why.is_some())
    })?;
    match shrunk {
        Some(rounds) => {
            println!("the shortest that still fails:");
            for round in &rounds {
                println!("  {}", Value::from(round.clone()));
            }
            write(&file, &rounds)?;
        }
        None => println!("it did not fail again: it takes luck, or what came long before"),
    }
    Ok(1)
}

fn of_file(crowd: u64) -> String {
    format!("exec ctpressure-scenario torture --rounds /{ROUNDS} --crowd {crowd}\n")
}

/// Guests of one kernel.
struct Guests {
    prepared: Prepared,
    limit: Duration,
}

/// What one of them did.
struct Run {
    rounds: Vec<Round<Value>>,
    /// What did not hold.
    why: Option<String>,
}

impl Guests {
    fn boot(&self, script: &str, rounds: &[Round<Value>]) -> Result<Run> {
        let folder = command::repository().join(FOLDER);
        files::folder(&folder)?;
        let file = folder.join("rounds.json");
        write(&file, rounds)?;
        let put = [(file, ROUNDS.to_owned())];
        let machine = Machine::new(CPUS, MEMORY_MIB);
        let mut guest = self
            .prepared
            .guest(machine, self.limit, script.as_bytes(), &[]);
        guest.content.put = &put;
        let console = folder.join("console");
        guest.console = Some(&console);
        let (mut report, mut done) = (Report::default(), Vec::new());
        let ended = guest.run(&self.prepared.cache, &mut |stream, bytes, _| {
            if stream == Stream::Out {
                for line in report.take(bytes, Share::default) {
                    eprintln!("{line}");
                    if let Some(round) = line.strip_prefix("ROUND ") {
                        done.push(steps(&serde_json::from_str(round)?)?);
                    }
                }
            }
            Ok(())
        })?;
        explain(&self.prepared.kernel, &ended, self.limit);
        let failed = |scenario: &&Scenario| scenario.ending != Ending::Passed;
        let why = report.scenarios().iter().find(failed);
        let why = why.map(|scenario| scenario.message.clone());
        Ok(Run {
            why: why.or_else(|| report.faults(&ended).into_iter().next()),
            rounds: done,
        })
    }
}

/// Keeps the rounds that failed, and says how they are run again.
fn keep(script: &str, arguments: &Arguments, rounds: &[Round<Value>]) -> Result<PathBuf> {
    let name: String = script.chars().filter(char::is_ascii_digit).collect();
    let Arguments { kernel, crowd, .. } = arguments;
    let file = Path::new(FOLDER).join(format!("failed-{kernel}-{name}.json"));
    write(&command::repository().join(&file), rounds)?;
    println!(
        "once more: cargo xtask torture --kernel {kernel} --crowd {crowd} --rounds {}",
        file.display()
    );
    Ok(command::repository().join(file))
}

fn write(file: &Path, rounds: &[Round<Value>]) -> Result<()> {
    let rounds: Vec<Value> = rounds
        .iter()
        .map(|steps| json!({ "steps": steps }))
        .collect();
    files::write(file, Value::from(rounds).to_string())
}

fn read(file: &Path) -> Result<Vec<Round<Value>>> {
    let text = files::bytes(file)?;
    let rounds: Vec<Value> =
        serde_json::from_slice(&text).with_context(|| format!("read {}", file.display()))?;
    ensure!(!rounds.is_empty(), "{} has no rounds", file.display());
    rounds.iter().map(steps).collect()
}

fn steps(round: &Value) -> Result<Round<Value>> {
    let steps = round["steps"].as_array();
    steps.cloned().context("a round without steps")
}
