//! A pod floods the table with one-way UDP while another one, that has a few entries, loses them to
//! early drop: each eviction has the right victim and the right cause.

use std::{net::IpAddr, thread, time::Duration};

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
    let cluster = Cluster::get()?;
    let (attacker, quiet) = (cluster.pod(ATTACKER)?, cluster.pod(QUIET)?);
    net::nft(None, NOT_LOOPBACK)?;
    passed::count(&[attacker, quiet])?;
    kernel::nothing_expires(None)?;
    kernel::set_limit(LIMIT)?;
    flush_table()?;
    let details = "--eviction-budget 4000000000 --ring-size 33554432";
    let agent = Agent::start(mechanism, details)?;
    let watch = Watch::start(&agent.socket(), "--kind eviction")?;
    let start = agent.settled()?;
    let statistics = Statistics::read()?;

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
    goes_on.finish()?;
    let metrics = agent.settled()?;
    // The last lines may still be on their way.
    thread::sleep(Duration::from_secs(1));
    let lines = watch.stop()?;

    let mut checks = Checks::new();
    let growth = |name: &str, beside: &str| {
        let now = ByOwner::read(&metrics, name, beside)?;
        now.since(&ByOwner::read(&start, name, beside)?)
    };
    let (inserts, deletes) = (
        growth("inserts_total", "direction")?,
        growth("deletes_total", "direction")?,
    );
    let evictions = growth("evictions_total", "role")?;
    let (counts, live) = (Passed::read()?, entries::list(None)?);
    for pod in [attacker, quiet] {
        let owner = owner(pod);
        let left = live
            .iter()
            .filter(|entry| pod.addresses.contains(&entry.original.source));
        let left = u64::try_from(left.count())?;
        let name = &pod.name;
        checks.equal(
            format!("inserts of {name}"),
            inserts.of(&owner),
            "passed",
            counts.passed(pod),
        );
        checks.equal(
            format!("deletes of {name}"),
            deletes.of(&owner),
            "passed and gone",
            counts.passed(pod) - left,
        );
        // The kernel's garbage collector may have taken some as well.
        checks.at_most(
            format!("evictions of {name}"),
            evictions.get(&owner, "victim"),
            deletes.of(&owner),
        );
    }
    checks.equal(
        "inserts of all",
        inserts.sum(),
        "of both",
        inserts.of(&owner(attacker)) + inserts.of(&owner(quiet)),
    );
    checks.at_least(
        "evictions of the quiet pod",
        evictions.get(&owner(quiet), "victim"),
        100,
    );

    let victims = sum_of(&evictions, "victim");
    let early_drops = Statistics::read()?.since(&statistics, "early_drop");
    let unseen = metrics.count(
        "ctpressure_events_lost_total",
        &[("kind", "evictions_unseen")],
    )?;
    checks.equal(
        "evictions and unseen",
        victims + unseen,
        "early_drop",
        early_drops,
    );
    checks.at_most("evictions unseen", unseen, early_drops / 1_000);
    checks.equal(
        "evictions by cause",
        sum_of(&evictions, "cause"),
        "by victim",
        victims,
    );
    let unknown = evictions.get(&Owner::unknown(), "cause");
    checks.at_most("causes unknown", unknown, victims / 1_000);
    checks.equal(
        "victims unknown",
        evictions.get(&Owner::unknown(), "victim"),
        "zero",
        0,
    );
    println!("evictions {:?}", evictions.0);

    let seen = check_lines(&mut checks, [attacker, quiet], &lines)?;
    let lost = metrics.count(
        "ctpressure_events_lost_total",
        &[("kind", "eviction_records")],
    )?;
    checks.equal(
        "lines and lost ones",
        seen.of_role("victim") + lost,
        "evictions",
        victims,
    );
    if lost == 0 {
        seen.0.check(&mut checks, "lines", &evictions);
    }
    checks.finish()?;
    agent.stop()
}

fn sum_of(counts: &ByOwner, role: &str) -> u64 {
    let of_role = counts.0.iter().filter(|((_, other), _)| other == role);
    of_role.map(|(_, count)| count).sum()
}

/// Lines by the owners that they name.
struct Seen(ByOwner);

impl Seen {
    fn of_role(&self, role: &str) -> u64 {
        sum_of(&self.0, role)
    }
}

/// None names another pod than the one that its addresses belong to.
fn check_lines(checks: &mut Checks, pods: [&Pod; 2], lines: &[Line]) -> Result<Seen> {
    let mut seen = Seen(ByOwner::default());
    for line in lines.iter().filter(|line| line.kind() == "eviction") {
        for (role, tuple, object) in [
            ("victim", "/victim", "victim_owner"),
            ("cause", "/cause", "cause_owner"),
        ] {
            let said = Owner::of_event(&line.event[object]);
            let of_nobody = said == Owner::unknown() || said == Owner::default();
            seen.0.add(
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
