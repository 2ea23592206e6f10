//! `top`: who fills the tables of the whole cluster, and which node is full first.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
};

use ctpressure_model::words::plural;
use serde::Serialize;

use super::OfNode;
use crate::{
    coverage::{Coverage, by_name},
    shapes::{OwnerAnswer, TableAnswer, TopAnswer, Who, pressure},
};

/// The whole cluster at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct TopView {
    /// Version of this form: 1.
    pub(crate) format: u32,
    #[serde(flatten)]
    pub(crate) coverage: Coverage,
    pub(crate) totals: ClusterTotals,
    /// The one that is full first comes first.
    pub(crate) nodes_by_time: Vec<NodeRow>,
    /// Owners told the same way on every node, most entries first.
    pub(crate) workloads: Vec<WorkloadRow>,
    /// Owners of each node by themselves, most entries first.
    pub(crate) owners: Vec<OwnerRow>,
}

/// Sums over the nodes that answered; of what is not known somewhere they are at least so much.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct ClusterTotals {
    pub(crate) entries: u64,
    pub(crate) inserts_per_second: f64,
    pub(crate) drops_per_second: f64,
    /// Packets lost since each agent began.
    pub(crate) drops: u64,
    /// Live entries removed to make room, since each agent began.
    pub(crate) evictions: u64,
    /// Nodes where nothing counts inserts, drops or evictions: of these they are not in the sums.
    pub(crate) not_counted: Vec<String>,
}

/// One node, and its table that is full first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct NodeRow {
    pub(crate) node: String,
    /// What its agent can see: `attached`, or what else it says; null: it does not say.
    pub(crate) state: Option<String>,
    /// Why it does not see everything.
    pub(crate) reason: Option<String>,
    /// Entries of all of its tables.
    pub(crate) entries: u64,
    /// Of each of them; 0: none, null: not known.
    pub(crate) limit: Option<u64>,
    /// The table that is full first; null: it has none.
    pub(crate) table: Option<TableRow>,
    pub(crate) inserts_per_second: Option<f64>,
    pub(crate) drops_per_second: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct TableRow {
    pub(crate) name: String,
    pub(crate) entries: u64,
    /// Part of the limit, 0 to 1; null: no limit.
    pub(crate) occupancy: Option<f64>,
    /// `calm`, `rising`, `high` or `full`.
    pub(crate) pressure: Option<String>,
    /// Null: it is not filling.
    pub(crate) seconds_to_full: Option<f64>,
    /// What it is full of that a higher limit would only hold more of: `flood`, `overlay`, `held`.
    pub(crate) verdicts: Vec<String>,
}

/// One workload on all nodes, or an owner that has none.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct WorkloadRow {
    #[serde(flatten)]
    pub(crate) who: Who,
    pub(crate) nodes: usize,
    /// Pods, units or containers of it.
    pub(crate) owners: usize,
    /// Null: of none of them.
    pub(crate) entries: Option<u64>,
    /// Owners of it whose entries are not known: `entries` is without them.
    pub(crate) entries_unknown: usize,
    pub(crate) inserts_per_second: f64,
    pub(crate) drops_per_second: f64,
    /// Packets lost since each agent began.
    pub(crate) drops: u64,
    /// Its live entries that were removed to make room.
    pub(crate) victims: u64,
    /// The node where it has most entries, and how many.
    pub(crate) most: Option<(String, u64)>,
}

/// One owner of one node.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct OwnerRow {
    pub(crate) node: String,
    pub(crate) kind: String,
    pub(crate) name: String,
    /// What made the pod; null: not known, or no pod.
    pub(crate) workload: Option<Who>,
    pub(crate) entries: Option<u64>,
    /// Part of the node's limit; null: there is none, or it isn't known.
    pub(crate) limit_share: Option<f64>,
    pub(crate) inserts_per_second: Option<f64>,
    pub(crate) drops_per_second: Option<f64>,
    pub(crate) drops: Option<u64>,
}

