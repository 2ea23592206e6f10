//! What is attached, for `ctpressure status`.

use serde::Serialize;

use super::{Mechanism, arming::ArmingStatus};

/// One hook, or an event for which there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct HookStatus {
    /// Which event the hook sees.
    pub event: &'static str,
    /// The kernel function, with its suffix if it has one.
    pub function: String,
    /// `None` if nothing is attached.
    pub mechanism: Option<Mechanism>,
    /// At the function's return instead of its entry.
    pub at_return: bool,
    /// The function's module; `None`: built in.
    pub module: Option<String>,
    /// Whether the event is seen.
    pub attached: bool,
    /// It is not attached, since it is not needed now: see `arming` in `/status`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub waits: bool,
    /// Why nothing is attached, or why earlier candidates were passed over.
    pub reason: Option<String>,
}

/// One kernel field that the programs read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct FieldStatus {
    /// The structure and its members, `nf_conn.status`.
    pub field: String,
    /// In bytes; `None`: this kernel does not have it.
    pub offset: Option<u32>,
    /// What is not known without it.
    pub purpose: &'static str,
    /// Why it was not found.
    pub reason: Option<String>,
}

/// The probes, for `ctpressure status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ProbeStatus {
    /// Attached hooks and missing events, in the order of the plan.
    pub hooks: Vec<HookStatus>,
    /// Whether those are attached that only matter while a table fills; `None`: nothing is attached.
    pub(crate) arming: Option<ArmingStatus>,
    /// Every field that is looked up.
    pub fields: Vec<FieldStatus>,
}

impl ProbeStatus {
    /// The events that are not seen.
    pub fn missing(&self) -> impl Iterator<Item = &HookStatus> {
        self.hooks
            .iter()
            .filter(|hook| !hook.attached && !hook.waits)
    }
}

/// What a program has cost; known only while `kernel.bpf_stats_enabled` is 1.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ProgramTime {
    /// The program's name in the eBPF object.
    pub program: &'static str,
    /// The function that it is in.
    pub function: String,
    /// Time that it ran, in seconds, over all CPUs.
    pub seconds: f64,
    /// Times that it ran.
    pub runs: u64,
}
