//! kube-proxy against the limit.

use ctpressure_model::words::grouped;

use super::remedy::{Remedy, left_alone, let_stand};
use crate::doctor::{Facts, Finding, Severity};

/// A kube-proxy that sets the limit back when it starts.
pub(super) fn lowers_limit(facts: &Facts) -> Option<Finding> {
    let proxy = facts.proxy.as_ref()?;
    let current = facts.settings.limit.filter(|limit| *limit > 0)?;
    let (wanted, settings) = (proxy.wanted(facts.cpus?)?, proxy.settings?);
    if current <= wanted || facts.place.standpoint.is_without_limit() {
        return None;
    }
    let lowers = proxy.lowers();
    if lowers == Some(false) {
        return None;
    }
    let Remedy { fix, advice, cost } = let_stand(facts.place, proxy, current);
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
            "after its next restart or update the table holds {} entries instead of {}, silently",
            grouped(wanted),
            grouped(current)
        ),
        fix,
        advice,
        cost,
    })
}

/// Buckets for this limit, as kube-proxy wants them at least.
const fn wanted_buckets(limit: u64) -> u64 {
    limit / 4
}

/// A kube-proxy in a network namespace from which the kernel lets nobody set the limit and the buckets, which wants others: it ends
/// with an error ([on LXC](https://github.com/kubernetes/kubernetes/issues/141943),
/// [in kind](https://github.com/kubernetes-sigs/kind/issues/2240)).
pub(super) fn cannot_set_limit(facts: &Facts) -> Option<Finding> {
    let proxy = facts.proxy.as_ref()?;
    let current = facts.settings.limit?;
    let wanted = proxy.wanted(facts.cpus?)?;
    let leaves_it = wanted == current || (wanted < current && proxy.lowers() == Some(false));
    let has_buckets = facts.settings.buckets? >= wanted_buckets(wanted);
    if !facts.place.standpoint.is_without_limit() || (leaves_it && has_buckets) {
        return None;
    }
    let Remedy { fix, advice, cost } = left_alone(facts.place, proxy, current);
    Some(Finding {
        id: "kube_proxy_cannot_set_limit",
        severity: Severity::Problem,
        title: "kube-proxy wants a limit that it cannot set here, and fails when it starts".to_owned(),
        evidence: format!(
            "{} (process {}) wants {} and {} buckets, in force are {} and {}; this is not the host's network namespace, and in \
             another one they are read-only",
            proxy.words(),
            proxy.process,
            grouped(wanted),
            grouped(wanted_buckets(wanted)),
            grouped(current),
            grouped(facts.settings.buckets?)
        ),
        consequence: "at its next start kube-proxy ends with \"permission denied\" or \"operation not supported\" \
                      (CrashLoopBackOff), and Services are not updated on this node any more"
            .to_owned(),
        fix,
        advice: format!(
            "{advice} Or give the host the limit and the buckets that kube-proxy wants: then it has nothing to set."
        ),
        cost,
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{fine, made};
    use super::*;
    use crate::doctor::facts::{Keeper, Program, Standpoint};

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
    fn a_limit_that_is_the_hosts() {
        let nested = |facts: &mut Facts| facts.place.standpoint = Standpoint::NestedNode;
        for limit in [4_096, 1_000_000] {
            let found = made(cannot_set_limit, |facts| {
                nested(facts);
                facts.settings.limit = Some(limit);
            });
            assert!(
                !found.fix.iter().any(|line| line.contains("sysctl")),
                "{found:?}"
            );
            assert!(found.advice.contains("maxPerCore: 0"), "{found:?}");
        }
        // It is what it wants, it only raises, or it is the machine's own namespace.
        fine(cannot_set_limit, nested);
        fine(cannot_set_limit, |facts| {
            nested(facts);
            facts.settings.limit = Some(1_000_000);
            if let Some(proxy) = &mut facts.proxy {
                proxy.minor = Some(25);
            }
        });
        fine(cannot_set_limit, |facts| facts.settings.limit = Some(4_096));
        fine(lowers_limit, |facts| {
            nested(facts);
            facts.settings.limit = Some(1_000_000);
        });
    }

    #[test]
    fn who_can_tell_it_nothing_is_not_told_to_restart_it() {
        for keeper in [Keeper::Gke, Keeper::Aks] {
            let found = made(lowers_limit, |facts| {
                facts.settings.limit = Some(1_000_000);
                facts.place.keeper = keeper;
            });
            assert_eq!(
                found.fix,
                ["sysctl -w net.netfilter.nf_conntrack_max=1000000"]
            );
            assert!(!found.advice.contains("restart"), "{}", found.advice);
        }
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
