//! Source NAT that has no free port left towards a destination.

use ctpressure_model::words::{grouped, seconds_f64, share};

use super::lost::{by_clash, worst};
use crate::{
    census::NAT_PORTS,
    doctor::{
        Facts, Finding, Severity,
        thresholds::{PORTS_PROBLEM, PORTS_RISK, PORTS_TRIED},
    },
};

const ADVICE: &str = "Give clients that open many connections to one destination a pool of kept-open \
                      connections; or give NAT more source addresses (a range in `--to-source`), or \
                      let the traffic pass without NAT.";
const COST: &str = "none for the node; change the clients or add source addresses";

/// Ports are looked for in vain at this moment: every look that fails counts each taken port that it met
/// (`found`), and its packet is lost as a clash.
pub(super) fn no_free_port(facts: &Facts) -> Option<Finding> {
    let (table, lost) = worst(facts, |table| {
        let between = table.between?;
        let lost = by_clash(&between);
        (between.found >= lost * PORTS_TRIED).then_some(lost)
    })?;
    let between = table.between.filter(|_| lost > 0)?;
    Some(Finding {
        id: "nat_no_free_port",
        severity: Severity::Critical,
        title: format!(
            "NAT in {} finds no free port, and connections are lost now",
            table.name
        ),
        evidence: format!(
            "within {} {} ports were found taken and {} packets lost by a clash{}",
            seconds_f64(facts.counts.seconds),
            grouped(between.found),
            grouped(lost),
            in_use(facts)
        ),
        consequence: "new connections to that destination fail, while others work: it looks as if \
                      the destination were ill"
            .to_owned(),
        fix: vec!["ctpressure table --by nat,destination".to_owned()],
        advice: format!("That says which destination it is. {ADVICE}"),
        cost: COST.to_owned(),
    })
}

fn in_use(facts: &Facts) -> String {
    facts
        .census
        .as_ref()
        .and_then(|census| census.ports)
        .map_or_else(String::new, |(space, ports)| {
            format!("; most ports are in use {space}: {}", grouped(ports))
        })
}

/// The share of ports in use, from the census.
pub(super) fn ports_in_use(facts: &Facts) -> Option<Finding> {
    let census = facts.census.as_ref()?;
    let (space, ports) = census.ports?;
    let ports = census.scaled(ports).min(NAT_PORTS);
    let severity = Severity::of_share(ports, NAT_PORTS, PORTS_RISK, PORTS_PROBLEM)?;
    Some(Finding {
        id: "nat_ports_in_use",
        severity,
        title: "source NAT has used most of its ports towards one destination".to_owned(),
        evidence: format!(
            "{} of {} ports ({}) are in use {space}",
            grouped(ports),
            grouped(NAT_PORTS),
            share(ports, NAT_PORTS)
        ),
        consequence: "when none is left, new connections to that destination are lost as clashes, \
                      though the table is far from full"
            .to_owned(),
        fix: vec![format!(
            "ctpressure table --by source --address {} --port {}",
            space.destination, space.port
        )],
        advice: format!("That says who opens them. {ADVICE}"),
        cost: COST.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{fine, made};
    use super::*;
    use crate::{census::PortSpace, kernel::stats::KernelStats};

    fn now(facts: &mut Facts, found: u64, lost: u64) {
        facts.counts.tables[0].between = Some(KernelStats {
            found,
            insert_failed: lost,
            drop: lost,
            ..KernelStats::default()
        });
    }

    fn used(facts: &mut Facts, ports: u64) {
        if let Some(census) = &mut facts.census {
            let space = PortSpace {
                address: [192, 0, 2, 1].into(),
                destination: [198, 51, 100, 7].into(),
                port: 443,
                protocol: 6,
            };
            census.ports = Some((space, ports));
        }
    }

    #[test]
    fn none_left() {
        let finding = made(no_free_port, |facts| {
            now(facts, 325, 30);
            used(facts, 10);
        });
        assert_eq!(finding.severity, Severity::Critical);
        assert!(
            finding
                .evidence
                .contains("tcp port 443 of 198.51.100.7: 10"),
            "{finding:?}"
        );
        // Two queries of one socket that raced.
        fine(no_free_port, |facts| now(facts, 3, 1));
        // Ports were taken, and others were found.
        fine(no_free_port, |facts| now(facts, 3_000, 0));
    }

    #[test]
    fn few_left() {
        let finding = made(ports_in_use, |facts| used(facts, 40_000));
        assert_eq!(finding.severity, Severity::Risk);
        assert!(finding.evidence.contains("62 %"), "{finding:?}");
        let finding = made(ports_in_use, |facts| used(facts, 60_000));
        assert_eq!(finding.severity, Severity::Problem);
        fine(ports_in_use, |facts| used(facts, 20_000));
        // A tenth of the table was read.
        let finding = made(ports_in_use, |facts| {
            used(facts, 6_000);
            if let Some(census) = &mut facts.census {
                census.whole = false;
                census.read = 30_000;
                census.counted = 300_000;
            }
        });
        assert_eq!(finding.severity, Severity::Problem);
    }
}
