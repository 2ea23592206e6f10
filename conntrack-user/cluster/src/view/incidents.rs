//! `incidents`: the journals of all nodes in one list.

use serde::Serialize;

use super::{
    fold::FoldedIncident,
    journal::{Asked, Journal, notes},
};
use crate::coverage::Coverage;

/// The list.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct IncidentsView {
    /// Version of this form: 1.
    pub(crate) format: u32,
    #[serde(flatten)]
    pub(crate) coverage: Coverage,
    #[serde(flatten)]
    pub(crate) asked: Asked,
    /// The newest first.
    pub(crate) incidents: Vec<FoldedIncident>,
}

impl IncidentsView {
    pub(crate) fn new(mut coverage: Coverage, asked: Asked, journals: Vec<Journal>) -> Self {
        coverage.notes.extend(notes(asked, &journals));
        let incidents = journals
            .into_iter()
            .flat_map(|journal| journal.answer.incidents);
        Self {
            format: 1,
            coverage,
            asked,
            incidents: super::fold::fold(incidents.collect()),
        }
    }
}
