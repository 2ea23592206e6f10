//! `ctpressure-scenario`: what has to hold, run inside a guest.
//!
//! Each scenario has a process and a process group of its own: one that hangs or panics is ended
//! with all that it started, and the next one begins on a clean machine.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, Subcommand};
use ctpressure_tests::{
    agent_cost, busy_node,
    containers::{
        network::{self, NODE, Network},
        runtime::{self, CgroupDriver},
    },
    guest::{
        agent::Mechanism,
        command::{self, Late},
        confinement::Confinement,
        kernel, net,
    },
    scenarios::{self, Clock, On, Scenario, With},
    torture::{
        self,
        schedule::{Round, Schedule},
    },
    traffic::bench::flush_table,
};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

/// End-to-end scenarios of ctpressure. They change sysctls and unload modules: run them in a guest
/// (`cargo xtask vm`), as root.
#[derive(Parser)]
#[command(name = "ctpressure-scenario", version)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Names every scenario and says what it shows.
    List {
        /// Only those that are for such a clock.
        #[arg(long, value_enum)]
        clock: Option<Clock>,
    },
    /// Runs those whose name contains NAME.
    Run {
        /// Part of a name.
        name: String,
        /// With this mechanism only.
        #[arg(long, value_enum)]
        mechanism: Option<Mechanism>,
        /// Only those that are for such a clock.
        #[arg(long, value_enum)]
        clock: Option<Clock>,
    },
    /// Runs every scenario with every mechanism that this kernel allows.
    All {
        /// Only those that are for such a clock.
        #[arg(long, value_enum)]
        clock: Option<Clock>,
        /// Only those that show what depends on the kernel.
        #[arg(long)]
        of_kernel: bool,
        /// Also those that make pods; they need a guest with containerd.
        #[arg(long)]
        pods: bool,
    },
    /// Runs just these, each as its result line names it: `counts`, `counts[kprobe]`.
    Turns {
        /// As `all` runs them with this.
        #[arg(long)]
        of_kernel: bool,
        #[arg(required = true)]
        titles: Vec<String>,
    },
    /// Runs one scenario in this process: what `run` starts.
    #[command(hide = true)]
    Only {
        name: String,
        #[arg(long, value_enum)]
        mechanism: Option<Mechanism>,
    },
    /// Does everything at once to this guest, by chance, and compares every count with the truth.
    Torture {
        /// Which schedule.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How long; a round that has begun is ended.
        #[arg(long, default_value_t = 5.0)]
        minutes: f64,
        /// These rounds instead: a JSON array.
        #[arg(long, conflicts_with_all = ["seed", "minutes"])]
        rounds: Option<PathBuf>,
        /// Entries of a table that no round touches.
        #[arg(long, default_value_t = 0)]
        crowd: u64,
    },
    /// Measures censuses of 1, 50 and 250 network namespaces, and what is counted from a busy start on. Needs 4 GiB.
    BusyNode,
    /// Measures CPU and memory of the agent, beside `node_exporter`. Needs a guest that has it.
    AgentCost,
    /// Makes this guest a node: networks, containerd, images of pods. Needs a guest with containerd.
    Node {
        /// Who makes the control groups of containers
        #[arg(long, value_enum, default_value_t)]
        cgroup_driver: CgroupDriver,
    },
    /// Becomes COMMAND, confined as a container may be.
    #[command(hide = true)]
    ExecConfined {
        #[command(flatten)]
        confinement: Confinement,
        #[arg(last = true)]
        command: Vec<String>,
    },
}

/// A scenario with the mechanism to run it with.
type Turn = (&'static Scenario, Option<Mechanism>);

/// `of_kernel`: without what is shown on one kernel only.
fn turns(name: &str, only: Option<Mechanism>, of_kernel: bool) -> Vec<Turn> {
    let allowed = Mechanism::allowed();
    let mechanisms = |with| match with {
        With::EachOnOneKernel if of_kernel => vec![only],
        With::Any => vec![only],
        With::KprobeOnly => vec![Some(Mechanism::Kprobe)],
        With::Each | With::EachOnOneKernel => allowed.iter().copied().map(Some).collect(),
    };
    scenarios::ALL
        .iter()
        .filter(|scenario| scenario.name.contains(name))
        .flat_map(|scenario| {
            mechanisms(scenario.with)
                .into_iter()
                .map(move |mechanism| (scenario, mechanism))
        })
        .filter(|(_, mechanism)| only.is_none() || mechanism.is_none() || *mechanism == only)
        .collect()
}

fn title((scenario, mechanism): &Turn) -> String {
    mechanism.map_or_else(
        || scenario.name.to_owned(),
        |mechanism| format!("{}[{}]", scenario.name, mechanism.name()),
    )
}

/// Loads what the scenarios stand on and remembers the sysctls as they are.
fn prepare() -> Result<BTreeMap<String, String>> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "scenarios have to run as root"
    );
    for module in ["nf_conntrack", "nf_conntrack_netlink"] {
        kernel::load_module(module)?;
    }
    kernel::all_sysctls()
}

