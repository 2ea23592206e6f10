//! How the limit came to be, and whether it is one to live with.

use std::{fmt, path::PathBuf};

use ctpressure_model::words::grouped;

use super::{
    lasting::lasting,
    remedy::{self, Remedy, cost_of, set},
};
use crate::doctor::{Facts, Finding, Severity, facts::ProxySettings};

/// Entries of a hash bucket array in one page: the kernel rounds up to that.
const PER_PAGE: u64 = 512;
const GIB: u64 = 1 << 30;

/// What gives just this number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LimitOrigin {
    /// The kernel chose it when conntrack was loaded.
    KernelDefault,
    /// `hashsize=` when the module was loaded: eight entries for each bucket.
    ModuleParameter,
    KubeProxy(ProxySettings),
    /// A file of sysctl.d.
    File(PathBuf),
}

impl fmt::Display for LimitOrigin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KernelDefault => formatter.write_str("the kernel's default for this RAM"),
            Self::ModuleParameter => {
                formatter.write_str("8 for each bucket, as the module parameter hashsize= gives")
            }
            Self::KubeProxy(settings) => write!(
                formatter,
                "kube-proxy's {} a core, at least {}",
                grouped(settings.max_per_core),
                grouped(settings.min)
            ),
            Self::File(path) => path.display().fmt(formatter),
        }
    }
}

/// Buckets and limit that the kernel chooses by itself (`nf_conntrack_init_start`): before 5.15 fewer
/// buckets with four entries each, then one. `None`: RAM or version are not known.
pub(crate) fn kernel_default(facts: &Facts) -> Option<(u64, u64)> {
    let memory = facts.memory?;
    let new = facts.at_least(5, 15)?;
    let scaled = memory / 16_384 / 8;
    let (large, medium, least, each) = if new {
        (262_144, 65_536, 1_024, 1)
    } else {
        (65_536, 16_384, 32, 4)
    };
    let buckets = if memory > 4 * GIB {
        large
    } else if memory > GIB {
        medium
    } else {
        scaled.max(least)
    };
    let buckets = buckets.next_multiple_of(PER_PAGE);
    Some((buckets, buckets * each))
}

/// Everything that gives just the limit that is in force. Empty: none of those that can be known does, so a
/// program or a person wrote it (an init container, a node agent, `sysctl -w`).
pub(crate) fn origins(facts: &Facts) -> Vec<LimitOrigin> {
    let Some(limit) = facts.settings.limit.filter(|limit| *limit > 0) else {
        return Vec::new();
    };
    let mut origins = Vec::new();
    if let Some(file) = facts.set_by_file("nf_conntrack_max")
        && file.value == limit
    {
        origins.push(LimitOrigin::File(file.file.clone()));
    }
    if let Some(settings) = remedy::giving(facts).and_then(|proxy| proxy.settings) {
        origins.push(LimitOrigin::KubeProxy(settings));
    }
    if let Some((_, default)) = kernel_default(facts) {
        // What the kernel reserves later is not in the RAM that it counted when it chose.
        let small = facts.memory.is_some_and(|memory| memory <= GIB);
        if limit == default || (small && limit.abs_diff(default) * 10 <= default) {
            origins.push(LimitOrigin::KernelDefault);
        }
    }
    if facts.settings.buckets.map(|buckets| buckets * 8) == Some(limit) {
        origins.push(LimitOrigin::ModuleParameter);
    }
    origins
}

/// Entries for each MiB of RAM.
pub(crate) fn per_mib(facts: &Facts) -> Option<u64> {
    let mib = facts.memory? >> 20;
    facts.settings.limit?.checked_div(mib)
}

pub(super) fn none(facts: &Facts) -> Option<Finding> {
    if facts.settings.limit? != 0 {
        return None;
    }
    let (_, default) = kernel_default(facts)?;
    Some(Finding {
        id: "no_limit",
        severity: Severity::Risk,
        title: "the conntrack table has no limit".to_owned(),
        evidence: "nf_conntrack_max is 0, which up to Linux 6.18 means any number".to_owned(),
        consequence: "a flood of connections takes kernel memory until the machine has none, \
                      and chains grow until new connections are refused"
            .to_owned(),
        fix: vec![set(default)],
        advice: lasting(facts.place, "nf_conntrack_max", default),
        cost: cost_of(facts, default),
    })
}

