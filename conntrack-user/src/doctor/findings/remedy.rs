//! What is to be done about the limit, and about a kube-proxy that gives it.

use ctpressure_model::{
    verdict::{Verdict, VerdictKind, limit_for},
    words::{grouped, list},
};

use crate::{
    doctor::{
        Facts, Finding,
        facts::{Keeper, KubeProxy, Place, Program},
    },
    kernel::tables::HOST_NAME,
    owners::as_argument,
};

/// The version of kube-proxy (1.x) from which on it reads all entries to clean up those of servers that are gone.
const RECONCILES: u32 = 32;

/// Limits that are worked out are multiples of this.
const ROUND: u64 = 1_024;

/// What the names of conntrack's sysctls begin with.
pub(super) const SYSCTLS: &str = "net.netfilter.";

/// The command that sets the limit.
pub(super) fn set(limit: u64) -> String {
    format!("sysctl -w {SYSCTLS}nf_conntrack_max={limit}")
}

/// What this many entries cost.
pub(super) fn cost_of(facts: &Facts, limit: u64) -> String {
    let memory = facts.entry_cost().bytes(limit, 0).in_words();
    let proxy = facts.proxy.as_ref().and_then(|proxy| proxy.minor);
    let reconciles = if proxy.is_some_and(|minor| minor >= RECONCILES) {
        "; kube-proxy lists the whole table from 1.32 on, and grows slower and larger with it"
    } else {
        ""
    };
    format!("{memory} of kernel memory in each table that fills up{reconciles}")
}

/// What is to be done, and what that costs.
pub(super) struct Remedy {
    pub(super) fix: Vec<String>,
    pub(super) advice: String,
    pub(super) cost: String,
}

/// Twice the limit for a table that is short of room; `then`: what else to do. Nothing where that would only hold more of what it is full
/// of, or where it is not known what that is.
pub(super) fn more_room(facts: &Facts, table: &str, then: &str) -> Remedy {
    let more = facts.settings.limit.unwrap_or_default().saturating_mul(2);
    let raised = |to, advice| Remedy {
        fix: vec![set(to)],
        advice,
        cost: cost_of(facts, to),
    };
    let (not_now, cost) = match facts.verdicts(table) {
        Some(verdicts) if verdicts.is_empty() => return raised(more, then.to_owned()),
        Some(verdicts) => match limit_beside(facts, table) {
            Some(to) => {
                let besides = findings_on(&verdicts);
                let advice =
                    format!("That is for what is needed: {besides} does not count. {then}");
                return raised(to, advice);
            }
            None => (only_more_of(&verdicts), "none: the limit stays as it is"),
        },
        None => {
            let raise = if facts.place.standpoint.is_without_limit() {
                format!("a limit of {}, set on the host", grouped(more))
            } else {
                format!("`{}`", set(more))
            };
            let netns = facts.counts.netns_of(table);
            let argument = as_argument(table, netns.unwrap_or_default());
            let look = format!(
                "Its content was not checked, and a flood fills any limit: `ctpressure table --netns \
                 {argument}` says so. Then, if it is not: {raise}."
            );
            (look, "none: it only reads")
        }
    };
    Remedy {
        fix: Vec::new(),
        advice: format!("{not_now} {then}"),
        cost: cost.to_owned(),
    }
}

/// What the finding on a verdict is called.
pub(super) const fn finding_on(verdict: &Verdict) -> &'static str {
    match verdict.kind {
        VerdictKind::Held => "entries_held",
        VerdictKind::Overlay { .. } => "overlay_tracked",
        VerdictKind::Flood { .. } => "one_way_flood",
    }
}

/// The limit in which what is needed of a table fits, beside what it is full of; `None`: it fits as it is.
fn limit_beside(facts: &Facts, table: &str) -> Option<u64> {
    let makeup = facts.makeup.iter().find(|makeup| makeup.table == table)?;
    let to = limit_for(makeup.composition.needed());
    (to > facts.settings.limit?).then(|| to.next_multiple_of(ROUND))
}

/// What verdicts are about, and their findings.
fn findings_on(verdicts: &[Verdict]) -> String {
    let which: Vec<_> = verdicts
        .iter()
        .map(|verdict| format!("{} (finding `{}`)", verdict.which(), finding_on(verdict)))
        .collect();
    list(&which)
}

/// Why there is to be no more room.
fn only_more_of(verdicts: &[Verdict]) -> String {
    format!(
        "A higher limit would only hold more of {}.",
        findings_on(verdicts)
    )
}