/// Puts the machine back as it was before the first scenario.
fn put_back(sysctls: &BTreeMap<String, String>) -> Result<()> {
    for module in ["nf_conntrack", "nf_conntrack_netlink"] {
        kernel::load_module(module)?;
    }
    net::clean_up()?;
    flush_table()?;
    kernel::restore_sysctls(sysctls)
}

/// Those of `of_kernel` show only what depends on the kernel.
fn run_all(turns: &[Turn], of_kernel: bool) -> Result<bool> {
    // Asked before: loading the module makes its BTF appear.
    let sysctls = prepare()?;
    let titles: Vec<String> = turns.iter().map(title).collect();
    say_titles(&titles)?;
    let mut all_ok = true;
    for turn in turns {
        let start = Instant::now();
        let result = put_back(&sysctls)
            .context("putting the machine back before it")
            .and_then(|()| run_one(turn, of_kernel));
        all_ok &= result.is_ok();
        say_result(&title(turn), start.elapsed(), &result);
        std::io::stdout().flush()?;
    }
    println!("RESULTS {}", turns.len());
    // For whoever goes on with this machine.
    put_back(&sysctls).context("putting the machine back at the end")?;
    Ok(all_ok)
}

/// As if it were the only scenario; in this process.
fn tortured(title: &str, torture: impl FnOnce() -> Result<()>) -> Result<bool> {
    prepare()?;
    say_titles(&[title.to_owned()])?;
    let start = Instant::now();
    let result = torture();
    say_result(title, start.elapsed(), &result);
    println!("RESULTS 1");
    std::io::stdout().flush()?;
    Ok(result.is_ok())
}

/// Who measures how long each takes begins here, and knows of each if this machine does not get to it.
fn say_titles(titles: &[String]) -> Result<()> {
    println!("SCENARIOS {}: {}", titles.len(), titles.join(" "));
    std::io::stdout().flush()?;
    Ok(())
}

fn say_result(name: &str, took: Duration, result: &Result<()>) {
    match result {
        Ok(()) => println!("RESULT {name} ok {:.1}", took.as_secs_f64()),
        Err(error) => {
            let how = if Late::is_cause_of(error) {
                "LATE"
            } else {
                "FAIL"
            };
            let why = command::one_line(&format!("{error:#}"));
            println!("RESULT {name} {how} {why}");
        }
    }
}

/// How many times its limit a scenario may take: a limit is what it needs at most on a machine of
/// its own, and a guest may share its host. What hangs is found all the same.
const PATIENCE: u32 = 3;

/// What a scenario ends with that missed a time limit (`EX_TEMPFAIL`): whether that means anything only the host can tell.
const EXIT_LATE: u8 = 75;

/// Runs one scenario in a process group of its own; its message is the last line of its stderr.
fn run_one(turn: &Turn, of_kernel: bool) -> Result<()> {
    let (scenario, mechanism) = turn;
    let mut command = Command::new(std::env::current_exe().context("finding this program's file")?);
    command.args(["only", scenario.name]);
    if let Some(mechanism) = mechanism {
        command.args(["--mechanism", mechanism.name()]);
    }
    if of_kernel {
        command.env(scenarios::OF_KERNEL, "1");
    }
    command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0);
    let mut child = command::spawn(&mut command)?;
    let group = Pid::from_raw(i32::try_from(child.id())?);
    let errors = pass_errors_on(&mut child)?;
    let limit = Duration::from_secs(scenario.limit_seconds) * PATIENCE;
    let ended = command::wait(&mut child, limit)?;
    // Agents and generators that are left; none is the rule.
    let _: nix::Result<()> = killpg(group, Signal::SIGKILL);
    if ended.is_none() {
        child.wait().context("waiting for the end of a scenario")?;
    }
    let said = errors.join().unwrap_or_default();
    let last = said
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("");
    match ended {
        Some(status) if status.success() => Ok(()),
        Some(status) if status.code() == Some(1) => bail!("{last}"),
        Some(status) if status.code() == Some(EXIT_LATE.into()) => {
            Err(Late(last.to_owned()).into())
        }
        Some(status) => bail!("{status}: {}", command::one_line(&said)),
        None => {
            let long = limit.as_secs();
            Err(Late(format!("not done after {long} s; last words: {last}")).into())
        }
    }
}

