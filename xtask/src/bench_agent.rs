//! What the agent itself costs beside `node_exporter`, asked as often in the same guest: CPU, resident memory, and how they grow with pods
//! and with flows.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::groups::Group;
use crate::qemu::Machine;
use crate::vm_command::Prepared;
use crate::{command, project};

/// How many times `node_exporter`'s CPU the agent may take on an ordinary node.
const MOST_TIMES: f64 = 3.0;
/// An ordinary node: pods, and flows a second.
const ORDINARY: (u32, u32) = (250, 50);
const PEER: &str = "node_exporter";

/// What one program used.
#[derive(Clone, Debug, PartialEq)]
struct AgentCost {
    node: (u32, u32),
    whose: String,
    cpu_seconds: f64,
    seconds: f64,
    resident_kib: u64,
}

/// Runs it; false when a figure is too high.
pub(crate) fn run(prepared: &Prepared) -> Result<bool> {
    command::say("the agent's CPU and memory beside node_exporter's, in a guest: fifteen minutes");
    let script = b"exec ctpressure-scenario agent-cost\n";
    let timeout = Duration::from_hours(2);
    let machine = Machine::measured(5120);
    let guest = prepared.guest(machine, timeout, script, &[Group::NODE_EXPORTER]);
    let output = prepared.output(&guest, "AGENT DONE")?;
    let costs = costs(&output)?;
    let version = &prepared.kernel.version;
    print!("{}", table(&costs, version));
    for line in output.lines().filter(|line| line.starts_with("THREAD ")) {
        println!("{line}");
    }
    project::keep_figures("agent", &json(&costs, version))?;
    Ok(command::complain(&too_much(&costs)))
}

/// `AGENT <pods> <flows a second> <of whom> <CPU seconds> <seconds> <resident KiB>`.
fn costs(output: &str) -> Result<Vec<AgentCost>> {
    let lines = output
        .lines()
        .filter(|line| *line != "AGENT DONE")
        .filter_map(|line| Some((line, line.strip_prefix("AGENT ")?)));
    lines
        .map(|(line, rest)| {
            let words: Vec<&str> = rest.split_whitespace().collect();
            let [pods, rate, whose, cpu, seconds, resident] = words[..] else {
                bail!("the guest said `{line}`");
            };
            let context = || format!("the guest said `{line}`");
            Ok(AgentCost {
                node: (
                    pods.parse().with_context(context)?,
                    rate.parse().with_context(context)?,
                ),
                whose: whose.to_owned(),
                cpu_seconds: cpu.parse().with_context(context)?,
                seconds: seconds.parse().with_context(context)?,
                resident_kib: resident.parse().with_context(context)?,
            })
        })
        .collect()
}

fn table(costs: &[AgentCost], version: &str) -> String {
    let mut lines = vec![format!(
        "\n{:<40} {:>10} {:>14}",
        format!("asked every 15 s (Linux {version})"),
        "% of a CPU",
        "resident KiB"
    )];
    for cost in costs {
        let (pods, rate) = cost.node;
        lines.push(format!(
            "{:<40} {:>10.2} {:>14}",
            format!("{pods} pods, {rate} flows/s: {}", cost.whose),
            100.0 * cost.cpu_seconds / cost.seconds,
            cost.resident_kib
        ));
    }
    lines.push(String::new());
    lines.join("\n")
}

fn json(costs: &[AgentCost], version: &str) -> Value {
    let one = |cost: &AgentCost| {
        json!({
            "pods": cost.node.0,
            "flows_per_second": cost.node.1,
            "whose": cost.whose,
            "cpu_seconds": cost.cpu_seconds,
            "seconds": cost.seconds,
            "resident_kib": cost.resident_kib,
        })
    };
    json!({"kernel": version, "costs": costs.iter().map(one).collect::<Vec<_>>()})
}

fn too_much(costs: &[AgentCost]) -> Vec<String> {
    let of = |is_peer: bool| {
        let mut costs = costs.iter().filter(|cost| cost.node == ORDINARY);
        costs.find(|cost| (cost.whose == PEER) == is_peer)
    };
    let (Some(ours), Some(peer)) = (of(false), of(true)) else {
        return vec!["an ordinary node was not measured".to_owned()];
    };
    let mut lines = Vec::new();
    let times = ours.cpu_seconds / peer.cpu_seconds;
    if times > MOST_TIMES {
        lines.push(format!(
            "on an ordinary node the agent takes {times:.1} times the CPU of {PEER}; the budget is {MOST_TIMES}"
        ));
    }
    if ours.resident_kib >= peer.resident_kib {
        lines.push(format!(
            "the agent has {} KiB resident, {PEER} {}: it has to be less",
            ours.resident_kib, peer.resident_kib
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_budget_is_said() {
        let output = |cpu: &str, resident: &str| {
            costs(&format!(
                "noise\nAGENT 10 50 ctpressure 9.0 120.0 9000\nAGENT 250 50 ctpressure {cpu} 120.0 {resident}\n\
                 AGENT 250 50 node_exporter 1.0 120.0 20000\nTHREAD owners 1.0\nAGENT DONE\n"
            ))
            .unwrap()
        };
        assert_eq!(too_much(&output("2.9", "19999")), [""; 0]);
        assert_eq!(too_much(&output("3.1", "20000")).len(), 2);
        assert_eq!(too_much(&output("2.9", "19999")[..1]).len(), 1);
        assert!(costs("AGENT 250 50 ctpressure x 1 1").is_err());
        let text = table(&output("3.0", "1"), "6.12");
        assert!(text.contains("250 pods, 50 flows/s: ctpressure"), "{text}");
    }
}
