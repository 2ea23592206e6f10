//! `ctpressure limit`: what limits the tables, who set it, what the controller did or would do.

use std::time::Duration;

use clap::{Args, Subcommand};
use ctpressure_model::command_line::{self, Output, OutputArgs};

use super::{
    Failure,
    args::{LogArgs, SocketArgs},
    examples,
    limit_args::LimitArgs,
    logging, thread,
};
use crate::{
    census::Charging,
    kernel::{
        Root, slab,
        tables::{TableReader, TableSample},
    },
    limit::{
        Controller, ControllerPlace, ControllerSample, Mode,
        controller::SetRequest,
        look::LookOwners,
        node,
        policy::{Observation, TableLosses, TableSeen},
    },
    owners::{OwnerKind, table_names},
    serve::{
        limit::{Fullest, LimitView},
        socket::Remote,
    },
};

pub(super) use crate::limit::SettingsError;

#[cfg(test)]
mod tests;
mod text;

/// Show what limits the tables, and what the limit controller did or would do
///
/// Asks the running agent; without one it samples for a second. Only `set` changes anything.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Limit {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(after_help = examples::SET)]
    Set(Set),
}

/// Set the limit by hand, if the guard rails allow it
#[derive(Args, Debug)]
struct Set {
    /// Maximum entries per table (`nf_conntrack_max`)
    #[arg(value_name = "N")]
    limit: u64,
    /// Override the guard rails, and say which
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Args, Debug)]
struct Common {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    socket: SocketArgs,
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    limit: LimitArgs,
}

impl Limit {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let Self { command, common } = self;
        match command {
            None => common.run(None),
            Some(Command::Set(Set {
                limit,
                force,
                common,
            })) => common.run(Some(SetRequest {
                limit,
                force,
                who: user(),
            })),
        }
    }
}

impl Common {
    fn run(&self, set: Option<SetRequest>) -> anyhow::Result<()> {
        logging::start(self.log.log, self.log.verbose, tracing::Level::ERROR);
        let settings = self.limit.settings(Mode::DryRun)?;
        let ask = async { Ok(Remote::limit(&self.socket.socket, set.clone()).await?) };
        let asked = thread::block_on(Duration::ZERO, ask)?;
        let runs = asked.is_some();
        // An agent whose controller may not act leaves it to whoever asks.
        let mut view = match asked {
            Some(view) if set.is_none() || view.set.is_some() => view,
            _ => {
                let mut controller =
                    Controller::new(settings, ControllerPlace::node(LookOwners::look_around));
                let root = Root::system();
                let view = look(&mut controller, &root)?;
                match set {
                    None => view,
                    Some(SetRequest { limit, force, who }) => {
                        let done = controller.set(limit, force, who, node::since_boot());
                        LimitView {
                            set: Some(done),
                            ..look(&mut controller, &root)?
                        }
                    }
                }
            }
        };
        let result = view.set.take();
        if let Some(Err(error)) = result {
            return Err(error.into());
        }
        view.set = result;
        let printed = match self.output.output {
            Output::Json => format!("{}\n", serde_json::to_string(&view)?),
            Output::Text => text::of(&view, runs),
        };
        Ok(command_line::print(&printed)?)
    }
}

/// What there is, sampled by this command itself.
fn look(controller: &mut Controller, root: &Root) -> anyhow::Result<LimitView> {
    let tables = TableReader::new(root.clone())
        .read()
        .map_err(|error| Failure {
            what: format!("the tables can't be read: {error}"),
            help: "load conntrack (`modprobe nf_conntrack`), and run as root".to_owned(),
        })?;
    let owners = Charging::look_around(root).tables;
    let kept_as = tables
        .tables
        .iter()
        .map(|table| (table.netns, table.name.as_str()));
    let mut names = table_names(kept_as, &owners);
    let seen = |table: &TableSample| {
        let name = names.remove(&table.netns);
        let name = name.unwrap_or_else(|| table.name.clone());
        let kind = owners.get(&table.netns).map(|it| it.owner.kind);
        TableSeen {
            netns: table.netns,
            kept_as: (name != table.name).then(|| table.name.clone()),
            name,
            of_pod: kind == Some(OwnerKind::Pod),
            entries: table.entries,
            seconds_to_full: None,
            losses: table.stats.as_ref().map(TableLosses::from),
        }
    };
    let sample = ControllerSample {
        tables: tables.tables.iter().map(seen).collect(),
        ..ControllerSample::default()
    };
    controller.tick(&sample, node::since_boot());
    let fullest = controller.observation().and_then(Observation::fullest);
    Ok(LimitView {
        limit: Some(tables.limit),
        buckets: Some(tables.buckets),
        table_bytes: slab::table_bytes(root, tables.buckets),
        fullest: fullest.map(|table| Fullest {
            netns: table.netns,
            name: table.name.clone(),
            entries: table.entries,
        }),
        controller: Some(controller.report().clone()),
        set: None,
    })
}

/// Who asks: for the record, not for access.
pub(super) fn user() -> Option<String> {
    ["SUDO_USER", "USER", "LOGNAME"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|name| !name.is_empty()))
}
