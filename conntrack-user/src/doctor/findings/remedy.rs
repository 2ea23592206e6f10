//! What is to be done about the limit, and about a kube-proxy that gives it.

use crate::doctor::{
    Facts,
    facts::{KubeProxy, Program},
};

/// The command that sets the limit.
pub(super) fn set(limit: u64) -> String {
    format!("sysctl -w net.netfilter.nf_conntrack_max={limit}")
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
    fix.push(set(limit));
    Remedy {
        fix,
        advice,
        cost: cost.to_owned(),
    }
}

/// The kube-proxy that gives just the limit that is in force.
pub(super) fn giving(facts: &Facts) -> Option<&KubeProxy> {
    let (proxy, limit) = (facts.proxy.as_ref()?, facts.settings.limit?);
    (proxy.wanted(facts.cpus?)? == limit).then_some(proxy)
}
