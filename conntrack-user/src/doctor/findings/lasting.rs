//! How a setting lasts, and where what a finding advises can be followed: by who keeps the node's settings, and by where the
//! doctor looks from.

use super::remedy;
use crate::doctor::{
    Finding,
    facts::{Keeper, Place, Standpoint},
};

/// How a sysctl of conntrack (`nf_conntrack_max`) lasts over the next boot.
pub(super) fn lasting(place: Place, name: &str, value: u64) -> String {
    let sysctl = format!("net.netfilter.{name}");
    match place.keeper {
        Keeper::Files => format!(
            "To keep it: a line `{sysctl} = {value}` in a file of /etc/sysctl.d, and a line `nf_conntrack` in \
             /etc/modules-load.d/conntrack.conf, since before the module is loaded the setting does nothing."
        ),
        Keeper::Talos => format!(
            "Talos keeps it in the machine configuration only: `talosctl patch machineconfig --nodes NODE --patch \
             '{{\"machine\": {{\"sysctls\": {{\"{sysctl}\": \"{value}\"}}}}}}'`."
        ),
        Keeper::Bottlerocket => format!(
            "Bottlerocket keeps it in its settings only: `apiclient set --json '{{\"settings\": {{\"kernel\": {{\"sysctl\": \
             {{\"{sysctl}\": \"{value}\"}}}}}}}}'`, and for new nodes `[settings.kernel.sysctl]` in the user data."
        ),
        Keeper::Gke => format!(
            "What is set on a node is lost with its next boot or replacement. To keep it: `linuxConfig: {{sysctl: {{{sysctl}: \
             \"{value}\"}}}}` in the node pool's system configuration (`gcloud container node-pools update \
             --system-config-from-file`), if GKE's version takes this name."
        ),
        Keeper::Aks => format!(
            "What is set on a node is lost when it is replaced. To keep it: `\"sysctls\": {{\"{}\": {value}}}` in the \
             `--linux-os-config` of a new node pool.",
            camel(&sysctl)
        ),
        Keeper::Eks => format!(
            "What is set on a node is lost when it is replaced. To keep it: write `{sysctl} = {value}` into a file of \
             /etc/sysctl.d in the user data of the node group's launch template."
        ),
        Keeper::Ignition => format!(
            "To keep it on this node: a line `{sysctl} = {value}` in a file of /etc/sysctl.d; for nodes that are made anew, the \
             same file in the Butane or Ignition configuration."
        ),
        Keeper::OpenShift => format!(
            "To keep it: a Tuned object of the Node Tuning Operator with `[sysctl]` and `{sysctl}={value}`, or a MachineConfig \
             with such a file of /etc/sysctl.d."
        ),
        Keeper::NixOs => format!(
            "To keep it: `boot.kernel.sysctl.\"{sysctl}\" = {value};` and `boot.kernelModules = [ \"nf_conntrack\" ];` in the \
             system's configuration, then `nixos-rebuild switch`."
        ),
    }
}

/// As AKS writes the names of sysctls: `netNetfilterNfConntrackMax`.
fn camel(sysctl: &str) -> String {
    let mut words = sysctl.split(['.', '_']);
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        let (begin, rest) = word.split_at(word.len().min(1));
        name + &begin.to_ascii_uppercase() + rest
    })
}

/// Sysctls that only the machine's first network namespace can set.
const OF_THE_MACHINE: [&str; 2] = ["nf_conntrack_max", "nf_conntrack_buckets"];

/// Whether this command line is about one of [`OF_THE_MACHINE`].
fn sets_the_machine(line: &str) -> bool {
    let name = line
        .split_once(remedy::SYSCTLS)
        .map(|(_, rest)| rest.split('=').next().unwrap_or_default());
    name.is_some_and(|name| OF_THE_MACHINE.contains(&name))
}

/// Makes a finding one that can be followed from where the doctor was asked: a command that is refused here is advice for elsewhere.
pub(super) fn placed(place: Place, mut finding: Finding) -> Finding {
    if !place.standpoint.is_without_limit() {
        return finding;
    }
    let (elsewhere, here): (Vec<String>, _) = finding
        .fix
        .drain(..)
        .partition(|line| sets_the_machine(line));
    finding.fix = here;
    if !elsewhere.is_empty() {
        finding.advice = outside(place.standpoint, &elsewhere, &finding.advice);
    }
    finding
}

