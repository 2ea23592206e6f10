//! What a full table is full of that a higher limit would not help: said by every command alike, and nobody else blamed.

use std::{
    net::Ipv4Addr,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{
    containers::lookalike::Lookalike,
    guest::{
        agent::{Agent, Mechanism},
        checks::Checks,
        command::{self, HANG, wait_for},
        generator, kernel,
        net::{self, ip},
        nfqueue::SilentQueue,
    },
    scenarios::setting::Setting,
};

const LIMIT: u64 = 600;
/// Flows that fill it.
const FLOWS: u64 = 560;
const CONTROLLER: &str = "--limit-controller dry-run --raise-cooldown 10s --raise-for 5s";
const POD: Ipv4Addr = Ipv4Addr::new(10, 89, 0, 5);
/// Whose packets are lost.
const VICTIM: &str = "--source 198.18.77.1/32 --destination 198.19.7.7/32 --flows 60 --rate 60";

const QUEUED: &str = "
table ip ctp_queue {
  chain out {
    type filter hook output priority 100;
    ip saddr 198.18.55.1 queue num 7
  }
}
";

/// What a command says that asks this agent.
fn asked(agent: &Agent, arguments: &str) -> Result<Value> {
    let socket = agent.socket();
    json(&format!("{arguments} --socket {}", socket.display()))
}

/// What a command says, arguments split at spaces.
fn json(arguments: &str) -> Result<Value> {
    let mut command = Command::new("ctpressure");
    command.args(arguments.split(' ')).args(["-o", "json"]);
    // The doctor's exit status tells what it found.
    let said = command.stderr(Stdio::null()).output()?;
    serde_json::from_slice(&said.stdout).with_context(|| format!("{arguments} prints no JSON"))
}

fn finding(id: &str) -> Result<Option<Value>> {
    let report = json("doctor")?;
    let findings = report["findings"].as_array().cloned().unwrap_or_default();
    let mut checks = Checks::new();
    for finding in &findings {
        let fix = finding["fix"].to_string();
        checks.holds(!fix.contains("nf_conntrack_max="), || {
            format!("while {id}, {} advises a raise: {fix}", finding["id"])
        });
    }
    let found = findings.into_iter().find(|finding| finding["id"] == id);
    if found.is_some() {
        checks.finish()?;
    }
    Ok(found)
}

/// Everybody says it: the doctor (whose finding is given), the limit controller, `top`, `table`, metrics.
fn said_by_all(agent: &Agent, verdict: &str, id: &str, checks: &mut Checks) -> Result<Value> {
    let found = wait_for(&format!("the doctor's {id}"), HANG, || finding(id))?;
    wait_for("the controller's word", HANG, || {
        let view = asked(agent, "limit")?;
        let now = view["controller"]["now"].to_string();
        Ok(now.contains("but not for").then_some(()))
    })?;
    let has = |value: &Value| {
        let verdicts = value["tables"][0]["verdicts"].as_array();
        verdicts.is_some_and(|verdicts| verdicts.iter().any(|found| found["kind"] == verdict))
    };
    let top = wait_for("the verdict in top", HANG, || {
        let top = asked(agent, "top --once")?;
        Ok(has(&top).then_some(top))
    });
    checks.holds(top.is_ok(), || format!("top does not say {verdict}"));
    let table = json("table")?;
    checks.holds(has(&table), || {
        format!("table does not say {verdict}: {}", table["tables"])
    });
    let labels = [("netns", "host"), ("verdict", verdict)];
    let entries = agent
        .scrape()?
        .count("ctpressure_table_verdict_entries", &labels)?;
    checks.at_least(
        format!("entries of the verdict {verdict}"),
        entries,
        FLOWS / 4,
    );
    Ok(found)
}

/// The count is at the limit while next to nothing is listed: packets wait in a slow queue. As people met it:
/// <https://github.com/NordSecurity/nordvpn-linux/issues/36>, <https://github.com/Chion82/netfilter-full-cone-nat/issues/7>. They needed to
/// know that no list has these entries, and where packets wait; never that whoever is in the list is to blame.
pub(super) fn held(mechanism: Option<Mechanism>) -> Result<()> {
    let setting = Setting::new(mechanism, LIMIT, CONTROLLER)?;
    let agent = &setting.agent;
    let mut checks = Checks::new();
    let queue = [
        "qdisc", "add", "dev", "ctp0", "root", "netem", "delay", "120s", "limit", "100000",
    ];
    command::output("tc", &queue)?;
    let arguments = format!("send --protocol icmp --source {POD}/32 --flows {FLOWS} --rate 2000");
    kernel::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    let pod = Lookalike::make(1, POD, 2.0, &arguments)?;
    wait_for("the pod to send", HANG, || pod.counts())?;
    command::output("conntrack", &["-F"])?;
    generator::send(None, VICTIM)?;
    let found = said_by_all(agent, "held", "entries_held", &mut checks)?;
    checks.holds(
        found["evidence"]
            .to_string()
            .contains("queue of ctp0 (netem)"),
        || format!("where packets wait: {found}"),
    );
    let top = asked(agent, "top --once")?;
    let count = kernel::entries()?;
    checks.at_least("held", top["held"].as_u64().unwrap_or(0), count - 80);
    for owner in top["owners"].as_array().into_iter().flatten() {
        let (name, share) = (&owner["name"], owner["live_share"].as_f64().unwrap_or(0.0));
        checks.holds(share < 0.25, || {
            format!("{name} holds {share} of the table")
        });
        let held = owner["held_at_most"].as_u64().unwrap_or(0);
        if *name == "batch/job-1" {
            checks.at_least("held for the pod at most", held, FLOWS * 9 / 10);
        }
    }
    let metrics = agent.scrape()?;
    let held = metrics.count("ctpressure_entries_held", &[])?;
    checks.at_least("ctpressure_entries_held", held, count - 80);
    command::output("tc", &["qdisc", "del", "dev", "ctp0", "root"])?;
    pod.remove()?;
    checks.finish()?;
    setting.agent.stop()
}

/// The same with packets that a program was given to judge (NFQUEUE: an intrusion detection, a parental control) and did not.
pub(super) fn queued(mechanism: Option<Mechanism>) -> Result<()> {
    let setting = Setting::new(mechanism, LIMIT, CONTROLLER)?;
    let mut checks = Checks::new();
    kernel::load_module("nfnetlink_queue")?;
    let queue = SilentQueue::bind(7)?;
    net::nft(None, QUEUED)?;
    // What waits is charged to the socket that sent it: no socket has room for all.
    for part in 0..FLOWS / 140 {
        let first = 1_000 * part;
        let flows = format!("--source 198.18.55.1/32 --flows 140 --first {first}");
        generator::send(None, &flows)?;
    }
    let found = said_by_all(&setting.agent, "held", "entries_held", &mut checks)?;
    let evidence = found["evidence"].to_string();
    checks.holds(evidence.contains("NFQUEUE 7 of"), || {
        format!("where packets wait: {found}")
    });
    net::nft(None, "delete table ip ctp_queue")?;
    drop(queue);
    checks.finish()?;
    setting.agent.stop()
}

/// Half of a full table are the outer packets of a VXLAN tunnel, on a port of its own: <https://github.com/projectcalico/calico/issues/8934>. The
/// person needed the rules that exempt them from tracking; what the doctor prints is run as it stands, by iptables and by nft.
pub(super) fn overlay(mechanism: Option<Mechanism>) -> Result<()> {
    let setting = Setting::new(mechanism, LIMIT, CONTROLLER)?;
    let agent = &setting.agent;
    let mut checks = Checks::new();
    kernel::load_module("vxlan")?;
    for arguments in [
        "link add ctpvx type vxlan id 42 local 192.0.2.1 remote 198.18.0.9 dstport 4799",
        "link set ctpvx up",
        "addr add 10.43.0.1/24 dev ctpvx",
        "neigh replace 10.43.0.9 lladdr 02:00:00:00:00:09 dev ctpvx nud permanent",
        "route add 10.44.0.0/16 via 10.43.0.9 dev ctpvx",
    ] {
        ip(None, arguments)?;
    }
    let send = || {
        let flows = FLOWS / 2;
        let flows = format!("--source 10.43.0.1/32 --destination 10.44.0.0/16 --flows {flows}");
        generator::send(None, &flows)
    };
    let outer = || -> Result<u64> {
        let table = json("table --port 4799")?;
        Ok(table["entries"].as_u64().unwrap_or(0))
    };
    send()?;
    checks.at_least("outer entries", outer()?, FLOWS / 3);
    let found = said_by_all(agent, "overlay", "overlay_tracked", &mut checks)?;
    let words = |name: &str| found[name].to_string();
    checks.holds(words("title").contains("VXLAN"), || words("title"));
    let fix: Vec<String> = found["fix"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|line| line.as_str().map(str::to_owned))
        .collect();
    let advice = found["advice"].as_str().unwrap_or_default();
    let nft: Vec<String> = advice
        .split('`')
        .filter(|part| part.starts_with("nft "))
        .map(str::to_owned)
        .collect();
    checks.equal("rules by iptables", fix.len(), "chains", 2);
    checks.equal("lines of nft", nft.len(), "table, chains and rules", 5);
    for (lines, undo) in [
        (&fix, "iptables -t raw -F"),
        (&nft, "nft delete table inet overlay"),
    ] {
        for line in lines {
            command::output("sh", &["-c", line])?;
        }
        command::output("conntrack", &["-F"])?;
        send()?;
        checks.equal(
            format!("outer entries after {}", lines[0]),
            outer()?,
            "none",
            0,
        );
        command::output("sh", &["-c", undo])?;
    }
    command::output("conntrack", &["-F"])?;
    send()?;
    checks.at_least("outer entries without rules", outer()?, FLOWS / 3);
    checks.finish()?;
    setting.agent.stop()
}

/// A failover commits the other node's entries into a table that is too small, and nobody's packet is lost by that. The person needed to know
/// which refused entries were packets (conntrackd's manual on `commit`: <https://conntrack-tools.netfilter.org/manual.html>), and was not to be
/// told that connections of some seconds are idle for hours.
pub(super) fn requests(mechanism: Option<Mechanism>) -> Result<()> {
    const COMMITTED: u64 = 700;
    let setting = Setting::new(mechanism, LIMIT, "")?;
    let agent = &setting.agent;
    let script = format!(
        "port=2000; while [ $port -lt {} ]; do conntrack -I -p tcp -s 198.18.200.1 -d 198.19.0.1 --sport $port --dport 443 --state \
         ESTABLISHED --timeout 3000 -u SEEN_REPLY,ASSURED >/dev/null 2>&1 || echo refused; port=$((port + 1)); done",
        2_000 + COMMITTED
    );
    let said = command::output("sh", &["-c", &script])?;
    let refused = said.lines().count() as u64;
    let mut checks = Checks::new();
    checks.at_least("refused requests", refused, COMMITTED - LIMIT);
    let sent = generator::send(None, VICTIM)?;
    let lost = sent.error("EPERM");
    checks.at_least("lost packets", lost, 1);
    let growth = setting.growth()?;
    let by = |reason| growth.counter("drops_total", &[("reason", reason)]);
    checks.equal("requests", by("table_full_request")?, "refused", refused);
    checks.equal("packets", by("table_full")?, "EPERM", lost);
    checks.equal(
        "packets",
        by("table_full")?,
        "kernel drop",
        growth.kernel("drop"),
    );
    let top = asked(agent, "top --once")?;
    let totals = &top["totals"];
    let of_top = |value: &Value| value.as_u64().unwrap_or(u64::MAX);
    checks.equal(
        "top's refused",
        of_top(&totals["refused"]),
        "refused",
        refused,
    );
    checks.equal(
        "top's drops",
        of_top(&totals["drops"]["table_full"]),
        "EPERM",
        lost,
    );
    let report = asked(agent, "doctor")?;
    let findings = report["findings"].as_array().cloned().unwrap_or_default();
    let has = |id: &str| findings.iter().any(|finding| finding["id"] == id);
    checks.holds(has("requests_refused"), || {
        "the doctor says nothing of requests".to_owned()
    });
    checks.holds(!has("timeout_established"), || {
        "committed entries are said to be idle".to_owned()
    });
    checks.finish()?;
    drop(growth);
    setting.agent.stop()
}