impl TopView {
    pub(crate) fn new(mut coverage: Coverage, answers: &[OfNode<TopAnswer>]) -> Self {
        let mut nodes: Vec<NodeRow> = answers.iter().map(node).collect();
        nodes.sort_by(soonest);
        coverage.notes.extend(notes(answers));
        let mut owners: Vec<OwnerRow> = answers
            .iter()
            .flat_map(|it| it.answer.owners.iter().map(|owner| row(it, owner)))
            .collect();
        owners.sort_by(|a, b| {
            let key = |row: &OwnerRow| (row.entries, row.drops);
            key(b)
                .cmp(&key(a))
                .then_with(|| by_name(&a.node, &b.node))
                .then_with(|| a.name.cmp(&b.name))
        });
        Self {
            format: 1,
            totals: totals(answers),
            nodes_by_time: nodes,
            workloads: workloads(answers),
            owners,
            coverage,
        }
    }
}

/// Entries of an owner: counted, or those that the last census found.
fn entries(owner: &OwnerAnswer) -> Option<u64> {
    owner.live.or(owner.found)
}

fn all_entries(answer: &TopAnswer) -> u64 {
    let shown: u64 = answer.tables.iter().map(|table| table.entries).sum();
    shown + answer.other_tables.entries.unwrap_or(0)
}

fn node(of: &OfNode<TopAnswer>) -> NodeRow {
    let answer = &of.answer;
    let first = answer
        .tables
        .iter()
        .min_by(|a, b| sooner(&urgency(a), &urgency(b)));
    NodeRow {
        node: of.node.clone(),
        state: answer.state.clone(),
        reason: answer.reason.clone(),
        entries: all_entries(answer),
        limit: answer.limit,
        table: first.map(|table| TableRow {
            name: table.name.clone(),
            entries: table.entries,
            occupancy: table.occupancy,
            pressure: table.pressure.clone(),
            seconds_to_full: table.seconds_to_full,
            verdicts: table
                .verdicts
                .iter()
                .filter_map(|it| it.kind.clone())
                .collect(),
        }),
        inserts_per_second: answer.totals.inserts_per_second,
        drops_per_second: answer.totals.drops_per_second,
    }
}

/// What says how soon a table is full: full already, seconds, part of the limit.
struct Urgency {
    is_full: bool,
    seconds: f64,
    occupancy: f64,
}

fn urgency(table: &TableAnswer) -> Urgency {
    Urgency {
        is_full: pressure(table.pressure.as_deref()) == 3,
        seconds: table.seconds_to_full.unwrap_or(f64::INFINITY),
        occupancy: table.occupancy.unwrap_or(0.0),
    }
}

fn sooner(a: &Urgency, b: &Urgency) -> Ordering {
    (b.is_full.cmp(&a.is_full))
        .then_with(|| a.seconds.total_cmp(&b.seconds))
        .then_with(|| b.occupancy.total_cmp(&a.occupancy))
}

fn soonest(a: &NodeRow, b: &NodeRow) -> Ordering {
    let urgency = |row: &NodeRow| {
        let table = row.table.as_ref();
        Urgency {
            is_full: table.is_some_and(|table| pressure(table.pressure.as_deref()) == 3),
            seconds: table
                .and_then(|table| table.seconds_to_full)
                .unwrap_or(f64::INFINITY),
            occupancy: table.and_then(|table| table.occupancy).unwrap_or(0.0),
        }
    };
    sooner(&urgency(a), &urgency(b)).then_with(|| by_name(&a.node, &b.node))
}

fn totals(answers: &[OfNode<TopAnswer>]) -> ClusterTotals {
    let mut sums = ClusterTotals::default();
    for OfNode { node, answer } in answers {
        let totals = &answer.totals;
        sums.entries += all_entries(answer);
        sums.inserts_per_second += totals.inserts_per_second.unwrap_or(0.0);
        sums.drops_per_second += totals.drops_per_second.unwrap_or(0.0);
        sums.drops += totals.drops.values().sum::<u64>();
        sums.evictions += totals.evictions.unwrap_or(0);
        let counted = totals.inserts_per_second.is_some()
            && totals.drops_per_second.is_some()
            && totals.evictions.is_some();
        if !counted {
            sums.not_counted.push(node.clone());
        }
    }
    sums
}

