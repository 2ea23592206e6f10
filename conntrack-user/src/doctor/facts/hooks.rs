//! What `ctpressure run` would see on this kernel, and what not.

use super::Facts;
use crate::{
    kernel::Root,
    probes::{self, AttachError, Options},
};

/// What it would come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HookOutlook {
    /// Why nothing could be attached.
    pub nothing: Option<(String, &'static str)>,
    /// What would not be seen, and why.
    pub missing: Vec<String>,
    /// For each event the mechanism and the function.
    pub hooks: Vec<String>,
}

pub(super) fn look(root: &Root, facts: &mut Facts) {
    facts.has_procfs = root.proc("self/net").exists().then(|| {
        root.proc("self/net/stat/nf_conntrack").exists()
            || root.proc("self/net/nf_conntrack").exists()
    });
    if !root.is_live() {
        return;
    }
    match probes::outlook(&Options::default()) {
        Ok(hooks) => {
            let mut outlook = HookOutlook::default();
            for hook in hooks {
                match (hook.mechanism, hook.reason) {
                    (Some(mechanism), _) => outlook
                        .hooks
                        .push(format!("{}: {mechanism} {}", hook.event, hook.function)),
                    (None, reason) => outlook.missing.push(reason.unwrap_or_default()),
                }
            }
            facts.hooks = Some(outlook);
            facts.looked.push("what ctpressure run would see");
        }
        // Whoever asks lacks the right, not the kernel.
        Err(error @ (AttachError::Capability { .. } | AttachError::NotPermitted { .. })) => {
            facts.could_not("what ctpressure run would see", &error, "run as root");
        }
        Err(AttachError::Symbols(error)) => {
            facts.could_not("what ctpressure run would see", &error, "run as root");
        }
        Err(error) => {
            let help = error.help();
            facts.hooks = Some(HookOutlook {
                nothing: Some((error.to_string(), help)),
                ..HookOutlook::default()
            });
        }
    }
}
