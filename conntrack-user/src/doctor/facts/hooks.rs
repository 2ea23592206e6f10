//! What `ctpressure run` would see on this kernel, and what not.

use super::Facts;
use crate::{
    kernel::Root,
    probes::{self, AttachError, HookStatus, Options},
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

impl HookOutlook {
    fn of(hooks: Vec<HookStatus>) -> Self {
        let mut outlook = Self::default();
        for hook in hooks {
            let Some(mechanism) = hook.mechanism else {
                outlook.missing.push(hook.reason.unwrap_or_default());
                continue;
            };
            let hook = format!("{}: {mechanism} {}", hook.event, hook.function);
            // Two programs may be at one function, at its entry and at its return.
            if !outlook.hooks.contains(&hook) {
                outlook.hooks.push(hook);
            }
        }
        outlook
    }
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
            facts.hooks = Some(HookOutlook::of(hooks));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probes::Mechanism;

    #[test]
    fn a_function_with_a_program_at_each_end_is_one_hook() {
        let hook = |event, function: &str, at_return| HookStatus {
            event,
            function: function.to_owned(),
            mechanism: Some(Mechanism::Fentry),
            at_return,
            module: None,
            waits: false,
            attached: false,
            reason: None,
        };
        let unseen = HookStatus {
            mechanism: None,
            reason: Some("no function".to_owned()),
            ..hook("confirm", "", true)
        };
        let outlook = HookOutlook::of(vec![
            hook("early_drop", "early_drop", true),
            hook("early_drop", "early_drop", false),
            hook("delete", "nf_ct_delete", false),
            unseen,
        ]);
        assert_eq!(
            outlook.hooks,
            [
                "early_drop: fentry early_drop",
                "delete: fentry nf_ct_delete"
            ]
        );
        assert_eq!(outlook.missing, ["no function"]);
    }
}
