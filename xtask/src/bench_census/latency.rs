//! How long the kernel has the first packet of a flow while all entries of a table are read, in a guest.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::command;
use crate::qemu::Machine;
use crate::vm_command::Prepared;

/// What is compared with: nobody reads.
const NONE: &str = "none";
/// Ours.
const HASH: &str = "hash";
/// The most that a walk adds to the time that one flow in a hundred takes longer than, microseconds: as long as it may hold a CPU.
const MOST_ADDED: f64 = 200.0;

/// Flows while one program reads again and again.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct InsertTimes {
    /// `none`, `hash`, `ctnetlink` or `conntrack`.
    name: String,
    /// How often it read all meanwhile.
    reads: u64,
    /// Microseconds.
    p50: f64,
    p99: f64,
    p999: f64,
    most: f64,
}

pub(super) fn run(prepared: &Prepared) -> Result<Vec<InsertTimes>> {
    command::say("how long new flows take while entries are read, in a guest: five minutes");
    let script = include_bytes!("../../guest/latency.sh");
    let guest = prepared.guest(Machine::new(2, 3072), Duration::from_mins(30), script, &[]);
    read(&prepared.output(&guest, "LATENCY DONE")?)
}

/// `LATENCY <name> <reads> <what ctgen prints>`, in rounds; of each program the round in the middle by its slowest hundredth.
fn read(output: &str) -> Result<Vec<InsertTimes>> {
    let mut all: Vec<InsertTimes> = Vec::new();
    let lines = output
        .lines()
        .filter_map(|line| line.strip_prefix("LATENCY "));
    for line in lines.filter(|line| *line != "DONE") {
        let mut words = line.splitn(3, ' ');
        let (Some(name), Some(reads), Some(sent)) = (words.next(), words.next(), words.next())
        else {
            bail!("the guest said `{line}`");
        };
        let sent: Value = serde_json::from_str(sent).context(line.to_owned())?;
        let us = |name: &str| -> Result<f64> {
            let nanoseconds = sent["send_ns"][name].as_f64();
            Ok(nanoseconds.with_context(|| format!("no {name}: {line}"))? / 1e3)
        };
        all.push(InsertTimes {
            name: name.to_owned(),
            reads: reads.parse()?,
            p50: us("p50")?,
            p99: us("p99")?,
            p999: us("p999")?,
            most: us("most")?,
        });
    }
    all.sort_by(|a, b| a.p99.total_cmp(&b.p99));
    let names = [NONE, HASH, "ctnetlink", "conntrack"];
    Ok(names
        .iter()
        .filter_map(|name| {
            let rounds: Vec<_> = all.iter().filter(|times| times.name == *name).collect();
            rounds.get(rounds.len() / 2).copied().cloned()
        })
        .collect())
}

pub(super) fn table(all: &[InsertTimes], version: &str) -> String {
    let mut lines = vec![format!(
        "first packet of a flow, 1,000 a second, while 250,000 entries are read on another CPU (Linux {version}), us: p50, p99, p99.9, most; reads"
    )];
    for times in all {
        let InsertTimes {
            name,
            reads,
            p50,
            p99,
            p999,
            most,
        } = times;
        lines.push(format!(
            "{name:<10} {p50:>9.0} {p99:>9.0} {p999:>9.0} {most:>9.0} {reads:>6}"
        ));
    }
    lines.push(String::new());
    lines.join("\n")
}

pub(super) fn json(all: &[InsertTimes]) -> Value {
    let one = |times: &InsertTimes| {
        json!({
            "name": times.name,
            "reads": times.reads,
            "p50_us": times.p50,
            "p99_us": times.p99,
            "p999_us": times.p999,
            "most_us": times.most,
        })
    };
    all.iter().map(one).collect()
}

/// What is too much.
pub(super) fn too_long(all: &[InsertTimes]) -> Vec<String> {
    let of = |name| all.iter().find(|times| times.name == name);
    let (Some(none), Some(hash)) = (of(NONE), of(HASH)) else {
        return vec!["how long new flows take during a walk was not measured".to_owned()];
    };
    let added = hash.p99 - none.p99;
    let mut lines = Vec::new();
    if hash.reads == 0 {
        lines.push("no walk ended while flows were sent".to_owned());
    }
    if added > MOST_ADDED {
        lines.push(format!(
            "a walk adds {added:.0} us to the slowest hundredth of new flows; the most is {MOST_ADDED}"
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_walk_adds_is_bounded() {
        let output = |p99: u64, reads: u64| {
            let line = |name: &str, p99: u64| {
                format!(
                    "LATENCY {name} {reads} {{\"send_ns\":{{\"p50\":1,\"p99\":{p99},\"p999\":3,\"most\":4}}}}\n"
                )
            };
            let rounds = [line(HASH, 1), line(HASH, p99), line(HASH, 9_000_000)].concat();
            read(&(line(NONE, 20_000) + &rounds + "LATENCY DONE\n")).unwrap()
        };
        assert!(too_long(&output(120_000, 3)).is_empty());
        assert!(table(&output(120_000, 3), "6.12").contains("      120 "));
        assert_eq!(too_long(&output(300_000, 0)).len(), 2);
        assert_eq!(too_long(&[]).len(), 1);
        assert!(read("LATENCY hash 1 {}\n").is_err());
    }
}
