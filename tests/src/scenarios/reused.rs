//! Addresses that change hands, and addresses that nobody has any more.
//!
//! What people met: the entries of a pod that is gone are told to be its successor's; a UDP port that the node publishes goes on to
//! lead to the pod before the restart, for as long as its client sends (<https://github.com/kubernetes/kubernetes/issues/95258>,
//! <https://github.com/moby/moby/issues/8795>, <https://github.com/containernetworking/plugins/issues/123>); SNAT goes on with an address
//! that the node had (<https://github.com/Chion82/netfilter-full-cone-nat/issues/18>).

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{
    containers::lookalike::Lookalike,
    guest::{
        agent::{Agent, Mechanism},
        checks::Checks,
        command::{self, HANG, wait_for},
        generator, kernel, net,
        owned::{ByOwner, Owner},
    },
};

const SHARED: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 7);
const PUBLISHED: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 20);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 9);
const BEFORE: u64 = 300;
const AFTER: u64 = 200;

/// The host's uplink address, which it loses.
const UPLINK: &str = "203.0.113.9";

const FORWARDED: &str = "
table inet ctp_forward {
  chain forward { type filter hook forward priority filter; ct state new accept; }
}
";

/// A port that leads to a pod, one that leads to another node's, and an address by which one destination is asked.
fn nat(server: Ipv4Addr, uplink: &str) -> String {
    format!(
        "
table ip ctp_nat {{
  chain prerouting {{
    type nat hook prerouting priority dstnat;
    ip daddr 198.18.0.53 udp dport 8125 dnat to {server}:8125
    ip daddr 198.18.0.54 udp dport 8125 dnat to 198.19.7.7:8125
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat;
    ip daddr 198.18.0.55 snat to {uplink}
  }}
}}
"
    )
}

/// Entries by owner, as `ctpressure table` tells them to who asks the agent at this socket.
fn owners_of_table(agent: &Agent) -> Result<BTreeMap<String, u64>> {
    let socket = agent.socket();
    let socket = socket.to_str().context("the socket's path")?;
    let words = ["table", "--by", "owner", "-o", "json", "--socket", socket];
    let said: Value = serde_json::from_str(&command::output("ctpressure", &words)?)?;
    let rows = said["groups"][0]["rows"].as_array().context("no rows")?;
    let row = |row: &Value| {
        let name = row["key"]["owner"].as_str()?.to_owned();
        Some((name, row["entries"].as_u64()?))
    };
    Ok(rows.iter().filter_map(row).collect())
}

pub(super) fn address(mechanism: Option<Mechanism>) -> Result<()> {
    net::track_into_dead_end(None)?;
    net::nft(None, FORWARDED)?;
    kernel::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    kernel::never_expire()?;
    let agent = Agent::start(mechanism, "")?;
    let send = |flows: u64, first: u64| {
        format!("send --protocol tcp --source {SHARED}/32 --flows {flows} --first {first}")
    };
    let entries = |pod: &str| -> Result<u64> {
        let live = ByOwner::read(&agent.settled()?, "entries", "direction")?;
        Ok(live.of(&Owner::pod("batch", pod)))
    };
    let mut checks = Checks::new();
    let first = Lookalike::make(1, SHARED, 5.0, &send(BEFORE, 0))?;
    wait_for("the first pod's entries", HANG, || {
        Ok((entries("job-1")? == BEFORE).then_some(()))
    })?;
    first.remove()?;
    let second = Lookalike::make(2, SHARED, 5.0, &send(AFTER, 10_000))?;
    wait_for("the second pod's entries", HANG, || {
        Ok((entries("job-2")? == AFTER).then_some(()))
    })?;
    // A unit of the host: only its sockets tell.
    generator::send(None, "--source 192.0.2.1/32 --flows 50")?;
    agent.settled()?;
    let by_owner = owners_of_table(&agent)?;
    for (owner, number) in [("batch/job-1", BEFORE), ("batch/job-2", AFTER)] {
        let told = by_owner.get(owner).copied().unwrap_or(0);
        checks.equal(format!("entries of {owner} in table"), told, "sent", number);
    }
    let live = ByOwner::read(&agent.settled()?, "entries", "direction")?;
    let told: u64 = by_owner.values().sum();
    checks.equal("entries in table", told, "of all owners", live.sum());
    second.remove()?;
    checks.finish()?;
    agent.stop()
}

/// What the doctor finds of entries that lead nowhere.
fn found(agent: &Agent) -> Result<Option<Value>> {
    let socket = agent.socket();
    let socket = socket.to_str().context("the socket's path")?;
    let mut doctor = std::process::Command::new("ctpressure");
    // It ends with 1 if there is a problem.
    let said = doctor.args(["doctor", "-o", "json", "--socket", socket]);
    let said: Value = serde_json::from_slice(&said.output()?.stdout).context("not JSON")?;
    let findings = said["findings"].as_array().context("no findings")?;
    let finding = findings
        .iter()
        .find(|finding| finding["id"] == "entries_lead_nowhere");
    Ok(finding.cloned())
}

