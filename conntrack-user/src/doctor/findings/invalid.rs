//! Packets that conntrack calls INVALID: they pass without NAT, so an answer reaches a pod from an address
//! that it does not know, and it resets the connection (kubernetes issue 74839).
//!
//! Either such packets are dropped (kube-proxy's rule in KUBE-FORWARD), or fewer are called so
//! (`nf_conntrack_tcp_be_liberal`). From 6.1 on the kernel itself does not call a late duplicate INVALID
//! any more, which was the usual cause.

use ctpressure_model::words::{self, a_second, grouped, seconds_f64};

use super::lost::worst;
use crate::doctor::{
    Facts, Finding, Severity,
    facts::{ProxyMode, rules::Forward},
    thresholds,
};

const LIBERAL: &str = "sysctl -w net.netfilter.nf_conntrack_tcp_be_liberal=1";
const COST: &str = "TCP packets outside the window are let through; only resets outside it are INVALID \
                    then";
const KEEP: &str = "To keep it: `conntrack: {tcpBeLiberal: true}` in kube-proxy's configuration.";

/// Nobody drops them, and they are not let through.
pub(super) fn not_dropped(facts: &Facts) -> Option<Finding> {
    if facts.settings.get("tcp_be_liberal")? != 0 {
        return None;
    }
    let mode = facts.rules.mode?;
    let fixed = facts.at_least(6, 1)?;
    let rule =
        |program: &str| format!("{program} -I KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP");
    let (severity, evidence, fix) = match mode {
        ProxyMode::Nftables if !fixed => (
            Severity::Problem,
            "kube-proxy is in nftables mode, which has no rule against INVALID packets".to_owned(),
            vec![LIBERAL.to_owned()],
        ),
        ProxyMode::Iptables => {
            let forward = &facts.rules.forward;
            // Both back-ends see every packet: one rule for a family is enough.
            let covered = |one: &Forward| {
                let mut family = forward.iter().filter(|other| other.ipv6 == one.ipv6);
                family.any(|other| other.drop.is_some())
            };
            let missing = forward.iter().filter(|one| !covered(one));
            let missing: Vec<&str> = missing.map(Forward::program).collect();
            if missing.is_empty() {
                return None;
            }
            (
                if fixed {
                    Severity::Risk
                } else {
                    Severity::Problem
                },
                format!(
                    "KUBE-FORWARD of {} does not drop INVALID packets; kube-proxy leaves the rule \
                     out when it finds nf_conntrack_tcp_be_liberal on as it starts",
                    missing.join(" and ")
                ),
                missing.into_iter().map(rule).collect(),
            )
        }
        // Not known of IPVS; and a kernel that is mended needs nothing.
        ProxyMode::Ipvs | ProxyMode::Nftables => return None,
    };
    let kernel = if fixed {
        "this kernel (6.1 or later) marks fewer packets INVALID"
    } else {
        "this kernel (before 6.1) also marks late duplicates INVALID"
    };
    Some(Finding {
        id: "invalid_not_dropped",
        severity,
        title: "INVALID packets reach pods with the wrong address".to_owned(),
        evidence: format!("{evidence}; nf_conntrack_tcp_be_liberal is 0; {kernel}"),
        consequence:
            "long transfers through a Service end now and then with \"connection reset by \
                      peer\""
                .to_owned(),
        fix,
        advice: if mode == ProxyMode::Iptables {
            "Or restart kube-proxy: it writes the rule by itself.".to_owned()
        } else {
            KEEP.to_owned()
        },
        cost: COST.to_owned(),
    })
}

/// Both: the rule was written before the switch was set.
pub(super) fn stale_drop(facts: &Facts) -> Option<Finding> {
    if facts.settings.get("tcp_be_liberal")? == 0 {
        return None;
    }
    let rule = facts
        .rules
        .forward
        .iter()
        .find(|forward| forward.drop.is_some())?;
    let packets = rule
        .drop
        .and_then(|drop| drop.packets)
        .map_or_else(String::new, |packets| {
            format!("; it has dropped {} packets", grouped(packets))
        });
    Some(Finding {
        id: "invalid_drop_stale",
        severity: Severity::Risk,
        title: "kube-proxy still drops INVALID packets, although nf_conntrack_tcp_be_liberal is on"
            .to_owned(),
        evidence: format!(
            "nf_conntrack_tcp_be_liberal is on, and KUBE-FORWARD of {} drops INVALID packets{packets}",
            rule.program()
        ),
        consequence: "traffic that takes another way back (asymmetric routes, several uplinks) is \
                      dropped without need"
            .to_owned(),
        fix: vec!["kubectl -n kube-system rollout restart daemonset kube-proxy".to_owned()],
        advice: "kube-proxy reads that setting only when it starts.".to_owned(),
        cost: "kube-proxy restarts on every node; connections are not touched".to_owned(),
    })
}

