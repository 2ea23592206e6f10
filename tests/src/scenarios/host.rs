//! Which network namespace is the host's, for an agent that may not look at process 1: it is told rightly, or said not to
//! be known. The agent is in a network namespace of its own, as a pod without `hostNetwork`.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::conditions::{check, end_of};
use crate::guest::{
    agent::{Agent, Mechanism},
    checks::Checks,
    command::{self, HANG, wait_for},
    confinement::Confinement,
    generator, kernel,
    net::{self, ip},
};

/// The agent's network namespace, and its address there.
const AGENT: &str = "ctp-agent";
const ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

/// The host's address towards it, from which the host sends.
const HOST_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

/// Flows of the host.
const FLOWS: u64 = 300;

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// What container runtimes give to a container by default, as far as it matters here (containerd,
/// `contrib/apparmor/template.go`): much of `/proc` and `/sys` can't be written, and only processes of the same profile
/// can be looked at.
const PROFILE: &str = "
profile ctp-default flags=(attach_disconnected,mediate_deleted) {
  network,
  capability,
  file,
  umount,
  signal (receive) peer=unconfined,
  signal (send,receive) peer=ctp-default,
  deny /proc/sysrq-trigger rwklx,
  deny /proc/kcore rwklx,
  deny mount,
  deny /sys/firmware/** rwklx,
  deny /sys/kernel/security/** rwklx,
  ptrace (trace,read) peer=ctp-default,
}
";

/// Scrapes of the agent are no entries of the host.
const NOT_TRACKED: &str = "
table inet ctp-scrapes {
  chain sent { type filter hook output priority raw; oifname \"ctp-scrape\" notrack; }
  chain received { type filter hook prerouting priority raw; iifname \"ctp-scrape\" notrack; }
}
";

pub(super) fn without_ptrace(_: Option<Mechanism>) -> Result<()> {
    let confinement = Confinement::without("CAP_SYS_PTRACE").inside(AGENT);
    let help = "give it CAP_SYS_PTRACE";
    shown(&confinement, "this process lacks CAP_SYS_PTRACE", help)
}

pub(super) fn under_apparmor(_: Option<Mechanism>) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("profile");
    fs::write(&file, PROFILE)?;
    let path = file.display().to_string();
    command::output("apparmor_parser", &["--replace", "--skip-cache", &path])
        .context("loading a profile (does this kernel have AppArmor?)")?;
    let confinement = Confinement::under("ctp-default").inside(AGENT);
    let help = "appArmorProfile.type: Unconfined";
    shown(&confinement, "the AppArmor profile ctp-default", help)
}

/// The same for each cause, which is named as `why`, with `help`.
fn shown(confinement: &Confinement, why: &str, help: &str) -> Result<()> {
    kernel::load_module("nf_conntrack")?;
    net::track_into_dead_end(None)?;
    net::nft(None, NOT_TRACKED)?;
    net::add_namespace(AGENT)?;
    ip(
        None,
        &format!("link add ctp-scrape type veth peer name eth0 netns {AGENT}"),
    )?;
    ip(None, &format!("addr add {HOST_ADDRESS}/30 dev ctp-scrape"))?;
    ip(None, "link set ctp-scrape up")?;
    for arguments in [
        "link set lo up",
        &format!("addr add {ADDRESS}/30 dev eth0"),
        "link set eth0 up",
    ] {
        ip(Some(AGENT), arguments)?;
    }
    let mut checks = Checks::new();
    the_kernel_tells(&mut checks, confinement, why, help)?;
    nothing_tells(&mut checks, confinement, why, help)?;
    checks.finish()?;
    own_numbers()
}

/// The host's table is read although process 1 may not be looked at.
fn the_kernel_tells(
    checks: &mut Checks,
    confinement: &Confinement,
    why: &str,
    help: &str,
) -> Result<()> {
    let agent = Agent::launch_confined(confinement, IpAddr::V4(ADDRESS), "")?.wait_until_ready()?;
    let before = agent.settled()?;
    let tally = generator::send(None, &format!("--flows {FLOWS} --source {HOST_ADDRESS}/32"))?;
    let metrics = agent.settled()?;
    let there = kernel::entries()?;
    checks.at_least("the kernel's count", there, FLOWS);
    checks.equal("flows", tally.accepted, "asked for", FLOWS);
    let host = metrics.count("ctpressure_table_entries", &[("netns", "host")])?;
    checks.equal("table_entries{host}", host, "the kernel's count", there);
    let opened = [("owner_kind", "host"), ("direction", "egress")];
    let opened =
        |metrics: &crate::guest::prom::Metrics| metrics.count("ctpressure_inserts_total", &opened);
    checks.equal(
        "inserts_total{host}",
        opened(&metrics)? - opened(&before)?,
        "flows",
        FLOWS,
    );
    let problems = agent.status()?["problems"].to_string();
    for words in [why, help] {
        checks.holds(problems.contains(words), || {
            format!("`{words}` is not in {problems}")
        });
    }
    checks.holds(!problems.contains("run as root"), || {
        format!("root is told to be root: {problems}")
    });
    agent.stop()
}

/// Where the kernel can't be asked either (it does not describe its types): nothing is taken for the host's.
fn nothing_tells(
    checks: &mut Checks,
    confinement: &Confinement,
    why: &str,
    help: &str,
) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let copy = folder.path().join("vmlinux");
    fs::copy(VMLINUX, &copy).with_context(|| format!("copying {VMLINUX}"))?;
    let empty = folder.path().join("empty");
    fs::write(&empty, "")?;
    command::output("mount", &["--bind", &empty.display().to_string(), VMLINUX])?;
    let shown = unseen(
        checks,
        confinement,
        &format!("--btf {}", copy.display()),
        &[why, help],
    );
    command::output("umount", &[VMLINUX])?;
    shown
}

fn unseen(
    checks: &mut Checks,
    confinement: &Confinement,
    arguments: &str,
    words: &[&str],
) -> Result<()> {
    let agent = Agent::launch_confined(confinement, IpAddr::V4(ADDRESS), arguments)?;
    let said = wait_for("the agent to be attached and not ready", HANG, || {
        let Ok((status, said)) = agent.get("/readyz") else {
            return Ok(None);
        };
        anyhow::ensure!(
            status != 200,
            "it is ready although the host's table is not seen"
        );
        Ok(said.contains("host's").then_some(said))
    })?;
    for words in words {
        checks.holds(said.contains(words), || {
            format!("`{words}` is not in `{said}`")
        });
    }
    generator::send(
        None,
        &format!("--flows {FLOWS} --first 5000 --source {HOST_ADDRESS}/32"),
    )?;
    let metrics = agent.settled()?;
    let tables = metrics.select("ctpressure_table_entries", &[("netns", "host")]);
    checks.equal("series of a table `host`", tables.count(), "none", 0);
    let owners = metrics.select("ctpressure_inserts_total", &[("owner_kind", "host")]);
    checks.equal("series of the owner `host`", owners.count(), "none", 0);
    let unknown = metrics.count("ctpressure_inserts_total", &[("owner_kind", "unknown")])?;
    checks.at_least("inserts_total{unknown}", unknown, FLOWS);
    checks.equal(
        "state",
        agent.status()?["state"].as_str(),
        "expected",
        Some("degraded"),
    );
    agent.stop()
}

/// In a container with process numbers of its own, process 1 is not the host's.
fn own_numbers() -> Result<()> {
    let mut command = Command::new("unshare");
    command.args([
        "--net",
        "--pid",
        "--fork",
        "--mount-proc",
        "ctpressure",
        "table",
        "--netns",
        "host",
    ]);
    check(
        &end_of(&mut command)?,
        1,
        &["no network namespace host", "hostPID"],
    )
}