/// Where the command lines of findings are to be run, and whose the limit is; `None`: here.
pub(crate) fn standpoint(place: Place) -> Option<&'static str> {
    match place.standpoint {
        Standpoint::Node => None,
        Standpoint::Container => Some(
            "the host's network namespace was looked at, out of a container: run the fixes on the node itself, for example \
             after `kubectl debug node/NODE -it --profile=sysadmin --image=busybox -- chroot /host`",
        ),
        Standpoint::ReadOnly => {
            Some("/proc/sys is read-only in this container: run the fixes on the node itself")
        }
        Standpoint::NestedNode => Some(
            "not the host's network namespace: this node is a container itself, and the limit and the buckets are those of the \
             machine that runs it",
        ),
        Standpoint::Elsewhere => Some(
            "not the host's network namespace: the limit and the buckets are the host's, and only there they can be set",
        ),
    }
}

/// Where a limit is set that is not this network namespace's.
fn outside(standpoint: Standpoint, lines: &[String], advice: &str) -> String {
    let machine = match standpoint {
        Standpoint::NestedNode => "the machine that runs this node as a container",
        _ => "the host",
    };
    let settings: Vec<String> = lines
        .iter()
        .filter_map(|line| line.split_once(remedy::SYSCTLS))
        .map(|(_, setting)| {
            format!(
                "`sysctl {}{}`",
                remedy::SYSCTLS,
                setting.split(' ').next().unwrap_or_default()
            )
        })
        .collect();
    format!(
        "The kernel lets it be set from the host's network namespace only, which this is not. On {machine}: run {}. {advice}",
        settings.join(" and ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;

    fn finding(fix: &[&str]) -> Finding {
        Finding {
            id: "x",
            severity: Severity::Risk,
            title: String::new(),
            evidence: String::new(),
            consequence: String::new(),
            fix: fix.iter().map(ToString::to_string).collect(),
            advice: "Keep it.".to_owned(),
            cost: String::new(),
        }
    }

    const LIMIT: &str = "sysctl -w net.netfilter.nf_conntrack_max=8192";
    const TIMEOUT: &str = "sysctl -w net.netfilter.nf_conntrack_udp_timeout=10";

    fn at(standpoint: Standpoint) -> Finding {
        let place = Place {
            standpoint,
            ..Place::default()
        };
        placed(place, finding(&[LIMIT, TIMEOUT]))
    }

    #[test]
    fn no_command_that_fails_where_it_is_read() {
        assert_eq!(at(Standpoint::Node), finding(&[LIMIT, TIMEOUT]));
        for standpoint in [Standpoint::NestedNode, Standpoint::Elsewhere] {
            let found = at(standpoint);
            assert_eq!(
                found.fix,
                [TIMEOUT],
                "what is of each namespace can be set here"
            );
            assert!(
                found
                    .advice
                    .contains("`sysctl net.netfilter.nf_conntrack_max=8192`"),
                "{}",
                found.advice
            );
            assert!(found.advice.ends_with(" Keep it."), "{}", found.advice);
        }
        for standpoint in [Standpoint::Container, Standpoint::ReadOnly] {
            let place = Place {
                standpoint,
                ..Place::default()
            };
            assert_eq!(at(standpoint).fix, [LIMIT, TIMEOUT]);
            assert!(
                super::standpoint(place).is_some_and(|words| words.contains("on the node itself"))
            );
        }
    }

    #[test]
    fn a_setting_lasts_where_the_system_keeps_it() {
        for (keeper, words) in [
            (Keeper::Files, "/etc/sysctl.d"),
            (
                Keeper::Talos,
                "\"sysctls\": {\"net.netfilter.nf_conntrack_max\": \"9\"}",
            ),
            (
                Keeper::Bottlerocket,
                "{\"net.netfilter.nf_conntrack_max\": \"9\"}}}}'",
            ),
            (Keeper::Gke, "{net.netfilter.nf_conntrack_max: \"9\"}"),
            (Keeper::Aks, "\"netNetfilterNfConntrackMax\": 9"),
            (Keeper::Eks, "launch template"),
            (Keeper::Ignition, "Butane"),
            (Keeper::OpenShift, "Tuned"),
            (Keeper::NixOs, "\"net.netfilter.nf_conntrack_max\" = 9;"),
        ] {
            let place = Place {
                keeper,
                ..Place::default()
            };
            let said = lasting(place, "nf_conntrack_max", 9);
            assert!(said.contains(words), "{said}");
        }
    }
}
