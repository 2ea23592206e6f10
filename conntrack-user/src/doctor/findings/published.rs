//! What people met with kube-proxy and the limit, by their public reports: what they saw, and what they needed to be told.

use crate::doctor::{
    Facts,
    facts::{FileSetting, Keeper, KubeProxy, Program, ProxySettings, Release, Standpoint},
    tests::healthy,
};

/// The defaults of kube-proxy.
const DEFAULT: ProxySettings = ProxySettings {
    max_per_core: 32_768,
    min: 131_072,
};

/// A kube-proxy of this version, with this many CPUs.
fn proxy(facts: &mut Facts, version: &str, cpus: u64, settings: ProxySettings) {
    facts.cpus = Some(cpus);
    facts.proxy = Some(KubeProxy {
        settings: Some(settings),
        minor: version
            .split('.')
            .nth(1)
            .and_then(|minor| minor.parse().ok()),
        version: Some(format!("v{version}")),
        ..facts.proxy.clone().unwrap_or_default()
    });
}

fn nested(facts: &mut Facts) {
    facts.place.standpoint = Standpoint::NestedNode;
}

fn file(facts: &mut Facts, path: &str, value: u64) {
    facts.files.push(FileSetting {
        file: path.into(),
        name: "nf_conntrack_max".to_owned(),
        value,
    });
}

