//! What it takes to read all entries of a table, in a guest whose clock counts instructions: over the hash table, over ctnetlink, and by
//! `conntrack -L`.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::command;
use crate::qemu::Machine;
use crate::vm_command::Prepared;

/// The most that a walk over the hash table takes of what `conntrack -L` takes, with owners, destinations and states, where many entries are
/// alike. Where no two are there is no most: it is shown.
const MOST_SHARE: f64 = 1.0 / 15.0;
/// See [`WalkCost::kind`].
const ALIKE: &str = "alike";
/// The most memory, KiB.
const MOST_MEMORY: u64 = 32 << 10;
/// The longest that a CPU is held, microseconds.
const MOST_HELD: f64 = 200.0;

/// One program over a table of so many entries.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct WalkCost {
    entries: u64,
    /// `alike`: many differ in the client's port only; `distinct`: each has a client of its own.
    kind: String,
    /// `conntrack`, `ctnetlink` or `hash`.
    name: String,
    /// Seconds of the guest's clock: thousands of millions of instructions, in user space and in the kernel.
    user: f64,
    system: f64,
    memory_kib: u64,
}

/// What it came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct WalkCosts {
    costs: Vec<WalkCost>,
    /// By the number of entries and their kind: for how long a CPU was held at most, microseconds.
    held: Vec<(u64, String, f64)>,
}

pub(super) fn run(prepared: &Prepared) -> Result<WalkCosts> {
    command::say(
        "what it takes to read 250,000 and 1,000,000 entries, in a guest: fifteen minutes",
    );
    let script = include_bytes!("../../guest/walk.sh");
    let guest = prepared.guest(
        Machine::measured(4096),
        Duration::from_hours(1),
        script,
        &[],
    );
    read(&prepared.output(&guest, "WALK DONE")?)
}

/// `WALK <entries> <kind> <user> <system> <KiB> <name>`, `WALK-FOUND <entries> <kind> <nanoseconds> <entries found>`.
fn read(output: &str) -> Result<WalkCosts> {
    let mut costs = WalkCosts::default();
    for line in output.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["WALK", entries, kind, user, system, memory, name] => costs.costs.push(WalkCost {
                entries: entries.parse()?,
                kind: kind.to_owned(),
                name: name.to_owned(),
                user: user.parse()?,
                system: system.parse()?,
                memory_kib: memory.parse()?,
            }),
            ["WALK-FOUND", entries, kind, held, found] => {
                if entries != found {
                    bail!("{found} entries were found, not {entries}");
                }
                let held = held.parse::<f64>()? / 1e3;
                costs.held.push((entries.parse()?, kind.to_owned(), held));
            }
            _ => {}
        }
    }
    Ok(costs)
}

impl WalkCosts {
    /// What a cost is of that of `conntrack -L` on the same table.
    fn share(&self, cost: &WalkCost) -> Option<f64> {
        let is_peer = |peer: &&WalkCost| {
            peer.name == "conntrack" && (peer.entries, &peer.kind) == (cost.entries, &cost.kind)
        };
        let peer = self.costs.iter().find(is_peer)?;
        Some((cost.user + cost.system) / (peer.user + peer.system))
    }

    pub(super) fn table(&self, version: &str) -> String {
        let mut lines = vec![format!(
            "all entries read (Linux {version}), millions of instructions: user, kernel; of conntrack -L; memory"
        )];
        for cost in &self.costs {
            let share = self
                .share(cost)
                .map_or_else(String::new, |share| format!("1/{:.1}", 1.0 / share));
            let WalkCost {
                entries,
                kind,
                name,
                user,
                system,
                memory_kib,
            } = cost;
            lines.push(format!(
                "{entries:>9} {kind:<8} {name:<10} {:>7.0} {:>7.0} {share:>8} {memory_kib:>8} KiB",
                user * 1e3,
                system * 1e3
            ));
        }
        for (entries, kind, held) in &self.held {
            lines.push(format!(
                "{entries:>9} {kind:<8} a CPU held for {held:.0} us at most"
            ));
        }
        lines.push(String::new());
        lines.join("\n")
    }

    pub(super) fn json(&self) -> Value {
        let one = |cost: &WalkCost| {
            json!({
                "entries": cost.entries,
                "kind": cost.kind,
                "name": cost.name,
                "user_million_instructions": cost.user * 1e3,
                "kernel_million_instructions": cost.system * 1e3,
                "memory_kib": cost.memory_kib,
            })
        };
        json!({
            "costs": self.costs.iter().map(one).collect::<Vec<_>>(),
            "held_us": self.held,
        })
    }

    /// What is too much.
    pub(super) fn too_much(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let walks: Vec<&WalkCost> = self
            .costs
            .iter()
            .filter(|cost| cost.name == "hash")
            .collect();
        if walks.is_empty() || self.held.is_empty() {
            lines.push("a walk over the hash table was not measured".to_owned());
        }
        for cost in walks {
            let share = self.share(cost).unwrap_or(f64::NAN);
            if share.is_nan() || cost.kind == ALIKE && share > MOST_SHARE {
                lines.push(format!(
                    "a walk over {} {} entries takes {share:.3} of what `conntrack -L` takes; the most is {MOST_SHARE:.3}",
                    cost.entries, cost.kind
                ));
            }
            if cost.memory_kib > MOST_MEMORY {
                lines.push(format!(
                    "a walk over {} entries takes {} KiB; the most is {MOST_MEMORY}",
                    cost.entries, cost.memory_kib
                ));
            }
        }
        for (entries, kind, held) in self.held.iter().filter(|(.., held)| *held > MOST_HELD) {
            lines.push(format!(
                "a walk over {entries} {kind} entries held a CPU for {held:.0} us; the most is {MOST_HELD}"
            ));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_met_or_named() {
        let costs = |hash: f64, held: u64| {
            let output = format!(
                "noise\nWALK 250000 alike 3.00 2.00 4000 conntrack\nWALK 250000 alike {hash} 0.15 9000 hash\nWALK-FOUND 250000 alike {held} 250000\n"
            );
            read(&output).unwrap()
        };
        assert!(costs(0.15, 90_000).too_much().is_empty());
        assert!(costs(0.15, 90_000).table("6.12").contains("1/16.7"));
        assert_eq!(costs(0.25, 300_000).too_much().len(), 2);
        assert_eq!(WalkCosts::default().too_much().len(), 1);
        assert!(read("WALK-FOUND 250000 alike 1 249999\n").is_err());
    }
}
