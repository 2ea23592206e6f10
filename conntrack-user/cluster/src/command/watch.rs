//! `watch`: one stream of all nodes' drops and evictions.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use ctpressure_model::{
    command_line::{Output, finish},
    words::clean,
};
use tokio::time::{Instant, sleep_until};

use super::{Common, INCOMPLETE, NodeArgs, look};
use crate::{
    ask::{Line, connect, follow, list},
    coverage::Why,
    text::{Look, event},
};

/// What `watch` takes: the filters are those of `ctpressure watch`, and each agent applies them.
#[derive(Args, Debug)]
pub struct WatchCommand {
    /// Only these kinds: drop, eviction, insert [default: drop,eviction]
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    kind: Vec<String>,
    /// Only these protocols, by name or number
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    protocol: Vec<String>,
    /// Only these addresses or prefixes
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    address: Vec<String>,
    /// Only these ports
    #[arg(long, value_name = "PORT", value_delimiter = ',')]
    port: Vec<u16>,
    /// Only these owners, such as `shop/` or `shop/cart`
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    owner: Vec<String>,
    /// Exit after this many events
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Exit after this time, such as 10s or 5m
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
    #[command(flatten)]
    nodes: NodeArgs,
    #[command(flatten)]
    common: Common,
}

/// What is printed, and what is known of the nodes.
struct Printer {
    output: Output,
    look: Look,
    left: Option<u64>,
    /// Why nodes can't be heard; those that are heard are not in it.
    silent: BTreeMap<String, Why>,
    /// Lines of a node that are no events.
    garbage: BTreeMap<String, u64>,
}

impl WatchCommand {
    fn question(&self) -> Vec<String> {
        let mut question = super::arguments(&["watch", "--output", "json"]);
        let ports: Vec<String> = self.port.iter().map(ToString::to_string).collect();
        for (name, values) in [
            ("kind", &self.kind),
            ("protocol", &self.protocol),
            ("address", &self.address),
            ("port", &ports),
            ("owner", &self.owner),
        ] {
            if !values.is_empty() {
                question.push(format!("--{name}={}", values.join(",")));
            }
        }
        question
    }

    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let client = connect(&self.common.cluster).await?;
        let nodes = &self.nodes.node;
        let fleet = list(&client, &self.common.agents, nodes).await?;
        let mut printer = Printer {
            output: self.common.output.output,
            look: look(),
            left: self.count,
            silent: BTreeMap::new(),
            garbage: BTreeMap::new(),
        };
        for note in &fleet.notes {
            note_aside(note);
        }
        for silent in fleet.silent {
            let why = Why::new(&silent.why, &silent.help);
            printer.is_silent(silent.node, why);
        }
        if printer.output == Output::Text && io::stdout().is_terminal() {
            note_aside(&format!(
                "watching through {} agents; Ctrl-C ends",
                fleet.agents.len()
            ));
        }
        let agents = self.common.agents.clone();
        let mut lines = follow(client, agents, nodes.clone(), fleet.agents, self.question());
        let deadline = self.duration.map(|duration| Instant::now() + duration);
        let time_is_up = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let end = tokio::signal::ctrl_c();
        tokio::pin!(time_is_up, end);
        loop {
            let line = tokio::select! {
                line = lines.recv() => line,
                () = &mut time_is_up => break,
                _ = &mut end => break,
            };
            match line {
                Some(line) => {
                    if !printer.take(line)? {
                        break;
                    }
                }
                None => break,
            }
        }
        Ok(printer.end())
    }
}

/// A word to whoever looks, beside the stream.
fn note_aside(text: &str) {
    // Who closed it does not want to know.
    drop(writeln!(io::stderr(), "ctpressure: {}", clean(text)));
}

impl Printer {
    /// Prints a line; false when there is enough, or nobody reads any more.
    fn take(&mut self, line: Line) -> anyhow::Result<bool> {
        match line {
            Line::Begun { node } => {
                if self.silent.remove(&node).is_some() {
                    note_aside(&format!("{node} is heard"));
                }
            }
            Line::Silent { node, why } => self.is_silent(node, why),
            Line::Of { node, line } => return self.event(node, &line),
        }
        Ok(true)
    }

    fn event(&mut self, node: String, line: &str) -> anyhow::Result<bool> {
        let text = match self.output {
            Output::Json => event::json(&node, line),
            Output::Text => event::line(&node, line, self.look),
        };
        let Some(text) = text else {
            let number = self.garbage.entry(node).or_default();
            *number += 1;
            return Ok(true);
        };
        let mut out = io::stdout().lock();
        let written = writeln!(out, "{text}").and_then(|()| out.flush());
        let closed = matches!(&written, Err(error) if error.kind() == io::ErrorKind::BrokenPipe);
        finish(written)?;
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(1);
        }
        Ok(!closed && self.left != Some(0))
    }

    /// Says once why a node is not heard.
    fn is_silent(&mut self, node: String, why: Why) {
        if self.silent.get(&node) != Some(&why) {
            let help = if why.help.is_empty() {
                String::new()
            } else {
                format!(" (help: {})", why.help)
            };
            note_aside(&format!("{node} is not heard: {}{help}", why.why));
            self.silent.insert(node, why);
        }
    }

    fn end(self) -> ExitCode {
        for (node, number) in &self.garbage {
            note_aside(&format!(
                "{node}: {number} lines were no events that are known here"
            ));
        }
        if self.silent.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(INCOMPLETE)
        }
    }
}