/// Copies a child's stderr to ours and keeps it.
fn pass_errors_on(child: &mut Child) -> Result<thread::JoinHandle<String>> {
    let mut pipe = child.stderr.take().context("a scenario without stderr")?;
    Ok(thread::spawn(move || {
        let mut said = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = pipe.read(&mut buffer) {
            said.extend_from_slice(&buffer[..length]);
            // Nobody may be listening any more; the result line matters.
            drop(std::io::stderr().write_all(&buffer[..length]));
        }
        String::from_utf8_lossy(&said).into_owned()
    }))
}

fn run(cli: Cli) -> Result<bool> {
    match cli.what {
        What::List { clock } => {
            for scenario in scenarios::ALL {
                if clock.is_none_or(|clock| clock == scenario.clock) {
                    println!("{:28} {}", scenario.name, scenario.shows);
                }
            }
            Ok(true)
        }
        What::All {
            clock,
            of_kernel,
            pods,
        } => {
            kernel::load_module("nf_conntrack")?;
            let mut turns = turns("", None, of_kernel);
            turns.retain(|(scenario, _)| clock.is_none_or(|clock| clock == scenario.clock));
            turns.retain(|(scenario, _)| match scenario.on {
                On::EachKernel => true,
                On::OneKernel => !of_kernel,
                On::PodKernels => pods,
                On::OnePodKernel => pods && !of_kernel,
            });
            run_all(&turns, of_kernel)
        }
        What::Run {
            name,
            mechanism,
            clock,
        } => {
            kernel::load_module("nf_conntrack")?;
            let mut turns = turns(&name, mechanism, false);
            ensure!(
                !turns.is_empty(),
                "no scenario has such a name; see `ctpressure-scenario list`"
            );
            turns.retain(|(scenario, _)| clock.is_none_or(|clock| clock == scenario.clock));
            run_all(&turns, false)
        }
        What::Turns { of_kernel, titles } => {
            kernel::load_module("nf_conntrack")?;
            let mut left = turns("", None, of_kernel);
            let wanted = titles.iter().map(|wanted| {
                let found = left.iter().position(|turn| title(turn) == *wanted);
                let found =
                    found.with_context(|| format!("no scenario is called {wanted} here"))?;
                Ok(left.swap_remove(found))
            });
            run_all(&wanted.collect::<Result<Vec<Turn>>>()?, of_kernel)
        }
        What::Only { name, mechanism } => {
            let scenario = scenarios::ALL.iter().find(|scenario| scenario.name == name);
            (scenario.context("no such scenario")?.run)(mechanism)?;
            Ok(true)
        }
        What::Torture {
            seed,
            minutes,
            rounds,
            crowd,
        } => {
            let rounds: Box<dyn Iterator<Item = Round>> = match rounds {
                Some(path) => {
                    let text = std::fs::read_to_string(&path)
                        .with_context(|| format!("reading {}", path.display()))?;
                    let rounds: Vec<Round> =
                        serde_json::from_str(&text).context("reading the rounds")?;
                    Box::new(rounds.into_iter())
                }
                None => Box::new(Schedule::new(seed)),
            };
            let limit = Duration::try_from_secs_f64(minutes * 60.0)
                .context("--minutes wants a number from 0 up")?;
            tortured(&format!("torture[{seed}]"), || {
                torture::run(rounds, Some(limit), crowd).map(drop)
            })
        }
        What::BusyNode => measured(busy_node::run, "CENSUS DONE"),
        What::AgentCost => measured(agent_cost::run, "AGENT DONE"),
        What::Node { cgroup_driver } => {
            kernel::load_module("nf_conntrack")?;
            network::prepare()?;
            runtime::start(&Network::CONFIGURED.map(Network::name), cgroup_driver)?;
            println!("node {NODE}");
            Ok(true)
        }
        What::ExecConfined {
            confinement,
            command,
        } => {
            confinement.exec(&command)?;
            Ok(false)
        }
    }
}

/// Runs a benchmark, and says so at its end.
fn measured(run: fn() -> Result<()>, done: &str) -> Result<bool> {
    prepare()?;
    run()?;
    println!("{done}");
    Ok(true)
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{}", command::one_line(&format!("{error:#}")));
            if Late::is_cause_of(&error) {
                ExitCode::from(EXIT_LATE)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}
