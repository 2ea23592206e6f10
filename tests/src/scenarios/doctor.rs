//! `ctpressure doctor`: each condition made true, and then false again.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

use crate::guest::{
    agent::Mechanism,
    checks::Checks,
    command::{self, HANG, wait_for},
    generator, kernel, net,
};

mod kernel_lacks;
mod kube_proxies;
mod losses;
mod places;

pub(super) use kernel_lacks::kernel_lacks;
pub(super) use kube_proxies::kube_proxies;
pub(super) use losses::losses;

/// What kube-proxy 1.31 answers first when asked for its metrics.
const METRICS: &str = "HTTP/1.0 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n\r\n\
    # HELP kubernetes_build_info [ALPHA] A metric with a constant '1' value\n\
    # TYPE kubernetes_build_info gauge\n\
    kubernetes_build_info{build_date=\"2024-10-22T20:28:14Z\",compiler=\"gc\",\
    git_commit=\"x\",git_tree_state=\"clean\",git_version=\"v1.31.2\",go_version=\"go1.22.8\",\
    major=\"1\",minor=\"31\",platform=\"linux/amd64\"} 1\n";

/// The rules that kube-proxy writes into its chain, without the first.
const FORWARD: &[&str] = &[
    "-N KUBE-FORWARD",
    "-A FORWARD -j KUBE-FORWARD",
    "-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT",
    "-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
];
/// The first.
const DROP: &str = "-I KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP";

/// What `doctor -o json` says, and its exit status.
fn doctor() -> Result<(Value, Option<i32>)> {
    said_by(Command::new("ctpressure").args(["doctor", "-o", "json"]))
}

/// What the doctor says that this command starts, and its exit status.
fn said_by(doctor: &mut Command) -> Result<(Value, Option<i32>)> {
    let child = command::spawn(
        doctor
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped()),
    )?;
    let output = child.wait_with_output().context("waiting for the doctor")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let value = serde_json::from_str(&said).with_context(|| {
        let errors = String::from_utf8_lossy(&output.stderr);
        format!("not JSON: {said} {}", command::one_line(&errors))
    })?;
    Ok((value, output.status.code()))
}

fn ids(report: &Value) -> BTreeSet<&str> {
    let findings = report["findings"].as_array().map_or(&[][..], Vec::as_slice);
    findings
        .iter()
        .filter_map(|finding| finding["id"].as_str())
        .collect()
}

/// Just these findings are there; the exit status tells the worst.
fn expect(when: &str, expected: &[&str]) -> Result<Value> {
    let (report, status) = doctor()?;
    let expected: BTreeSet<&str> = expected.iter().copied().collect();
    let found = ids(&report);
    if found != expected {
        bail!(
            "{when}: {found:?} instead of {expected:?}: not seen {}, {}",
            report["could_not_look"],
            command::one_line(&report["findings"].to_string())
        );
    }
    let bad = matches!(report["severity"].as_str(), Some("problem" | "critical"));
    let mut checks = Checks::new();
    checks.equal(
        format!("{when}: exit status"),
        status,
        "by severity",
        Some(i32::from(bad)),
    );
    let unseen = &report["could_not_look"];
    checks.holds(unseen.as_array().is_some_and(Vec::is_empty), || {
        format!("{when}: not seen: {unseen}")
    });
    checks.finish()?;
    Ok(report)
}

fn finding<'a>(report: &'a Value, id: &str) -> &'a Value {
    report["findings"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|finding| finding["id"] == id)
        .unwrap_or(&Value::Null)
}

/// Runs the command lines that a finding gives.
fn apply(report: &Value, id: &str) -> Result<()> {
    for line in finding(report, id)["fix"].as_array().into_iter().flatten() {
        let line = line.as_str().context("a command line")?;
        // There is no sysctl program in the guest, and what it does is this.
        match line.strip_prefix("sysctl -w net.netfilter.") {
            Some(setting) => {
                let (name, value) = setting.split_once('=').context("a setting")?;
                kernel::set_sysctl(name, value.parse()?)?;
            }
            None => drop(command::output("sh", &["-c", line])?),
        }
    }
    Ok(())
}

/// A process that is called kube-proxy, with its flags, and its port for metrics.
struct Proxy {
    child: Child,
    _folder: TempDir,
}

impl Proxy {
    fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let path: PathBuf = folder.path().join("kube-proxy");
        fs::write(&path, "#!/bin/sh\nread line\n")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        let child = command::spawn(
            Command::new(&path)
                .args([
                    "--conntrack-max-per-core=32768",
                    "--conntrack-min=131072",
                    "--v=2",
                ])
                .stdin(Stdio::piped()),
        )?;
        let listener = TcpListener::bind("127.0.0.1:10249").context("kube-proxy's port")?;
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut request = [0; 512];
                // Who hangs up early is not answered.
                if stream.read(&mut request).is_ok() {
                    drop(stream.write_all(METRICS.as_bytes()));
                }
            }
        });
        Ok(Self {
            child,
            _folder: folder,
        })
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Either it is already gone, or it is to be.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Runs iptables commands, arguments split at spaces.
fn rules(program: &str, lines: &[&str]) -> Result<()> {
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        command::output(program, &words)?;
    }
    Ok(())
}

