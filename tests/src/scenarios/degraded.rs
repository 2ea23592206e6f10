//! What is not counted: it is absent in every output, and what the kernel counts in its place is told, as nobody's.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::setting::{Growth, MANY_BUCKETS, Setting};
use crate::guest::{
    agent::{Agent, Mechanism},
    checks::Checks,
    command::{self, HANG, wait_for},
    confinement::Confinement,
    generator, kernel, net,
};

const LIMIT: u64 = 1_000;
const FLOWS: u64 = 3_000;
const POD: &str = "ctp-pod";
/// A pod with rules of its own.
const POD_RULES: &str = "
table inet pod {
  chain output { type filter hook output priority filter; ct state new,established accept; }
}
";

/// The families by owner.
const FAMILIES: [&str; 5] = [
    "inserts_total",
    "deletes_total",
    "entries",
    "drops_total",
    "evictions_total",
];

/// What has no probe: the functions that are taken away, the families that are withheld then (of drops those for a full
/// table), and how `/status` calls the event.
const CASES: [(&str, &[&str], &str); 3] = [
    (
        "early_drop",
        &["drops_total", "evictions_total"],
        "early_drop",
    ),
    (
        "__nf_conntrack_hash_insert,__nf_conntrack_confirm",
        &["inserts_total", "entries"],
        "insert",
    ),
    (
        "__nf_ct_delete_from_lists,nf_ct_delete_from_lists,nf_ct_remove_expectations",
        &["deletes_total", "entries", "evictions_total"],
        "delete",
    ),
];

pub(super) fn not_counted(mechanism: Option<Mechanism>) -> Result<()> {
    for (functions, withheld, event) in CASES {
        net::clean_up()?;
        kernel::set_sysctl("nf_conntrack_buckets", MANY_BUCKETS)?;
        let arguments = format!("--without-function {functions}");
        let setting = Setting::new(mechanism, LIMIT, &arguments)?;
        flood_with_a_pod(&setting)?;
        let growth = setting.growth()?;
        let mut checks = Checks::new();
        only_these_are_withheld(&mut checks, &growth, withheld);
        the_kernels_are_told(&mut checks, &growth, withheld)?;
        let status = setting.agent.status()?;
        checks.equal(
            "state",
            status["state"].as_str(),
            "expected",
            Some("degraded"),
        );
        let reason = status["reason"].as_str().unwrap_or("");
        checks.holds(reason.contains(event), || {
            format!("the reason is `{reason}`")
        });
        outputs_have_no_0(&mut checks, &setting.agent, &status, withheld)?;
        the_pod_goes(&mut checks, &setting.agent)?;
        checks
            .finish()
            .with_context(|| format!("without {functions}"))?;
        drop(growth);
        setting.agent.stop()?;
    }
    Ok(())
}

/// What was lost in a namespace stays lost when it goes.
fn the_pod_goes(checks: &mut Checks, agent: &Agent) -> Result<()> {
    let losses = || {
        let metrics = agent.settled()?;
        let count = |name: &str| metrics.count(&format!("ctpressure_{name}"), &[]);
        Ok::<_, anyhow::Error>((count("node_drops_total")?, count("node_evictions_total")?))
    };
    let before = losses()?;
    net::ip(None, &format!("netns delete {POD}"))?;
    wait_for("the agent to miss the pod's table", HANG, || {
        let tables = agent.status()?["tables"].to_string();
        Ok((!tables.contains(POD)).then_some(()))
    })?;
    checks.equal(
        "node's losses with the pod",
        before,
        "without it",
        losses()?,
    );
    Ok(())
}

/// More than fits, from here and from a pod.
fn flood_with_a_pod(setting: &Setting) -> Result<()> {
    net::add_namespace(POD)?;
    net::dead_end(Some(POD))?;
    net::nft(Some(POD), POD_RULES)?;
    setting.agent.wait_for_table(POD)?;
    let pod = generator::send(Some(POD), &format!("--flows {FLOWS} --rate 3000"))?;
    let host = generator::send(None, &format!("--flows {FLOWS} --rate 3000"))?;
    ensure!(
        pod.error("EPERM") > 100 && host.error("EPERM") > 100,
        "too few drops: {} and {}",
        pod.error("EPERM"),
        host.error("EPERM")
    );
    setting.agent.settled()?;
    Ok(())
}

