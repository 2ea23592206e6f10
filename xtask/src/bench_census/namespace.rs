//! The network namespace whose table is counted. Nothing of this machine itself is changed.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{ENTRIES, FLOWS};
use crate::cache::Cache;
use crate::{command, files, guest_tools};

const NAMESPACE: &str = "ctpbench";
const SYSCTLS: &str = "/proc/sys/net/netfilter";

/// Kept by its name until the end, however that comes.
pub(super) struct BenchNamespace;

impl BenchNamespace {
    /// A namespace that tracks flows into a dead end: a pair of devices of which the far one takes nothing.
    pub(super) fn new(cache: &Cache) -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            bail!("a network namespace is needed: run `cargo xtask bench` as root");
        }
        let limit = read(&Path::new(SYSCTLS).join("nf_conntrack_max"))
            .context("conntrack is not loaded: modprobe nf_conntrack")?;
        if limit != 0 && limit < ENTRIES {
            bail!(
                "{ENTRIES} entries do not fit this machine's limit of {limit}, which is not touched here. \
                 By hand: sysctl net.netfilter.nf_conntrack_max={}",
                ENTRIES + 10_000
            );
        }
        // Of a run that was killed.
        drop(ip(&format!("netns delete {NAMESPACE}")));
        ip(&format!("netns add {NAMESPACE}"))?;
        let namespace = Self;
        for arguments in [
            "link set lo up",
            "link add ctp0 type veth peer name ctp1",
            "link set ctp0 up",
            "link set ctp1 up",
            "addr add 192.0.2.1/32 dev ctp0",
            "neigh add 192.0.2.254 lladdr 02:00:00:00:00:01 nud permanent dev ctp0",
            "route add 198.18.0.0/15 via 192.0.2.254 dev ctp0 onlink",
            "-6 addr add fd00:c7::1/128 dev ctp0 nodad",
            "-6 neigh add fe80::1 lladdr 02:00:00:00:00:01 nud permanent dev ctp0",
            "-6 route add fd00:c7::/32 via fe80::1 dev ctp0 onlink",
        ] {
            ip(&format!("-n {NAMESPACE} {arguments}"))?;
        }
        // The namespace's own: nothing may expire meanwhile.
        let never = format!("for f in {SYSCTLS}/nf_conntrack_*_timeout*; do echo 86400 > $f; done");
        command::output(&mut inside(Command::new("sh").args(["-c", &never]))?)?;
        let rules = "table inet ctp { chain track { type filter hook output priority filter; ct state new accept; }; }";
        let nft = guest_tools::on_this_machine(cache, "nft", &[])?;
        command::output(inside(&nft)?.arg(rules))?;
        Ok(namespace)
    }

    pub(super) fn fill(ctgen: &Path) -> Result<()> {
        let mut send = inside(Command::new(ctgen).arg("send"))?;
        send.args(FLOWS.split(' '))
            .args(["--flows", &ENTRIES.to_string()]);
        let said = command::output(&mut send)?;
        let tally: Value = serde_json::from_str(&said).context("the counts of ctgen")?;
        if tally["accepted"] != ENTRIES {
            bail!("the kernel did not take all flows: {said}");
        }
        Ok(())
    }
}

impl Drop for BenchNamespace {
    fn drop(&mut self) {
        if let Err(error) = ip(&format!("netns delete {NAMESPACE}")) {
            eprintln!("xtask: error: {error:#}");
        }
    }
}

fn ip(arguments: &str) -> Result<String> {
    let mut ip = command::required("ip", "iproute2", "makes a network namespace")?;
    command::output(ip.args(arguments.split(' ')))
}

/// The command inside of the namespace.
pub(super) fn inside(program: &Command) -> Result<Command> {
    let mut ip = command::required("ip", "iproute2", "runs a program in a network namespace")?;
    ip.args(["netns", "exec", NAMESPACE]);
    ip.arg(program.get_program()).args(program.get_args());
    Ok(ip)
}

fn read(path: &Path) -> Result<u64> {
    let text = files::text(path)?;
    text.trim()
        .parse()
        .with_context(|| format!("{} holds `{}`", path.display(), text.trim()))
}
