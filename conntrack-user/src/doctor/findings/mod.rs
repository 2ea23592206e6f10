//! What follows from the facts: pure functions, one file for each group.

mod buckets;
mod expectations;
mod instance;
mod invalid;
pub(crate) mod lasting;
pub(crate) mod limit;
mod losses;
mod lost;
mod memory;
mod nat;
mod observer;
mod proxy;
#[cfg(test)]
mod published;
mod remedy;
mod size;
mod strays;
mod tables;
mod timeouts;
mod verdicts;

use super::{Facts, Finding};

/// A check: a finding, or nothing to say.
type Check = fn(&Facts) -> Option<Finding>;

/// All of them that give at most one finding.
const CHECKS: &[Check] = &[
    losses::full_now,
    losses::full_since_boot,
    losses::clashes,
    losses::requests,
    nat::no_free_port,
    nat::ports_in_use,
    buckets::chain_too_long,
    buckets::long_chains,
    buckets::nothing_to_evict,
    expectations::full,
    instance::allowance,
    memory::full_table,
    limit::none,
    limit::below_default,
    limit::not_applied,
    limit::unexplained,
    proxy::lowers_limit,
    proxy::cannot_set_limit,
    invalid::not_dropped,
    invalid::stale_drop,
    invalid::rising,
    invalid::logged,
    tables::expired,
    strays::led_astray,
    size::listeners,
    size::extensions,
    observer::no_statistics_file,
    observer::cannot_attach,
    observer::missing_hooks,
];

/// All findings, the worst first.
pub(crate) fn all(facts: &Facts) -> Vec<Finding> {
    if !facts.loaded {
        return instance::allowance(facts).into_iter().collect();
    }
    let mut findings: Vec<Finding> = CHECKS.iter().filter_map(|check| check(facts)).collect();
    findings.extend(tables::near_limit(facts));
    findings.extend(timeouts::too_long(facts));
    findings.extend(verdicts::all(facts));
    for finding in &mut findings {
        remedy::withhold_raise(facts, finding);
    }
    let mut findings: Vec<Finding> = findings
        .into_iter()
        .map(|finding| lasting::placed(facts.place, finding))
        .collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::healthy;

    /// The finding that `check` makes of the healthy node after `change`, and none before it.
    pub(super) fn made(check: Check, change: impl FnOnce(&mut Facts)) -> Finding {
        let mut facts = healthy();
        assert_eq!(check(&facts), None, "a healthy node");
        change(&mut facts);
        let finding = check(&facts).expect("a finding");
        for text in [&finding.title, &finding.evidence, &finding.consequence] {
            assert!(text.len() > 20, "{finding:?}");
        }
        assert!(!finding.fix.is_empty() || !finding.advice.is_empty());
        assert!(!finding.cost.is_empty());
        finding
    }

    /// Nothing is found after `change` either.
    pub(super) fn fine(check: Check, change: impl FnOnce(&mut Facts)) {
        let mut facts = healthy();
        change(&mut facts);
        assert_eq!(check(&facts), None);
    }

    #[test]
    fn a_healthy_node_has_no_finding() {
        assert_eq!(all(&healthy()), []);
    }

    #[test]
    fn nothing_known_is_nothing_found() {
        let facts = Facts {
            loaded: true,
            ..Facts::default()
        };
        assert_eq!(all(&facts), []);
        assert_eq!(all(&Facts::default()), []);
    }

    #[test]
    fn every_id_is_one_word_and_the_worst_comes_first() {
        let mut facts = healthy();
        facts.settings.limit = Some(31_000);
        facts.settings.buckets = Some(1_024);
        facts.has_procfs = Some(false);
        let findings = all(&facts);
        assert!(findings.len() >= 3, "{findings:?}");
        assert!(
            findings
                .windows(2)
                .all(|pair| pair[0].severity >= pair[1].severity)
        );
        for finding in &findings {
            assert!(
                finding
                    .id
                    .chars()
                    .all(|letter| letter.is_ascii_lowercase() || letter == '_')
            );
        }
    }
}
