//! What tables are full of that a higher limit would only hold more of ([`ctpressure_model::verdict`]), and what else is to be done.

use ctpressure_model::{
    verdict::{Verdict, VerdictKind},
    words::{grouped, list, plural, share},
};

use super::remedy::{Remedy, finding_on};
use crate::{
    doctor::{
        Facts, Finding, Severity,
        facts::TableMakeup,
        thresholds::{HELD_PROBLEM, HELD_RISK, TABLE_RISK},
    },
    kernel::tables::HOST_NAME,
};

/// Places where packets wait that are named.
const NAMED: usize = 3;

/// One finding for each verdict.
pub(super) fn all(facts: &Facts) -> Vec<Finding> {
    let of_table = |makeup: &TableMakeup| {
        let verdicts = facts.verdicts(&makeup.table).unwrap_or_default();
        let table = makeup.table.clone();
        let severity = severity(facts, &table, makeup.composition.counted());
        let told = verdicts.into_iter();
        let told = told.filter_map(move |verdict| finding(facts, &table, severity, &verdict));
        told.chain(held(facts, makeup))
    };
    facts.makeup.iter().flat_map(of_table).collect()
}

/// A table that is nearly full, or losing, is a problem.
fn severity(facts: &Facts, table: &str, counted: u64) -> Severity {
    let limit = facts.settings.limit.unwrap_or(u64::MAX);
    let losing = super::losses::losing_now(facts).is_some_and(|losing| losing.name == table);
    if losing || counted.saturating_mul(100) >= limit.saturating_mul(TABLE_RISK) {
        Severity::Problem
    } else {
        Severity::Risk
    }
}

/// A finding on what is listed; [`held`] is the other one.
fn finding(facts: &Facts, table: &str, severity: Severity, verdict: &Verdict) -> Option<Finding> {
    let Remedy { fix, advice, cost } = elsewhere(facts, table, remedy(verdict));
    let (title, consequence) = match &verdict.kind {
        VerdictKind::Held => return None,
        VerdictKind::Overlay { tunnel, .. } => (
            format!(
                "outer packets of an overlay network ({}) fill the table of {table}",
                tunnel.kind.name()
            ),
            "each connection between pods of two nodes has an entry of its own already; the one of its outer packets is of no use, and \
             takes the room of another connection",
        ),
        VerdictKind::Flood { who } => (
            format!("a flood fills the table of {table}: one-way connections of {who}"),
            "nobody answers or completes them; a higher limit would only hold more of them, and while the table is full the connections of \
             others are refused",
        ),
    };
    Some(Finding {
        id: finding_on(verdict),
        severity,
        title,
        evidence: format!("{} ({})", verdict.seen(), verdict.share()),
        consequence: consequence.to_owned(),
        fix,
        advice,
        cost,
    })
}

/// Commands for the table of another network namespace than the host's would change the host's rules where they are read.
fn elsewhere(facts: &Facts, table: &str, mut remedy: Remedy) -> Remedy {
    if table == HOST_NAME || remedy.fix.is_empty() {
        return remedy;
    }
    let number = facts.counts.netns_of(table);
    let number = number
        .map(|netns| format!(" ({netns})"))
        .unwrap_or_default();
    let lines: Vec<_> = remedy
        .fix
        .drain(..)
        .map(|line| format!("`{line}`"))
        .collect();
    remedy.advice = format!(
        "In that network namespace{number}, which `nsenter -t PROCESS -n` enters (`lsns -t net` lists the processes): {}. {}",
        lines.join(", "),
        remedy.advice
    );
    remedy
}

