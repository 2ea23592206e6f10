//! `ctpressure table`: its numbers against the generator's.

use std::{
    collections::BTreeMap,
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::conditions::{NOBODY, check, end_of};
use super::setting::ALL_KINDS;
use crate::{
    guest::{
        agent::Mechanism,
        checks::Checks,
        command::{self, wait_for},
        generator, kernel, net,
    },
    traffic::tally::Tally,
};

const POD: &str = "ctp-pod";
const FLOWS: u64 = 12_000;
/// Of each kind in the pod.
const ANSWERED: u64 = 30;

/// A pod that tracks its own loopback, and a Service address of which it is the real server.
const POD_RULES: &str = "
table inet pod {
  chain output { type filter hook output priority filter; ct state new,established accept; }
}
table ip ctp_nat {
  chain output {
    type nat hook output priority -100;
    ip daddr 198.18.0.80 tcp dport 80 dnat to 192.0.2.1:7000
  }
}
";

/// A program that is ended with the scenario.
pub(super) struct Background(pub(super) Child);

impl Drop for Background {
    fn drop(&mut self) {
        // Either it is already gone, or it is to be.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Starts `ctgen` in the pod.
fn in_pod(arguments: &str) -> Result<Background> {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", POD, "ctgen"]);
    command.args(arguments.split(' ')).stdout(Stdio::null());
    Ok(Background(command::spawn(&mut command)?))
}

/// `ctpressure table -o json` with these arguments.
pub(super) fn table(arguments: &str) -> Result<Value> {
    let mut words = vec!["table", "-o", "json"];
    words.extend(arguments.split_whitespace());
    let said = command::output("ctpressure", &words)?;
    serde_json::from_str(&said).with_context(|| format!("the JSON of `table {arguments}`: {said}"))
}

/// Entries by one property: each value as text, without quotes.
fn grouped(arguments: &str, by: &str) -> Result<BTreeMap<String, u64>> {
    let value = table(&format!("{arguments} --by {by} --top 65536"))?;
    let group = &value["groups"][0];
    ensure!(
        group["others"]["entries"] == 0 && group["untold_entries"] == 0,
        "not all {by} are shown: {group}"
    );
    let rows = group["rows"].as_array().context("no rows")?;
    let mut entries = BTreeMap::new();
    for row in rows {
        let key = &row["key"][by];
        let name = key.as_str().map_or_else(|| key.to_string(), str::to_owned);
        let before = entries.insert(name, row["entries"].as_u64().context("no entries")?);
        ensure!(before.is_none(), "twice in the table: {key}");
    }
    Ok(entries)
}

fn expected<const N: usize>(counts: [(&str, u64); N]) -> BTreeMap<String, u64> {
    counts
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| (name.to_owned(), count))
        .collect()
}

/// Two groupings are the same.
fn same(
    checks: &mut Checks,
    what: &str,
    found: &BTreeMap<String, u64>,
    expected: &BTreeMap<String, u64>,
) {
    checks.holds(found == expected, || {
        format!("{what}: {found:?}, not {expected:?}")
    });
}

/// What the generator says, by protocol and by state.
fn check_host(checks: &mut Checks, tally: &Tally) -> Result<()> {
    let of = |class: &str| tally.accepted_by.get(class).copied().unwrap_or(0);
    let both = |name: &str| of(&format!("{name}4")) + of(&format!("{name}6"));
    let whole = table("")?;
    checks.equal(
        "entries",
        whole["entries"].as_u64(),
        "accepted",
        Some(tally.accepted),
    );
    checks.equal(
        "seen",
        whole["seen"].as_u64(),
        "accepted",
        Some(tally.accepted),
    );
    checks.equal(
        "evictable",
        whole["evictable"].as_u64(),
        "all",
        Some(tally.accepted),
    );
    checks.equal("limit", whole["limit"].as_u64(), "the sysctl", Some(20_000));
    checks.equal(
        "interrupted",
        whole["interrupted"].as_bool(),
        "no",
        Some(false),
    );
    same(
        checks,
        "by protocol",
        &grouped("", "protocol")?,
        &expected([
            ("udp", both("udp")),
            ("tcp", both("tcp")),
            ("sctp", both("sctp")),
            ("gre", both("gre")),
            ("icmp", of("icmp4")),
            ("icmpv6", of("icmp6")),
            ("253", both("other")),
        ]),
    );
    same(
        checks,
        "by state",
        &grouped("", "state")?,
        &expected([
            ("SYN_SENT", both("tcp")),
            ("CLOSED", both("sctp")),
            ("UNREPLIED", tally.accepted - both("tcp") - both("sctp")),
        ]),
    );
    let of_v6: u64 = tally
        .accepted_by
        .iter()
        .filter(|(class, _)| class.ends_with('6'))
        .map(|(_, count)| count)
        .sum();
    for (filter, entries) in [
        ("--address fd00:c7::/32", of_v6),
        ("--protocol tcp,sctp", both("tcp") + both("sctp")),
        ("--state syn_sent", both("tcp")),
        ("--port 7000", both("udp") + both("tcp") + both("sctp")),
        ("--evictable", tally.accepted),
        ("--assured", 0),
    ] {
        let found = table(filter)?["entries"].as_u64();
        checks.equal(filter, found, "the generator", Some(entries));
    }
    let sources: u64 = grouped("", "source")?.values().sum();
    checks.equal("sum over sources", sources, "accepted", tally.accepted);
    Ok(())
}

/// As many lines as entries, each one an entry, none twice.
fn check_list(checks: &mut Checks, accepted: u64) -> Result<()> {
    let said = command::output("ctpressure", &["table", "--list", "-o", "json"])?;
    let mut flows = std::collections::BTreeSet::new();
    for line in said.lines() {
        let entry: Value = serde_json::from_str(line).context("a line of --list")?;
        ensure!(
            entry["timeout"].as_u64().is_some_and(|left| left <= 3_600),
            "{line}"
        );
        flows.insert((entry["protocol"].to_string(), entry["original"].to_string()));
    }
    checks.equal("lines", said.lines().count() as u64, "accepted", accepted);
    checks.equal("different flows", flows.len() as u64, "accepted", accepted);
    let text = command::output("ctpressure", &["table", "--list"])?;
    checks.equal(
        "lines of text",
        text.lines().count() as u64,
        "accepted",
        accepted,
    );
    Ok(())
}

/// Answered flows in another network namespace.
fn check_pod(checks: &mut Checks) -> Result<()> {
    let there = format!("--netns {POD}");
    same(
        checks,
        "state in the pod",
        &grouped(&there, "state")?,
        &expected([("ESTABLISHED", 2 * ANSWERED), ("REPLIED", ANSWERED)]),
    );
    let assured = table(&format!("{there} --assured"))?;
    checks.equal(
        "assured",
        assured["entries"].as_u64(),
        "TCP",
        Some(2 * ANSWERED),
    );
    let services = grouped(&format!("{there} --protocol tcp"), "service")?;
    let address = r#"{"address":"198.18.0.80","port":80,"protocol":"tcp"}"#;
    same(
        checks,
        "by service",
        &services,
        &expected([(address, ANSWERED), ("null", ANSWERED)]),
    );
    let servers = grouped(&format!("{there} --port 80"), "destination")?;
    let server = r#"{"address":"192.0.2.1","port":7000,"protocol":"tcp"}"#;
    same(
        checks,
        "the real server",
        &servers,
        &expected([(server, ANSWERED)]),
    );
    same(
        checks,
        "NAT",
        &grouped(&there, "nat")?,
        &expected([("dnat", ANSWERED), ("none", 2 * ANSWERED)]),
    );
    let inode = net::namespace_inode(POD)?;
    let by_number = table(&format!("--netns {inode}"))?;
    checks.equal(
        "by inode",
        by_number["entries"].as_u64(),
        "by name",
        Some(3 * ANSWERED),
    );
    checks.equal(
        "its name",
        by_number["tables"][0]["netns_name"].as_str(),
        "the name",
        Some(POD),
    );
    Ok(())
}

fn check_errors() -> Result<()> {
    let ctpressure = |arguments: &str| {
        let mut command = Command::new("ctpressure");
        command.args(arguments.split(' '));
        command
    };
    for (arguments, word) in [
        ("table --by nonsense", "nonsense"),
        ("table --state nonsense", "nonsense"),
        ("table --top 0", "0"),
        ("table --port 65536", "65536"),
        ("table --address 10.0.0.0/64", "10.0.0.0/64"),
        ("table --assured --evictable", "--evictable"),
        ("table --list --by source", "--by"),
        ("table --no-such-flag", "--no-such-flag"),
    ] {
        let end = end_of(&mut ctpressure(arguments))?;
        check(&end, 2, &[word]).with_context(|| format!("`ctpressure {arguments}`"))?;
    }
    let errors = |words: &[&'static str]| [&["ctpressure: error: ", "help: "], words].concat();
    let end = end_of(&mut ctpressure("table --netns ctp-nobody"))?;
    check(&end, 1, &errors(&["ctp-nobody", "ip netns list"]))?;
    let end = end_of(ctpressure("table").uid(NOBODY).gid(NOBODY))?;
    check(&end, 1, &errors(&["CAP_NET_ADMIN", "root"]))
}

pub(super) fn census(_: Option<Mechanism>) -> Result<()> {
    kernel::never_expire()?;
    // The state of an INIT that is not answered.
    kernel::set_sysctl("nf_conntrack_sctp_timeout_closed", 3_600)?;
    kernel::set_limit(20_000)?;
    net::track_into_dead_end(None)?;
    let tally = generator::send(None, &format!("{ALL_KINDS} --flows {FLOWS}"))?;
    ensure!(tally.accepted == FLOWS, "refused: {:?}", tally.errors);

    let mut checks = Checks::new();
    check_host(&mut checks, &tally)?;
    check_list(&mut checks, tally.accepted)?;

    net::add_namespace(POD)?;
    net::dead_end(Some(POD))?;
    net::nft(Some(POD), POD_RULES)?;
    let _server = in_pod("serve --listen 0.0.0.0:7000")?;
    wait_for("the pod's server", Duration::from_secs(10), || {
        let sockets = command::output("ip", &["netns", "exec", POD, "ss", "-lnt"])?;
        Ok(sockets.contains(":7000").then_some(()))
    })?;
    let _clients = [
        ("tcp", "127.0.0.1:7000"),
        ("tcp", "198.18.0.80:80"),
        ("udp", "127.0.0.1:7000"),
    ]
    .map(|(transport, destination)| {
        in_pod(&format!(
            "connect --transport {transport} --destination {destination} --flows {ANSWERED} \
             --hold 600"
        ))
    });
    wait_for("answered flows in the pod", Duration::from_secs(30), || {
        let assured = table(&format!("--netns {POD} --assured"))?["entries"].as_u64();
        Ok(
            (kernel::entries_of(POD)? == 3 * ANSWERED && assured == Some(2 * ANSWERED))
                .then_some(()),
        )
    })?;
    check_pod(&mut checks)?;
    let inode = |number: u64| number.to_string();
    let (own, pod) = (net::own_inode()?, net::namespace_inode(POD)?);
    same(
        &mut checks,
        "all tables",
        &grouped("--netns all", "netns")?,
        &expected([
            (inode(own).as_str(), tally.accepted),
            (inode(pod).as_str(), 3 * ANSWERED),
        ]),
    );
    // The host's is still the one that is looked at when nothing is said.
    let own = table("")?["entries"].as_u64();
    checks.equal("the own table", own, "accepted", Some(tally.accepted));
    checks.finish()?;
    check_errors()
}
