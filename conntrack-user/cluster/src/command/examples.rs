//! What each `--help` ends with: command lines to begin with, as `ctpressure cluster` has them ([`for_kubectl`] makes them those of the plugin).

use clap::Command;

pub(super) const TOP: &str = "\
Examples:
  ctpressure cluster top
  ctpressure cluster top --top 30 --node node-1,node-2
  ctpressure cluster top -o json | jq '.nodes[] | .node'";

pub(super) const INCIDENTS: &str = "\
Examples:
  ctpressure cluster incidents --since 24h
  ctpressure cluster incidents --since 24h -o json | jq '.incidents[0]'";

pub(super) const REPORT: &str = "\
Examples:
  ctpressure cluster report --node node-1 --incident 1 --html page.html
  ctpressure cluster report --cluster --since 24h --html page.html";

pub(super) const DOCTOR: &str = "\
Examples:
  ctpressure cluster doctor
  ctpressure cluster doctor --node node-1";

pub(super) const WATCH: &str = "\
Examples:
  ctpressure cluster watch
  ctpressure cluster watch --kind drop -o json";

pub(super) const LIMIT: &str = "\
Examples:
  ctpressure cluster limit
  ctpressure cluster limit -o json";

/// The same commands, whose examples say `kubectl ctpressure`.
pub fn for_kubectl(command: Command) -> Command {
    command.mut_subcommands(|inner| {
        let examples = inner.get_after_help().map(ToString::to_string);
        let examples = examples.unwrap_or_default();
        inner.after_help(examples.replace("ctpressure cluster", "kubectl ctpressure"))
    })
}
