//! What to change once, instead of node by node: the advice of all nodes' reports, put together.
//!
//! Advice that names a sysctl is one change for all nodes, advice about who filled a table one change of that workload; the rest is
//! told once, with the nodes that it was given on.

use std::{cmp::Reverse, collections::BTreeMap};

use ctpressure_model::words::{grouped, plural};
use serde::Serialize;

use super::journal::{AdviceOfNode, NodeIncident, Told};
use crate::{
    coverage::{by_name, names},
    shapes::Who,
};

/// Rules whose advice is about who filled the table: `conntrack-user/report/src/advice.rs`.
const OF_OWNER: &[&str] = &["stop_flood", "reuse", "leak", "retries", "dns_cache"];
/// Where a limit that agents raise by themselves is described.
const LIMIT: &str = "nf_conntrack_max";
const BUCKETS: &str = "nf_conntrack_buckets";

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Change {
    /// The rule of the nodes' reports that it comes from.
    pub(crate) rule: String,
    /// What to do, in one place.
    pub(crate) what: String,
    /// As the report of the node that lost most says it.
    pub(crate) said: String,
    pub(crate) said_by: String,
    /// Whose change it is; null: the nodes'.
    pub(crate) who: Option<Who>,
    /// The sysctl, with the least and the greatest value that nodes need.
    pub(crate) set: Option<(String, u64, u64)>,
    /// Where it was advised.
    pub(crate) nodes: Vec<String>,
    /// Packets and live entries that were lost in those incidents.
    pub(crate) lost: u64,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Place<'a> {
    Workload(&'a str, &'a Who),
    Sysctl(&'a str, &'a str),
    Nodes(&'a str),
}

fn place<'a>(advice: &'a AdviceOfNode, told: &'a Told) -> Place<'a> {
    match (&advice.set, &told.who) {
        (Some((name, _)), _) => Place::Sysctl(&advice.rule, name),
        (None, Some(who)) if OF_OWNER.contains(&advice.rule.as_str()) => {
            Place::Workload(&advice.rule, who)
        }
        (None, _) => Place::Nodes(&advice.rule),
    }
}

/// Advice with the incident that it was given for, and its place among that incident's.
struct Given<'a> {
    incident: &'a NodeIncident,
    advice: &'a AdviceOfNode,
    bytes: Option<(u64, u64)>,
    rank: usize,
}

/// All of it: first what nodes put first, and what lost most.
pub(crate) fn changes<'a>(incidents: impl IntoIterator<Item = &'a NodeIncident>) -> Vec<Change> {
    let mut places: BTreeMap<Place<'_>, Vec<Given<'_>>> = BTreeMap::new();
    for incident in incidents {
        let Some(told) = &incident.told else { continue };
        for (rank, advice) in told.report.advice.iter().enumerate() {
            let given = Given {
                incident,
                advice,
                bytes: told.report.bytes,
                rank,
            };
            places.entry(place(advice, told)).or_default().push(given);
        }
    }
    let mut changes: Vec<(usize, Change)> = places
        .iter()
        .filter_map(|(place, given)| change(place, given))
        .collect();
    changes.sort_by_key(|(rank, change)| {
        // What a node's own report advises second is worth half as much there, and so on.
        let weight = change.lost / (*rank as u64 + 1);
        (Reverse(weight), *rank, change.rule.clone())
    });
    changes.into_iter().map(|(_, change)| change).collect()
}

fn change(place: &Place<'_>, given: &[Given<'_>]) -> Option<(usize, Change)> {
    let worst = given.iter().max_by_key(|it| it.incident.gravity())?;
    let mut nodes: Vec<String> = given.iter().map(|it| it.incident.node.clone()).collect();
    nodes.sort_by(|a, b| by_name(a, b));
    nodes.dedup();
    let count = plural(nodes.len() as u64, "node", "nodes");
    let values = || {
        given
            .iter()
            .filter_map(|it| it.advice.set.as_ref().map(|(_, value)| *value))
    };
    let set = match place {
        Place::Sysctl(_, name) => Some(((*name).to_owned(), values().min()?, values().max()?)),
        _ => None,
    };
    let what = match place {
        Place::Workload(_, who) => {
            format!(
                "Change {} once: it filled tables on {count}.",
                who.in_words()
            )
        }
        Place::Sysctl(..) => {
            let (name, least, most) = set.as_ref()?;
            sysctl(name, *least, *most, &count, given)
        }
        Place::Nodes(_) => format!(
            "The same on {count} ({}).",
            names(nodes.iter().map(String::as_str))
        ),
    };
    let rank = given.iter().map(|it| it.rank).min()?;
    // An incident gives each piece of advice once.
    let lost = given.iter().map(|it| it.incident.gravity().0).sum();
    let change = Change {
        rule: worst.advice.rule.clone(),
        what,
        said: worst.advice.text.clone(),
        said_by: worst.incident.node.clone(),
        who: match place {
            Place::Workload(_, who) => Some((*who).clone()),
            _ => None,
        },
        set,
        nodes,
        lost,
    };
    Some((rank, change))
}

