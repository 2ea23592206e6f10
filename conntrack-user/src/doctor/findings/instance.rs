//! What the machine under the node drops, whatever the tables say.

use ctpressure_model::words::{allowance_name, grouped, plural};

use crate::doctor::{Facts, Finding, Severity};

/// An allowance of the instance is exceeded: a problem while packets are lost, else a risk, since it was and may be again.
pub(super) fn allowance(facts: &Facts) -> Option<Finding> {
    let worst = facts.allowances.iter().max_by_key(|exceeded| {
        let of_connections = exceeded.allowance == "conntrack";
        (exceeded.between > 0, of_connections, exceeded.since_boot)
    })?;
    let severity = if worst.between > 0 {
        Severity::Problem
    } else {
        Severity::Risk
    };
    let name = allowance_name(&worst.allowance);
    let evidence: Vec<String> = facts
        .allowances
        .iter()
        .map(|exceeded| {
            let packets = plural(exceeded.since_boot, "packet", "packets");
            let now = match exceeded.between {
                0 => String::new(),
                between => format!(", {} of them in the last half second", grouped(between)),
            };
            format!(
                "{} on {}: {packets} since its driver was loaded{now}",
                exceeded.allowance, exceeded.interface
            )
        })
        .collect();
    let advice = if worst.allowance == "conntrack" {
        "Take a larger instance, or have it track fewer connections: security group rules that allow all traffic both ways are not tracked; \
         connections that live longer, or more nodes, spread them."
    } else {
        "Take a larger instance, or send less through it."
    };
    Some(Finding {
        id: "instance_allowance",
        severity,
        title: format!("the instance drops packets beyond its {name}"),
        evidence: evidence.join("; "),
        consequence: "packets are lost under the node, where no table of the kernel and no firewall rule shows it; a higher \
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
    use crate::doctor::facts::Exceeded;

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
             them in the last half second"
        );
        let finding = made(allowance, |facts| {
            facts.allowances = vec![exceeded("bw_in", 1, 0)];
        });
        assert_eq!(finding.severity, Severity::Risk);
        assert!(!finding.advice.contains("security group"));
        fine(allowance, |facts| facts.allowances = Vec::new());
    }
}
