//! What a census of the agent costs by the number of network namespaces, and a start with a million entries, in a guest.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::command;
use crate::qemu::Machine;
use crate::vm_command::Prepared;

/// The most seconds of the first census on a busy node.
const MOST_SECONDS: f64 = 15.0;
/// How many times as long as with one namespace it may take with the most of them, beside what each one costs by itself.
const MOST_TIMES: f64 = 1.5;
const MOST_BESIDE: f64 = 1.0;

/// One census.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct CensusTime {
    /// Network namespaces of pods; `busy` where entries came meanwhile.
    namespaces: String,
    entries: u64,
    seconds: f64,
}

/// Runs it; the guest fails if a count does not hold.
pub(super) fn run(prepared: &Prepared) -> Result<Vec<CensusTime>> {
    command::say("censuses of 1, 50 and 250 network namespaces, in a guest: ten minutes");
    let script = b"exec ctpressure-scenario busy-node\n";
    let timeout = Duration::from_hours(1);
    let guest = prepared.guest(Machine::new(2, 5120), timeout, script, &[]);
    times(&prepared.output(&guest, "CENSUS DONE")?)
}

/// `CENSUS-TIME <namespaces> <entries> <seconds>`.
fn times(output: &str) -> Result<Vec<CensusTime>> {
    let lines = output
        .lines()
        .filter_map(|line| Some((line, line.strip_prefix("CENSUS-TIME ")?)));
    let times: Vec<CensusTime> = lines
        .map(|(line, rest)| {
            let words: Vec<&str> = rest.split_whitespace().collect();
            let [namespaces, entries, seconds] = words[..] else {
                bail!("the guest said `{line}`");
            };
            Ok(CensusTime {
                namespaces: namespaces.to_owned(),
                entries: entries.parse().context(line.to_owned())?,
                seconds: seconds.parse().context(line.to_owned())?,
            })
        })
        .collect::<Result<_>>()?;
    Ok(times)
}

pub(super) fn table(times: &[CensusTime], version: &str) -> String {
    let mut lines = vec![format!("the agent's first census (Linux {version})")];
    for time in times {
        let CensusTime {
            namespaces,
            entries,
            seconds,
        } = time;
        lines.push(format!(
            "{namespaces:>5} namespaces {entries:>9} entries {seconds:>8.3} s"
        ));
    }
    lines.push(String::new());
    lines.join("\n")
}

pub(super) fn json(times: &[CensusTime]) -> Value {
    let one = |time: &CensusTime| {
        json!({
            "namespaces": time.namespaces,
            "entries": time.entries,
            "seconds": time.seconds,
        })
    };
    times.iter().map(one).collect()
}

/// What takes too long: the cost of a census grows with entries, not with namespaces.
pub(super) fn too_long(times: &[CensusTime]) -> Vec<String> {
    let mut lines = Vec::new();
    let busy = times.iter().filter(|time| time.namespaces == "busy");
    if busy.clone().count() == 0 {
        lines.push("the first census of a busy node was not measured".to_owned());
    }
    for time in busy.filter(|time| time.seconds > MOST_SECONDS) {
        lines.push(format!(
            "the first census of a busy node took {:.1} s; the most is {MOST_SECONDS}",
            time.seconds
        ));
    }
    let of_one = |entries| {
        let mut of_one = times.iter().filter(|time| time.namespaces == "1");
        of_one.find(|time| time.entries == entries)
    };
    for time in times.iter().filter(|time| time.namespaces != "busy") {
        let Some(one) = of_one(time.entries) else {
            continue;
        };
        let most = one.seconds * MOST_TIMES + MOST_BESIDE;
        if time.seconds > most {
            lines.push(format!(
                "a census of {} entries took {:.1} s with {} namespaces; with one it took {:.1}",
                time.entries, time.seconds, time.namespaces, one.seconds
            ));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_with_namespaces_is_too_long() {
        let output = |many: f64, busy: f64| {
            times(&format!(
                "noise\nCENSUS-TIME 1 1000 6.0\nCENSUS-TIME 250 1000 {many}\nCENSUS-TIME busy 1000 {busy}\n"
            ))
            .unwrap()
        };
        assert!(too_long(&output(9.0, 14.0)).is_empty());
        assert_eq!(too_long(&output(142.8, 16.0)).len(), 2);
        assert_eq!(too_long(&[]).len(), 1);
        assert!(times("CENSUS-TIME 1 x 2\n").is_err());
        let text = table(&output(9.0, 14.0), "6.12");
        assert!(text.contains("250 namespaces"), "{text}");
    }
}
