//! What is read of the journals of nodes: incidents, and what their own reports say of them.

use ctpressure_model::words::{
    plural,
    time::{Moment, parse, serialize_known_seconds, serialize_seconds},
};
use serde::Serialize;

use super::OfNode;
use crate::{
    coverage::Why,
    shapes::{IncidentAnswer, ListAnswer, ReportAnswer, Who},
};

/// A span of time, seconds of Unix time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Asked {
    #[serde(serialize_with = "serialize_seconds")]
    pub(crate) since: u64,
    #[serde(serialize_with = "serialize_seconds")]
    pub(crate) until: u64,
}

/// An incident of one node.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct NodeIncident {
    pub(crate) node: String,
    /// By which `ctpressure report --incident` of that node knows it.
    pub(crate) number: u64,
    /// Whose table: `host`, a pod, or what its namespace is kept as.
    pub(crate) table: String,
    #[serde(serialize_with = "serialize_seconds")]
    pub(crate) began: u64,
    /// The second after its last one.
    #[serde(serialize_with = "serialize_seconds")]
    pub(crate) ended: u64,
    /// It was not calm again when the journal was read.
    pub(crate) open: bool,
    pub(crate) pressure: Option<String>,
    pub(crate) entries: u64,
    /// 0: none, or not known.
    pub(crate) limit: u64,
    /// Packets lost.
    pub(crate) drops: u64,
    /// Live entries removed to make room.
    pub(crate) evictions: u64,
    #[serde(serialize_with = "serialize_known_seconds")]
    pub(crate) first_drop: Option<u64>,
    /// Why it happened; null: that was not asked for, or not told.
    pub(crate) told: Option<Told>,
}

/// What the node's own report says of an incident.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Told {
    pub(crate) cause: String,
    /// The cause as the end of a sentence.
    pub(crate) why: String,
    /// Who held most of the table at the peak; null: nobody that is known.
    pub(crate) who: Option<Who>,
    /// Its part of the entries at the peak, 0 to 1.
    pub(crate) share: Option<f64>,
    /// Cause, owner and remedy, a sentence each.
    pub(crate) summary: Vec<String>,
    #[serde(skip)]
    pub(crate) report: Box<Details>,
}

/// What the cluster's report makes more of.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Details {
    pub(crate) advice: Vec<AdviceOfNode>,
    /// Who lost something: packets, entries.
    pub(crate) suffered: Vec<(Who, u64, u64)>,
    /// Bytes of the limit that would have held, at least and at most.
    pub(crate) bytes: Option<(u64, u64)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AdviceOfNode {
    pub(crate) rule: String,
    pub(crate) text: String,
    pub(crate) set: Option<(String, u64)>,
}

/// The time in an answer.
fn second(what: &str, text: &str) -> Result<u64, Why> {
    match parse(text) {
        Ok(Moment::At(second)) => Ok(second),
        _ => Err(Why::new(
            &format!("its answer can't be used: {what} is no time but {text:?}"),
            "is that agent of another version?",
        )),
    }
}

impl NodeIncident {
    fn new(node: &str, of: IncidentAnswer) -> Result<Self, Why> {
        let first_drop = of.first_drop.as_deref();
        Ok(Self {
            node: node.to_owned(),
            number: of.number,
            began: second("`began`", &of.began)?,
            ended: second("`ended`", &of.ended)?,
            first_drop: first_drop
                .map(|it| second("`first_drop`", it))
                .transpose()?,
            table: of.table_name,
            open: of.open,
            pressure: of.pressure,
            entries: of.entries,
            limit: of.limit,
            drops: of.drops,
            evictions: of.evictions,
            told: None,
        })
    }

    /// What it cost: what was lost, then how full it was.
    pub(crate) fn gravity(&self) -> (u64, u64) {
        (self.drops.saturating_add(self.evictions), self.entries)
    }

    /// Takes over what the node's report says of it.
    ///
    /// # Errors
    /// If that is about another incident: there may be a newer one meanwhile.
    pub(crate) fn learn(&mut self, report: ReportAnswer) -> Result<(), Why> {
        let began = second("`time`", &report.time[0])?;
        if (began, &report.table.name) != (self.began, &self.table) {
            let why = format!("incident {} is another one by now", self.number);
            return Err(Why::new(&why, "ask again"));
        }
        let foremost = report.filled_by.first();
        self.told = Some(Told {
            cause: report.cause.kind,
            why: report.cause.why,
            who: foremost.map(crate::shapes::FillerAnswer::who),
            share: foremost.map(|it| it.share),
            summary: report.summary,
            report: Box::new(Details {
                advice: report
                    .advice
                    .into_iter()
                    .map(|it| AdviceOfNode {
                        rule: it.rule,
                        text: it.text,
                        set: it.set,
                    })
                    .collect(),
                suffered: report
                    .suffered
                    .iter()
                    .map(|it| (it.who(), it.drops.values().sum(), it.evicted))
                    .collect(),
                bytes: report.limit_that_holds_bytes.map(|it| (it.least, it.most)),
            }),
        });
        Ok(())
    }
}

/// The incidents of a node that were not over before the time that is asked about, and the begin of its journal.
///
/// # Errors
/// If a time in it can't be read.
pub(crate) fn of_node(
    node: &str,
    list: ListAnswer,
    asked: Asked,
) -> Result<(Vec<NodeIncident>, u64), Why> {
    let since = second("`since`", &list.since)?;
    second("`until`", &list.until)?;
    let incidents = list
        .incidents
        .into_iter()
        .map(|it| NodeIncident::new(node, it));
    let mut incidents = incidents.collect::<Result<Vec<_>, _>>()?;
    incidents.retain(|it| it.ended > asked.since && it.began < asked.until);
    Ok((incidents, since))
}

/// What was read of one node's journal.
pub(crate) type Journal = OfNode<JournalAnswer>;

pub(crate) struct JournalAnswer {
    pub(crate) incidents: Vec<NodeIncident>,
    /// Its first second.
    pub(crate) since: u64,
    /// Why causes of incidents were not told.
    pub(crate) untold: Vec<String>,
}

/// What to know about the list.
pub(crate) fn notes(asked: Asked, journals: &[Journal]) -> Vec<String> {
    let mut notes = Vec::new();
    let late: Vec<&str> = journals
        .iter()
        .filter(|it| it.answer.since > asked.since)
        .map(|it| it.node.as_str())
        .collect();
    if !late.is_empty() {
        notes.push(format!(
            "What was recorded of {} begins after the time that was asked for: {}.",
            plural(late.len() as u64, "node", "nodes"),
            crate::coverage::names(late)
        ));
    }
    let all = journals.iter().flat_map(|it| &it.answer.incidents);
    let untold = all.filter(|incident| incident.told.is_none()).count();
    if untold > 0 {
        let why = journals
            .iter()
            .find_map(|it| Some((&it.node, it.answer.untold.first()?)));
        let why = why.map_or_else(String::new, |(node, why)| format!(" ({node}: {why})"));
        notes.push(format!(
            "Without a cause, which was not asked for or not told{why}: {}. These are folded by time and table only.",
            plural(untold as u64, "incident", "incidents")
        ));
    }
    let bare = journals.iter().filter(|it| {
        it.answer.incidents.iter().any(|incident| {
            let who = incident.told.as_ref().and_then(|told| told.who.as_ref());
            who.is_some_and(Who::is_bare_pod)
        })
    });
    let bare = bare.count();
    if bare > 0 {
        notes.push(format!(
            "The journals of {} know no workloads, so pods stand by themselves: `run --kube` tells them.",
            plural(bare as u64, "node", "nodes")
        ));
    }
    notes
}