pub(super) fn below_default(facts: &Facts) -> Option<Finding> {
    let limit = facts.settings.limit.filter(|limit| *limit > 0)?;
    let (_, default) = kernel_default(facts)?;
    if limit > default / 2 {
        return None;
    }
    let origins = origins(facts);
    let why = origins
        .first()
        .map_or_else(String::new, |origin| format!(" (from {origin})"));
    let Remedy { fix, advice, cost } = match remedy::giving(facts) {
        Some(proxy) => remedy::let_stand(facts.place, proxy, default),
        None => Remedy {
            fix: vec![set(default)],
            advice: format!(
                "Find out who lowered it (`ctpressure limit` shows who set it last). {}",
                lasting(facts.place, "nf_conntrack_max", default)
            ),
            cost: cost_of(facts, default),
        },
    };
    Some(Finding {
        id: "limit_below_default",
        severity: Severity::Risk,
        title: "the limit is lower than the kernel's default".to_owned(),
        evidence: format!(
            "{} entries{why}, {} for each MiB of RAM; the kernel's default for this RAM is {}",
            grouped(limit),
            grouped(per_mib(facts).unwrap_or_default()),
            grouped(default)
        ),
        consequence: "the table fills earlier than by default; then new \
                      connections are refused"
            .to_owned(),
        fix,
        advice,
        cost,
    })
}

pub(super) fn not_applied(facts: &Facts) -> Option<Finding> {
    let limit = facts.settings.limit?;
    let file = facts.set_by_file("nf_conntrack_max")?;
    if file.value == limit {
        return None;
    }
    let (why, consequence, remedy) = match remedy::giving(facts) {
        Some(proxy) => (
            format!(", which is what {} wants", proxy.words()),
            "kube-proxy sets the limit each time it starts, whatever the file says",
            remedy::let_stand(facts.place, proxy, file.value),
        ),
        None => (
            String::new(),
            "either the file was applied before conntrack was loaded, which does nothing, or \
             something else set the limit later; after the next boot it may be either",
            Remedy {
                fix: vec![set(file.value)],
                advice:
                    "Have the module loaded before sysctl.d is applied: a line `nf_conntrack` in \
                         /etc/modules-load.d/conntrack.conf."
                        .to_owned(),
                cost: cost_of(facts, file.value),
            },
        ),
    };
    Some(Finding {
        id: "limit_file_not_in_force",
        severity: Severity::Risk,
        title: "the limit in force is not the one that a sysctl.d file sets".to_owned(),
        evidence: format!(
            "{} sets {}, in force is {}{why}",
            file.file.display(),
            grouped(file.value),
            grouped(limit)
        ),
        consequence: consequence.to_owned(),
        fix: remedy.fix,
        advice: remedy.advice,
        cost: remedy.cost,
    })
}

