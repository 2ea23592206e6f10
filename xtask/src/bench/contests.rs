//! Who is measured, and what each may cost at most: `xtask/guest/contests.yaml`, whose words are explained there.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::{command, files};

const CONTESTS: &str = include_str!("../../guest/contests.yaml");

/// Contestants that are measured in one guest, in the order of its script.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Contest {
    /// What is said while it runs.
    pub(super) what: String,
    /// Of the JSON file, without its end.
    pub(super) file: String,
    /// Of what the guest runs, in `xtask/guest`.
    script: String,
    #[serde(default)]
    pub(super) bpftrace: bool,
    /// The member of `ctgen`'s JSON that counts.
    pub(super) clock: String,
    pub(super) contestants: Vec<Contestant>,
    /// Pairs that must cost the same, by name.
    #[serde(default)]
    pub(super) alike: Vec<(String, String)>,
}

/// One line of the table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Contestant {
    /// Its name in the guest's script.
    pub(super) name: String,
    pub(super) title: String,
    /// The name of the contestant that it is compared with; its own if it is one of those.
    pub(super) base: String,
    pub(super) budget: Option<InstructionBudget>,
    /// All its flows have to be charged to one owner.
    #[serde(default)]
    pub(super) charged: bool,
}

/// The most instructions that may be added to one connection.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InstructionBudget {
    pub(super) new: f64,
    /// `None`: its end is not measured.
    pub(super) ended: Option<f64>,
}

impl Contest {
    pub(super) fn read(name: &str) -> Result<Self> {
        let mut all: BTreeMap<String, Self> =
            serde_saphyr::from_str(CONTESTS).context("read xtask/guest/contests.yaml")?;
        all.remove(name)
            .with_context(|| format!("no contest is called {name}"))
    }

    /// What runs in the guest.
    pub(super) fn script(&self) -> Result<String> {
        let read = |name: &str| files::text(&command::repository().join("xtask/guest").join(name));
        Ok(format!(
            "{}\n{}",
            read("bench_common.sh")?,
            read(&self.script)?
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_and_contestants_are_of_one_mind() {
        for contest in ["peers", "owners", "entries"] {
            let contest = Contest::read(contest).unwrap();
            let script = contest.script().unwrap();
            for contestant in &contest.contestants {
                // Those of the tables are made from their number.
                let name = contestant
                    .name
                    .replace("1000000", "$1")
                    .replace("1000", "$1");
                assert!(script.contains(&name), "{name} is not in its script");
                let mut all = contest.contestants.iter();
                assert!(all.any(|other| other.name == contestant.base));
            }
            for (first, second) in &contest.alike {
                for name in [first, second] {
                    assert!(contest.contestants.iter().any(|other| other.name == *name));
                }
            }
        }
    }

    #[test]
    fn budgets_are_of_hooks_that_are_charged() {
        let contest = Contest::read("owners").unwrap();
        let budgets: Vec<f64> = contest
            .contestants
            .iter()
            .filter(|contestant| contestant.charged)
            .filter_map(|contestant| Some(contestant.budget?.new))
            .collect();
        assert_eq!(
            budgets,
            [
                340.0, 740.0, 340.0, 740.0, 420.0, 850.0, 560.0, 820.0, 900.0, 900.0, 420.0, 850.0
            ]
        );
    }
}
