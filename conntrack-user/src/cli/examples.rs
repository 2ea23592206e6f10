//! What stands at the end of each `--help`: command lines to begin with. Each is one that the program takes.

pub(super) const ALL: &str = "\
Examples:
  ctpressure run --journal /var/lib/ctpressure    # the agent; the other commands ask it
  ctpressure top                                  # live: tables, and who fills them
  ctpressure watch                                # drops and evictions as they happen
  ctpressure doctor                               # what is wrong on this node, and how to fix it";

pub(super) const RUN: &str = "\
Examples:
  ctpressure run
  ctpressure run --listen 127.0.0.1:9743 --journal /var/lib/ctpressure
  ctpressure run --limit-controller dry-run    # only says what it would do
  ctpressure run -v --log json";

pub(super) const TOP: &str = "\
Examples:
  ctpressure top
  ctpressure top --once --top 3
  ctpressure top --once -o json";

pub(super) const WATCH: &str = "\
Examples:
  ctpressure watch
  ctpressure watch --owner shop/ --duration 1m    # the pods of one namespace
  ctpressure watch -o json --kind drop --address 10.0.0.0/8 --port 53";

pub(super) const TABLE: &str = "\
Examples:
  ctpressure table
  ctpressure table --netns all --by service,state --evictable
  ctpressure table --list -o json --state syn_sent";

pub(super) const REPORT: &str = "\
Examples:
  ctpressure report                                     # the incidents in the journal
  ctpressure report --incident 1 --html incident.html
  ctpressure report --since 03:00 --until 03:30 -o json
  ctpressure report --journal copied.db --since -2h";

pub(super) const DOCTOR: &str = "\
Examples:
  ctpressure doctor
  ctpressure doctor -o json
  ctpressure doctor --npd    # for node-problem-detector";

pub(super) const LIMIT: &str = "\
Examples:
  ctpressure limit
  ctpressure limit -o json
  ctpressure limit set 262144";

pub(super) const SET: &str = "\
Examples:
  ctpressure limit set 262144
  ctpressure limit set 1048576 --force    # against the guard rails";

pub(super) const CONTAIN: &str = "\
Examples:
  ctpressure contain shop/aggregator                            # what it would do, and to whom
  ctpressure contain shop/aggregator --rate 10/s --for 10m --delete-entries --yes
  ctpressure contain --list
  ctpressure contain shop/aggregator --lift";

pub(super) const STATUS: &str = "\
Examples:
  ctpressure status
  ctpressure status --socket /run/ctpressure/ctpressure.sock";

pub(super) const CLUSTER: &str = "\
Examples:
  ctpressure cluster top
  ctpressure cluster report --cluster --since 24h --html page.html";

pub(super) const HEALTH: &str = "\
Examples:
  ctpressure health            # for a liveness probe
  ctpressure health --ready    # for a readiness probe";

#[cfg(test)]
mod tests {
    use clap::{Command, CommandFactory as _, Parser as _};

    use crate::cli::Cli;

    /// The help of each command, and of those in it.
    fn helps(command: &mut Command, found: &mut Vec<(String, String)>) {
        let help = command.render_long_help().to_string();
        found.push((command.get_name().to_owned(), help));
        for inner in command.get_subcommands_mut() {
            helps(inner, found);
        }
    }

    #[test]
    fn each_help_ends_with_command_lines_that_are_taken() {
        let mut found = Vec::new();
        helps(&mut Cli::command(), &mut found);
        assert!(found.len() > 10, "{}", found.len());
        for (name, help) in found {
            let (_, examples) = help
                .rsplit_once("\nExamples:\n")
                .unwrap_or_else(|| panic!("{name} has no examples"));
            let mut lines = 0;
            for line in examples
                .lines()
                .map(str::trim)
                .filter(|line| !line.is_empty())
            {
                let words = line.split(['#', '|']).next().unwrap_or_default();
                let words: Vec<&str> = words.split_whitespace().collect();
                Cli::try_parse_from(&words)
                    .unwrap_or_else(|error| panic!("{name}: {line}: {error}"));
                assert!(
                    name == "ctpressure" || words.contains(&name.as_str()),
                    "{name}: {line}"
                );
                assert!(line.len() <= 98, "{line}");
                lines += 1;
            }
            assert!(lines >= 2, "{name}");
        }
    }
}