/// How many there are at the moment.
fn per_second(facts: &Facts) -> Option<(&str, f64)> {
    let (table, invalid) = worst(facts, |table| Some(table.between?.invalid))?;
    let rate = ctpressure_model::pressure::as_f64(invalid) / facts.counts.seconds.max(0.1);
    (rate >= thresholds::INVALID_PER_SECOND).then_some((table.name.as_str(), rate))
}

/// Many at this moment.
pub(super) fn rising(facts: &Facts) -> Option<Finding> {
    let (table, rate) = per_second(facts)?;
    Some(Finding {
        id: "invalid_packets",
        severity: Severity::Risk,
        title: format!("many packets in {table} belong to no connection"),
        evidence: format!(
            "{}, within {}",
            a_second(rate, "INVALID packet", "INVALID packets"),
            seconds_f64(facts.counts.seconds)
        ),
        consequence: "they pass without NAT, or a rule drops them: connections hang or are reset"
            .to_owned(),
        fix: vec![LIBERAL.to_owned()],
        advice: "Helps if packet loss or asymmetric routing causes them; not against a port scan. \
                 `nf_conntrack_log_invalid=6`, set briefly, logs these packets."
            .to_owned(),
        cost: COST.to_owned(),
    })
}

/// Each of them is logged.
pub(super) fn logged(facts: &Facts) -> Option<Finding> {
    if !facts.settings.is_on("log_invalid") {
        return None;
    }
    let (_, rate) = per_second(facts)?;
    Some(Finding {
        id: "invalid_logged",
        severity: Severity::Risk,
        title: "every INVALID packet is written to the kernel's log".to_owned(),
        evidence: format!(
            "nf_conntrack_log_invalid is {}, at {} such packets a second",
            facts.settings.get("log_invalid")?,
            words::per_second(rate)
        ),
        consequence: "the log is full of them, and each costs CPU in the packet path".to_owned(),
        fix: vec!["sysctl -w net.netfilter.nf_conntrack_log_invalid=0".to_owned()],
        advice: String::new(),
        cost: "none".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{fine, made};
    use super::*;
    use crate::doctor::facts::{Release, rules::Backend};

    fn no_rule(facts: &mut Facts) {
        for forward in &mut facts.rules.forward {
            forward.drop = None;
        }
    }

    #[test]
    fn iptables_mode_without_the_rule() {
        let finding = made(not_dropped, no_rule);
        assert_eq!(finding.severity, Severity::Risk);
        assert_eq!(
            finding.fix,
            [
                "iptables-nft -I KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP",
                "ip6tables-nft -I KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP"
            ]
        );
        let finding = made(not_dropped, |facts| {
            no_rule(facts);
            facts.release = Release::parse("5.15.0");
        });
        assert_eq!(finding.severity, Severity::Problem);
        fine(not_dropped, |facts| {
            no_rule(facts);
            facts.settings.values.insert("tcp_be_liberal", 1);
        });
        let legacy = made(not_dropped, |facts| {
            facts.rules.forward[0].backend = Backend::Legacy;
            facts.rules.forward[0].drop = None;
        });
        assert!(legacy.fix[0].starts_with("iptables-legacy "));
        // Left over from the other back-end.
        fine(not_dropped, |facts| {
            let mut other = facts.rules.forward[0];
            other.backend = Backend::Legacy;
            other.drop = None;
            facts.rules.forward.push(other);
        });
    }

    #[test]
    fn nftables_mode() {
        let mode = |facts: &mut Facts, release: &str| {
            facts.rules.mode = Some(ProxyMode::Nftables);
            facts.rules.forward.clear();
            facts.release = Release::parse(release);
        };
        let finding = made(not_dropped, |facts| mode(facts, "5.15.0-generic"));
        assert_eq!(finding.severity, Severity::Problem);
        assert_eq!(finding.fix, [LIBERAL]);
        fine(not_dropped, |facts| mode(facts, "6.1.0"));
    }

    #[test]
    fn both_the_rule_and_the_switch() {
        let finding = made(stale_drop, |facts| {
            facts.settings.values.insert("tcp_be_liberal", 1);
        });
        assert!(finding.evidence.contains("12 packets"), "{finding:?}");
        fine(stale_drop, |facts| {
            no_rule(facts);
            facts.settings.values.insert("tcp_be_liberal", 1);
        });
    }

    #[test]
    fn many_at_once() {
        let many = |facts: &mut Facts| {
            if let Some(between) = &mut facts.counts.tables[0].between {
                between.invalid = 50;
            }
        };
        let finding = made(rising, many);
        assert!(finding.evidence.starts_with("100 INVALID"), "{finding:?}");
        fine(logged, many);
        made(logged, |facts| {
            many(facts);
            facts.settings.values.insert("log_invalid", 255);
        });
    }
}
