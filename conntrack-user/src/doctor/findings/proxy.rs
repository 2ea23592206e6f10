//! kube-proxy against the limit.

use ctpressure_model::words::grouped;

use super::remedy::{Remedy, let_stand};
use crate::doctor::{Facts, Finding, Severity};

/// A kube-proxy that sets the limit back when it starts.
pub(super) fn lowers_limit(facts: &Facts) -> Option<Finding> {
    let proxy = facts.proxy.as_ref()?;
    let current = facts.settings.limit.filter(|limit| *limit > 0)?;
    let (wanted, settings) = (proxy.wanted(facts.cpus?)?, proxy.settings?);
    if current <= wanted {
        return None;
    }
    let lowers = proxy.lowers();
    if lowers == Some(false) {
        return None;
    }
    let Remedy { fix, advice, cost } = let_stand(proxy, current);
    Some(Finding {
        id: "kube_proxy_lowers_limit",
        severity: if lowers.is_none() {
            Severity::Risk
        } else {
            Severity::Problem
        },
        title: "kube-proxy will lower the limit when it starts the next time".to_owned(),
        evidence: format!(
            "{} (process {}) wants {} (maxPerCore {} at {} CPUs, min {}); in force is {}. Up to \
             1.21 and from 1.29 on it sets what it wants even if that is less (kubernetes PR 142035 ends that after 1.37)",
            proxy.words(),
            proxy.process,
            grouped(wanted),
            grouped(settings.max_per_core),
            facts.cpus?,
            grouped(settings.min),
            grouped(current)
        ),
        consequence: format!(
            "after its next restart or update the table holds {} entries instead of {}, without a \
             word",
            grouped(wanted),
            grouped(current)
        ),
        fix,
        advice,
        cost,
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{fine, made};
    use super::*;
    use crate::doctor::facts::Program;

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
            if let Some(settings) = facts
                .proxy
                .as_mut()
                .and_then(|proxy| proxy.settings.as_mut())
            {
                settings.max_per_core = 0;
            }
        });
        fine(lowers_limit, |facts| {
            raise(facts);
            if let Some(proxy) = &mut facts.proxy {
                proxy.settings = None;
            }
        });
        fine(lowers_limit, |facts| {
            raise(facts);
            facts.proxy = None;
        });
    }

    #[test]
    fn each_program_has_its_own_fix() {
        for (program, words) in [
            (Program::KubeProxy, "maxPerCore: 0"),
            (Program::Hyperkube, "hyperkube proxy"),
            (Program::Kubelite, "least"),
            (Program::K3s, "/etc/rancher/k3s/config.yaml"),
        ] {
            let found = made(lowers_limit, |facts| {
                facts.settings.limit = Some(1_000_000);
                if let Some(proxy) = &mut facts.proxy {
                    proxy.program = program;
                }
            });
            assert!(found.advice.contains(words), "{}", found.advice);
            let inside = program != Program::KubeProxy;
            assert_eq!(
                found.evidence.contains(&format!("inside {program}")),
                inside
            );
            assert_eq!(
                found.fix.iter().any(|line| line.contains("configmap")),
                !inside
            );
        }
    }
}