fn only_these_are_withheld(checks: &mut Checks, growth: &Growth<'_>, withheld: &[&str]) {
    for family in FAMILIES {
        let labels: &[(&str, &str)] = if family == "drops_total" {
            &[("reason", "table_full")]
        } else {
            &[]
        };
        let name = format!("ctpressure_{family}");
        let there = growth.metrics.select(&name, labels).next().is_some();
        checks.equal(
            format!("{family} is there"),
            there,
            "expected",
            !withheld.contains(&family),
        );
    }
}

/// What nobody is charged with, for the node as a whole, once and in one place.
fn the_kernels_are_told(checks: &mut Checks, growth: &Growth<'_>, withheld: &[&str]) -> Result<()> {
    let all = |stat| growth.counter("kernel_stat_total", &[("stat", stat)]);
    let (drops, evictions) = (all("drop")?, all("early_drop")?);
    checks.at_least("kernel drop", drops, 200);
    checks.at_least("kernel early_drop", evictions, 50);
    for (family, name, kernel, labels) in [
        (
            "drops_total",
            "node_drops_total",
            drops,
            &[("stat", "drop")][..],
        ),
        (
            "evictions_total",
            "node_evictions_total",
            evictions,
            &[][..],
        ),
    ] {
        let of_nobody = growth.counter(name, labels)?;
        let expected = if withheld.contains(&family) {
            kernel
        } else {
            0
        };
        checks.equal(name, of_nobody, "the kernel's", expected);
    }
    for kind in ["drops_unexplained", "evictions_unseen"] {
        let lost = growth.counter("events_lost_total", &[("kind", kind)])?;
        checks.equal(kind, lost, "zero: it has another home", 0);
    }
    if !withheld.contains(&"drops_total") {
        let charged = growth.counter("drops_total", &[("reason", "table_full")])?;
        checks.equal("drops_total{table_full}", charged, "kernel drop", drops);
    }
    Ok(())
}

/// `/status` and `top` say that they do not know.
fn outputs_have_no_0(
    checks: &mut Checks,
    agent: &Agent,
    status: &Value,
    withheld: &[&str],
) -> Result<()> {
    let socket = agent.socket();
    let socket = socket.to_str().context("a path that is not UTF-8")?;
    let top = command::output(
        "ctpressure",
        &["top", "--once", "-o", "json", "--socket", socket],
    )?;
    let top: Value =
        serde_json::from_str(top.lines().next().unwrap_or("")).context("top's line is not JSON")?;
    for (family, total, of_owner) in [
        ("inserts_total", "/totals/inserts", "/owners/0/inserts"),
        ("deletes_total", "/totals/deletes", "/owners/0/deletes"),
        ("evictions_total", "/totals/evictions", "/owners/0/victims"),
    ] {
        for (what, said) in [
            ("top's total", top.pointer(total)),
            ("top's owner", top.pointer(of_owner)),
            ("the total of /status", status.pointer(total)),
        ] {
            let unknown = said.is_some_and(Value::is_null);
            checks.equal(
                format!("{what} of {family} is unknown"),
                unknown,
                "expected",
                withheld.contains(&family),
            );
        }
    }
    let drops = status.pointer("/totals/drops/table_full");
    checks.equal(
        "drops for a full table in /status are unknown",
        drops.is_some_and(Value::is_null),
        "expected",
        withheld.contains(&"drops_total"),
    );
    Ok(())
}

/// Arguments of `unshare`: what it becomes finds no BTF.
const WITHOUT_BTF: &[&str] = &[
    "-m",
    "sh",
    "-c",
    "mount -t tmpfs none /sys/kernel/btf && exec \"$@\"",
    "sh",
];

