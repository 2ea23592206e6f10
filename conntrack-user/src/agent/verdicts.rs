//! What full tables are full of, as the last census told ([`ctpressure_model::verdict`]).

use std::collections::HashMap;

use ctpressure_model::verdict::{Composition, Verdict, is_worth_judging};

/// The verdicts on each table that was looked into, by network namespace.
#[derive(Debug, Default)]
pub(super) struct Verdicts(HashMap<u32, Vec<Verdict>>);

impl Verdicts {
    /// Takes what tables are made of.
    pub(super) fn judge(&mut self, compositions: HashMap<u32, Composition>, limit: u64) {
        for (netns, composition) in compositions {
            let verdicts = if is_worth_judging(composition.counted(), limit) {
                composition.verdicts()
            } else {
                Vec::new()
            };
            self.0.insert(netns, verdicts);
        }
    }

    /// The verdicts on a table that holds so many entries now; those on one that has room again are forgotten.
    pub(super) fn on(&mut self, netns: u32, entries: u64, limit: u64) -> Vec<Verdict> {
        if !is_worth_judging(entries, limit) {
            self.0.remove(&netns);
        }
        self.0.get(&netns).cloned().unwrap_or_default()
    }

    /// A census begins that is to tell of this table.
    pub(super) fn ask(&mut self, netns: u32) {
        self.0.entry(netns).or_default();
    }

    /// Whether it was asked about since it got so full.
    pub(super) fn has(&self, netns: u32) -> bool {
        self.0.contains_key(&netns)
    }

    /// Forgets tables that are not there any more.
    pub(super) fn retain(&mut self, is_there: impl Fn(u32) -> bool) {
        self.0.retain(|netns, _| is_there(*netns));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_stands_until_there_is_another_or_there_is_room() {
        let mut verdicts = Verdicts::default();
        let held = |entries| {
            let composition = Composition {
                entries,
                count: Some(990),
                ..Composition::default()
            };
            HashMap::from([(7, composition)])
        };
        verdicts.judge(held(10), 1_000);
        assert_eq!(verdicts.on(7, 990, 1_000).len(), 1);
        assert_eq!(verdicts.on(8, 990, 1_000), []);
        verdicts.judge(held(980), 1_000);
        assert!(verdicts.has(7), "though there is nothing to say");
        assert_eq!(verdicts.on(7, 990, 1_000), []);
        verdicts.judge(held(10), 1_000);
        assert_eq!(verdicts.on(7, 400, 1_000), []);
        assert_eq!(verdicts.on(7, 990, 1_000), [], "it was forgotten");
        assert!(!verdicts.has(7));
        verdicts.ask(7);
        assert!(verdicts.has(7), "whether or not it can be listed");
        verdicts.judge(held(10), 0);
        assert_eq!(verdicts.on(7, 990, 0), [], "no limit");
        verdicts.judge(held(10), 1_000);
        verdicts.retain(|netns| netns != 7);
        assert_eq!(verdicts.on(7, 990, 1_000), []);
    }
}
