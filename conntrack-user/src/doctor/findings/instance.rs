//! What the machine under the node drops, whatever the tables say.

use ctpressure_model::words::{allowance_fate, allowance_name, grouped, plural};

use crate::doctor::{Facts, Finding, Severity, facts::Exceeded};

/// The allowance of tracked connections.
const CONNECTIONS: &str = "conntrack";

fn severity(exceeded: &Exceeded) -> Option<Severity> {
    match (exceeded.allowance == CONNECTIONS, exceeded.between > 0) {
        (true, true) => Some(Severity::Problem),
        (true, false) | (false, true) => Some(Severity::Risk),
        (false, false) => None,
    }
}

/// An allowance of the instance is exceeded. Beyond that of tracked connections packets are dropped: a problem while that happens, and a risk if it
/// did since the driver was loaded. Bandwidth and packets are used up for moments by whoever copies something: a risk while that happens, and
/// nothing to tell afterwards.
pub(super) fn allowance(facts: &Facts) -> Option<Finding> {
    let all = facts.allowances.iter();
    let told = all.filter_map(|exceeded| Some((severity(exceeded)?, exceeded)));
    let (severity, worst) = told.max_by_key(|(severity, exceeded)| {
        let of_connections = exceeded.allowance == CONNECTIONS;
        (*severity, of_connections, exceeded.since_boot)
    })?;
    let name = allowance_name(&worst.allowance);
    let evidence: Vec<String> = facts
        .allowances
        .iter()
        .map(|exceeded| {
            let packets = plural(exceeded.since_boot, "packet", "packets");
            let now = match exceeded.between {
                0 => String::new(),
                between => format!(", {} of them while this looked", grouped(between)),
            };
            format!(
                "{} on {}: {packets} since its driver was loaded{now}",
                exceeded.allowance, exceeded.interface
            )
        })
        .collect();
    let advice = if worst.allowance == CONNECTIONS {
        "Take a larger instance, or have it track fewer connections: security group rules that allow all traffic both ways are not tracked; \
         connections that live longer, or more nodes, spread them."
    } else {
        "Take a larger instance, or send less through it."
    };
    Some(Finding {
        id: "instance_allowance",
        severity,
        title: format!("the instance {} packets beyond its {name}", allowance_fate(&worst.allowance)),
        evidence: evidence.join("; "),
        consequence: "that happens under the node, where no table of the kernel and no firewall rule shows it; a higher \
                      nf_conntrack_max changes nothing"
            .to_owned(),
        fix: Vec::new(),
        advice: advice.to_owned(),
        cost: "what a larger instance costs".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{fine, made};
    use super::*;

    fn exceeded(allowance: &str, since_boot: u64, between: u64) -> Exceeded {
        Exceeded {
            interface: "eth0".to_owned(),
            allowance: allowance.to_owned(),
            since_boot,
            between,
        }
    }

    #[test]
    fn what_is_lost_now_is_a_problem_and_what_was_is_a_risk() {
        let finding = made(allowance, |facts| {
            facts.allowances = vec![exceeded("pps", 90_000, 0), exceeded("conntrack", 4_711, 12)];
        });
        assert_eq!(finding.severity, Severity::Problem);
        assert_eq!(
            finding.title,
            "the instance drops packets beyond its allowance of tracked connections"
        );
        assert_eq!(
            finding.evidence,
            "pps on eth0: 90,000 packets since its driver was loaded; conntrack on eth0: 4,711 packets since its driver was loaded, 12 of \
             them while this looked"
        );
        let finding = made(allowance, |facts| {
            facts.allowances = vec![exceeded("bw_in", 900, 3), exceeded("conntrack", 4_711, 0)];
        });
        assert_eq!(finding.severity, Severity::Risk);
        assert!(finding.title.contains("tracked connections"), "{finding:?}");
        let finding = made(allowance, |facts| {
            facts.allowances = vec![exceeded("bw_in", 900, 3)];
        });
        assert_eq!(finding.severity, Severity::Risk);
        assert_eq!(
            finding.title,
            "the instance drops or holds back packets beyond its allowance of inbound bandwidth"
        );
        assert!(!finding.advice.contains("security group"));
        // Somebody copied something, some time since the boot.
        fine(allowance, |facts| {
            facts.allowances = vec![exceeded("bw_in", 900, 0)];
        });
        fine(allowance, |facts| facts.allowances = Vec::new());
    }
}
