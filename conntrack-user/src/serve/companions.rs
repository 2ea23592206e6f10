//! What runs beside the agent: the journal, the watch of the Kubernetes API, its Events, the limit controller, the port. The agent knows
//! none of them; they follow it. Whoever answers questions about the node has a handle to each, and asks when it answers.

use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::{
    allowances::AllowanceWatch,
    containments::{ContainCounts, Containments},
    http::{PortHealth, PortStatus},
};
use crate::{
    kernel::allowances::InterfaceAllowances,
    kube_events::{self, EventsStatus},
    limit::{self, Control},
    owners::kube::{Kube, KubeStatus},
    recorder::{self, JournalStatus},
};

/// A handle to each that runs; `None`: it is off.
#[derive(Clone, Debug, Default)]
pub struct Companions {
    /// The flight recorder (`--journal`).
    pub journal: Option<Arc<recorder::Health>>,
    /// The watch of the Kubernetes API (`--kube`).
    pub kubernetes: Option<Kube>,
    /// The writing of Kubernetes Events.
    pub kubernetes_events: Option<Arc<kube_events::Health>>,
    /// The limit controller, unless it is off.
    pub limit: Option<Control>,
    /// The port of the metrics.
    pub http: Arc<PortHealth>,
    /// The watch of what the machine under the node allows.
    pub allowances: Arc<AllowanceWatch>,
    /// What `ctpressure contain` tells.
    pub containments: Arc<Containments>,
}

/// How they are now, as in `ctpressure status`; `None`: it is off.
#[derive(Clone, Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CompanionStatus {
    /// Whether the journal is written, and its size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub journal: Option<JournalStatus>,
    /// Whether the watch holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<KubeStatus>,
    /// How many Events were written and lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubernetes_events: Option<EventsStatus>,
    /// What the limit controller says, with the last changes of the limit.
    #[serde(rename = "limit_control", serialize_with = "shared")]
    #[cfg_attr(test, schemars(with = "Option<limit::Report>"))]
    pub limit: Option<Arc<limit::Report>>,
    /// Whether strangers crowd the port of the metrics.
    pub http: PortStatus,
    /// What the machine under the node allows, of each network device whose driver counts something.
    pub allowances: Vec<InterfaceAllowances>,
    /// How often somebody contained an owner by hand, as far as the agent was told.
    pub contain_actions: ContainCounts,
}

impl Companions {
    /// Asks each of them how it is.
    pub fn status(&self) -> CompanionStatus {
        CompanionStatus {
            journal: self.journal.as_ref().map(|journal| journal.status()),
            kubernetes: self.kubernetes.as_ref().map(Kube::status),
            kubernetes_events: self
                .kubernetes_events
                .as_ref()
                .map(|events| events.status()),
            limit: self.limit.as_ref().map(Control::report),
            http: self.http.status(),
            allowances: self.allowances.seen(),
            contain_actions: self.containments.counts(),
        }
    }
}

impl CompanionStatus {
    /// What is wrong with access to the Kubernetes API, or with the files of the port: gone when that is mended.
    pub fn problems(&self) -> impl Iterator<Item = &str> {
        let watch = self
            .kubernetes
            .as_ref()
            .and_then(|status| status.problem.as_deref());
        let events = self
            .kubernetes_events
            .as_ref()
            .and_then(|status| status.problem.as_deref());
        let port = self.http.problem.as_deref();
        watch.into_iter().chain(events).chain(port)
    }
}

/// The report itself: that it is shared concerns nobody outside.
#[expect(clippy::ref_option, reason = "serde hands it over so")]
fn shared<S: Serializer>(
    report: &Option<Arc<limit::Report>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    report.as_deref().serialize(serializer)
}
