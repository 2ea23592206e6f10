//! Connections that a helper announces (FTP, SIP and the like): when no more fit, it drops the packet that announces one.
//!
//! No statistic of the kernel has these packets; that the table is full is in its log, and in the numbers of what was made
//! and what ended.

use ctpressure_model::words::{grouped, share};

use crate::doctor::{
    Facts, Finding, Severity,
    facts::TableFacts,
    thresholds::{EXPECTATIONS_FULL, EXPECTATIONS_RISK},
};

/// Kernel memory of one, at most.
const BYTES: u64 = 256;

/// The namespace with most of them has no room for more, or not much.
pub(super) fn full(facts: &Facts) -> Option<Finding> {
    let limit = facts
        .settings
        .get("expect_max")
        .filter(|limit| *limit > 0)?;
    let there = |table: &TableFacts| table.since_boot?.expectations();
    let tables = facts.counts.tables.iter();
    let (table, there) = tables
        .filter_map(|table| Some((table, there(table)?)))
        .max_by_key(|(_, there)| *there)?;
    let severity = Severity::of_share(there, limit, EXPECTATIONS_RISK, EXPECTATIONS_FULL)?;
    let how = if severity == Severity::Risk {
        "nearly full"
    } else {
        "full"
    };
    let more = limit.saturating_mul(4);
    Some(Finding {
        id: "expectations_full",
        severity,
        title: format!("the expectation table of {} is {how}", table.name),
        evidence: format!(
            "{} of {} expectations ({}); when it is full the kernel logs \"nf_conntrack: expectation table full\"",
            grouped(there),
            grouped(limit),
            share(there, limit)
        ),
        consequence: "a helper (FTP, SIP, TFTP, ...) drops the packet that announces one more connection: its session \
                      hangs. The table of connections may be empty then, and no counter of the kernel has these packets"
            .to_owned(),
        fix: vec![format!("sysctl -w net.netfilter.nf_conntrack_expect_max={more}")],
        advice: "`conntrack -L expect` shows whose they are. Give a helper only to the ports and servers that need it."
            .to_owned(),
        cost: format!("up to {} KiB of kernel memory", grouped(more * BYTES / 1024)),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{fine, made};
    use super::*;

    fn announced(facts: &mut Facts, limit: u64, made: u64, ended: u64) {
        facts.settings.values.insert("expect_max", limit);
        if let Some(stats) = &mut facts.counts.tables[1].since_boot {
            stats.expect_create = Some(made);
            stats.expect_delete = Some(ended);
        }
    }

    #[test]
    fn no_room_for_more() {
        let finding = made(full, |facts| announced(facts, 4, 12, 8));
        assert_eq!(finding.severity, Severity::Problem);
        assert!(finding.title.contains("4026532177"), "{finding:?}");
        assert!(
            finding.evidence.starts_with("4 of 4 expectations (100 %)"),
            "{finding:?}"
        );
        assert_eq!(
            finding.fix,
            ["sysctl -w net.netfilter.nf_conntrack_expect_max=16"]
        );
        let near = made(full, |facts| announced(facts, 100, 90, 10));
        assert_eq!(near.severity, Severity::Risk);
        fine(full, |facts| announced(facts, 100, 79, 10));
        fine(full, |facts| announced(facts, 100, 1_000_000, 1_000_000));
        // Of 32 bits, which wrap, and read one after the other.
        let wrapped = made(full, |facts| announced(facts, 4, 2, (1 << 32) - 2));
        assert_eq!(wrapped.severity, Severity::Problem);
        fine(full, |facts| announced(facts, 4, 7, 8));
    }

    #[test]
    fn what_is_not_known_is_no_finding() {
        fine(full, |facts| {
            facts.settings.values.insert("expect_max", 4);
        });
        fine(full, |facts| {
            announced(facts, 4, 12, 8);
            facts.settings.values.remove("expect_max");
        });
    }
}
