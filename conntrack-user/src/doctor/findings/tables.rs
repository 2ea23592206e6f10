//! How full the tables are, and of what that is none any more.

use ctpressure_model::words::{grouped, share};

use super::{
    losses,
    remedy::{self, Remedy},
};
use crate::{
    doctor::{
        Facts, Finding, Severity,
        thresholds::{EXPIRED_PROBLEM, EXPIRED_RISK, TABLE_CRITICAL, TABLE_RISK},
    },
    kernel::tables::HOST_NAME,
    owners::as_argument,
};

/// Each table that is nearly full: the host's, and those of other network namespaces, which nobody else
/// looks at.
pub(super) fn near_limit(facts: &Facts) -> Vec<Finding> {
    let Some(limit) = facts.settings.limit.filter(|limit| *limit > 0) else {
        return Vec::new();
    };
    let near = |table: &crate::doctor::facts::TableFacts| {
        let reaches = |share: u64| table.entries * 100 >= limit * share;
        let severity = if reaches(TABLE_CRITICAL) {
            Severity::Critical
        } else if reaches(TABLE_RISK) {
            Severity::Problem
        } else {
            return None;
        };
        let then = if table.name == HOST_NAME {
            "`ctpressure table` says who fills it.".to_owned()
        } else {
            format!(
                "`ctpressure table --netns {}` says what fills it.",
                as_argument(&table.name, table.netns)
            )
        };
        let Remedy { fix, advice, cost } = remedy::more_room(facts, &table.name, &then);
        Some(Finding {
            id: "table_near_limit",
            severity,
            title: format!("the table of {} is nearly full", table.name),
            evidence: format!(
                "{} of {} entries ({})",
                grouped(table.entries),
                grouped(limit),
                share(table.entries, limit)
            ),
            consequence: "when it is full, new connections are refused and unanswered ones evicted"
                .to_owned(),
            fix,
            advice,
            cost,
        })
    };
    // That one has its finding already.
    let losing = losses::losing_now(facts).map(|table| &table.name);
    let tables = facts.counts.tables.iter();
    let others = tables.filter(|table| Some(&table.name) != losing);
    others.filter_map(near).collect()
}

/// Entries that have expired, and that the garbage collector has not come to.
pub(super) fn expired(facts: &Facts) -> Option<Finding> {
    let census = facts.census.as_ref()?;
    let expired = census.expired?;
    let limit = facts.settings.limit.filter(|limit| *limit > 0)?;
    let severity = Severity::of_share(expired, limit, EXPIRED_RISK, EXPIRED_PROBLEM)?;
    let more = limit.saturating_add(expired).next_multiple_of(1_024);
    Some(Finding {
        id: "expired_not_removed",
        severity,
        title: "expired entries fill the table: the kernel is late in removing them".to_owned(),
        evidence: format!(
            "the kernel counted {} entries and lists {}: {} ({} of the limit) had expired",
            grouped(census.counted),
            grouped(census.read),
            grouped(expired),
            share(expired, limit)
        ),
        consequence: "the garbage collector comes by once a minute, less often the longer most \
                      timeouts are; until then expired entries count against the limit"
            .to_owned(),
        fix: vec![remedy::set(more)],
        advice:
            "Clients that open a connection for each request cause this: let them keep theirs open."
                .to_owned(),
        cost: remedy::cost_of(facts, more),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{fine, made};
    use super::*;
    use crate::doctor::tests::healthy;

    #[test]
    fn nearly_full() {
        let mut facts = healthy();
        assert_eq!(near_limit(&facts), []);
        facts.counts.tables[1].entries = 200_000;
        facts.counts.tables[0].entries = 262_144;
        let findings = near_limit(&facts);
        let severities: Vec<_> = findings.iter().map(|finding| finding.severity).collect();
        assert_eq!(severities, [Severity::Critical, Severity::Problem]);
        assert!(findings[1].advice.contains("--netns 4026532177"));
        if let Some(stats) = &mut facts.counts.tables[0].between {
            stats.drop = 1;
        }
        let findings = near_limit(&facts);
        assert_eq!(findings.len(), 1, "the full one is told once: {findings:?}");
        assert_eq!(findings[0].severity, Severity::Problem);
        facts.settings.limit = Some(0);
        assert_eq!(near_limit(&facts), []);
    }

    #[test]
    fn late_garbage() {
        let left = |facts: &mut Facts, expired| {
            if let Some(census) = &mut facts.census {
                census.expired = expired;
            }
        };
        let finding = made(expired, |facts| left(facts, Some(30_000)));
        assert_eq!(finding.severity, Severity::Risk);
        let finding = made(expired, |facts| left(facts, Some(70_000)));
        assert_eq!(finding.severity, Severity::Problem);
        fine(expired, |facts| left(facts, Some(20_000)));
        fine(expired, |facts| left(facts, None));
    }
}