/// Takes a raise out of what a finding advises, while the host's table is full of what a higher limit would only hold more of.
pub(super) fn withhold_raise(facts: &Facts, finding: &mut Finding) {
    let verdicts = facts.verdicts(HOST_NAME).unwrap_or_default();
    let limit = facts.settings.limit.unwrap_or_default();
    let begin = format!("sysctl -w {SYSCTLS}nf_conntrack_max=");
    let raises = |line: &String| {
        let to = line
            .strip_prefix(&begin)
            .and_then(|to| to.parse::<u64>().ok());
        to.is_some_and(|to| to > limit)
    };
    let is_needed = limit_beside(facts, HOST_NAME).is_some();
    if verdicts.is_empty() || is_needed || !finding.fix.iter().any(raises) {
        return;
    }
    finding.fix.retain(|line| !raises(line));
    let rest = if finding.fix.is_empty() {
        "When that is fixed, run the doctor again."
    } else {
        &finding.advice
    };
    finding.advice = format!("No raise yet. {} {rest}", only_more_of(&verdicts));
}

/// Has kube-proxy let a limit stand, and sets it once more.
pub(super) fn let_stand(place: Place, proxy: &KubeProxy, limit: u64) -> Remedy {
    let mut remedy = left_alone(place, proxy, limit);
    remedy.fix.push(set(limit));
    remedy.advice += " Then set the limit once more, since kube-proxy may still have lowered it when it last started.";
    remedy
}

/// Has kube-proxy leave the limit alone, where it is told what to do.
pub(super) fn left_alone(place: Place, proxy: &KubeProxy, limit: u64) -> Remedy {
    let (fix, advice, cost) = match proxy.program {
        Program::KubeProxy if matches!(place.keeper, Keeper::Gke | Keeper::Aks) => (
            Vec::new(),
            format!(
                "The provider runs this kube-proxy, and what it is told is not yours to change. `ctpressure run --limit-controller \
                 on --min-limit {limit}` holds the limit against it."
            ),
            "none but the memory of entries",
        ),
        Program::KubeProxy if proxy.config.is_none() => (
            Vec::new(),
            format!(
                "It was told by flags: where it is started (a DaemonSet, the manifest of a static pod, a unit; on RKE2 \
                 `kube-proxy-arg` in /etc/rancher/rke2/config.yaml) set `--conntrack-max-per-core=0`, which leaves the limit alone, \
                 or `--conntrack-min={limit}`, and start it again."
            ),
            "kube-proxy restarts; connections are not touched",
        ),
        Program::KubeProxy => (
            vec![
                format!(
                    "kubectl -n kube-system edit configmap {}",
                    config_map(proxy)
                ),
                "kubectl -n kube-system rollout restart daemonset kube-proxy".to_owned(),
            ],
            format!(
                "In it set `conntrack: {{maxPerCore: 0}}`, which leaves the limit alone, or `min: {limit}`."
            ),
            "kube-proxy restarts on every node; connections are not touched",
        ),
        Program::Hyperkube => (
            Vec::new(),
            format!(
                "Where `hyperkube proxy` is started add `--conntrack-max-per-core=0`, which leaves the limit alone, or \
                 `--conntrack-min={limit}`, and start it again."
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
                "That leaves the limit alone; `--conntrack-min={limit}` would be the least. Each node has such a file."
            ),
            "the kubelet and the control plane of this node restart with it; connections are not touched",
        ),
        Program::K3s => (
            vec!["systemctl restart k3s || systemctl restart k3s-agent".to_owned()],
            format!(
                "Before that write `kube-proxy-arg: [conntrack-max-per-core=0]`, which leaves the limit alone, or \
                 `[conntrack-min={limit}]`, into /etc/rancher/k3s/config.yaml of each node."
            ),
            "k3s restarts on this node; pods and connections are not touched",
        ),
    };
    Remedy {
        fix,
        advice,
        cost: cost.to_owned(),
    }
}

/// The config map that its file comes from: EKS has another one than kubeadm.
fn config_map(proxy: &KubeProxy) -> &'static str {
    let of_eks = |path: &std::path::PathBuf| path.starts_with("/var/lib/kube-proxy-config");
    if proxy.config.as_ref().is_some_and(of_eks) {
        "kube-proxy-config"
    } else {
        "kube-proxy"
    }
}

/// The kube-proxy that gives just the limit that is in force.
pub(super) fn giving(facts: &Facts) -> Option<&KubeProxy> {
    let (proxy, limit) = (facts.proxy.as_ref()?, facts.settings.limit?);
    (proxy.wanted(facts.cpus?)? == limit).then_some(proxy)
}