fn remedy(verdict: &Verdict) -> Remedy {
    match &verdict.kind {
        VerdictKind::Overlay { tunnel, ipv4, ipv6 } => Remedy {
            fix: tunnel.iptables(*ipv4, *ipv6),
            advice: format!(
                "Or by nft: {}. On every node, and kept where its firewall is set up. Such packets are UNTRACKED then: a rule that lets only \
                 known connections in has to accept {} by itself. {} removes the entries that are there.",
                tunnel
                    .nft()
                    .iter()
                    .map(|line| format!("`{line}`"))
                    .collect::<Vec<_>>()
                    .join(", "),
                tunnel.address(),
                tunnel
                    .forget(*ipv4, *ipv6)
                    .iter()
                    .map(|line| format!("`{line}`"))
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
            cost: "none for the overlay: its packets are sent and taken as before".to_owned(),
        },
        _ => Remedy {
            fix: Vec::new(),
            advice: format!("{}.", verdict.remedy()),
            cost: "none: the limit stays as it is".to_owned(),
        },
    }
}

/// Entries that are counted and in no list: of less than what is a verdict, too.
fn held(facts: &Facts, makeup: &TableMakeup) -> Option<Finding> {
    let limit = facts.settings.limit.filter(|limit| *limit > 0)?;
    let composition = &makeup.composition;
    let entries = composition.counted().saturating_sub(composition.entries);
    composition.count?;
    let severity = Severity::of_share(entries, limit, HELD_RISK, HELD_PROBLEM)?;
    let verdict = Verdict {
        kind: VerdictKind::Held,
        entries,
        of: composition.counted(),
    };
    let Remedy { fix, advice, cost } = remedy(&verdict);
    let waiting = if makeup.table == HOST_NAME {
        waiting(facts)
    } else {
        String::new()
    };
    Some(Finding {
        id: finding_on(&verdict),
        severity,
        title: format!(
            "packets that wait hold entries of the table of {}, which no list shows",
            makeup.table
        ),
        evidence: format!(
            "the kernel counts {} entries and lists {}: {} ({} of the limit) are held{waiting}",
            grouped(verdict.of),
            grouped(composition.entries),
            grouped(entries),
            share(entries, limit)
        ),
        consequence: "they count against the limit, can't be evicted, and a flush does not remove them: new connections of others are \
                      refused; who is in the list is not to blame"
            .to_owned(),
        fix,
        advice,
        cost,
    })
}

/// Where packets wait now, as a continuation.
fn waiting(facts: &Facts) -> String {
    let waiting = &facts.waiting;
    let programs = waiting.programs.iter().flatten().map(|queue| {
        format!(
            "{} in NFQUEUE {} of {}",
            plural(queue.packets, "packet waits", "packets wait"),
            queue.number,
            queue.program
        )
    });
    let interfaces = waiting.interfaces.iter().flatten().map(|queue| {
        format!(
            "{} in the queue of {} ({})",
            plural(queue.packets, "packet waits", "packets wait"),
            queue.interface,
            queue.kind
        )
    });
    let mut places: Vec<String> = programs.take(NAMED).chain(interfaces.take(NAMED)).collect();
    if let Some(neighbours) = waiting.neighbours.filter(|neighbours| *neighbours > 0) {
        places.push(format!(
            "{} not answered",
            plural(neighbours, "neighbour has", "neighbours have")
        ));
    }
    let looked_all =
        waiting.programs.is_some() && waiting.interfaces.is_some() && waiting.neighbours.is_some();
    match (places.is_empty(), looked_all) {
        (true, true) => {
            "; now no packet waits in NFQUEUE, at an interface of the host or for a neighbour"
                .to_owned()
        }
        (true, false) => "; not all places where packets wait could be looked at".to_owned(),
        (false, _) => format!("; {}", list(&places)),
    }
}

#[cfg(test)]
mod tests {
    use ctpressure_model::verdict::{Composition, OverlayPart, Part, Tunnel, TunnelKind};

    use super::*;
    use crate::{
        doctor::{
            facts::waiting::{ProgramQueue, Waiting},
            findings,
            tests::healthy,
        },
        sys::netlink::queues::InterfaceQueue,
    };

    const LIMIT: u64 = 1_000;

    /// A node whose host's table is nearly full of this.
    fn full(composition: Composition) -> Facts {
        let mut facts = healthy();
        facts.settings.limit = Some(LIMIT);
        facts.counts.tables.truncate(1);
        facts.counts.tables[0].entries = composition.counted();
        facts.makeup = vec![TableMakeup {
            table: HOST_NAME.to_owned(),
            composition,
        }];
        facts
    }

    fn flooded() -> Composition {
        Composition {
            entries: 960,
            count: Some(960),
            one_way: 940,
            opener: Some(Part {
                name: "shop/api".to_owned(),
                entries: 940,
            }),
            ..Composition::default()
        }
    }

    fn encapsulated() -> Composition {
        Composition {
            entries: 960,
            count: Some(960),
            overlays: vec![OverlayPart {
                tunnel: Tunnel::of_port(TunnelKind::Vxlan, 8472),
                ipv4: 480,
                ipv6: 1,
            }],
            ..Composition::default()
        }
    }

    fn held_back() -> Composition {
        Composition {
            entries: 10,
            count: Some(990),
            one_way: 10,
            opener: Some(Part {
                name: "shop/web".to_owned(),
                entries: 10,
            }),
            ..Composition::default()
        }
    }

    fn ids(facts: &Facts) -> Vec<&'static str> {
        findings::all(facts)
            .iter()
            .map(|finding| finding.id)
            .collect()
    }

    /// The limit controller refuses to raise for each of these: so does every finding.
    #[test]
    fn no_finding_advises_a_raise_that_would_only_hold_more_of_it() {
        for (composition, id) in [
            (flooded(), "one_way_flood"),
            (encapsulated(), "overlay_tracked"),
            (held_back(), "entries_held"),
        ] {
            let mut facts = full(composition);
            if let Some(stats) = &mut facts.counts.tables[0].since_boot {
                stats.early_drop = 5_000;
            }
            for losing in [false, true] {
                if let Some(stats) = facts.counts.tables[0].between.as_mut().filter(|_| losing) {
                    stats.drop = 3;
                }
                let found = findings::all(&facts);
                assert!(ids(&facts).contains(&id), "{found:?}");
                for finding in &found {
                    let raises = |line: &String| line.contains("nf_conntrack_max=");
                    assert!(!finding.fix.iter().any(raises), "{finding:?}");
                }
                let full = found
                    .iter()
                    .find(|finding| ["table_full_now", "table_near_limit"].contains(&finding.id));
                let advice = &full.expect("a finding on the full table").advice;
                assert!(advice.contains(id), "{advice}");
            }
        }
        let used = Composition {
            one_way: 10,
            ..flooded()
        };
        let facts = full(used);
        let near = findings::all(&facts);
        let near = near.iter().find(|finding| finding.id == "table_near_limit");
        assert_eq!(
            near.expect("a finding").fix,
            ["sysctl -w net.netfilter.nf_conntrack_max=2000"]
        );
    }

    #[test]
    fn of_a_table_that_was_not_looked_at_no_raise_is_advised() {
        let mut facts = full(flooded());
        facts.makeup.clear();
        let found = findings::all(&facts);
        let near = found
            .iter()
            .find(|finding| finding.id == "table_near_limit");
        let near = near.expect("a finding");
        assert_eq!(near.fix, [""; 0]);
        assert!(near.advice.contains("ctpressure table"), "{near:?}");
        // Nor a command in words that a node in a container refuses.
        facts.place.standpoint = crate::doctor::facts::Standpoint::NestedNode;
        for finding in findings::all(&facts) {
            assert!(!finding.advice.contains("sysctl -w"), "{finding:?}");
        }
    }

    #[test]
    fn an_overlay_has_its_rules_in_both_chains_and_families() {
        let found = all(&full(encapsulated()));
        let [finding] = found.as_slice() else {
            panic!("{found:?}");
        };
        assert!(finding.title.contains("VXLAN"), "{finding:?}");
        assert!(finding.evidence.contains("481 of 960"), "{finding:?}");
        assert_eq!(finding.fix.len(), 4);
        for part in [
            "udp dport 8472 notrack",
            "hook prerouting",
            "hook output",
            "UNTRACKED",
        ] {
            assert!(finding.advice.contains(part), "{finding:?}");
        }
    }

    #[test]
    fn the_overlay_of_another_table_is_exempted_there() {
        let mut facts = full(encapsulated());
        facts.makeup[0].table = "kind-worker".to_owned();
        facts.counts.tables[0].name = "kind-worker".to_owned();
        facts.counts.tables[0].netns = 4_026_532_201;
        let found = all(&facts);
        assert_eq!(found[0].fix, [""; 0], "the host's rules are others");
        for part in ["(4026532201)", "nsenter", "`iptables -t raw"] {
            assert!(found[0].advice.contains(part), "{found:?}");
        }
    }

    #[test]
    fn what_is_needed_beside_it_gets_room() {
        let needed = Composition {
            entries: 960,
            count: Some(960),
            overlays: vec![OverlayPart {
                tunnel: Tunnel::of_port(TunnelKind::Vxlan, 8472),
                ipv4: 300,
                ipv6: 0,
            }],
            ..Composition::default()
        };
        let found = findings::all(&full(needed));
        let near = found
            .iter()
            .find(|finding| finding.id == "table_near_limit");
        let near = near.expect("a finding");
        // 660 that are needed, as 60 % of it.
        assert_eq!(near.fix, ["sysctl -w net.netfilter.nf_conntrack_max=2048"]);
        assert!(near.advice.contains("overlay_tracked"), "{near:?}");
    }

    /// Case 12 of operators.
    #[test]
    fn held_entries_have_a_place_where_their_packets_wait() {
        let mut facts = full(held_back());
        let evidence = |facts: &Facts| {
            let found = all(facts);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].severity, Severity::Problem);
            assert!(!found[0].title.contains("shop/web"));
            found[0].evidence.clone()
        };
        facts.waiting.programs = None;
        let said = evidence(&facts);
        assert!(
            said.ends_with("are held; not all places where packets wait could be looked at"),
            "{said}"
        );
        facts.waiting.programs = Some(Vec::new());
        let said = evidence(&facts);
        assert!(
            said.starts_with("the kernel counts 990 entries and lists 10: 980 (98 % of the limit) are held; now no packet waits"),
            "{said}"
        );
        facts.waiting = Waiting {
            programs: Some(vec![ProgramQueue {
                number: 3,
                program: "snort (process 77)".to_owned(),
                packets: 979,
            }]),
            interfaces: Some(vec![InterfaceQueue {
                interface: "eth0".to_owned(),
                kind: "netem".to_owned(),
                packets: 1,
            }]),
            neighbours: Some(2),
        };
        let said = evidence(&facts);
        assert!(
            said.ends_with(
                "979 packets wait in NFQUEUE 3 of snort (process 77), 1 packet waits in the queue of eth0 (netem) and 2 neighbours have \
                 not answered"
            ),
            "{said}"
        );
        // Less than a verdict.
        facts.makeup[0].composition.entries = 850;
        assert_eq!(all(&facts)[0].severity, Severity::Risk);
        facts.makeup[0].composition.count = None;
        assert_eq!(all(&facts), []);
    }
}
