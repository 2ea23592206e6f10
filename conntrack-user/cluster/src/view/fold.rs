//! The same incident on many nodes made one.
//!
//! Incidents are the same if the same workload (or, where none is known, the same owner) filled the same kind of table for the same
//! cause, and if they follow one another without a pause: each begins before those before it are over for [`QUIET`] seconds.

use std::collections::{BTreeMap, BTreeSet};

use ctpressure_model::words::time::serialize_seconds;
use serde::Serialize;

use super::journal::NodeIncident;
use crate::{
    coverage::by_name,
    shapes::{Who, pressure},
};

/// As in the journal's own incidents: what comes back within this time is the same.
const QUIET: u64 = 60;

/// One incident, on one node or on many.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct FoldedIncident {
    /// In the list; 1 is the newest.
    pub(crate) number: usize,
    #[serde(serialize_with = "serialize_seconds")]
    pub(crate) began: u64,
    #[serde(serialize_with = "serialize_seconds")]
    pub(crate) ended: u64,
    /// It was not calm again on some node.
    pub(crate) open: bool,
    /// `host`, or whose; `several` where that is not the same on all.
    pub(crate) table: String,
    /// The highest.
    pub(crate) pressure: Option<String>,
    pub(crate) drops: u64,
    pub(crate) evictions: u64,
    pub(crate) nodes: usize,
    pub(crate) who: Option<Who>,
    /// As the node says it that lost most; null: not told.
    pub(crate) cause: Option<String>,
    pub(crate) why: Option<String>,
    /// On each node, the first one first.
    pub(crate) on: Vec<NodeIncident>,
}

/// What has to be the same.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Sameness {
    Told {
        host: bool,
        cause: String,
        who: Option<Who>,
    },
    Table(String),
}

fn sameness(incident: &NodeIncident) -> Sameness {
    match &incident.told {
        Some(told) => Sameness::Told {
            host: incident.table == "host",
            cause: told.cause.clone(),
            who: told.who.clone(),
        },
        None => Sameness::Table(incident.table.clone()),
    }
}

/// Folds them; the newest comes first.
pub(crate) fn fold(incidents: Vec<NodeIncident>) -> Vec<FoldedIncident> {
    let mut alike: BTreeMap<Sameness, Vec<NodeIncident>> = BTreeMap::new();
    for incident in incidents {
        alike.entry(sameness(&incident)).or_default().push(incident);
    }
    let mut folded: Vec<FoldedIncident> = alike
        .into_values()
        .flat_map(chains)
        .filter_map(one)
        .collect();
    folded.sort_by(|a, b| {
        let key = |it: &FoldedIncident| (it.began, it.drops + it.evictions);
        key(b).cmp(&key(a))
    });
    for (number, incident) in (1..).zip(&mut folded) {
        incident.number = number;
    }
    folded
}

/// Cut where there is a pause.
fn chains(mut alike: Vec<NodeIncident>) -> Vec<Vec<NodeIncident>> {
    alike.sort_by(|a, b| {
        let key = |it: &NodeIncident| (it.began, it.ended);
        key(a).cmp(&key(b)).then_with(|| by_name(&a.node, &b.node))
    });
    let mut chains: Vec<Vec<NodeIncident>> = Vec::new();
    let mut end = 0;
    for incident in alike {
        let goes_on = incident.began <= end + QUIET;
        end = if goes_on {
            end.max(incident.ended)
        } else {
            incident.ended
        };
        match chains.last_mut() {
            Some(chain) if goes_on => chain.push(incident),
            _ => chains.push(vec![incident]),
        }
    }
    chains
}

