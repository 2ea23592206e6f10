//! What can't be observed on this kernel, by ctpressure and by others.

use crate::doctor::{Facts, Finding, Severity};

/// A kernel without `CONFIG_NF_CONNTRACK_PROCFS`.
pub(super) fn no_statistics_file(facts: &Facts) -> Option<Finding> {
    if facts.has_procfs? {
        return None;
    }
    Some(Finding {
        id: "no_statistics_file",
        severity: Severity::Risk,
        title: "this kernel has no /proc/net/stat/nf_conntrack".to_owned(),
        evidence: "neither it nor /proc/net/nf_conntrack is there, though conntrack is loaded: \
                   CONFIG_NF_CONNTRACK_PROCFS is off, as in Ubuntu's generic kernels"
            .to_owned(),
        consequence:
            "node_exporter and others that read that file show no drops, ever: their alerts \
                      stay silent"
                .to_owned(),
        fix: vec!["ctpressure run --node-exporter-names".to_owned()],
        advice:
            "It asks by netlink, and exports the same names; or use another kernel (for example \
                 linux-gke)."
                .to_owned(),
        cost: "the agent on each node".to_owned(),
    })
}

/// `ctpressure run` can do nothing here.
pub(super) fn cannot_attach(facts: &Facts) -> Option<Finding> {
    let (why, help) = facts.hooks.as_ref()?.nothing.clone()?;
    Some(Finding {
        id: "nothing_to_attach",
        severity: Severity::Risk,
        title: "ctpressure run can't attach anything on this kernel".to_owned(),
        evidence: why,
        consequence: "it shows tables and the kernel's own statistics; no owners, no single drops"
            .to_owned(),
        fix: Vec::new(),
        advice: help.to_owned(),
        cost: "another kernel or a mount".to_owned(),
    })
}

/// Some events have no hook here.
pub(super) fn missing_hooks(facts: &Facts) -> Option<Finding> {
    let outlook = facts.hooks.as_ref()?;
    if outlook.missing.is_empty() {
        return None;
    }
    Some(Finding {
        id: "events_not_seen",
        severity: Severity::Risk,
        title: "ctpressure run would not see everything on this kernel".to_owned(),
        evidence: outlook.missing.join("; "),
        consequence: "those counts and events are missing, and are shown as such".to_owned(),
        fix: Vec::new(),
        advice:
            "Another kernel offers more (BTF of modules, 5.15 or later); the agent works without."
                .to_owned(),
        cost: "another kernel".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{fine, made};
    use super::*;

    #[test]
    fn without_the_file() {
        let finding = made(no_statistics_file, |facts| facts.has_procfs = Some(false));
        assert_eq!(finding.severity, Severity::Risk);
        fine(no_statistics_file, |facts| facts.has_procfs = None);
    }

    #[test]
    fn what_run_would_not_see() {
        made(missing_hooks, |facts| {
            if let Some(hooks) = &mut facts.hooks {
                hooks.missing.push("inserts are not counted".to_owned());
            }
        });
        made(cannot_attach, |facts| {
            if let Some(hooks) = &mut facts.hooks {
                hooks.nothing =
                    Some(("no usable BTF at /nonexistent".to_owned(), "another kernel"));
            }
        });
        fine(missing_hooks, |facts| facts.hooks = None);
        fine(cannot_attach, |facts| facts.hooks = None);
    }
}
