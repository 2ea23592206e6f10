//! Timeouts that keep entries which nobody uses any more.

use ctpressure_model::words::{grouped, seconds, share};

use crate::{
    doctor::{
        Facts, Finding, Severity,
        facts::{Class, class::CLASSES},
        thresholds::{WASTE_PROBLEM, WASTE_RISK},
    },
    kernel::tables::HOST_NAME,
};

/// What such entries are called, and what a shorter timeout costs.
fn words(class: Class) -> (&'static str, &'static str, &'static str) {
    match class {
        Class::Established => (
            "timeout_established",
            "established connections",
            "a connection that is idle for longer and sends no keepalives is removed; its next packet \
             is let in anew (nf_conntrack_tcp_loose), but without its NAT",
        ),
        Class::TimeWait => (
            "timeout_time_wait",
            "connections that both sides have closed",
            "a late packet of a closed connection opens a new entry",
        ),
        Class::CloseWait => (
            "timeout_close_wait",
            "connections that one side has closed",
            "a half-closed connection without a packet for longer is removed",
        ),
        Class::SynSent => (
            "timeout_syn_sent",
            "connections that were never answered",
            "connecting fails to a server that takes longer to answer the first packet",
        ),
        Class::UdpStream => (
            "timeout_udp_stream",
            "UDP flows",
            "a flow that pauses for longer gets a new entry",
        ),
        Class::Udp => (
            "timeout_udp",
            "UDP flows with few answers",
            "a firewall drops an answer that takes longer",
        ),
    }
}

/// One finding for each timeout that keeps a large part of the table.
pub(super) fn too_long(facts: &Facts) -> Vec<Finding> {
    let (Some(census), Some(limit)) = (
        facts.census.as_ref(),
        facts.settings.limit.filter(|limit| *limit > 0),
    ) else {
        return Vec::new();
    };
    // A rule may give some connections a timeout of its own, and no entry says which.
    if facts.rules.timeout_policies != Some(false) {
        return Vec::new();
    }
    // Whoever makes entries by ctnetlink says when they expire.
    let host = facts
        .counts
        .tables
        .iter()
        .find(|table| table.name == HOST_NAME);
    let Some(stats) = host.and_then(|table| table.since_boot) else {
        return Vec::new();
    };
    let check = |class: Class| {
        let mut count = census.of(class);
        count.idle = count.idle.saturating_sub(stats.insert);
        let timeout = facts.settings.get(class.sysctl())?;
        let enough = class.enough();
        let severity = Severity::of_share(count.idle, limit, WASTE_RISK, WASTE_PROBLEM)?;
        if timeout <= enough {
            return None;
        }
        let (id, name, cost) = words(class);
        Some(Finding {
            id,
            severity,
            title: format!("a long timeout keeps {name} that nobody uses"),
            evidence: format!(
                "nf_conntrack_{} is {}; of {} such entries at least {} had no packet for more than {} ({} of \
                 the limit){}",
                class.sysctl(),
                seconds(timeout),
                grouped(count.entries),
                grouped(count.idle),
                seconds(enough),
                share(count.idle, limit),
                if census.whole {
                    ""
                } else {
                    ", by the part of the table that was read"
                }
            ),
            consequence: "they leave that much less room for connections that are in use"
                .to_owned(),
            fix: vec![format!(
                "sysctl -w net.netfilter.nf_conntrack_{}={enough}",
                class.sysctl()
            )],
            advice: match class {
                Class::Established | Class::CloseWait if facts.proxy.is_some() => format!(
                    "kube-proxy sets it when it starts: `conntrack: {{{}: {enough}s}}` in its \
                     configuration. Entries that are there keep their old timeout until the next packet.",
                    if class == Class::Established {
                        "tcpEstablishedTimeout"
                    } else {
                        "tcpCloseWaitTimeout"
                    }
                ),
                _ => "Entries that are there keep their old timeout until the next packet."
                    .to_owned(),
            },
            cost: cost.to_owned(),
        })
    };
    CLASSES.into_iter().filter_map(check).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{facts::census::ClassCount, tests::healthy};

    #[test]
    fn each_timeout() {
        assert_eq!(too_long(&healthy()), []);
        for class in CLASSES {
            let mut facts = healthy();
            facts.settings.values.insert(class.sysctl(), 86_400);
            for (idle, severity) in [
                (20_000, None),
                (30_000, Some(Severity::Risk)),
                (66_000, Some(Severity::Problem)),
            ] {
                if let Some(census) = &mut facts.census {
                    census.classes[class as usize] = ClassCount {
                        entries: 70_000,
                        idle,
                    };
                }
                let findings = too_long(&facts);
                assert_eq!(findings.first().map(|found| found.severity), severity);
                assert!(findings.len() < 2);
                if let Some(finding) = findings.first() {
                    let fix = format!("nf_conntrack_{}={}", class.sysctl(), class.enough());
                    assert!(finding.fix[0].ends_with(&fix), "{finding:?}");
                }
            }
            // It is short already; those entries are from before.
            facts.settings.values.insert(class.sysctl(), 10);
            assert_eq!(too_long(&facts), []);
        }
    }

    #[test]
    fn what_may_have_a_timeout_of_its_own_is_not_judged() {
        let idle = |change: fn(&mut Facts)| {
            let mut facts = healthy();
            if let Some(census) = &mut facts.census {
                census.classes[Class::Established as usize].idle = 70_000;
            }
            facts
                .settings
                .values
                .insert("tcp_timeout_established", 432_000);
            change(&mut facts);
            too_long(&facts).len()
        };
        assert_eq!(idle(|_| {}), 1);
        assert_eq!(idle(|facts| facts.rules.timeout_policies = Some(true)), 0);
        assert_eq!(idle(|facts| facts.rules.timeout_policies = None), 0);
        assert_eq!(
            idle(|facts| facts.rules.complete = false),
            1,
            "iptables-legacy has no such timeouts"
        );
        // conntrackd made as many.
        let made = |facts: &mut Facts| {
            if let Some(stats) = &mut facts.counts.tables[0].since_boot {
                stats.insert = 60_000;
            }
        };
        assert_eq!(idle(made), 0);
        assert_eq!(idle(|facts| facts.counts.tables[0].since_boot = None), 0);
    }

    #[test]
    fn a_part_of_a_large_table_is_enough() {
        let mut facts = healthy();
        if let Some(census) = &mut facts.census {
            census.whole = false;
            census.counted = census.read * 10;
        }
        let findings = too_long(&facts);
        assert_eq!(findings.len(), 1, "TIME_WAIT: {findings:?}");
        assert!(findings[0].evidence.contains("the part of the table"));
    }
}
