//! A pod floods the table with one-way UDP while another one, that has a few entries, loses them to
//! early drop: each eviction has the right victim and the right cause.

use std::net::IpAddr;

use anyhow::{Context as _, Result};

use super::{NOT_LOOPBACK, owner, passed, passed::Passed};
use crate::{
    containers::{
        cluster::{ATTACKER, Cluster, QUIET},
        pod::Pod,
    },
    guest::{
        agent::{Agent, Mechanism},
        checks::Checks,
        command::{HANG, wait_for},
        entries,
        kernel::{self, Statistics},
        net,
        owned::{ByOwner, Owner},
        watch::{Line, Watch},
    },
    traffic::bench::flush_table,
};

const LIMIT: u64 = 5_000;
/// Entries of the quiet pod when the flood begins; it goes on opening a few.
const QUIET_FLOWS: u64 = 1_000;
const FLOOD: u64 = 40_000;
/// Where each sends to: a cause or a victim is known by both its addresses.
const QUIET_TO: &str = "198.18.0.0/16";
const FLOOD_TO: &str = "198.19.0.0/16";

pub(in crate::scenarios) fn attacker(mechanism: Option<Mechanism>) -> Result<()> {
    let cluster = Cluster::get(true)?;
    let (attacker, quiet) = (cluster.pod(ATTACKER)?, cluster.pod(QUIET)?);
    net::nft(None, NOT_LOOPBACK)?;
    net::nft(None, &nobody_else([attacker, quiet])?)?;
    passed::count(&[attacker, quiet], &[])?;
    kernel::nothing_expires(None)?;
    kernel::set_limit(LIMIT)?;
    flush_table()?;
    let details = "--eviction-budget 4000000000 --ring-size 33554432";
    let agent = Agent::start(mechanism, details)?;
    let watch = Watch::start(&agent.socket(), "--kind eviction")?;
    let start = agent.settled()?;
    let statistics = Statistics::read()?;

    send(attacker, quiet)?;
    let metrics = agent.settled()?;
    let mut checks = Checks::new();
    let growth = |name: &str, beside: &str| {
        let now = ByOwner::read(&metrics, name, beside)?;
        now.since(&ByOwner::read(&start, name, beside)?)
    };
    let evictions = growth("evictions_total", "role")?;
    println!("evictions {:?}", evictions.0);
    let entries = (
        growth("inserts_total", "direction")?,
        growth("deletes_total", "direction")?,
    );
    check_pods(&mut checks, [attacker, quiet], &entries, &evictions)?;

    let lost = |kind: &str| metrics.count("ctpressure_events_lost_total", &[("kind", kind)]);
    let early_drops = Statistics::read()?.since(&statistics, "early_drop");
    check_sums(
        &mut checks,
        &evictions,
        early_drops,
        lost("evictions_unseen")?,
    );
    let records_lost = lost("eviction_records")?;
    // The last lines may still be on their way.
    let printed = usize::try_from(sum_of(&evictions, "victim").saturating_sub(records_lost))?;
    wait_for("a line for each eviction", HANG, || {
        Ok((watch.len() >= printed).then_some(()))
    })?;
    let of_lines = check_lines(&mut checks, [attacker, quiet], &watch.stop()?)?;
    checks.equal(
        "lines and lost ones",
        sum_of(&of_lines, "victim") + records_lost,
        "evictions",
        sum_of(&evictions, "victim"),
    );
    if records_lost == 0 {
        of_lines.check(&mut checks, "lines", &evictions);
    }
    checks.finish()?;
    agent.stop()
}

/// Rules by which nobody else has entries: connections that were open in an earlier scenario are
/// still sent for when their processes are gone.
fn nobody_else([attacker, quiet]: [&Pod; 2]) -> Result<String> {
    Ok(format!(
        "table inet ctp_nobody_else {{
  chain prerouting {{
    type filter hook prerouting priority raw;
    ip saddr != {{ {}, {} }} notrack
    meta nfproto ipv6 notrack
  }}
}}
",
        attacker.address()?,
        quiet.address()?
    ))
}

/// The quiet pod's few, and the flood while it goes on.
fn send(attacker: &Pod, quiet: &Pod) -> Result<()> {
    let from = |pod: &Pod, to: &str, rest: &str| -> Result<String> {
        Ok(format!(
            "send --source {}/32 --destination {to} {rest}",
            pod.address()?
        ))
    };
    quiet.run(&from(quiet, QUIET_TO, &format!("--flows {QUIET_FLOWS}"))?)?;
    let goes_on = quiet.start(&from(
        quiet,
        QUIET_TO,
        "--first 100000 --flows 500 --rate 50",
    )?)?;
    let flood = attacker.run(&from(attacker, FLOOD_TO, &format!("--flows {FLOOD}"))?)?;
    println!("{FLOOD} flows in {:.1} s", flood.seconds);
    goes_on.finish().map(drop)
}