/// What one person reported.
struct Report {
    url: &'static str,
    /// What the doctor finds on such a node.
    seen: fn(&mut Facts),
    /// The finding that tells, and words of it; `None`: there is nothing to find.
    told: Option<(&'static str, &'static [&'static str])>,
}

const REPORTS: &[Report] = &[
    Report {
        // After the update to 1.36 it did not start any more in LXC: the limit that it wants has a cap since.
        url: "https://github.com/kubernetes/kubernetes/issues/141943",
        seen: |facts| {
            nested(facts);
            facts.settings.limit = Some(2_097_152);
            facts.settings.buckets = Some(2_097_152);
            proxy(facts, "1.36.4", 64, DEFAULT);
        },
        told: Some((
            "kube_proxy_cannot_set_limit",
            &["wants 1,048,576", "maxPerCore: 0"],
        )),
    },
    Report {
        // Since Linux 5.12.2 a node of kind can't set what kube-proxy wants.
        url: "https://github.com/kubernetes-sigs/kind/issues/2240",
        seen: |facts| {
            nested(facts);
            facts.release = Release::parse("5.12.2-arch1-1");
            proxy(facts, "1.20.2", 16, DEFAULT);
        },
        told: Some((
            "kube_proxy_cannot_set_limit",
            &["wants 524,288", "permission denied"],
        )),
    },
    Report {
        // The limit was set on the host, and it failed all the same: it wants more buckets.
        url: "https://github.com/justmeandopensource/kubernetes/issues/144",
        seen: |facts| {
            nested(facts);
            facts.settings.limit = Some(786_432);
            facts.settings.buckets = Some(65_536);
            proxy(facts, "1.30.4", 24, DEFAULT);
        },
        told: Some(("kube_proxy_cannot_set_limit", &["196,608 buckets"])),
    },
    Report {
        // It did not start in LXD until it was told to leave the limit alone.
        url: "https://github.com/kubernetes/kubernetes/issues/81090",
        seen: |facts| {
            nested(facts);
            let left = ProxySettings {
                max_per_core: 0,
                ..DEFAULT
            };
            proxy(facts, "1.15.2", 8, left);
        },
        told: None,
    },
    Report {
        // Inside microk8s's kubelite, in LXC.
        url: "https://github.com/canonical/microk8s/pull/2777",
        seen: |facts| {
            nested(facts);
            facts.settings.limit = Some(65_536);
            proxy(facts, "1.23.0", 2, DEFAULT);
            if let Some(proxy) = &mut facts.proxy {
                proxy.program = Program::Kubelite;
            }
        },
        told: Some((
            "kube_proxy_cannot_set_limit",
            &["inside kubelite", "args/kube-proxy"],
        )),
    },
    Report {
        // The same settings gave 655,350 with 8 CPUs, and 2,097,120 with 32.
        url: "https://github.com/kubernetes/kubernetes/issues/75575",
        seen: |facts| {
            facts.settings.limit = Some(2_097_120);
            facts.settings.buckets = Some(2_097_152);
            let settings = ProxySettings {
                max_per_core: 65_535,
                min: 655_350,
            };
            proxy(facts, "1.12.5", 8, settings);
        },
        told: Some((
            "kube_proxy_lowers_limit",
            &["wants 655,350 (maxPerCore 65,535 at 8 CPUs, min 655,350)"],
        )),
    },
    Report {
        // 3,200,000 in sysctl.conf, and after each boot it was 131,072 again.
        url: "https://github.com/easzlab/kubeasz/issues/1048",
        seen: |facts| {
            file(facts, "/etc/sysctl.conf", 3_200_000);
            facts.settings.limit = Some(131_072);
            proxy(facts, "1.18.3", 4, DEFAULT);
            if let Some(proxy) = &mut facts.proxy {
                proxy.config = None;
            }
        },
        told: Some((
            "limit_file_not_in_force",
            &["kube-proxy v1.18.3 wants", "--conntrack-min=3200000"],
        )),
    },
    Report {
        // What the node's bootstrap had set was lower after kube-proxy's start.
        url: "https://github.com/kubernetes/kops/pull/2223",
        seen: |facts| {
            file(facts, "/etc/sysctl.d/99-k8s-general.conf", 1_000_000);
            facts.settings.limit = Some(131_072);
            proxy(facts, "1.6.0", 2, DEFAULT);
        },
        told: Some((
            "limit_file_not_in_force",
            &["99-k8s-general.conf sets 1,000,000, in force is 131,072"],
        )),
    },
    Report {
        // 131,072 on Bottlerocket in EKS; where is it to be changed?
        url: "https://github.com/aws/containers-roadmap/issues/2385",
        seen: |facts| {
            facts.place.keeper = Keeper::Bottlerocket;
            facts.settings.limit = Some(131_072);
            proxy(facts, "1.29.0", 4, DEFAULT);
            if let Some(proxy) = &mut facts.proxy {
                proxy.config = Some("/var/lib/kube-proxy-config/config".into());
            }
        },
        told: Some((
            "limit_below_default",
            &[
                "from kube-proxy's 32,768 a core",
                "configmap kube-proxy-config",
            ],
        )),
    },
    Report {
        // 48 CPUs at 100,000 each, as it was meant to be.
        url: "https://github.com/kinvolk/lokomotive/issues/1081",
        seen: |facts| {
            facts.memory = Some(256 << 30);
            facts.settings.limit = Some(4_800_000);
            facts.settings.buckets = Some(4_800_000);
            let settings = ProxySettings {
                max_per_core: 100_000,
                ..DEFAULT
            };
            proxy(facts, "1.19.2", 48, settings);
        },
        told: None,
    },
];

#[test]
fn each_person_is_told_what_they_needed() {
    for report in REPORTS {
        let mut facts = healthy();
        (report.seen)(&mut facts);
        let findings = super::all(&facts);
        let of_proxy: Vec<_> = findings
            .iter()
            .filter(|finding| finding.id.contains("proxy") || finding.id.contains("limit"))
            .collect();
        let Some((id, words)) = report.told else {
            assert!(of_proxy.is_empty(), "{}: {of_proxy:?}", report.url);
            continue;
        };
        let Some(finding) = findings.iter().find(|finding| finding.id == id) else {
            panic!("{}: no {id}: {findings:?}", report.url);
        };
        let all = format!(
            "{} {} {} {} {}",
            finding.title,
            finding.evidence,
            finding.consequence,
            finding.fix.join(" "),
            finding.advice
        );
        for words in words {
            assert!(
                all.contains(words),
                "{}: `{words}` is not in {all}",
                report.url
            );
        }
    }
}
