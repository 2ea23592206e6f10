//! Who seems to have set the limit. The kernel does not tell who writes a sysctl, so this is a guess from what runs,
//! and is said as one: a program that is known to set it and has just started, or whose value it is.

use std::{fs, time::Duration};

use super::node;
use crate::kernel::{Root, release};

/// Programs that are known to set `nf_conntrack_max`, by their names of at most 15 bytes: those that compute it as kube-proxy
/// does ...
const PROXIES: [&str; 6] = [
    "kube-proxy",
    "k3s",
    "k3s-server",
    "k3s-agent",
    "rke2",
    "kubelite",
];
/// ... and others.
const OTHERS: [&str; 6] = [
    "sysctl",
    "systemd-sysctl",
    "tuned",
    "calico-node",
    "cilium-agent",
    "venplatformhand",
];
/// Who has started within this time before may have done it at its start.
const LATELY: Duration = Duration::from_mins(2);

/// A process that may have done it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Suspect {
    pub pid: u32,
    pub name: String,
    /// When it started, since boot.
    pub started: Duration,
}

/// Who seems to have set the limit to this value just now; `None`: nobody who is known to.
pub(crate) fn find(root: &Root, value: u64) -> Option<String> {
    let cpus = release::possible_cpus(root).unwrap_or(1);
    guess(&suspects(root), node::since_boot(), value, cpus)
}

/// What kube-proxy sets by default (`conntrack.maxPerCore`, `conntrack.min`).
fn of_proxy(cpus: usize) -> u64 {
    let scaled = u64::try_from(cpus)
        .unwrap_or(u64::MAX)
        .saturating_mul(32_768);
    scaled.clamp(131_072, 1_048_576)
}

fn guess(suspects: &[Suspect], now: Duration, value: u64, cpus: usize) -> Option<String> {
    let lately = suspects
        .iter()
        .filter(|suspect| now.saturating_sub(suspect.started) <= LATELY)
        .max_by_key(|suspect| suspect.started);
    if let Some(suspect) = lately {
        return Some(format!(
            "perhaps {} (process {}), which started {} s before",
            suspect.name,
            suspect.pid,
            now.saturating_sub(suspect.started).as_secs()
        ));
    }
    let proxy = suspects
        .iter()
        .find(|suspect| PROXIES.contains(&suspect.name.as_str()))?;
    (value == of_proxy(cpus)).then(|| {
        format!(
            "perhaps {} (process {}): {value} is what it sets by default with {cpus} CPUs",
            proxy.name, proxy.pid
        )
    })
}

/// Running programs that are known to set it.
fn suspects(root: &Root) -> Vec<Suspect> {
    let Ok(folder) = fs::read_dir(root.proc("")) else {
        return Vec::new();
    };
    let ticks = procfs::ticks_per_second();
    folder
        .flatten()
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            parse(pid, &stat, ticks).filter(|suspect| {
                let name = suspect.name.as_str();
                PROXIES.contains(&name) || OTHERS.contains(&name)
            })
        })
        .collect()
}

/// A process from its `/proc/PID/stat`: the name in parentheses, `starttime` as the 22nd field.
fn parse(pid: u32, stat: &str, ticks: u64) -> Option<Suspect> {
    let (head, rest) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let began: u64 = rest.split_whitespace().nth(19)?.parse().ok()?;
    Some(Suspect {
        pid,
        name,
        started: Duration::from_millis(began.saturating_mul(1000) / ticks.max(1)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suspect(name: &str, started: u64) -> Suspect {
        Suspect {
            pid: 77,
            name: name.to_owned(),
            started: Duration::from_secs(started),
        }
    }

    #[test]
    fn who_started_just_now_or_whose_value_it_is() {
        let now = Duration::from_secs(1000);
        let proxy = [suspect("kube-proxy", 990)];
        let who = guess(&proxy, now, 5000, 4).expect("a guess");
        assert!(
            who.contains("kube-proxy (process 77), which started 10 s"),
            "{who}"
        );
        let old = [suspect("kube-proxy", 10)];
        assert_eq!(guess(&old, now, 5000, 4), None);
        let who = guess(&old, now, 131_072, 4).expect("a guess");
        assert!(who.contains("by default with 4 CPUs"), "{who}");
        assert_eq!(of_proxy(8), 262_144);
        assert_eq!(of_proxy(128), 1_048_576);
        assert_eq!(guess(&[suspect("tuned", 10)], now, 131_072, 4), None);
        assert_eq!(guess(&[], now, 131_072, 4), None);
    }

    #[test]
    fn a_process_by_its_stat() {
        let fields: Vec<String> = (4..=30).map(|field| field.to_string()).collect();
        let stat = format!("12 (kube) proxy) S {}", fields.join(" "));
        let found = parse(12, &stat, 10).expect("a process");
        assert_eq!(
            (found.name.as_str(), found.started),
            ("kube) proxy", Duration::from_millis(2200))
        );
        assert_eq!(parse(12, "12 (x) S 1", 100), None);
    }
}