/// What each pod has in the table, and what it lost, is what it sent.
fn check_pods(
    checks: &mut Checks,
    pods: [&Pod; 2],
    (inserts, deletes): &(ByOwner, ByOwner),
    evictions: &ByOwner,
) -> Result<()> {
    let (counts, live) = (Passed::read()?, entries::list(None)?);
    let mut of_both = 0;
    for pod in pods {
        let (owner, name) = (owner(pod), &pod.name);
        let left = live
            .iter()
            .filter(|entry| pod.addresses.contains(&entry.original.source));
        let gone = counts.passed(pod) - u64::try_from(left.count())?;
        let (inserts, deletes) = (inserts.of(&owner), deletes.of(&owner));
        checks.equal(
            format!("inserts of {name}"),
            inserts,
            "passed",
            counts.passed(pod),
        );
        checks.equal(
            format!("deletes of {name}"),
            deletes,
            "passed and gone",
            gone,
        );
        // The kernel's garbage collector may have taken some as well.
        let evicted = evictions.get(&owner, "victim");
        checks.at_most(format!("evictions of {name}"), evicted, deletes);
        checks.at_least(format!("evictions of {name}"), evicted, 100);
        of_both += inserts;
    }
    checks.equal("inserts of all", inserts.sum(), "of both", of_both);
    Ok(())
}

/// Each eviction has a victim and a cause, and hardly any of them is nobody's.
fn check_sums(checks: &mut Checks, evictions: &ByOwner, early_drops: u64, unseen: u64) {
    let victims = sum_of(evictions, "victim");
    checks.equal(
        "evictions and unseen",
        victims + unseen,
        "early_drop",
        early_drops,
    );
    checks.at_most("evictions unseen", unseen, early_drops / 1_000);
    checks.equal(
        "evictions by cause",
        sum_of(evictions, "cause"),
        "by victim",
        victims,
    );
    let nobody = |role: &str| evictions.get(&Owner::unknown(), role);
    checks.at_most("causes unknown", nobody("cause"), victims / 1_000);
    checks.equal("victims unknown", nobody("victim"), "zero", 0);
}

fn sum_of(counts: &ByOwner, role: &str) -> u64 {
    let of_role = counts.0.iter().filter(|((_, other), _)| other == role);
    of_role.map(|(_, count)| count).sum()
}

/// None names another pod than the one that its addresses belong to.
fn check_lines(checks: &mut Checks, pods: [&Pod; 2], lines: &[Line]) -> Result<ByOwner> {
    let mut seen = ByOwner::default();
    for line in lines.iter().filter(|line| line.kind() == "eviction") {
        for (role, tuple, object) in [
            ("victim", "/victim", "victim_owner"),
            ("cause", "/cause", "cause_owner"),
        ] {
            let said = Owner::of_event(&line.event[object]);
            let of_nobody = said == Owner::unknown() || said == Owner::default();
            seen.add(
                if of_nobody {
                    Owner::unknown()
                } else {
                    said.clone()
                },
                role,
                1,
            );
            if line
                .event
                .pointer(tuple)
                .is_none_or(serde_json::Value::is_null)
            {
                checks.holds(of_nobody, || format!("a guess: {}", line.event));
                continue;
            }
            let (source, destination) = (
                address(line, &format!("{tuple}/source"))?,
                address(line, &format!("{tuple}/destination"))?,
            );
            let [attacker, quiet] = pods;
            let pod = if attacker.addresses.contains(&source) {
                attacker
            } else {
                quiet
            };
            let to = if pod.name == attacker.name {
                FLOOD_TO
            } else {
                QUIET_TO
            };
            let to: ipnet::IpNet = to.parse()?;
            checks.holds(
                pod.addresses.contains(&source) && to.contains(&destination),
                || format!("nobody sent the {role} of {}", line.event),
            );
            checks.holds(of_nobody || said == owner(pod), || {
                format!("wrong {role}: {}", line.event)
            });
        }
    }
    Ok(seen)
}

fn address(line: &Line, pointer: &str) -> Result<IpAddr> {
    let text = line.text(pointer);
    text.parse()
        .with_context(|| format!("{pointer} of {}", line.event))
}
