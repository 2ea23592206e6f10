//! What makes entries larger and dearer.

use ctpressure_model::{
    cost::EXTENSION_BYTES,
    words::{bytes, grouped, share},
};

use crate::doctor::{Facts, Finding, Severity, thresholds};

/// Programs that listen for conntrack events.
pub(super) fn listeners(facts: &Facts) -> Option<Finding> {
    let limit = facts.settings.limit?;
    if facts.settings.get("events")? == 0 || facts.listeners.is_empty() {
        return None;
    }
    let mut names: Vec<String> = facts
        .listeners
        .iter()
        .map(|listener| match &listener.process {
            Some((process, name)) => format!("{name} (process {process})"),
            None => format!("a socket in network namespace {}", listener.netns),
        })
        .collect();
    names.dedup();
    let more = names.len().saturating_sub(5);
    names.truncate(5);
    if more > 0 {
        names.push(format!("{more} more"));
    }
    Some(Finding {
        id: "event_listeners",
        severity: Severity::Risk,
        title: "programs listen for conntrack events, which makes every connection more expensive"
            .to_owned(),
        evidence: format!("listening: {}", names.join(", ")),
        consequence: format!(
            "each new entry of every network namespace has {EXTENSION_BYTES} bytes more (up to {} at the \
             limit), and each new connection costs about three times the instructions while its \
             event is made",
            bytes(limit * EXTENSION_BYTES)
        ),
        fix: Vec::new(),
        advice: "If they are only there to count: counters need no events (`ctpressure run`). \
                 conntrackd and flow exporters need them."
            .to_owned(),
        cost: "the listeners get no more events".to_owned(),
    })
}

/// Accounting and time stamps, where they take much.
pub(super) fn extensions(facts: &Facts) -> Option<Finding> {
    let limit = facts.settings.limit?;
    let memory = facts.memory?;
    let on: Vec<&str> = ["acct", "timestamp"]
        .into_iter()
        .filter(|name| facts.settings.is_on(name))
        .collect();
    let more = limit * EXTENSION_BYTES;
    if on.is_empty() || more < memory / 100 * thresholds::EXTENSION_RISK {
        return None;
    }
    Some(Finding {
        id: "entry_extensions",
        severity: Severity::Risk,
        title: "connection accounting makes every entry half as large again".to_owned(),
        evidence: format!(
            "on: {}; at the limit of {} entries that is {} ({} of RAM)",
            on.iter()
                .map(|name| format!("nf_conntrack_{name}"))
                .collect::<Vec<_>>()
                .join(" and "),
            grouped(limit),
            bytes(more),
            share(more, memory)
        ),
        consequence: "memory that the kernel can't reclaim, and a second allocation for each new \
                      connection"
            .to_owned(),
        fix: on
            .iter()
            .map(|name| format!("sysctl -w net.netfilter.nf_conntrack_{name}=0"))
            .collect(),
        advice: "Find out who switched it on: some network plugins and exporters need it."
            .to_owned(),
        cost: "no packets, bytes or start times of connections".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{fine, made};
    use super::*;
    use crate::doctor::facts::Listener;

    fn listen(facts: &mut Facts, process: Option<(u32, String)>) {
        facts.listeners.push(Listener {
            netns: "host".to_owned(),
            process,
        });
    }

    #[test]
    fn who_listens() {
        let finding = made(listeners, |facts| {
            listen(facts, Some((77, "conntrack".to_owned())));
            listen(facts, None);
        });
        assert_eq!(
            finding.evidence,
            "listening: conntrack (process 77), a socket in network namespace host"
        );
        let many = made(listeners, |facts| {
            for process in 0..9 {
                listen(facts, Some((process, "flows".to_owned())));
            }
        });
        assert!(many.evidence.ends_with("4 more"), "{many:?}");
        fine(listeners, |facts| {
            listen(facts, None);
            facts.settings.values.insert("events", 0);
        });
    }

    #[test]
    fn accounting_where_it_matters() {
        let finding = made(extensions, |facts| {
            facts.settings.values.insert("acct", 1);
            facts.settings.limit = Some(1_048_576);
        });
        assert_eq!(finding.fix, ["sysctl -w net.netfilter.nf_conntrack_acct=0"]);
        fine(extensions, |facts| {
            facts.settings.values.insert("acct", 1);
        });
    }
}
