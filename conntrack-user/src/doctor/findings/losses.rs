//! What the kernel has counted as lost: now, and since boot.

use ctpressure_model::words::{grouped, plural, seconds_f64};

use super::{
    lost::{by_clash, by_full_table, worst},
    remedy::{self, Remedy},
};
use crate::doctor::{Facts, Finding, Severity, facts::TableFacts, thresholds};

/// The table that loses the most at this moment, if one does.
pub(super) fn losing_now(facts: &Facts) -> Option<&TableFacts> {
    let (table, lost) = worst(facts, |table| {
        let between = table.between?;
        Some(by_full_table(&between) + between.early_drop)
    })?;
    (lost > 0).then_some(table)
}

pub(super) fn full_now(facts: &Facts) -> Option<Finding> {
    let table = losing_now(facts)?;
    let between = table.between?;
    let then = "`ctpressure top` says who fills it, `ctpressure watch` who loses packets.";
    let Remedy { fix, advice, cost } = remedy::more_room(facts, &table.name, then);
    Some(Finding {
        id: "table_full_now",
        severity: Severity::Critical,
        title: format!(
            "the table of {} is full, and connections are lost now",
            table.name
        ),
        evidence: format!(
            "within {}: {} packets refused, {} live entries evicted; {} entries, limit {}",
            seconds_f64(facts.counts.seconds),
            grouped(by_full_table(&between)),
            grouped(between.early_drop),
            grouped(table.entries),
            grouped(facts.settings.limit.unwrap_or_default())
        ),
        consequence:
            "new connections fail (a local sender gets EPERM), and connections without an \
                      answer yet are evicted"
                .to_owned(),
        fix,
        advice,
        cost,
    })
}

/// The share of `uptime` in days; a node that just booted is not judged by its first minutes.
fn per_day(facts: &Facts, count: u64) -> Option<f64> {
    let days = facts.uptime? / 86_400.0;
    Some(ctpressure_model::pressure::as_f64(count) / days.max(1.0))
}

pub(super) fn full_since_boot(facts: &Facts) -> Option<Finding> {
    if full_now(facts).is_some() {
        return None;
    }
    let (table, lost) = worst(facts, |table| {
        let stats = table.since_boot?;
        Some(by_full_table(&stats) + stats.early_drop)
    })?;
    let stats = table.since_boot?;
    if per_day(facts, lost)? < thresholds::FULL_PER_DAY {
        return None;
    }
    let more = facts.settings.limit.unwrap_or_default().saturating_mul(2);
    Some(Finding {
        id: "table_was_full",
        severity: Severity::Risk,
        title: format!("the table of {} has been full since boot", table.name),
        evidence: format!(
            "{} packets refused and {} live entries evicted in {}",
            grouped(by_full_table(&stats)),
            grouped(stats.early_drop),
            seconds_f64(facts.uptime?)
        ),
        consequence: "it will be full again at the next peak".to_owned(),
        fix: vec![remedy::set(more)],
        advice: "`ctpressure run --journal DIR` keeps what happens the next time, `ctpressure \
                 report` tells it."
            .to_owned(),
        cost: remedy::cost_of(facts, more),
    })
}

/// Requests that were refused are no lost packets.
pub(super) fn requests(facts: &Facts) -> Option<Finding> {
    let refused = facts
        .refused
        .as_ref()
        .filter(|refused| refused.number > 0)?;
    let owner = refused
        .owner
        .as_ref()
        .map_or_else(String::new, |owner| format!(", most of them of {owner}"));
    Some(Finding {
        id: "requests_refused",
        severity: Severity::Risk,
        title: "a program was refused entries that it asked the kernel for (ctnetlink, BPF)".to_owned(),
        evidence: format!(
            "{} in {}{owner}; the kernel has no count of them, the running agent has",
            plural(refused.number, "entry", "entries"),
            seconds_f64(refused.seconds)
        ),
        consequence: "no packet was lost by that; but what conntrackd can't commit after a failover is a connection that this node does not \
                      know"
            .to_owned(),
        fix: Vec::new(),
        advice: "Find out which program asks (conntrackd, a service proxy): it needs room for its entries besides those of the node's own \
                 traffic."
            .to_owned(),
        cost: "memory of as many entries".to_owned(),
    })
}

