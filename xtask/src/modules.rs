//! The kernel modules of a guest: those that the tests need and everything that these depend on.
//!
//! Debian's packages have no `modules.dep` (their post-install script makes it), so the dependencies are read
//! from the modules themselves. `depmod` then makes the indexes for the few that go into the guest.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection};

use crate::command;

/// Modules by name. Those that a kernel has built in or doesn't have are left out.
pub(crate) const WANTED: &[&str] = &[
    // Conntrack.
    "nf_conntrack",
    "nf_conntrack_netlink",
    "nf_defrag_ipv4",
    "nf_defrag_ipv6",
    "nf_conntrack_bridge",
    "nf_conntrack_ftp",
    "nfnetlink",
    "nfnetlink_cttimeout",
    // NAT and rules.
    "nf_nat",
    "nf_tables",
    "nft_compat",
    "nft_ct",
    "nft_nat",
    "nft_masq",
    "nft_redir",
    "nft_chain_nat",
    "nft_limit",
    "nft_log",
    "nft_reject",
    "nft_reject_inet",
    "nft_reject_ipv4",
    "nft_reject_ipv6",
    "nft_fib_inet",
    "nft_hash",
    "nft_numgen",
    "nft_counter",
    "nft_objref",
    "nft_flow_offload",
    "nft_connlimit",
    "nf_flow_table",
    "nf_flow_table_inet",
    "nf_conncount",
    "nf_log_syslog",
    "ip_tables",
    "ip6_tables",
    "iptable_nat",
    "ip6table_nat",
    "iptable_filter",
    "ip6table_filter",
    "iptable_mangle",
    "iptable_raw",
    "ip6table_raw",
    "x_tables",
    "xt_MASQUERADE",
    "xt_nat",
    "xt_conntrack",
    "xt_state",
    "xt_CT",
    "xt_tcpudp",
    "xt_multiport",
    "xt_mark",
    "xt_connmark",
    "xt_comment",
    "xt_addrtype",
    "xt_statistic",
    "xt_LOG",
    "xt_REDIRECT",
    "xt_limit",
    "xt_connlimit",
    "xt_cgroup",
    "xt_owner",
    "xt_set",
    "ip_set",
    "ip_set_hash_ip",
    "ipt_REJECT",
    "ip6t_REJECT",
    // Devices.
    "veth",
    "bridge",
    "br_netfilter",
    "netkit",
    "dummy",
    "ifb",
    "macvlan",
    "ipvlan",
    "vrf",
    "vxlan",
    "tun",
    "overlay",
    "loop",
    // Protocols and traffic.
    "sctp",
    "sctp_diag",
    "tcp_diag",
    "udp_diag",
    "inet_diag",
    "raw_diag",
    "gre",
    "ip_gre",
    "pktgen",
    "sch_netem",
    "sch_fq",
    "sch_ingress",
    "cls_bpf",
    "act_bpf",
    "act_ct",
    "openvswitch",
    // The machine.
    "virtio_pci",
    "virtio_console",
    "virtio_blk",
    "virtio_net",
    "virtio_rng",
];

/// What the first process has to load before it can talk to the host.
const PORT_DRIVERS: &[&str] = &["virtio_pci", "virtio_console"];

/// The modules of one kernel package.
#[derive(Debug)]
pub(crate) struct Modules {
    /// Name, with underscores, to file.
    files: BTreeMap<String, PathBuf>,
}

/// A module, unpacked.
#[derive(Debug)]
pub(crate) struct Module {
    /// Its path below `/lib/modules/VERSION`, without the ending of a compression.
    pub(crate) path: String,
    pub(crate) content: Vec<u8>,
    depends: Vec<String>,
}

impl Modules {
    /// Lists a folder `lib/modules/VERSION`.
    pub(crate) fn list(folder: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        let mut pending = vec![folder.join("kernel")];
        while let Some(next) = pending.pop() {
            let entries =
                fs::read_dir(&next).with_context(|| format!("list {}", next.display()))?;
            for entry in entries {
                let path = entry?.path();
                if path.is_dir() {
                    pending.push(path);
                } else if let Some(name) = module_name(&path) {
                    files.insert(name, path);
                }
            }
        }
        if files.is_empty() {
            bail!("{} holds no modules", folder.display());
        }
        Ok(Self { files })
    }

    /// The wanted modules that exist and all that they depend on, dependencies first.
    pub(crate) fn closure(&self, folder: &Path, wanted: &[&str]) -> Result<Vec<(String, Module)>> {
        let mut done = Vec::new();
        for name in wanted {
            if self.files.contains_key(*name) {
                self.add(folder, name, &mut done)?;
            }
        }
        Ok(done)
    }

    fn add(&self, folder: &Path, name: &str, done: &mut Vec<(String, Module)>) -> Result<()> {
        if done.iter().any(|(other, _)| other == name) {
            return Ok(());
        }
        let path = self
            .files
            .get(name)
            .with_context(|| format!("no module {name}"))?;
        let content = decompress(path)?;
        let depends = depends(&content).with_context(|| format!("read {}", path.display()))?;
        for dependency in &depends {
            self.add(folder, dependency, done)?;
        }
        let path = path.strip_prefix(folder)?.to_string_lossy();
        let plain = path.split_once(".ko").map_or(&*path, |(stem, _)| stem);
        let module = Module {
            path: format!("{plain}.ko"),
            content,
            depends,
        };
        done.push((name.to_owned(), module));
        Ok(())
    }
}

/// The modules that carry the port to the host, in load order.
pub(crate) fn port_drivers(modules: &[(String, Module)]) -> Vec<&Module> {
    fn add<'a>(name: &str, modules: &'a [(String, Module)], done: &mut Vec<&'a Module>) {
        let Some((_, module)) = modules.iter().find(|(other, _)| other == name) else {
            return;
        };
        for dependency in &module.depends {
            add(dependency, modules, done);
        }
        if !done.iter().any(|other| other.path == module.path) {
            done.push(module);
        }
    }
    let mut done = Vec::new();
    for name in PORT_DRIVERS {
        add(name, modules, &mut done);
    }
    done
}

/// Runs `depmod` over a folder that has `lib/modules/VERSION` in it.
pub(crate) fn index(mut depmod: Command, root: &Path, version: &str) -> Result<()> {
    command::output(depmod.arg("-b").arg(root).arg(version))?;
    Ok(())
}

fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let (stem, ending) = file.split_once(".ko")?;
    matches!(ending, "" | ".xz" | ".zst" | ".gz").then(|| stem.replace('-', "_"))
}

fn decompress(path: &Path) -> Result<Vec<u8>> {
    let (program, package) = match path.extension().and_then(|ending| ending.to_str()) {
        Some("xz") => ("xz", "xz-utils"),
        Some("zst") => ("zstd", "zstd"),
        Some("gz") => ("gzip", "gzip"),
        _ => return fs::read(path).with_context(|| format!("read {}", path.display())),
    };
    let mut unpack = command::required(program, package, "unpacks kernel modules")?;
    command::output_bytes(unpack.arg("-dc").arg(path))
}

/// The `depends=` of a module's `.modinfo` section.
fn depends(module: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(module)?;
    let section = file
        .section_by_name(".modinfo")
        .context("no section .modinfo")?;
    let text = section.data()?;
    let names = text
        .split(|byte| *byte == 0)
        .find_map(|line| line.strip_prefix(b"depends="));
    let names = String::from_utf8_lossy(names.unwrap_or_default()).replace('-', "_");
    Ok(names
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect())
}
