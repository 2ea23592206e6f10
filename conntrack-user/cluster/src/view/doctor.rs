//! `doctor`: the findings of all nodes, each once, with the nodes that have it.

use std::{cmp::Reverse, collections::BTreeMap};

use serde::Serialize;

use super::OfNode;
use crate::{
    coverage::{Coverage, by_name},
    shapes::{DoctorAnswer, FindingAnswer, severity},
};

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct DoctorView {
    /// Version of this form: 1.
    pub(crate) format: u32,
    #[serde(flatten)]
    pub(crate) coverage: Coverage,
    /// The worst of the findings; null: there are none.
    pub(crate) severity: Option<String>,
    /// Nodes without a finding.
    pub(crate) healthy: usize,
    /// The worst first, then those that most nodes have.
    pub(crate) findings: Vec<FoldedFinding>,
    /// What could not be looked at, and where.
    pub(crate) could_not_look: Vec<FoldedUnseen>,
}

/// A finding that some nodes have.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct FoldedFinding {
    pub(crate) id: String,
    /// The worst of them.
    pub(crate) severity: String,
    /// As the first of the worst nodes says it, as the following.
    pub(crate) title: String,
    pub(crate) consequence: String,
    /// Where it is worst comes first.
    pub(crate) on: Vec<NodeFinding>,
    /// What to do: one for all nodes, or several where it is not the same.
    pub(crate) remedies: Vec<Remedy>,
}

/// A finding as one node has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct NodeFinding {
    pub(crate) node: String,
    pub(crate) severity: String,
    pub(crate) evidence: String,
}

/// What to do on these nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Remedy {
    pub(crate) nodes: Vec<String>,
    pub(crate) fix: Vec<String>,
    pub(crate) advice: String,
    pub(crate) cost: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct FoldedUnseen {
    pub(crate) what: String,
    pub(crate) because: String,
    pub(crate) help: String,
    pub(crate) on: Vec<String>,
}

impl DoctorView {
    pub(crate) fn new(coverage: Coverage, answers: &[OfNode<DoctorAnswer>]) -> Self {
        let mut by_id: BTreeMap<&str, Vec<(&str, &FindingAnswer)>> = BTreeMap::new();
        for OfNode { node, answer } in answers {
            for finding in &answer.findings {
                by_id.entry(&finding.id).or_default().push((node, finding));
            }
        }
        let mut findings: Vec<FoldedFinding> = by_id.into_values().filter_map(fold).collect();
        findings.sort_by_key(|finding| {
            let worst = severity(&finding.severity);
            (
                Reverse(worst),
                Reverse(finding.on.len()),
                finding.id.clone(),
            )
        });
        let healthy = answers.iter().filter(|it| it.answer.findings.is_empty());
        Self {
            format: 1,
            severity: findings.first().map(|finding| finding.severity.clone()),
            healthy: healthy.count(),
            findings,
            could_not_look: unseen(answers),
            coverage,
        }
    }

    /// Whether the exit status is to tell: something is lost or will be.
    pub(crate) fn is_bad(&self) -> bool {
        let worst = self.severity.as_deref();
        worst.is_some_and(|worst| severity(worst) >= severity("problem"))
    }
}

/// The same finding on all nodes that have it, at least one.
fn fold(mut of: Vec<(&str, &FindingAnswer)>) -> Option<FoldedFinding> {
    of.sort_by(|(node, finding), (other, another)| {
        severity(&another.severity)
            .cmp(&severity(&finding.severity))
            .then_with(|| by_name(node, other))
    });
    let (_, worst) = *of.first()?;
    let mut remedies: Vec<Remedy> = Vec::new();
    for (node, finding) in &of {
        let same = |it: &&mut Remedy| {
            it.fix == finding.fix && it.advice == finding.advice && it.cost == finding.cost
        };
        match remedies.iter_mut().find(same) {
            Some(remedy) => remedy.nodes.push((*node).to_owned()),
            None => remedies.push(Remedy {
                nodes: vec![(*node).to_owned()],
                fix: finding.fix.clone(),
                advice: finding.advice.clone(),
                cost: finding.cost.clone(),
            }),
        }
    }
    // What most nodes need comes first; of equals the one of the worst node.
    remedies.sort_by_key(|remedy| Reverse(remedy.nodes.len()));
    Some(FoldedFinding {
        id: worst.id.clone(),
        severity: worst.severity.clone(),
        title: worst.title.clone(),
        consequence: worst.consequence.clone(),
        on: of
            .iter()
            .map(|(node, finding)| NodeFinding {
                node: (*node).to_owned(),
                severity: finding.severity.clone(),
                evidence: finding.evidence.clone(),
            })
            .collect(),
        remedies,
    })
}

fn unseen(answers: &[OfNode<DoctorAnswer>]) -> Vec<FoldedUnseen> {
    let mut folded: BTreeMap<(&str, &str, &str), Vec<String>> = BTreeMap::new();
    for OfNode { node, answer } in answers {
        for it in &answer.could_not_look {
            let on = folded.entry((&it.what, &it.because, &it.help)).or_default();
            on.push(node.clone());
        }
    }
    folded
        .into_iter()
        .map(|((what, because, help), on)| FoldedUnseen {
            what: what.to_owned(),
            because: because.to_owned(),
            help: help.to_owned(),
            on,
        })
        .collect()
}