pub(super) fn unexplained(facts: &Facts) -> Option<Finding> {
    // What gives it is not to be seen from here.
    if facts.place.hides_files || facts.place.standpoint.is_without_limit() {
        return None;
    }
    let limit = facts.settings.limit.filter(|limit| *limit > 0)?;
    let (_, default) = kernel_default(facts)?;
    if !origins(facts).is_empty() || facts.set_by_file("nf_conntrack_max").is_some() {
        return None;
    }
    let proxy = match (&facts.proxy, facts.cpus) {
        (Some(proxy), _) if proxy.settings.is_none() => {
            "what kube-proxy was told could not be read".to_owned()
        }
        (Some(proxy), Some(cpus)) => proxy.wanted(cpus).map_or_else(
            || "kube-proxy leaves it alone".to_owned(),
            |wanted| format!("kube-proxy's formula gives {}", grouped(wanted)),
        ),
        _ => "no kube-proxy is seen".to_owned(),
    };
    Some(Finding {
        id: "limit_unexplained",
        severity: Severity::Risk,
        title: "this limit will not survive a reboot".to_owned(),
        evidence: format!(
            "{} entries; the kernel's default is {}, hashsize= would give {}, {proxy}, no file of \
             sysctl.d sets it: none of these gives this number, so an init container, an agent or \
             a person wrote it",
            grouped(limit),
            grouped(default),
            grouped(facts.settings.buckets.unwrap_or_default() * 8)
        ),
        consequence:
            "after the next boot the limit is a different one, until somebody sets it again"
                .to_owned(),
        fix: Vec::new(),
        advice: lasting(facts.place, "nf_conntrack_max", limit),
        cost: "none: it is in force already".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{fine, made};
    use super::*;
    use crate::doctor::{
        facts::{FileSetting, Release},
        tests::healthy,
    };

    fn default_of(release: &str, memory: u64) -> Option<(u64, u64)> {
        let mut facts = healthy();
        facts.release = Release::parse(release);
        facts.memory = Some(memory);
        kernel_default(&facts)
    }

    #[test]
    fn the_kernels_own_choice() {
        for (release, memory, expected) in [
            ("5.10.0-46-amd64", 8 * GIB, (65_536, 262_144)),
            ("5.10.0-46-amd64", 3 * GIB / 2, (16_384, 65_536)),
            ("5.15.0-204-generic", 3 * GIB / 2, (65_536, 65_536)),
            ("6.12.107", 8 * GIB, (262_144, 262_144)),
            ("6.12.107", GIB, (8_192, 8_192)),
            ("6.12.107", 64 << 20, (1_024, 1_024)),
        ] {
            assert_eq!(default_of(release, memory), Some(expected), "{release}");
        }
    }

    #[test]
    fn what_gives_the_limit() {
        let mut facts = healthy();
        let proxy = LimitOrigin::KubeProxy(ProxySettings {
            max_per_core: 65_536,
            min: 131_072,
        });
        assert_eq!(origins(&facts), [proxy.clone(), LimitOrigin::KernelDefault]);
        facts.settings.buckets = Some(32_768);
        assert_eq!(
            origins(&facts),
            [
                proxy,
                LimitOrigin::KernelDefault,
                LimitOrigin::ModuleParameter
            ]
        );
        facts.proxy = None;
        facts.settings.limit = Some(500_000);
        assert_eq!(origins(&facts), []);
        facts.files = vec![FileSetting {
            file: "/etc/sysctl.d/1.conf".into(),
            name: "nf_conntrack_max".to_owned(),
            value: 500_000,
        }];
        assert_eq!(
            origins(&facts),
            [LimitOrigin::File("/etc/sysctl.d/1.conf".into())]
        );
        assert_eq!(per_mib(&facts), Some(63));
    }

    #[test]
    fn a_number_from_nowhere() {
        let finding = made(unexplained, |facts| facts.settings.limit = Some(300_000));
        assert!(finding.evidence.contains("none of these gives this number"));
        assert!(finding.advice.contains("nf_conntrack_max = 300000"));
        fine(unexplained, |facts| facts.memory = None);
        fine(unexplained, |facts| {
            facts.settings.limit = Some(300_000);
            facts.place.hides_files = true;
        });
        fine(unexplained, |facts| facts.settings.limit = Some(0));
    }

    #[test]
    fn a_file_that_was_applied_too_early() {
        let set = |facts: &mut Facts, value| {
            facts.files.push(FileSetting {
                file: "/etc/sysctl.d/90.conf".into(),
                name: "nf_conntrack_max".to_owned(),
                value,
            });
        };
        let finding = made(not_applied, |facts| {
            set(facts, 1_048_576);
            facts.proxy = None;
        });
        assert_eq!(
            finding.fix,
            ["sysctl -w net.netfilter.nf_conntrack_max=1048576"]
        );
        assert!(finding.advice.contains("modules-load.d"));
        // It is kube-proxy's number.
        let finding = made(not_applied, |facts| set(facts, 1_048_576));
        assert!(
            finding.evidence.contains("kube-proxy v1.31.4 wants"),
            "{finding:?}"
        );
        assert!(finding.advice.contains("min: 1048576"), "{finding:?}");
        assert!(!finding.advice.contains("modules-load.d"));
        fine(not_applied, |facts| set(facts, 262_144));
    }

    #[test]
    fn lower_than_by_default_as_kube_proxy_sets_it() {
        let finding = made(below_default, |facts| {
            facts.settings.limit = Some(131_072);
            facts.cpus = Some(2);
        });
        assert!(finding.advice.contains("maxPerCore"), "{finding:?}");
        assert!(!finding.advice.contains("sysctl.d"), "{finding:?}");
    }

    #[test]
    fn lower_than_by_default() {
        let finding = made(below_default, |facts| facts.settings.limit = Some(65_536));
        assert!(finding.fix[0].ends_with("=262144"), "{finding:?}");
        fine(below_default, |facts| {
            facts.settings.limit = Some(200_000);
        });
    }

    #[test]
    fn without_a_limit() {
        let finding = made(none, |facts| facts.settings.limit = Some(0));
        assert_eq!(finding.severity, Severity::Risk);
    }
}