fn one(on: Vec<NodeIncident>) -> Option<FoldedIncident> {
    let first = on.first()?;
    let worst = on.iter().max_by_key(|it| it.gravity())?;
    let told = worst.told.as_ref();
    let nodes: BTreeSet<&str> = on.iter().map(|it| it.node.as_str()).collect();
    let table = if on.iter().all(|it| it.table == first.table) {
        first.table.clone()
    } else {
        "several".to_owned()
    };
    let highest = on
        .iter()
        .max_by_key(|it| pressure(it.pressure.as_deref()))?;
    Some(FoldedIncident {
        number: 0,
        began: first.began,
        ended: on.iter().map(|it| it.ended).max()?,
        open: on.iter().any(|it| it.open),
        table,
        pressure: highest.pressure.clone(),
        drops: on.iter().map(|it| it.drops).sum(),
        evictions: on.iter().map(|it| it.evictions).sum(),
        nodes: nodes.len(),
        who: told.and_then(|told| told.who.clone()),
        cause: told.map(|told| told.cause.clone()),
        why: told.map(|told| told.why.clone()),
        on,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::view::journal::{Details, Told};

    /// An incident of the host's table that a workload made.
    pub(crate) fn incident(
        node: &str,
        began: u64,
        ended: u64,
        workload: Option<&str>,
    ) -> NodeIncident {
        NodeIncident {
            node: node.to_owned(),
            number: 1,
            table: "host".to_owned(),
            began,
            ended,
            open: false,
            pressure: Some("full".to_owned()),
            entries: 2000,
            limit: 2000,
            drops: 10,
            evictions: 1,
            first_drop: Some(began + 1),
            told: workload.map(|name| Told {
                cause: "burst".to_owned(),
                why: format!("{name} opened many"),
                who: Some(Who {
                    kind: "Deployment".to_owned(),
                    name: name.to_owned(),
                }),
                share: Some(0.9),
                summary: Vec::new(),
                report: Box::new(Details::default()),
            }),
        }
    }

    fn folded(incidents: Vec<NodeIncident>) -> Vec<(u64, u64, Vec<String>)> {
        let nodes = |it: &FoldedIncident| it.on.iter().map(|it| it.node.clone()).collect();
        fold(incidents)
            .iter()
            .map(|it| (it.began, it.ended, nodes(it)))
            .collect()
    }

    fn names(nodes: &[&str]) -> Vec<String> {
        nodes.iter().map(|node| (*node).to_owned()).collect()
    }

    #[test]
    fn one_workload_on_many_nodes_is_one_incident() {
        let incidents = vec![
            incident("b", 1010, 1100, Some("shop/cart")),
            incident("c", 1160, 1200, Some("shop/cart")),
            incident("a", 1000, 1050, Some("shop/cart")),
            incident("a", 1005, 1050, Some("shop/web")),
        ];
        assert_eq!(
            folded(incidents),
            [
                (1005, 1050, names(&["a"])),
                (1000, 1200, names(&["a", "b", "c"])),
            ]
        );
    }

    #[test]
    fn a_pause_makes_another_one() {
        let twice = vec![
            incident("a", 1000, 1050, Some("shop/cart")),
            incident("b", 1111, 1150, Some("shop/cart")),
        ];
        assert_eq!(folded(twice).len(), 2);
    }

    #[test]
    fn what_is_not_told_is_folded_by_table() {
        let mut pods = incident("c", 1000, 1050, None);
        "shop/web-1".clone_into(&mut pods.table);
        let incidents = vec![
            incident("a", 1000, 1050, None),
            incident("b", 1000, 1050, None),
            pods,
            incident("d", 1000, 1050, Some("shop/cart")),
        ];
        let mut sizes: Vec<_> = folded(incidents)
            .iter()
            .map(|(_, _, on)| on.len())
            .collect();
        sizes.sort_unstable();
        assert_eq!(sizes, [1, 1, 2]);
    }

    #[test]
    fn sums_and_the_worst_are_told() {
        let mut worst = incident("b", 1010, 1100, Some("shop/cart"));
        worst.drops = 50;
        worst.open = true;
        if let Some(told) = &mut worst.told {
            "it was worst".clone_into(&mut told.why);
        }
        let folded = fold(vec![incident("a", 1000, 1050, Some("shop/cart")), worst]);
        assert_eq!(folded.len(), 1);
        let one = &folded[0];
        assert_eq!(
            (one.drops, one.evictions, one.nodes, one.number),
            (60, 2, 2, 1)
        );
        assert_eq!(one.why.as_deref(), Some("it was worst"));
        assert!(one.open);
    }
}
