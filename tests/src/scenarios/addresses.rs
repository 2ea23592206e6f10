//! Addresses that crowd others out, and addresses that are somebody else's.

use std::{fmt::Write as _, net::Ipv4Addr};

use anyhow::Result;

use crate::{
    containers::lookalike::Lookalike,
    guest::{
        agent::{Agent, Mechanism},
        checks::Checks,
        command::{HANG, wait_for},
        generator, kernel,
        net::{self, ip},
        owned::{ByOwner, Owner},
    },
};

/// The host's own address: a high one, so that the lower ones of Services come before it.
const OWN: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
/// How many addresses of Services there are: kube-proxy in IPVS mode gives each to one dummy.
const SERVICES: u32 = 4_300;
/// How many addresses a pod gives itself.
const TAKEN: u32 = 3_000;

const HOST_FLOWS: u64 = 200;
const POD_FLOWS: u64 = 150;

const VICTIM: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 7);
const ATTACKER: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 8);

const TRACK_FORWARDED: &str = "
table inet ctp_forward {
  chain forward { type filter hook forward priority filter; ct state new accept; }
}
";

pub(super) fn crowded_and_taken(mechanism: Option<Mechanism>) -> Result<()> {
    net::track_into_dead_end(None)?;
    net::nft(None, TRACK_FORWARDED)?;
    kernel::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    kernel::never_expire()?;
    ip(None, "link add ctp-own type veth peer name ctp-other")?;
    ip(None, &format!("addr add {OWN}/32 dev ctp-own"))?;
    ip(None, "link add ctp-ipvs0 type dummy")?;
    let services = addresses(Ipv4Addr::new(10, 96, 0, 1), SERVICES, "ctp-ipvs0");
    net::batch(None, &services)?;
    let agent = Agent::start(mechanism, "")?;
    // They send once they have to be known.
    let first = |address| format!("send --flows 10 --source {address}/32");
    let victim = Lookalike::make(1, VICTIM, 5.0, &first(VICTIM))?;
    let attacker = Lookalike::make(2, ATTACKER, 5.0, &first(ATTACKER))?;
    wait_for("both pods to be known", HANG, || {
        let known = ByOwner::read(&agent.scrape()?, "inserts_total", "direction")?;
        let known = |pod: &Lookalike| known.of(&Owner::pod(pod.namespace, &pod.name)) > 0;
        Ok((known(&victim) && known(&attacker)).then_some(()))
    })?;
    // Another pod's, one of the host and its loopback's; then thousands that are lower than all of them.
    let named = |words: &'static str| {
        wait_for(&format!("the agent to say `{words}`"), HANG, || {
            let problems = agent.status()?["problems"].to_string();
            Ok(problems.contains(words).then_some(problems))
        })
    };
    let mut taken = String::new();
    for address in [VICTIM, OWN, Ipv4Addr::LOCALHOST] {
        writeln!(taken, "addr add {address}/32 dev eth0")?;
    }
    net::batch(Some(&attacker.network()), &taken)?;
    named("10.42.0.7 of batch/job-2")?;
    let crowd = addresses(Ipv4Addr::new(10, 1, 0, 1), TAKEN, "eth0");
    net::batch(Some(&attacker.network()), &crowd)?;
    let problems = named("addresses: those that it had first are known")?;

    let before = ByOwner::read(&agent.settled()?, "inserts_total", "direction")?;
    let tally = generator::send(None, &format!("--flows {HOST_FLOWS} --source {OWN}/32"))?;
    for pod in [&victim, &attacker] {
        let address = pod.address;
        pod.run(&format!(
            "send --flows {POD_FLOWS} --source {address}/32 --first 20000"
        ))?
        .wait()?;
    }
    let after = ByOwner::read(&agent.settled()?, "inserts_total", "direction")?;
    let grown = after.since(&before)?;
    let mut checks = Checks::new();
    checks.equal("sent by the host", tally.accepted, "asked for", HOST_FLOWS);
    let egress = |owner: &Owner| grown.get(owner, "egress");
    checks.equal(
        "inserts of the host",
        egress(&Owner::host()),
        "sent",
        HOST_FLOWS,
    );
    for pod in [&victim, &attacker] {
        let inserts = egress(&Owner::pod(pod.namespace, &pod.name));
        checks.equal(
            format!("inserts of {}", pod.name),
            inserts,
            "sent",
            POD_FLOWS,
        );
    }
    for words in [
        "10.42.0.7 of batch/job-2",
        "203.0.113.7 of batch/job-2",
        "batch/job-2 has 300",
    ] {
        checks.holds(problems.contains(words), || {
            format!("`{words}` is not in {problems}")
        });
    }
    let log = agent.log();
    let warnings = log
        .lines()
        .filter(|line| line.contains("stays the first one's"))
        .count();
    checks.at_least("warnings of the kind", 3, warnings);
    checks.finish()?;
    victim.remove()?;
    attacker.remove()?;
    agent.stop()
}

/// `ip` commands that give an interface so many addresses.
fn addresses(first: Ipv4Addr, count: u32, interface: &str) -> String {
    let first = first.to_bits();
    (first..first + count).fold(String::new(), |mut text, address| {
        let address = Ipv4Addr::from_bits(address);
        // Writing to a string can't fail.
        let _ = writeln!(text, "addr add {address}/32 dev {interface}");
        text
    })
}
