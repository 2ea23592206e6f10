//! What kube-proxy wrote into the firewall: its mode, and whether it drops INVALID packets.
//!
//! `nf_tables` is asked over netlink, so that it works where no program is installed (in an image without a
//! shell); it holds what `iptables-nft` wrote, too. What `iptables-legacy` wrote only that program can read.
//! Neither is asked while the kernel would have to load a module for it.

use std::fs;

use super::{Facts, read_if_there};
use crate::{
    kernel::{Root, host, namespace::namespace_of},
    sys::netlink::{NetlinkError, NetlinkSocket},
};

mod legacy;
mod nft;

/// kube-proxy's chain for forwarded packets, in the table `filter`.
const FORWARD: &str = "KUBE-FORWARD";

/// How kube-proxy steers connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProxyMode {
    Iptables,
    Ipvs,
    /// A table of `nf_tables` of its own.
    Nftables,
}

impl std::fmt::Display for ProxyMode {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Iptables => "iptables",
            Self::Ipvs => "ipvs",
            Self::Nftables => "nftables",
        })
    }
}

/// By which program iptables rules were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Nft,
    Legacy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Forward {
    pub ipv6: bool,
    pub backend: Backend,
    /// Its rule that drops INVALID packets.
    pub drop: Option<InvalidDrop>,
}

impl Forward {
    /// The program that writes there.
    pub(crate) fn program(&self) -> &'static str {
        match (self.backend, self.ipv6) {
            (Backend::Nft, false) => "iptables-nft",
            (Backend::Nft, true) => "ip6tables-nft",
            (Backend::Legacy, false) => "iptables-legacy",
            (Backend::Legacy, true) => "ip6tables-legacy",
        }
    }
}

/// A rule that drops INVALID packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct InvalidDrop {
    /// Packets that it dropped; `None`: it does not count.
    pub packets: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FirewallRules {
    /// By what is there; `None`: nothing of kube-proxy is.
    pub mode: Option<ProxyMode>,
    /// One for each family and back-end that has the chain.
    pub forward: Vec<Forward>,
    /// There are timeouts that a rule may give some connections in place of the usual ones.
    /// `None`: not known.
    pub timeout_policies: Option<bool>,
    /// Everything could be looked at, so what was not found is not there.
    pub complete: bool,
}

pub(super) fn look(root: &Root, facts: &mut Facts) {
    const WHAT: &str = "the firewall's rules";
    if !root.is_live() {
        return;
    }
    match (
        namespace_of(&root.proc("thread-self/ns/net")),
        host::find(root),
    ) {
        (Ok(own), Ok(host)) if own == host.inode => {}
        (Ok(_), Ok(_)) => {
            facts.could_not(
                WHAT,
                &"this is not the host's network namespace",
                "run in the host's network namespace",
            );
            return;
        }
        (Err(error), _) => {
            facts.could_not(WHAT, &error, "mount procfs");
            return;
        }
        (_, Err(unseen)) => {
            facts.could_not(WHAT, &unseen, unseen.help());
            return;
        }
    }
    facts.rules.complete = true;
    let mut own_table = false;
    let (mut timeouts, mut knows_timeouts) = (false, true);
    if has_module(root, "nf_tables") {
        match nft::read() {
            Ok(found) => {
                own_table = found.own_table;
                timeouts |= found.timeouts;
                facts.rules.forward.extend(found.forward);
            }
            Err(error) => {
                facts.rules.complete = false;
                knows_timeouts = false;
                facts.could_not(
                    "the rules of nf_tables",
                    &error,
                    "run as root, or with CAP_NET_ADMIN",
                );
            }
        }
    }
    if has_module(root, "nfnetlink_cttimeout") {
        match timeout_policies() {
            Ok(some) => timeouts |= some,
            Err(error) => {
                knows_timeouts = false;
                facts.could_not(
                    "timeout policies",
                    &error,
                    "run as root, or with CAP_NET_ADMIN",
                );
            }
        }
    }
    facts.rules.timeout_policies = (timeouts || knows_timeouts).then_some(timeouts);
    for (ipv6, names) in [(false, "ip_tables_names"), (true, "ip6_tables_names")] {
        let path = root.proc("thread-self/net").join(names);
        let problem = match read_if_there(&path) {
            Ok(Some(text)) if text.lines().any(|name| name == "filter") => {
                legacy::read(ipv6).map(|forward| facts.rules.forward.extend(forward))
            }
            // No table of that kind is there, and asking would make one.
            Ok(_) => Ok(()),
            Err(error) => Err((format!("{}: {error}", path.display()), legacy::AS_ROOT)),
        };
        if let Err((because, help)) = problem {
            facts.rules.complete = false;
            facts.could_not("the rules of iptables-legacy", &because, help);
        }
    }
    facts.rules.mode = if own_table {
        Some(ProxyMode::Nftables)
    } else if root.sys("class/net/kube-ipvs0").exists() {
        Some(ProxyMode::Ipvs)
    } else {
        (!facts.rules.forward.is_empty()).then_some(ProxyMode::Iptables)
    };
    facts.looked.push("firewall rules of kube-proxy");
}

/// Whether there are timeouts that `nfct` made for `iptables -j CT --timeout`.
fn timeout_policies() -> Result<bool, NetlinkError> {
    const TIMEOUTS: u8 = 8;
    const GET: u8 = 1;
    let mut some = false;
    NetlinkSocket::netfilter()?.dump(TIMEOUTS, GET, 0, &[], |_| some = true)?;
    Ok(some)
}

/// Whether a module is loaded or built in, without loading it.
fn has_module(root: &Root, name: &str) -> bool {
    if root.sys("module").join(name).exists() {
        return true;
    }
    let Ok(release) = crate::kernel::release::release(root) else {
        return false;
    };
    let list = root.file(format!("lib/modules/{release}/modules.builtin"));
    let file = format!("/{name}.ko");
    fs::read_to_string(list).is_ok_and(|text| text.lines().any(|line| line.ends_with(&file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loaded_or_built_in() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = Root::at(folder.path());
        assert!(!has_module(&root, "nf_tables"));
        fs::create_dir_all(root.proc("sys/kernel")).expect("a folder");
        fs::write(root.proc("sys/kernel/osrelease"), "6.8.0-gke\n").expect("a file");
        let modules = root.file("lib/modules/6.8.0-gke");
        fs::create_dir_all(&modules).expect("a folder");
        let list = "kernel/net/netfilter/nf_conntrack.ko\nkernel/net/netfilter/nf_tables.ko\n";
        fs::write(modules.join("modules.builtin"), list).expect("a file");
        assert!(has_module(&root, "nf_tables"));
        assert!(!has_module(&root, "tables"));
        fs::create_dir_all(root.sys("module/ip_vs")).expect("a folder");
        assert!(has_module(&root, "ip_vs"));
    }

    #[test]
    fn programs_by_back_end_and_family() {
        let forward = |ipv6, backend| Forward {
            ipv6,
            backend,
            drop: None,
        };
        assert_eq!(forward(false, Backend::Nft).program(), "iptables-nft");
        assert_eq!(forward(true, Backend::Legacy).program(), "ip6tables-legacy");
    }
}
