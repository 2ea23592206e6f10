//! kube-proxy against the limit.

use ctpressure_model::words::grouped;

use super::limit;
use crate::doctor::{
    Facts, Finding, Severity,
    facts::{KubeProxy, Program},
};

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
            "{} (process {}) wants {} (maxPerCore {} at {} CPUs, min {}); in force is {}. Up to 1.21 and from 1.29 on it sets what it wants even if that is less (kubernetes \
             PR 142035 ends that after 1.37)",
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

/// What is to be done about a kube-proxy, and what that costs.
pub(super) struct Remedy {
    pub(super) fix: Vec<String>,
    pub(super) advice: String,
    pub(super) cost: String,
}

/// Has kube-proxy let a limit stand, where it is told what to do.
pub(super) fn let_stand(proxy: &KubeProxy, limit: u64) -> Remedy {
    let (mut fix, advice, cost) = match proxy.program {
        Program::KubeProxy => (
            vec![
                "kubectl -n kube-system edit configmap kube-proxy".to_owned(),
                "kubectl -n kube-system rollout restart daemonset kube-proxy".to_owned(),
            ],
            format!(
                "In it set `conntrack: {{maxPerCore: 0}}`, which leaves the limit alone, or `min: {limit}`. \
                 Then set the limit once more, since the restart may still lower it."
            ),
            "kube-proxy restarts on every node; connections are not touched",
        ),
        Program::Hyperkube => (
            Vec::new(),
            format!(
                "Where `hyperkube proxy` is started add `--conntrack-max-per-core=0`, which leaves the limit alone, or \
                 `--conntrack-min={limit}`, and start it again. Then set the limit once more, since the restart may still lower it."
            ),
            "kube-proxy restarts on this node; connections are not touched",
        ),
        Program::Kubelite => (
            vec![
                "echo --conntrack-max-per-core=0 >> /var/snap/microk8s/current/args/kube-proxy"
                    .to_owned(),
                "snap restart microk8s.daemon-kubelite".to_owned(),
            ],
            format!(
                "That leaves the limit alone; `--conntrack-min={limit}` would be the least. Each node has such a file. Then set the \
                 limit once more, since the restart may still lower it."
            ),
            "the kubelet and the control plane of this node restart with it; connections are not touched",
        ),
        Program::K3s => (
            vec!["systemctl restart k3s || systemctl restart k3s-agent".to_owned()],
            format!(
                "Before that write `kube-proxy-arg: [conntrack-max-per-core=0]`, which leaves the limit alone, or \
                 `[conntrack-min={limit}]`, into /etc/rancher/k3s/config.yaml of each node. Then set the limit once more, since the \
                 restart may still lower it."
            ),
            "k3s restarts on this node; pods and connections are not touched",
        ),
    };
    fix.push(limit::set(limit));
    Remedy {
        fix,
        advice,
        cost: cost.to_owned(),
    }
}

/// The kube-proxy that gives just the limit that is in force.
pub(super) fn giving(facts: &Facts) -> Option<&KubeProxy> {
    let proxy = facts.proxy.as_ref()?;
    (proxy.wanted(facts.cpus?) == facts.settings.limit).then_some(proxy)
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
