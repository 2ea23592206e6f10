//! kube-proxy against the limit.

use ctpressure_model::words::grouped;

use super::limit;
use crate::doctor::{Facts, Finding, Severity};

/// A kube-proxy that sets the limit back when it starts.
pub(super) fn lowers_limit(facts: &Facts) -> Option<Finding> {
    let proxy = facts.proxy.as_ref()?;
    let current = facts.settings.limit.filter(|limit| *limit > 0)?;
    let wanted = proxy.wanted(facts.cpus?)?;
    if current <= wanted {
        return None;
    }
    let lowers = proxy.lowers();
    if lowers == Some(false) {
        return None;
    }
    let version = proxy
        .version
        .as_deref()
        .map_or_else(|| "of unknown version".to_owned(), str::to_owned);
    Some(Finding {
        id: "kube_proxy_lowers_limit",
        severity: if lowers.is_none() {
            Severity::Risk
        } else {
            Severity::Problem
        },
        title: "kube-proxy will lower the limit when it starts the next time".to_owned(),
        evidence: format!(
            "kube-proxy {version} (process {}) wants {} (maxPerCore {} at {} CPUs, min {}); in force \
             is {}. Up to 1.21 and from 1.29 on it sets what it wants even if that is less (kubernetes \
             PR 142035 ends that after 1.37)",
            proxy.process,
            grouped(wanted),
            grouped(proxy.max_per_core),
            facts.cpus?,
            grouped(proxy.min),
            grouped(current)
        ),
        consequence: format!(
            "after its next restart or update the table holds {} entries instead of {}, without a \
             word",
            grouped(wanted),
            grouped(current)
        ),
        fix: vec![
            "kubectl -n kube-system edit configmap kube-proxy".to_owned(),
            "kubectl -n kube-system rollout restart daemonset kube-proxy".to_owned(),
            limit::set(current),
        ],
        advice: format!(
            "In it set `conntrack: {{maxPerCore: 0}}`, which leaves the limit alone, or `min: {current}`. \
             Then set the limit once more, since the restart may still lower it."
        ),
        cost: "kube-proxy restarts on every node; connections are not touched".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{fine, made};
    use super::*;

    #[test]
    fn a_raised_limit() {
        let raise = |facts: &mut Facts| facts.settings.limit = Some(1_000_000);
        let version = |facts: &mut Facts, minor| {
            raise(facts);
            if let Some(proxy) = &mut facts.proxy {
                proxy.minor = minor;
            }
        };
        assert_eq!(made(lowers_limit, raise).severity, Severity::Problem);
        let unknown = made(lowers_limit, |facts| version(facts, None));
        assert_eq!(unknown.severity, Severity::Risk);
        fine(lowers_limit, |facts| version(facts, Some(28)));
        fine(lowers_limit, |facts| version(facts, Some(38)));
        fine(lowers_limit, |facts| {
            raise(facts);
            if let Some(proxy) = &mut facts.proxy {
                proxy.max_per_core = 0;
            }
        });
        fine(lowers_limit, |facts| {
            raise(facts);
            facts.proxy = None;
        });
    }
}
