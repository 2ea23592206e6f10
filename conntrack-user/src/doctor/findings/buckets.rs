//! The hash table's buckets against the limit: chains that get too long, or so few entries that the kernel
//! finds none to evict.

use ctpressure_model::{
    cost::{BUCKET_BYTES, WhenFull, buckets_for, chain, chance},
    words::{self, bytes, figure, grouped},
};

use super::lasting::lasting;
use crate::doctor::{Facts, Finding, Severity, facts::Keeper, thresholds};

fn set(buckets: u64) -> String {
    format!("sysctl -w net.netfilter.nf_conntrack_buckets={buckets}")
}

fn cost(buckets: u64) -> String {
    format!(
        "{} of kernel memory; the table is rebuilt once, which stops new connections for some \
         milliseconds",
        bytes(buckets * BUCKET_BYTES)
    )
}

fn keep(facts: &Facts, buckets: u64) -> String {
    if facts.place.keeper == Keeper::Files {
        "To keep it: `options nf_conntrack hashsize=...` in a file of /etc/modprobe.d, and the \
         limit in a file of /etc/sysctl.d (hashsize= alone would make the limit 8 times that)."
            .to_owned()
    } else {
        lasting(facts.place, "nf_conntrack_buckets", buckets)
    }
}

/// The chance to be refused for a long chain; and what the kernel has refused so far.
pub(super) fn chain_too_long(facts: &Facts) -> Option<Finding> {
    let WhenFull {
        entries,
        buckets,
        chain,
        ..
    } = facts.when_full()?;
    let limited = facts.at_least(5, 15)?;
    let when_full = if limited {
        chance::chain_too_long(chain)
    } else {
        0.0
    };
    let sum = |counts: fn(&crate::doctor::facts::TableFacts) -> Option<u64>| -> u64 {
        facts.counts.tables.iter().filter_map(counts).sum()
    };
    let so_far = sum(|table| table.since_boot?.chain_too_long);
    let now = sum(|table| table.between?.chain_too_long);
    let severity = if now > 0 {
        Severity::Critical
    } else if so_far > 0 || when_full >= thresholds::CHAIN_PROBLEM {
        Severity::Problem
    } else if when_full >= thresholds::CHAIN_RISK {
        Severity::Risk
    } else {
        return None;
    };
    let wanted = buckets_for(entries, buckets);
    // Chains were long once, and are not any more.
    let is_wide = buckets >= wanted;
    Some(Finding {
        id: "chain_too_long",
        severity: if is_wide && now == 0 {
            Severity::Risk
        } else {
            severity
        },
        title: "hash chains are so long that the kernel refuses new connections".to_owned(),
        evidence: format!(
            "{} buckets for {} entries when full: {} entries per chain; an insert hits the chain limit {}; \
             refused so far {}, just now {}",
            grouped(buckets),
            grouped(entries),
            figure(chain),
            words::chance(when_full),
            grouped(so_far),
            grouped(now)
        ),
        consequence:
            "packets of new connections are lost at random, though the table is not full; \
                      `drop` does not count them, `insert_failed` and `chaintoolong` do"
                .to_owned(),
        fix: if is_wide {
            Vec::new()
        } else {
            vec![set(wanted)]
        },
        advice: if is_wide {
            "There are enough buckets now; the count stays until the next boot.".to_owned()
        } else {
            keep(facts, wanted)
        },
        cost: cost(wanted.max(buckets)),
    })
}

/// Before 5.15 a chain may have any length, and only costs time.
pub(super) fn long_chains(facts: &Facts) -> Option<Finding> {
    let WhenFull {
        entries,
        buckets,
        chain,
        ..
    } = facts.when_full()?;
    if facts.at_least(5, 15)? || chain < thresholds::SLOW_CHAIN {
        return None;
    }
    let wanted = buckets_for(entries, buckets);
    Some(Finding {
        id: "long_chains",
        severity: Severity::Risk,
        title: "long hash chains make each packet's lookup slow".to_owned(),
        evidence: format!(
            "{} buckets for {} entries when full: {} entries per chain",
            grouped(buckets),
            grouped(entries),
            figure(chain)
        ),
        consequence: "every packet costs more CPU the fuller the table is".to_owned(),
        fix: vec![set(wanted)],
        advice: keep(facts, wanted),
        cost: cost(wanted),
    })
}