pub(super) fn no_btf(_: Option<Mechanism>) -> Result<()> {
    kernel::set_sysctl("nf_conntrack_buckets", MANY_BUCKETS)?;
    kernel::never_expire()?;
    kernel::set_limit(LIMIT)?;
    net::track_into_dead_end(None)?;
    let mut by = Command::new("unshare");
    by.args(WITHOUT_BTF);
    let setting = Setting::with_agent(Agent::start_by(by, "")?)?;
    nothing_is_attached(&setting, "no usable BTF at /sys/kernel/btf/vmlinux")?;

    // It is there after all: found without being started anew, and counted from then on.
    let pid = setting.agent.pid().to_string();
    command::output("nsenter", &["-t", &pid, "-m", "umount", "/sys/kernel/btf"])?;
    wait_for("the agent to attach its probes", HANG, || {
        Ok((setting.agent.status()?["state"] == "attached").then_some(()))
    })?;
    let before = setting.agent.settled()?;
    let sent = generator::send(None, "--flows 500 --first 200000")?;
    let after = setting.agent.settled()?;
    let mut checks = Checks::new();
    let inserts = "ctpressure_inserts_total";
    checks.equal(
        "inserts_total since",
        after.count(inserts, &[])? - before.count(inserts, &[])?,
        "accepted flows",
        sent.accepted,
    );
    let series = after.select("ctpressure_node_drops_total", &[]).count();
    checks.equal("node_drops_total{stat=\"drop\"}", series, "absent", 0);
    checks.finish()?;
    setting.agent.stop()
}

/// bpf(2) is refused: without the capability, as by a security module.
pub(super) fn no_cap_bpf(_: Option<Mechanism>) -> Result<()> {
    kernel::set_sysctl("nf_conntrack_buckets", MANY_BUCKETS)?;
    kernel::never_expire()?;
    kernel::set_limit(LIMIT)?;
    net::track_into_dead_end(None)?;
    let confinement = Confinement::without("CAP_BPF,CAP_SYS_ADMIN");
    let setting = Setting::with_agent(Agent::start_by(confinement.command()?, "")?)?;
    nothing_is_attached(&setting, "CAP_BPF is missing")?;
    setting.agent.stop()?;
    // Who wants to see single events is told that there are none to be had.
    let socket = std::env::temp_dir().join("ctp-nobody.sock");
    let mut watch = confinement.command()?;
    watch.args(["ctpressure", "watch", "--socket"]);
    super::conditions::check(
        &super::conditions::end_of(watch.arg(socket))?,
        1,
        &["ctpressure: error: ", "help: ", "CAP_BPF"],
    )
}

/// The agent serves what needs no probe, and says why there is nothing more.
fn nothing_is_attached(setting: &Setting, why: &str) -> Result<()> {
    let agent = &setting.agent;
    let tally = generator::send(None, &format!("--flows {FLOWS} --rate 3000"))?;
    let growth = setting.growth()?;
    let mut checks = Checks::new();
    let (ready, _) = agent.get("/readyz")?;
    checks.equal("/readyz", ready, "expected", 200);
    let status = agent.status()?;
    checks.equal(
        "state",
        status["state"].as_str(),
        "expected",
        Some("degraded"),
    );
    let reason = status["reason"].as_str().unwrap_or("");
    checks.holds(reason.contains(why), || format!("the reason is `{reason}`"));
    only_these_are_withheld(&mut checks, &growth, &FAMILIES);
    for (name, labels, there) in [
        (
            "ctpressure_table_entries",
            &[("netns", "host")][..],
            kernel::entries()?,
        ),
        ("ctpressure_table_limit", &[][..], LIMIT),
    ] {
        let count = growth.metrics.count(name, labels)?;
        checks.equal(name, count, "the kernel's", there);
    }
    let refused = tally.error("EPERM");
    checks.at_least("EPERM", refused, 100);
    checks.equal(
        "node_drops_total",
        growth.counter("node_drops_total", &[("stat", "drop")])?,
        "EPERM",
        refused,
    );
    checks.equal(
        "node_evictions_total",
        growth.counter("node_evictions_total", &[])?,
        "early_drop",
        growth.kernel("early_drop"),
    );
    let probes = growth.metrics.select("ctpressure_probe_attached", &[]);
    let missing = probes.filter(|probe| probe.value == 0.0).count();
    checks.at_least("events without a probe", missing, 6);
    // Who has the entries is told by a census.
    let held = kernel::entries()?;
    wait_for("a census that finds all entries", HANG, || {
        let found = agent.scrape()?.count("ctpressure_entries_found", &[])?;
        Ok((found == held).then_some(()))
    })?;
    let said = agent.log();
    let errors = said.matches("nothing is attached").count();
    checks.equal("times that the log says so", errors, "once", 1);
    checks.finish()
}
