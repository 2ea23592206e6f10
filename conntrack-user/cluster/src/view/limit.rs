//! `limit`: what limits the tables of each node, and where that is not the same.

use std::collections::BTreeMap;

use serde::Serialize;

use super::OfNode;
use crate::{
    coverage::{Coverage, by_name},
    shapes::LimitAnswer,
};

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct LimitView {
    /// Version of this form: 1.
    pub(crate) format: u32,
    #[serde(flatten)]
    pub(crate) coverage: Coverage,
    /// Which limits there are, and on which nodes; the most frequent first.
    pub(crate) limits: Vec<LimitGroup>,
    /// The one with the fullest table first.
    pub(crate) by_share: Vec<LimitRow>,
}

/// Nodes with the same limit and buckets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct LimitGroup {
    /// 0: none, null: not known.
    pub(crate) limit: Option<u64>,
    pub(crate) buckets: Option<u64>,
    pub(crate) on: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct LimitRow {
    pub(crate) node: String,
    pub(crate) limit: Option<u64>,
    pub(crate) buckets: Option<u64>,
    /// The table with the most entries; null: there is none.
    pub(crate) fullest: Option<String>,
    pub(crate) entries: Option<u64>,
    /// Bytes of full tables and their buckets, at most; null: not known.
    pub(crate) bytes_when_full: Option<u64>,
    /// What the limit controller may do: `off`, `dry-run` or `on`; null: the agent runs without one.
    pub(crate) controller: Option<String>,
    pub(crate) ceiling: Option<u64>,
    /// What was there before the controller raised it.
    pub(crate) raised_from: Option<u64>,
}

impl LimitView {
    pub(crate) fn new(coverage: Coverage, answers: Vec<OfNode<LimitAnswer>>) -> Self {
        let mut rows: Vec<LimitRow> = answers.into_iter().map(row).collect();
        // Shares are compared without dividing: `a / b < c / d` as `a * d < c * b`. Where there is no limit, nothing fills.
        let share = |row: &LimitRow| match (row.entries, row.limit) {
            (Some(entries), Some(limit)) if limit > 0 => (u128::from(entries), u128::from(limit)),
            _ => (0, 1),
        };
        rows.sort_by(|a, b| {
            let ((x, of_x), (y, of_y)) = (share(a), share(b));
            (y * of_x)
                .cmp(&(x * of_y))
                .then_with(|| by_name(&a.node, &b.node))
        });
        let mut groups: BTreeMap<_, Vec<String>> = BTreeMap::new();
        for row in &rows {
            let on = groups.entry((row.limit, row.buckets)).or_default();
            on.push(row.node.clone());
        }
        let mut limits: Vec<LimitGroup> = groups
            .into_iter()
            .map(|((limit, buckets), mut on)| {
                on.sort_by(|a, b| by_name(a, b));
                LimitGroup { limit, buckets, on }
            })
            .collect();
        limits.sort_by_key(|group| std::cmp::Reverse(group.on.len()));
        Self {
            format: 1,
            coverage,
            limits,
            by_share: rows,
        }
    }
}

fn row(of: OfNode<LimitAnswer>) -> LimitRow {
    let OfNode { node, answer } = of;
    let (fullest, entries) = answer.fullest.map(|it| (it.name, it.entries)).unzip();
    let controller = answer.controller;
    LimitRow {
        node,
        limit: answer.limit,
        buckets: answer.buckets,
        fullest,
        entries,
        bytes_when_full: controller.as_ref().and_then(|it| it.bytes_when_full),
        ceiling: controller.as_ref().and_then(|it| it.ceiling),
        raised_from: controller.as_ref().and_then(|it| it.raised_from),
        controller: controller.and_then(|it| it.mode),
    }
}
