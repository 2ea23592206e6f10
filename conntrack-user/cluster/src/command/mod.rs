//! The command line: `kubectl ctpressure`, and `ctpressure cluster`.

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Subcommand};
use ctpressure_model::command_line::{Output, OutputArgs, print};
use serde::Serialize;
use tokio::runtime;

use crate::{
    ask::{Crowd, connect, list},
    coverage::Coverage,
    fleet::Fleet,
    options::{AgentArgs, ClusterArgs},
    shapes::{DoctorAnswer, LimitAnswer, TopAnswer},
    text::{self, Look},
    view::{doctor::DoctorView, limit::LimitView, top::TopView},
};

mod answers;
mod examples;
mod journals;
mod report;
mod since;
mod watch;

pub use examples::for_kubectl;

/// The program's name, by which kubectl finds it.
pub const NAME: &str = "kubectl-ctpressure";
/// Exit status if some nodes did not answer.
const INCOMPLETE: u8 = 3;

/// How long a node may take for what its agent knows by heart.
const SHORT: Duration = Duration::from_millis(3500);
/// For a look around the node, or into its journal.
const LOOK: Duration = Duration::from_secs(10);
/// For a report.
const REPORT: Duration = Duration::from_secs(30);
/// What began may take this long to end.
const END: Duration = Duration::from_millis(200);

/// One view over the agents of all nodes
///
/// Finds the agents' pods by your kubeconfig, and asks each by running `ctpressure` in its container, over its local socket. Says which
/// nodes did not answer, and why. Exit status: 0 if all nodes answered, 1 after an error, 2 after wrong usage, 3 if some nodes did not
/// answer: what is printed is of the others. `doctor` also has 1 if all answered and there is a problem or something critical.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Who fills the tables of the whole cluster, and which node is full first
    #[command(after_help = examples::TOP)]
    Top(TopCommand),
    /// All nodes' journals in one list; the same incident on many nodes is one
    #[command(after_help = examples::INCIDENTS)]
    Incidents(IncidentsCommand),
    /// What happened: of one node, or of the whole cluster on one page
    #[command(after_help = examples::REPORT)]
    Report(report::ReportCommand),
    /// What is wrong or risky, with the nodes that have it, the worst first
    #[command(after_help = examples::DOCTOR)]
    Doctor(DoctorCommand),
    /// Drops and evictions of all nodes as they happen
    #[command(after_help = examples::WATCH)]
    Watch(watch::WatchCommand),
    /// What limits the tables, and where that is not the same
    #[command(after_help = examples::LIMIT)]
    Limit(LimitCommand),
}

/// What all subcommands take.
#[derive(Args, Clone, Debug)]
struct Common {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    agents: AgentArgs,
}

/// Which nodes.
#[derive(Args, Clone, Debug)]
struct NodeArgs {
    /// Only these nodes
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    node: Vec<String>,
}

#[derive(Args, Clone, Copy, Debug)]
struct RowArgs {
    /// Rows per table in the text
    #[arg(long = "top", value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    rows: u16,
}

impl RowArgs {
    fn rows(self) -> usize {
        usize::from(self.rows)
    }
}

/// Rows bound the text only: JSON has every owner of every node. Each node has 3.5 s.
#[derive(Args, Debug)]
pub struct TopCommand {
    #[command(flatten)]
    rows: RowArgs,
    #[command(flatten)]
    nodes: NodeArgs,
    #[command(flatten)]
    common: Common,
}

/// Incidents that were not over before `--since`, by this machine's clock, whose causes the nodes' own reports tell. Each node has 10 s.
#[derive(Args, Debug)]
pub struct IncidentsCommand {
    #[command(flatten)]
    time: since::TimeArgs,
    #[command(flatten)]
    rows: RowArgs,
    #[command(flatten)]
    nodes: NodeArgs,
    #[command(flatten)]
    common: Common,
}

/// Each node looks around for about a second, and has 10 s.
#[derive(Args, Debug)]
pub struct DoctorCommand {
    #[command(flatten)]
    nodes: NodeArgs,
    #[command(flatten)]
    common: Common,
}