fn sysctl(name: &str, least: u64, most: u64, count: &str, given: &[Given<'_>]) -> String {
    // What is enough for each of them: of room the greatest, of a time that entries stay the shortest.
    let is_room = [LIMIT, BUCKETS].contains(&name);
    let enough = if is_room { most } else { least };
    let range = if least == most {
        format!("{count} need {name} {}", grouped(most))
    } else {
        format!(
            "{count} need {name} from {} to {}, and {} is enough for all of them",
            grouped(least),
            grouped(most),
            grouped(enough)
        )
    };
    let how = match name {
        LIMIT => {
            "Set it once where all nodes get it: kube-proxy's `conntrack.min` or `maxPerCore`, the node image, or agents with \
             --limit-controller on"
        }
        _ => {
            "Set it once where all nodes get their sysctls: the node image, or what tunes nodes in this cluster"
        }
    };
    let bytes = given
        .iter()
        .filter_map(|it| it.bytes)
        .max_by_key(|(_, most)| *most);
    let cost = match bytes {
        Some((least, most)) if name == LIMIT => {
            let range = ctpressure_model::cost::MemoryRange { least, most };
            format!(" Full tables take {} of a node then.", range.in_words())
        }
        _ => String::new(),
    };
    format!("{range}. {how}.{cost}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::fold::tests::incident;

    fn advised(
        node: &str,
        workload: &str,
        lost: u64,
        advice: &[(&str, Option<(&str, u64)>)],
    ) -> NodeIncident {
        let mut incident = incident(node, 1000, 1100, Some(workload));
        incident.drops = lost;
        incident.evictions = 0;
        if let Some(told) = &mut incident.told {
            told.report.advice = advice
                .iter()
                .map(|(rule, set)| AdviceOfNode {
                    rule: (*rule).to_owned(),
                    text: format!("{rule} on {node}"),
                    set: set.map(|(name, value)| (name.to_owned(), value)),
                })
                .collect();
            told.report.bytes = Some((1 << 20, 2 << 20));
        }
        incident
    }

    #[test]
    fn what_many_nodes_need_is_one_change() {
        let incidents = [
            advised(
                "a",
                "shop/cart",
                5,
                &[("raise", Some((LIMIT, 4096))), ("reuse", None)],
            ),
            advised(
                "b",
                "shop/cart",
                50,
                &[("raise", Some((LIMIT, 8192))), ("reuse", None)],
            ),
            advised("c", "shop/web", 1, &[("reuse", None), ("watch", None)]),
        ];
        let changes = changes(&incidents);
        let told: Vec<_> = changes
            .iter()
            .map(|it| {
                (
                    it.rule.as_str(),
                    it.nodes.join(","),
                    it.lost,
                    it.said.as_str(),
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                ("raise", "a,b".to_owned(), 55, "raise on b"),
                ("reuse", "a,b".to_owned(), 55, "reuse on b"),
                ("reuse", "c".to_owned(), 1, "reuse on c"),
                ("watch", "c".to_owned(), 1, "watch on c"),
            ]
        );
        assert_eq!(changes[0].set, Some((LIMIT.to_owned(), 4096, 8192)));
        assert!(
            changes[0].what.starts_with(
                "2 nodes need nf_conntrack_max from 4,096 to 8,192, and 8,192 is enough"
            )
        );
        assert!(
            changes[0].what.contains("take 1 to 2 MiB of a node"),
            "{}",
            changes[0].what
        );
        assert!(
            changes[1]
                .what
                .starts_with("Change Deployment shop/cart once"),
            "{}",
            changes[1].what
        );
    }

    #[test]
    fn of_a_timeout_the_shortest_is_enough() {
        let name = "nf_conntrack_tcp_timeout_established";
        let incidents = [
            advised("a", "w", 1, &[("timeout", Some((name, 600)))]),
            advised("b", "w", 1, &[("timeout", Some((name, 300)))]),
        ];
        let what = &changes(&incidents)[0].what;
        assert!(what.contains("and 300 is enough for all of them"), "{what}");
    }
}
