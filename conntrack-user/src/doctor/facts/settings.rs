//! The sysctls of the host's network namespace that are in force.

use std::collections::BTreeMap;

use super::{Facts, Unseen, read_if_there};
use crate::kernel::{Root, sysctl};

const FOLDER: &str = "sys/net/netfilter";

/// Switches and timeouts that findings are about, without `nf_conntrack_`.
const NAMES: &[&str] = &[
    "acct",
    "events",
    "expect_max",
    "log_invalid",
    "tcp_be_liberal",
    "tcp_timeout_close_wait",
    "tcp_timeout_established",
    "tcp_timeout_max_retrans",
    "tcp_timeout_syn_sent",
    "tcp_timeout_time_wait",
    "tcp_timeout_unacknowledged",
    "timestamp",
    "udp_timeout",
    "udp_timeout_stream",
];

/// What is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KernelSettings {
    /// Entries that each table may hold; 0: any number.
    pub limit: Option<u64>,
    /// Buckets of the hash table that all share.
    pub buckets: Option<u64>,
    /// The others, by their name without `nf_conntrack_`; what this kernel does not have is not there.
    pub values: BTreeMap<&'static str, u64>,
}

impl KernelSettings {
    /// A switch or a timeout (seconds).
    pub(crate) fn get(&self, name: &str) -> Option<u64> {
        self.values.get(name).copied()
    }

    /// Whether a switch is on.
    pub(crate) fn is_on(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value != 0)
    }
}

pub(super) fn look(root: &Root, facts: &mut Facts) {
    let mut problem = None;
    let mut number = |read: Result<u64, sysctl::SysctlError>| match read {
        Ok(value) => Some(value),
        Err(error) => {
            problem = Some(format!("{}: {}", error.path.display(), error.source));
            None
        }
    };
    facts.settings.limit = number(sysctl::limit(root));
    facts.settings.buckets = number(sysctl::buckets(root));
    if let Some(because) = problem {
        facts.could_not(
            Unseen::LIMIT,
            &because,
            "mount procfs, and run in the host's network namespace",
        );
    }
    for name in NAMES {
        let path = root.proc(FOLDER).join(format!("nf_conntrack_{name}"));
        // A kernel without a tracker, or older than the switch, has no such file.
        if let Ok(Some(text)) = read_if_there(&path)
            && let Ok(value) = text.trim().parse()
        {
            facts.settings.values.insert(name, value);
        }
    }
    facts.looked.push("limit, buckets and timeouts");
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_there_and_what_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = Root::at(folder.path());
        let mut facts = Facts::default();
        look(&root, &mut facts);
        assert_eq!(facts.settings, KernelSettings::default());
        assert_eq!(facts.unseen.len(), 1);

        let sysctls = root.proc(FOLDER);
        fs::create_dir_all(&sysctls).expect("a folder");
        for (name, value) in [("max", 1000), ("buckets", 2048), ("acct", 1), ("events", 0)] {
            let path = sysctls.join(format!("nf_conntrack_{name}"));
            fs::write(path, format!("{value}\n")).expect("a file");
        }
        let mut facts = Facts::default();
        look(&root, &mut facts);
        let settings = &facts.settings;
        assert_eq!((settings.limit, settings.buckets), (Some(1000), Some(2048)));
        assert!(settings.is_on("acct") && !settings.is_on("events"));
        assert_eq!(settings.get("timestamp"), None);
        assert!(facts.unseen.is_empty());
    }
}