/// So few entries in so many buckets that early drop does not find any.
pub(super) fn nothing_to_evict(facts: &Facts) -> Option<Finding> {
    let limit = facts.settings.limit.filter(|limit| *limit > 0)?;
    let buckets = facts.settings.buckets?;
    // Of its own table only.
    let fails = chance::nothing_to_evict(chain(limit, buckets));
    if fails < thresholds::EMPTY_WINDOW {
        return None;
    }
    let wanted = buckets.max(limit);
    Some(Finding {
        id: "nothing_to_evict",
        severity: Severity::Risk,
        title: "when the table is full, the kernel mostly finds nothing to evict".to_owned(),
        evidence: format!(
            "{} buckets for a limit of {}: the 8 buckets that it searches are all empty {}",
            grouped(buckets),
            grouped(limit),
            words::chance(fails)
        ),
        consequence: "a full table refuses new connections at once, instead of making room by \
                      removing half-open ones"
            .to_owned(),
        fix: vec![super::remedy::set(wanted)],
        advice: "Or fewer buckets, if the limit has to be that low.".to_owned(),
        cost: super::remedy::cost_of(facts, wanted),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{fine, made};
    use super::*;
    use crate::doctor::facts::Release;

    fn count(facts: &mut Facts, so_far: u64, now: u64) {
        let table = &mut facts.counts.tables[0];
        if let (Some(boot), Some(between)) = (&mut table.since_boot, &mut table.between) {
            boot.chain_too_long = Some(so_far);
            between.chain_too_long = Some(now);
        }
    }

    #[test]
    fn few_buckets() {
        for (buckets, severity) in [
            (18_000, Severity::Risk),
            (14_000, Severity::Problem),
            (1_024, Severity::Problem),
        ] {
            let finding = made(chain_too_long, |facts| {
                facts.settings.buckets = Some(buckets);
            });
            assert_eq!(finding.severity, severity, "{buckets}: {finding:?}");
            assert_eq!(
                finding.fix,
                ["sysctl -w net.netfilter.nf_conntrack_buckets=262656"]
            );
        }
        // kube-proxy's quarter.
        fine(chain_too_long, |facts| {
            facts.settings.buckets = Some(65_536);
        });
    }

    #[test]
    fn other_tables_share_the_buckets() {
        let finding = made(chain_too_long, |facts| {
            facts.settings.buckets = Some(65_536);
            facts.counts.tables[1].entries = 600_000;
            facts.counts.tables[0].entries = 590_000;
        });
        assert!(finding.evidence.contains("1,190,000"), "{finding:?}");
    }

    #[test]
    fn what_was_refused_is_a_problem_and_what_is_refused_now_worse() {
        let small = |facts: &mut Facts| facts.settings.buckets = Some(65_536);
        let finding = made(chain_too_long, |facts| {
            small(facts);
            count(facts, 3, 0);
        });
        assert_eq!(finding.severity, Severity::Problem);
        let finding = made(chain_too_long, |facts| {
            small(facts);
            count(facts, 3, 1);
        });
        assert_eq!(finding.severity, Severity::Critical);
        // Buckets were added since.
        let finding = made(chain_too_long, |facts| count(facts, 3, 0));
        assert_eq!(finding.severity, Severity::Risk);
        assert!(finding.fix.is_empty());
    }

    #[test]
    fn old_kernels_only_get_slow() {
        let old = |facts: &mut Facts| {
            facts.release = Release::parse("5.10.0");
            facts.settings.buckets = Some(8_192);
        };
        fine(chain_too_long, old);
        assert_eq!(made(long_chains, old).severity, Severity::Risk);
        fine(long_chains, |facts| facts.settings.buckets = Some(8_192));
    }

    #[test]
    fn a_low_limit_in_a_wide_table() {
        let finding = made(nothing_to_evict, |facts| {
            facts.settings.limit = Some(2_000);
        });
        assert!(finding.evidence.contains("88 %"), "{finding:?}");
        fine(nothing_to_evict, |facts| {
            facts.settings.limit = Some(131_072);
        });
    }
}