pub(super) fn clashes(facts: &Facts) -> Option<Finding> {
    let (table, lost) = worst(facts, |table| Some(by_clash(&table.since_boot?)))?;
    if super::nat::no_free_port(facts).is_some()
        || per_day(facts, lost)? < thresholds::CLASHES_PER_DAY
    {
        return None;
    }
    Some(Finding {
        id: "clash_losses",
        severity: Severity::Risk,
        title: format!(
            "packets in {} are lost since two of one flow raced",
            table.name
        ),
        evidence: format!(
            "{} packets in {} lost by a clash that could not be resolved",
            grouped(lost),
            seconds_f64(facts.uptime?)
        ),
        consequence:
            "mostly DNS: two queries from one socket at a time (A and AAAA), of which one \
                      is lost and asked again after 5 s"
                .to_owned(),
        fix: Vec::new(),
        advice:
            "Use a DNS cache on each node (NodeLocal DNSCache), or `options single-request-reopen` \
                 in the pods' resolv.conf."
                .to_owned(),
        cost: "a DNS cache takes some memory on each node".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{fine, made};
    use super::*;
    use crate::{doctor::RefusedRequests, kernel::stats::KernelStats};

    fn boot(facts: &mut Facts, change: impl FnOnce(&mut KernelStats)) {
        if let Some(stats) = &mut facts.counts.tables[0].since_boot {
            change(stats);
        }
    }

    fn now(facts: &mut Facts, change: impl FnOnce(&mut KernelStats)) {
        if let Some(stats) = &mut facts.counts.tables[1].between {
            change(stats);
        }
    }

    #[test]
    fn full_at_this_moment() {
        let finding = made(full_now, |facts| now(facts, |stats| stats.drop = 7));
        assert_eq!(finding.severity, Severity::Critical);
        assert!(finding.title.contains("4026532177"), "{finding:?}");
        assert_eq!(
            finding.fix,
            ["sysctl -w net.netfilter.nf_conntrack_max=524288"]
        );
        let evicted = made(full_now, |facts| now(facts, |stats| stats.early_drop = 1));
        assert!(evicted.evidence.contains("1 live entries evicted"));
        // Clashes are not a full table.
        fine(full_now, |facts| {
            now(facts, |stats| {
                stats.drop = 7;
                stats.insert_failed = 7;
            });
        });
    }

    #[test]
    fn full_some_time_ago() {
        let finding = made(full_since_boot, |facts| {
            boot(facts, |stats| stats.early_drop = 5_000);
        });
        assert_eq!(finding.severity, Severity::Risk);
        assert!(finding.evidence.contains("in 10 d"), "{finding:?}");
        fine(full_since_boot, |facts| {
            boot(facts, |stats| stats.early_drop = 9);
        });
        // Said once: now.
        fine(full_since_boot, |facts| {
            boot(facts, |stats| stats.early_drop = 5_000);
            now(facts, |stats| stats.drop = 7);
        });
    }

    #[test]
    fn refused_requests_are_no_lost_packets() {
        let finding = made(requests, |facts| {
            facts.refused = Some(RefusedRequests {
                number: 400,
                owner: Some("fw/gw".to_owned()),
                seconds: 61.0,
            });
        });
        assert!(
            finding
                .evidence
                .starts_with("400 entries in 1 min 1 s, most of them of fw/gw"),
            "{finding:?}"
        );
        fine(requests, |facts| {
            facts.refused = Some(RefusedRequests::default());
        });
        fine(full_now, |facts| {
            facts.refused = Some(RefusedRequests {
                number: 400,
                ..RefusedRequests::default()
            });
        });
    }

    #[test]
    fn races() {
        let many = |facts: &mut Facts| {
            boot(facts, |stats| {
                stats.drop = 20_000;
                stats.insert_failed = 20_000;
            });
        };
        assert_eq!(made(clashes, many).severity, Severity::Risk);
        fine(full_since_boot, many);
    }
}
