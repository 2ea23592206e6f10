//! `report --cluster`: which nodes, in which order, whose doing, and what to change once.

use std::{cmp::Reverse, collections::BTreeMap};

use ctpressure_model::words::{
    grouped, plural,
    time::{serialize_known_seconds, serialize_seconds},
};
use serde::Serialize;

use super::{
    change::{Change, changes},
    fold::{FoldedIncident, fold},
    journal::{Asked, Journal, NodeIncident, notes},
};
use crate::{
    coverage::{Coverage, by_name},
    shapes::Who,
};

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ClusterReport {
    /// Version of this form: 1.
    pub(crate) format: u32,
    #[serde(flatten)]
    pub(crate) coverage: Coverage,
    #[serde(flatten)]
    pub(crate) asked: Asked,
    /// What happened, whose doing it was, what to change: a sentence each.
    pub(crate) summary: [String; 3],
    /// Packets lost.
    pub(crate) drops: u64,
    /// Live entries removed to make room.
    pub(crate) evictions: u64,
    /// Nodes with an incident, the one where it began first.
    pub(crate) hit: Vec<HitNode>,
    /// Nodes that answered and had none.
    pub(crate) quiet: usize,
    /// Who filled tables, on the most nodes first.
    pub(crate) filled_by: Vec<Culprit>,
    /// Who lost something, most packets first.
    pub(crate) suffered: Vec<Victim>,
    pub(crate) changes: Vec<Change>,
    /// The newest first.
    pub(crate) incidents: Vec<FoldedIncident>,
}

/// A node with incidents.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct HitNode {
    pub(crate) node: String,
    #[serde(serialize_with = "serialize_seconds")]
    pub(crate) began: u64,
    #[serde(serialize_with = "serialize_seconds")]
    pub(crate) ended: u64,
    #[serde(serialize_with = "serialize_known_seconds")]
    pub(crate) first_drop: Option<u64>,
    pub(crate) incidents: usize,
    pub(crate) drops: u64,
    pub(crate) evictions: u64,
    /// Entries and limit when a table was fullest.
    pub(crate) entries: u64,
    pub(crate) limit: u64,
    /// Number of its gravest incident in its own journal.
    pub(crate) gravest: u64,
    pub(crate) who: Option<Who>,
    pub(crate) cause: Option<String>,
    /// From and until of each incident, and when it lost the first packet; seconds of Unix time.
    pub(crate) spans: Vec<(u64, u64, Option<u64>)>,
}

/// Who filled tables.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Culprit {
    #[serde(flatten)]
    pub(crate) who: Who,
    pub(crate) nodes: usize,
    pub(crate) incidents: usize,
    /// Its greatest part of a table at the peak, 0 to 1, and where that was.
    pub(crate) share: f64,
    pub(crate) share_on: String,
    /// Lost in those incidents, by anybody.
    pub(crate) lost: u64,
    /// Why, as the node says that lost most.
    pub(crate) why: String,
}

/// Who lost something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Victim {
    #[serde(flatten)]
    pub(crate) who: Who,
    pub(crate) nodes: usize,
    /// Packets.
    pub(crate) drops: u64,
    /// Its live entries that were removed to make room.
    pub(crate) evicted: u64,
}

impl ClusterReport {
    pub(crate) fn new(mut coverage: Coverage, asked: Asked, journals: Vec<Journal>) -> Self {
        coverage.notes.extend(notes(asked, &journals));
        let all: Vec<NodeIncident> = journals
            .into_iter()
            .flat_map(|it| it.answer.incidents)
            .collect();
        let hit = hit(&all);
        let filled_by = filled_by(&all);
        let changes = changes(&all);
        let suffered = suffered(&all);
        let incidents = fold(all);
        let drops = hit.iter().map(|it| it.drops).sum();
        let evictions = hit.iter().map(|it| it.evictions).sum();
        let mut report = Self {
            format: 1,
            quiet: coverage.answered.saturating_sub(hit.len()),
            summary: Default::default(),
            coverage,
            asked,
            drops,
            evictions,
            hit,
            filled_by,
            suffered,
            changes,
            incidents,
        };
        report.summary = report.sentences();
        report
    }