fn workload_of(owner: &OwnerAnswer) -> Who {
    Who::new(
        &owner.kind,
        &owner.name,
        &owner.namespace,
        owner.workload.as_ref(),
    )
}

fn row(of: &OfNode<TopAnswer>, owner: &OwnerAnswer) -> OwnerRow {
    let entries = entries(owner);
    OwnerRow {
        node: of.node.clone(),
        kind: owner.kind.clone(),
        name: owner.name.clone(),
        workload: owner.workload.as_ref().map(|_| workload_of(owner)),
        entries,
        limit_share: part(entries, of.answer.limit),
        inserts_per_second: owner.inserts_per_second.ten_seconds,
        drops_per_second: owner.drops_per_second.ten_seconds,
        drops: owner.drops,
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a share is shown in three digits at most"
)]
fn part(entries: Option<u64>, limit: Option<u64>) -> Option<f64> {
    let limit = limit.filter(|limit| *limit > 0)?;
    Some(entries? as f64 / limit as f64)
}

fn workloads(answers: &[OfNode<TopAnswer>]) -> Vec<WorkloadRow> {
    let mut rows: BTreeMap<Who, WorkloadRow> = BTreeMap::new();
    for OfNode { node, answer } in answers {
        let mut here: BTreeMap<Who, u64> = BTreeMap::new();
        let mut present: BTreeSet<Who> = BTreeSet::new();
        for owner in &answer.owners {
            let who = workload_of(owner);
            let row = rows
                .entry(who.clone())
                .or_insert_with(|| WorkloadRow::new(who.clone()));
            row.owners += 1;
            match entries(owner) {
                Some(entries) => {
                    *row.entries.get_or_insert(0) += entries;
                    *here.entry(who.clone()).or_default() += entries;
                }
                None => row.entries_unknown += 1,
            }
            row.inserts_per_second += owner.inserts_per_second.ten_seconds.unwrap_or(0.0);
            row.drops_per_second += owner.drops_per_second.ten_seconds.unwrap_or(0.0);
            row.drops += owner.drops.unwrap_or(0);
            row.victims += owner.victims.unwrap_or(0);
            present.insert(who);
        }
        for who in present {
            let Some(row) = rows.get_mut(&who) else {
                continue;
            };
            row.nodes += 1;
            if let Some(entries) = here.get(&who)
                && row.most.as_ref().is_none_or(|(_, most)| most < entries)
            {
                row.most = Some((node.clone(), *entries));
            }
        }
    }
    let mut rows: Vec<_> = rows.into_values().collect();
    rows.sort_by(|a, b| {
        let key = |row: &WorkloadRow| (row.entries, row.drops);
        key(b).cmp(&key(a)).then_with(|| a.who.cmp(&b.who))
    });
    rows
}

impl WorkloadRow {
    fn new(who: Who) -> Self {
        Self {
            who,
            nodes: 0,
            owners: 0,
            entries: None,
            entries_unknown: 0,
            inserts_per_second: 0.0,
            drops_per_second: 0.0,
            drops: 0,
            victims: 0,
            most: None,
        }
    }
}

/// What to know about the rows.
fn notes(answers: &[OfNode<TopAnswer>]) -> Vec<String> {
    let mut notes = Vec::new();
    let bare = |owner: &OwnerAnswer| workload_of(owner).is_bare_pod();
    let knows = |answer: &TopAnswer| answer.owners.iter().any(|owner| owner.workload.is_some());
    let blind = answers
        .iter()
        .filter(|it| it.answer.owners.iter().any(bare) && !knows(&it.answer));
    let blind = blind.count();
    if blind > 0 {
        notes.push(format!(
            "Agents on {} know no workloads, so pods stand by themselves: `run --kube` tells them.",
            plural(blind as u64, "node", "nodes")
        ));
    }
    let hidden: u64 = answers.iter().map(|it| it.answer.other_owners.number).sum();
    if hidden > 0 {
        let live: u64 = answers
            .iter()
            .filter_map(|it| it.answer.other_owners.live)
            .sum();
        notes.push(format!(
            "The smallest owners of their nodes are in no row: {hidden}, with {}.",
            plural(live, "entry", "entries")
        ));
    }
    notes
}