/// Removes what [`rules`] made.
fn no_rules(program: &str) -> Result<()> {
    rules(program, &["-F", "-X"])
}

pub(super) fn doctor_finds(_: Option<Mechanism>) -> Result<()> {
    let limit = kernel::sysctl("nf_conntrack_max")?;
    kernel::load_module("nf_conntrack_netlink")?;
    net::track_into_dead_end(None)?;
    let report = expect("a plain guest", &[])?;
    let from = &report["node"]["limit_from"];
    anyhow::ensure!(
        from[0] == "the kernel's default for this RAM",
        "the limit is from {from}"
    );
    settings()?;
    invalid(limit)?;
    full_of_old(limit)
}

/// Limit, buckets, kube-proxy, its rule, accounting, a listener.
fn settings() -> Result<()> {
    let buckets = kernel::sysctl("nf_conntrack_buckets")?;
    let proxy = Proxy::start()?;
    kernel::set_limit(200_000)?;
    kernel::set_sysctl("nf_conntrack_buckets", 8_192)?;
    kernel::set_sysctl("nf_conntrack_acct", 1)?;
    rules("iptables-nft", FORWARD)?;
    let mut listener = command::spawn(
        Command::new("conntrack")
            .args(["-E", "-e", "NEW"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    )?;
    wait_for("conntrack -E to listen", HANG, || {
        let sockets = fs::read_to_string("/proc/net/netlink")?;
        Ok(sockets
            .lines()
            .any(|line| line.split_whitespace().nth(3) == Some("00000001"))
            .then_some(()))
    })?;
    let report = expect(
        "settings",
        &[
            "limit_unexplained",
            "chain_too_long",
            "kube_proxy_lowers_limit",
            "invalid_not_dropped",
            "entry_extensions",
            "event_listeners",
        ],
    )
    .and_then(|report| {
        places::in_a_pod(&report)?;
        Ok(report)
    });
    listener.kill()?;
    listener.wait()?;
    let report = report?;
    let mut checks = Checks::new();
    for (id, words) in [
        ("kube_proxy_lowers_limit", "kube-proxy v1.31.2"),
        ("kube_proxy_lowers_limit", "wants 131,072"),
        ("limit_unexplained", "none of these gives this number"),
        ("invalid_not_dropped", "KUBE-FORWARD of iptables-nft"),
        ("event_listeners", "listening: conntrack (process "),
    ] {
        let evidence = finding(&report, id)["evidence"].as_str().unwrap_or("");
        checks.holds(evidence.contains(words), || format!("{id}: {evidence}"));
    }
    checks.finish()?;
    places::on_a_nested_node()?;
    // By the commands that it gave.
    for id in ["chain_too_long", "invalid_not_dropped", "entry_extensions"] {
        apply(&report, id)?;
    }
    kernel::set_limit(131_072)?;
    expect("settings mended", &[])?;
    drop(proxy);
    kernel::set_sysctl("nf_conntrack_buckets", buckets)
}

/// INVALID packets, in both back-ends of iptables.
fn invalid(limit: u64) -> Result<()> {
    kernel::set_limit(limit)?;
    kernel::set_sysctl("nf_conntrack_tcp_be_liberal", 1)?;
    let report = expect("liberal, with the rule", &["invalid_drop_stale"])?;
    let evidence = finding(&report, "invalid_drop_stale")["evidence"].clone();
    no_rules("iptables-nft")?;
    kernel::set_sysctl("nf_conntrack_tcp_be_liberal", 0)?;
    rules("iptables-legacy", FORWARD)?;
    let report = expect("legacy without the rule", &["invalid_not_dropped"])?;
    apply(&report, "invalid_not_dropped")?;
    expect("legacy with the rule", &[])?;
    rules("iptables-legacy", &[&DROP.replace("-I", "-D")])?;
    no_rules("iptables-legacy")?;
    anyhow::ensure!(
        evidence.to_string().contains("has dropped 0 packets"),
        "the rule's counter: {evidence}"
    );
    Ok(())
}

/// A small table full of connections that can't be evicted. A program made them with a timeout of its own, seconds ago: for how long they had
/// no packet is not known.
fn full_of_old(limit: u64) -> Result<()> {
    kernel::set_limit(200)?;
    kernel::nothing_expires(None)?;
    kernel::set_sysctl("nf_conntrack_tcp_timeout_established", 432_000)?;
    let script = "port=2000; while [ $port -lt 2060 ]; do conntrack -I -p tcp -s 198.18.0.1 \
                  -d 198.19.0.2 --sport $port --dport 80 --state ESTABLISHED \
                  -u SEEN_REPLY,ASSURED -t 1000 >/dev/null 2>&1 || exit; port=$((port + 1)); done";
    command::output("sh", &["-c", script])?;
    let sent = generator::send(None, "--flows 133 --rate 1000")?;
    anyhow::ensure!(sent.accepted == 133, "not all fit: {sent:?}");
    expect(
        "a small table",
        &[
            "limit_unexplained",
            "limit_below_default",
            "nothing_to_evict",
            "table_near_limit",
            "one_way_flood",
        ],
    )?;
    kernel::set_limit(limit)?;
    command::output("conntrack", &["-F"])?;
    expect("the table made larger and emptied", &[])?;
    Ok(())
}