    fn sentences(&self) -> [String; 3] {
        let nodes = plural(self.hit.len() as u64, "node", "nodes");
        let of = grouped(self.coverage.answered as u64);
        let what = match (self.hit.first(), self.hit.len()) {
            (None, _) => format!("None of the {of} nodes that answered had an incident."),
            (Some(first), 1) => format!(
                "One of the {of} nodes that answered, {}, had an incident: {} lost, {} evicted.",
                first.node,
                plural(self.drops, "packet", "packets"),
                plural(self.evictions, "live entry", "live entries")
            ),
            (Some(first), _) => format!(
                "{nodes} of the {of} that answered had {}: {} lost, {} evicted. It began on {}.",
                plural(
                    self.incidents.len() as u64,
                    "incident",
                    "different incidents"
                ),
                plural(self.drops, "packet", "packets"),
                plural(self.evictions, "live entry", "live entries"),
                first.node
            ),
        };
        let who = match self.filled_by.first() {
            Some(culprit) => format!(
                "{} filled tables on {}: {}.",
                culprit.who.in_words(),
                plural(culprit.nodes as u64, "node", "nodes"),
                culprit.why.trim_end_matches('.')
            ),
            None if self.hit.is_empty() => "Nobody filled a table.".to_owned(),
            None => "Who filled the tables is not told.".to_owned(),
        };
        let change = match self.changes.first() {
            Some(change) => format!("{} {}: {}", change.what, change.said_by, change.said),
            None => "Nothing.".to_owned(),
        };
        [what, who, change]
    }
}

fn hit(all: &[NodeIncident]) -> Vec<HitNode> {
    let mut nodes: BTreeMap<&str, Vec<&NodeIncident>> = BTreeMap::new();
    for incident in all {
        nodes.entry(&incident.node).or_default().push(incident);
    }
    let mut hit: Vec<HitNode> = nodes
        .into_iter()
        .filter_map(|(node, of)| one(node, &of))
        .collect();
    hit.sort_by(|a, b| {
        a.began
            .cmp(&b.began)
            .then_with(|| by_name(&a.node, &b.node))
    });
    hit
}

fn one(node: &str, of: &[&NodeIncident]) -> Option<HitNode> {
    let gravest = of.iter().max_by_key(|it| it.gravity())?;
    let fullest = of.iter().max_by_key(|it| it.entries)?;
    let told = gravest.told.as_ref();
    let mut spans: Vec<_> = of
        .iter()
        .map(|it| (it.began, it.ended, it.first_drop))
        .collect();
    spans.sort_unstable();
    Some(HitNode {
        node: node.to_owned(),
        began: of.iter().map(|it| it.began).min()?,
        ended: of.iter().map(|it| it.ended).max()?,
        first_drop: of.iter().filter_map(|it| it.first_drop).min(),
        incidents: of.len(),
        drops: of.iter().map(|it| it.drops).sum(),
        evictions: of.iter().map(|it| it.evictions).sum(),
        entries: fullest.entries,
        limit: fullest.limit,
        gravest: gravest.number,
        who: told.and_then(|told| told.who.clone()),
        cause: told.map(|told| told.cause.clone()),
        spans,
    })
}

fn filled_by(all: &[NodeIncident]) -> Vec<Culprit> {
    let mut of: BTreeMap<&Who, Vec<&NodeIncident>> = BTreeMap::new();
    for incident in all {
        if let Some(who) = incident.told.as_ref().and_then(|told| told.who.as_ref()) {
            of.entry(who).or_default().push(incident);
        }
    }
    let share = |it: &&&NodeIncident| it.told.as_ref().and_then(|told| told.share).unwrap_or(0.0);
    let mut culprits: Vec<Culprit> = of
        .into_iter()
        .filter_map(|(who, of)| {
            let most = of.iter().max_by(|a, b| share(a).total_cmp(&share(b)))?;
            let gravest = of.iter().max_by_key(|it| it.gravity())?;
            Some(Culprit {
                who: who.clone(),
                nodes: nodes(of.iter().map(|it| it.node.as_str())),
                incidents: of.len(),
                share: share(&most),
                share_on: most.node.clone(),
                lost: of.iter().map(|it| it.gravity().0).sum(),
                why: gravest.told.as_ref()?.why.clone(),
            })
        })
        .collect();
    culprits.sort_by_key(|it| (Reverse(it.nodes), Reverse(it.lost), it.who.clone()));
    culprits
}

fn nodes<'a>(of: impl Iterator<Item = &'a str>) -> usize {
    let mut of: Vec<_> = of.collect();
    of.sort_unstable();
    of.dedup();
    of.len()
}

fn suffered(all: &[NodeIncident]) -> Vec<Victim> {
    let mut of: BTreeMap<&Who, (Vec<&str>, u64, u64)> = BTreeMap::new();
    for incident in all {
        let Some(told) = &incident.told else { continue };
        for (who, drops, evicted) in &told.report.suffered {
            let victim = of.entry(who).or_default();
            victim.0.push(&incident.node);
            victim.1 += drops;
            victim.2 += evicted;
        }
    }
    let mut victims: Vec<Victim> = of
        .into_iter()
        .map(|(who, (on, drops, evicted))| Victim {
            who: who.clone(),
            nodes: nodes(on.into_iter()),
            drops,
            evicted,
        })
        .collect();
    victims.sort_by_key(|it| (Reverse(it.drops), Reverse(it.evicted), it.who.clone()));
    victims
}