/// Asks only: nothing sets a limit from here. Each node has 3.5 s.
#[derive(Args, Debug)]
pub struct LimitCommand {
    #[command(flatten)]
    rows: RowArgs,
    #[command(flatten)]
    nodes: NodeArgs,
    #[command(flatten)]
    common: Common,
}

impl ClusterCommand {
    /// Asks, and prints the result.
    ///
    /// # Errors
    /// A [`Failure`](ctpressure_model::command_line::Failure), which says what to do.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let result = runtime.block_on(async {
            match self {
                Self::Top(command) => command.run().await,
                Self::Incidents(command) => command.run().await,
                Self::Report(command) => command.run().await,
                Self::Doctor(command) => command.run().await,
                Self::Watch(command) => command.run().await,
                Self::Limit(command) => command.run().await,
            }
        });
        runtime.shutdown_timeout(END);
        result
    }
}

/// The agents that there are, and the way to them.
struct Reached {
    crowd: Crowd,
    fleet: Fleet,
}

impl Common {
    async fn reach(&self, nodes: &[String], patience: Duration) -> anyhow::Result<Reached> {
        let client = connect(&self.cluster).await?;
        let fleet = list(&client, &self.agents, nodes).await?;
        let crowd = Crowd::new(client, &self.agents, patience);
        Ok(Reached { crowd, fleet })
    }

    /// Prints the view; the exit status says whether all nodes answered.
    fn print<V: Serialize>(
        &self,
        view: &V,
        coverage: &Coverage,
        text: impl FnOnce(&V, Look) -> String,
    ) -> anyhow::Result<ExitCode> {
        let printed = match self.output.output {
            Output::Json => format!("{}\n", serde_json::to_string(view)?),
            Output::Text => text(view, look()),
        };
        print(&printed)?;
        Ok(status(coverage))
    }
}

fn status(coverage: &Coverage) -> ExitCode {
    if coverage.is_complete() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(INCOMPLETE)
    }
}

/// Colour only on a terminal, and not where `NO_COLOR` is set.
fn look() -> Look {
    Look {
        colour: io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
    }
}

fn arguments(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

impl TopCommand {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let reached = self.common.reach(&self.nodes.node, SHORT).await?;
        let ask = arguments(&["top", "--once", "--output", "json"]);
        let (coverage, answers) = answers::all::<TopAnswer>(&reached, &ask).await?;
        let view = TopView::new(coverage, &answers);
        let rows = self.rows.rows();
        self.common.print(&view, &view.coverage, |view, look| {
            text::top::top(view, rows, look)
        })
    }
}

impl LimitCommand {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let reached = self.common.reach(&self.nodes.node, SHORT).await?;
        let ask = arguments(&["limit", "--output", "json"]);
        let (coverage, answers) = answers::all::<LimitAnswer>(&reached, &ask).await?;
        let view = LimitView::new(coverage, answers);
        let rows = self.rows.rows();
        self.common.print(&view, &view.coverage, |view, look| {
            text::limit::limit(view, rows, look)
        })
    }
}

impl DoctorCommand {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let reached = self.common.reach(&self.nodes.node, LOOK).await?;
        let ask = arguments(&["doctor", "--output", "json"]);
        let (coverage, answers) = answers::all::<DoctorAnswer>(&reached, &ask).await?;
        let view = DoctorView::new(coverage, &answers);
        let status = self
            .common
            .print(&view, &view.coverage, text::doctor::doctor)?;
        Ok(if view.coverage.is_complete() && view.is_bad() {
            ExitCode::FAILURE
        } else {
            status
        })
    }
}

impl IncidentsCommand {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let asked = self.time.asked()?;
        let reached = self.common.reach(&self.nodes.node, LOOK).await?;
        let (coverage, journals) = journals::read(&reached, asked).await?;
        let view = crate::view::incidents::IncidentsView::new(coverage, asked, journals);
        let rows = self.rows.rows();
        self.common.print(&view, &view.coverage, |view, look| {
            text::incidents::incidents(view, rows, look)
        })
    }
}

/// What the program takes.
pub(crate) fn definition() -> clap::Command {
    let program = clap::Command::new(NAME)
        .bin_name("kubectl ctpressure")
        .subcommand_required(true);
    ClusterCommand::augment_subcommands(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        definition().debug_assert();
    }
}