/// What the next census says of them.
fn stale(agent: &Agent) -> Result<u64> {
    // One may be under way that began before.
    agent.wait_for_next_census()?;
    agent.wait_for_next_census()?;
    agent.scrape()?.count("ctpressure_stale_nat_entries", &[])
}

pub(super) fn led_astray(mechanism: Option<Mechanism>) -> Result<()> {
    net::track_into_dead_end(None)?;
    net::nft(None, FORWARDED)?;
    net::ip(None, "link add ctp-wan type veth peer name ctp-isp")?;
    net::ip(None, &format!("addr add {UPLINK}/32 dev ctp-wan"))?;
    net::nft(None, &nat(PUBLISHED, UPLINK))?;
    kernel::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    let agent = Agent::start(mechanism, "")?;
    let idle = "send --flows 1 --source 192.0.2.9/32";
    let server = Lookalike::make(3, PUBLISHED, 1.0, idle)?;
    let client = Lookalike::make(4, CLIENT, 1.0, idle)?;
    let ask = |address: &str| -> Result<()> {
        let flow = format!(
            "send --flows 1 --source {CLIENT}/32 --source-ports 40000-40000 --destination {address}/32 \
             --destination-ports 8125"
        );
        client.run(&flow)?.wait()?;
        Ok(())
    };
    let ask_all = || {
        let all = ["198.18.0.53", "198.18.0.54", "198.18.0.55"];
        all.into_iter().try_for_each(ask)
    };
    // A flow of each, and always another one: what was there before somebody was known is never charged to him.
    let mut first = 1_000;
    wait_for("both pods to be known", HANG, || {
        first += 1;
        let flow = format!("--flows 1 --first {first}");
        generator::send(
            None,
            &format!("{flow} --source 192.0.2.9/32 --destination {PUBLISHED}/32"),
        )?;
        client
            .run(&format!("send {flow} --source {CLIENT}/32"))?
            .wait()?;
        let known = ByOwner::read(&agent.scrape()?, "inserts_total", "direction")?;
        let known = |name: &str| known.of(&Owner::pod("batch", name)) > 0;
        Ok((known("job-3") && known("job-4")).then_some(()))
    })?;
    ask_all()?;
    let mut checks = Checks::new();
    let calm = found(&agent)?;
    checks.holds(calm.is_none(), || {
        format!("a server that is there: {calm:?}")
    });

    // The server is made anew, with another address; the node has another one, too.
    server.remove()?;
    let server = Lookalike::make(5, SHARED, 1.0, idle)?;
    net::ip(None, &format!("addr del {UPLINK}/32 dev ctp-wan"))?;
    net::nft(None, "delete table ip ctp_nat")?;
    net::nft(None, &nat(SHARED, "192.0.2.1"))?;
    net::ip(
        None,
        &format!("route add {PUBLISHED}/32 via 192.0.2.254 dev ctp0 onlink"),
    )?;
    let finding = wait_for("the doctor to find it", Duration::from_mins(1), || {
        ask_all()?;
        Ok(found(&agent)?.filter(|finding| {
            let text = finding["evidence"].to_string();
            text.contains(&PUBLISHED.to_string()) && text.contains(UPLINK)
        }))
    })?;
    // What leads to the server that was, and what comes from the address that the node had.
    checks.equal("stale_nat_entries", stale(&agent)?, "named", 2);
    let text = finding.to_string();
    checks.holds(text.contains("batch/job-3"), || {
        format!("who it was: {text}")
    });
    checks.holds(!text.contains("198.19.7.7"), || {
        format!("another node's pod is judged: {text}")
    });
    let socket = agent.socket();
    let socket = socket.to_str().context("the socket's path")?;
    let by = ["table", "--by", "service,destination", "--socket", socket];
    let table = command::output("ctpressure", &by)?;
    checks.holds(table.contains("batch/job-3 did until"), || table.clone());
    for line in finding["fix"].as_array().context("no fix")? {
        let line = line.as_str().context("a command")?;
        command::output("sh", &["-c", line])?;
    }
    ask_all()?;
    checks.equal("stale_nat_entries", stale(&agent)?, "none", 0);
    let after = found(&agent)?;
    checks.holds(after.is_none(), || format!("after its commands: {after:?}"));
    let list = command::output("ctpressure", &["table", "--list", "--port", "8125"])?;
    checks.holds(list.contains(&format!("{SHARED}:8125")), || list.clone());
    server.remove()?;
    client.remove()?;
    checks.finish()?;
    agent.stop()
}
