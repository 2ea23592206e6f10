//! Who is charged where that is hard to tell: clashes, more tags than room, network namespaces of nobody, a start on a busy node.
//! Addresses of pods here belong to look-alikes that need no runtime; whoever sends from one has its flow charged to it.

use std::{net::Ipv4Addr, process::Stdio, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use crate::{
    containers::lookalike::Lookalike,
    guest::{
        agent::{Agent, Mechanism},
        checks::Checks,
        command::{self, HANG, wait_for},
        generator,
        kernel::{self, Statistics, online_cpus},
        net,
        owned::{ByOwner, Owner},
        prom::Metrics,
        unit::{Unit, in_unit},
    },
    scenarios::setting::Setting,
    traffic::{bench::flush_table, tally::Tally},
};

/// Entries of each owner.
fn entries(metrics: &Metrics) -> Result<ByOwner> {
    ByOwner::read(metrics, "entries", "direction")
}

/// The sum over owners is the sum over tables.
fn check_sum(checks: &mut Checks, metrics: &Metrics, when: &str) -> Result<()> {
    checks.equal(
        format!("entries of all owners {when}"),
        entries(metrics)?.sum(),
        "of all tables",
        metrics.count("ctpressure_table_entries", &[])?,
    );
    Ok(())
}

/// A pod that does nothing.
fn pod(number: u32) -> Result<Lookalike> {
    let last = u8::try_from(10 + number).context("an address")?;
    Lookalike::make(
        number,
        Ipv4Addr::new(10, 90, 0, last),
        0.0,
        "send --flows 0",
    )
}

/// `flows` flows from an address, of numbers that nobody else has.
fn flows_from(address: Ipv4Addr, first: u64, flows: u64) -> String {
    format!("--source {address}/32 --flows {flows} --first {first}")
}

pub(super) fn busy_start(mechanism: Option<Mechanism>) -> Result<()> {
    const PODS: u32 = 12;
    const BEFORE: u64 = 400;
    const AFTER: u64 = 300;
    kernel::never_expire()?;
    kernel::set_limit(60_000)?;
    net::track_into_dead_end(None)?;
    let pods: Vec<_> = (0..PODS).map(pod).collect::<Result<_>>()?;
    let first = |number: u32| u64::from(number) * 10_000;
    for (number, pod) in (0..).zip(&pods) {
        let tally = generator::send(None, &flows_from(pod.address, first(number), BEFORE))?;
        ensure!(tally.accepted == BEFORE, "{tally:?}");
    }
    let agent = Agent::launch(mechanism, "")?;
    // While it starts and makes its first census.
    let more: Vec<_> = (0..)
        .zip(&pods)
        .map(|(number, pod)| {
            let arguments = flows_from(pod.address, first(number) + BEFORE, AFTER);
            generator::start(None, &format!("{arguments} --rate 60"))
        })
        .collect::<Result<_>>()?;
    let agent = agent.wait_until_ready()?;
    let mut checks = Checks::new();
    let owner = |pod: &Lookalike| Owner::pod(pod.namespace, &pod.name);
    let mut known = 0;
    for _ in 0..12 {
        let metrics = agent.sample()?;
        let entries = entries(&metrics)?;
        let unsure = ByOwner::read(&metrics, "entries_uncertainty", "direction")?;
        for pod in &pods {
            let value = entries.of(&owner(pod));
            if value > 0 {
                known += 1;
                // Where it is not known exactly it is between bounds that are so far apart.
                let unsure = unsure.of(&owner(pod));
                checks.at_least(format!("entries of {}", pod.name), value + unsure, BEFORE);
                checks.at_most(
                    format!("entries of {}", pod.name),
                    value,
                    BEFORE + AFTER + unsure,
                );
            }
        }
    }
    checks.at_least("entries that were known while more came", known, 1);
    for sending in more {
        let tally = sending.finish()?;
        checks.equal("accepted", tally.accepted, "flows", AFTER);
    }
    agent.wait_for_census()?;
    let metrics = agent.settled()?;
    let entries = entries(&metrics)?;
    for pod in &pods {
        let name = format!("entries of {}", pod.name);
        checks.equal(name, entries.of(&owner(pod)), "sent", BEFORE + AFTER);
    }
    check_sum(&mut checks, &metrics, "at the end")?;
    let unsure = metrics.count("ctpressure_entries_uncertainty", &[])?;
    checks.equal("entries_uncertainty", unsure, "zero", 0);
    checks.finish()?;
    agent.stop()?;
    pods.into_iter().try_for_each(Lookalike::remove)
}

pub(super) fn foreign_namespace(mechanism: Option<Mechanism>) -> Result<()> {
    const FLOWS: u64 = 500;
    const ROUTER: &str = "ctp-router";
    // What containerd leaves behind: whose it was nobody can tell.
    const SANDBOX: &str = "cni-5c1d7e2a-1111-4222-8333-0000000000c7";
    let pod = pod(0)?;
    for namespace in [ROUTER, SANDBOX] {
        net::add_namespace(namespace)?;
        net::track_into_dead_end(Some(namespace))?;
    }
    let setting = Setting::new(mechanism, 20_000, "")?;
    let before = setting.agent.settled()?;
    let send = |namespace, source: &str, first: u64| {
        let arguments = format!("--source {source} --flows {FLOWS} --first {first}");
        generator::send(namespace, &arguments)
    };
    let source = format!("{}/32", pod.address);
    let mut of_router = send(Some(ROUTER), &source, 0)?.accepted;
    // Where the host's own address is anybody's too.
    of_router += send(Some(ROUTER), "192.0.2.1/32", 1_000)?.accepted;
    let of_nobody = send(Some(SANDBOX), &source, 3_000)?.accepted;
    let own = send(None, &source, 2_000)?.accepted;
    let metrics = setting.agent.settled()?;
    let inserts = |metrics| ByOwner::read(metrics, "inserts_total", "direction");
    let growth = inserts(&metrics)?.since(&inserts(&before)?)?;
    let mut expected = ByOwner::default();
    expected.add(Owner::unknown(), "egress", of_nobody);
    expected.add(Owner::unit(ROUTER), "egress", of_router);
    expected.add(Owner::pod(pod.namespace, &pod.name), "egress", own);
    let mut checks = Checks::new();
    growth.check(&mut checks, "inserts", &expected);
    // The census follows the same rule.
    setting.agent.stop()?;
    let agent = Agent::start(mechanism, "")?;
    agent.wait_for_census()?;
    let metrics = agent.settled()?;
    let found = entries(&metrics)?;
    let unknown = found.of(&Owner::unknown());
    checks.equal(
        "entries of nobody after a census",
        unknown,
        "sent",
        of_nobody,
    );
    let router = found.of(&Owner::unit(ROUTER));
    checks.equal("entries of the router", router, "sent", of_router);
    let pods = found.of(&Owner::pod(pod.namespace, &pod.name));
    checks.equal("entries of the pod after a census", pods, "sent", own);
    check_sum(&mut checks, &metrics, "after a census")?;
    checks.finish()?;
    agent.stop()?;
    net::ip(None, &format!("netns delete {SANDBOX}"))?;
    pod.remove()
}

/// A unit of systemd, by the name of its control group.
const UNIT: &str = "ingress.service";

/// Runs `ctgen` in the unit.
fn in_its_group(arguments: &str) -> Result<Tally> {
    let mut command = in_unit(UNIT, "ctgen");
    command.args(arguments.split_whitespace());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    generator::counted(command::spawn(&mut command)?)
}

pub(super) fn tags_short(mechanism: Option<Mechanism>) -> Result<()> {
    // Room for tags is in groups of places, here 3 * 16,384, and beyond these in a hash map: twice the limit, and at least 65,536. Groups
    // are full by chance: the first tags find a full one when half of the places are taken.
    const LIMIT: u64 = 20_000;
    const FLOWS: u64 = 130_000;
    let _unit = Unit::start(UNIT)?;
    let setting = Setting::new(mechanism, LIMIT, "")?;
    // It does not see in time that the limit was raised.
    setting.agent.signal(Signal::SIGSTOP)?;
    kernel::set_limit(200_000)?;
    let tally = in_its_group(&format!("send --source 192.0.2.1/32 --flows {FLOWS}"))?;
    setting.agent.signal(Signal::SIGCONT)?;
    ensure!(tally.accepted == FLOWS, "{tally:?}");
    let metrics = setting.agent.settled()?;
    let mut checks = Checks::new();
    let lost = metrics.count("ctpressure_events_lost_total", &[("kind", "tags")])?;
    checks.at_least("events_lost_total{tags}", lost, 1_000);
    let full = entries(&metrics)?;
    let unit = Owner::unit(UNIT);
    checks.equal(
        "entries of the unit",
        full.of(&unit),
        "tagged",
        FLOWS - lost,
    );
    check_sum(&mut checks, &metrics, "when full")?;
    flush_table()?;
    let metrics = setting.agent.settled()?;
    let left = entries(&metrics)?.of(&unit);
    checks.equal("entries of the unit after a flush", left, "zero", 0);
    check_sum(&mut checks, &metrics, "after a flush")?;
    checks.finish()?;
    setting.agent.stop()
}

pub(super) fn tags_grow(mechanism: Option<Mechanism>) -> Result<()> {
    const FIRST: u64 = 15_000;
    // Beyond the places, of which there are never more, the hash map of the beginning would not do.
    const MORE: u64 = 125_000;
    let _unit = Unit::start(UNIT)?;
    let unit = Owner::unit(UNIT);
    let setting = Setting::new(mechanism, 20_000, "")?;
    let send = |first: u64, flows: u64| -> Result<()> {
        let arguments = format!("send --source 192.0.2.1/32 --first {first} --flows {flows}");
        let tally = in_its_group(&arguments)?;
        ensure!(tally.accepted == flows, "{tally:?}");
        Ok(())
    };
    let mut checks = Checks::new();
    let check = |checks: &mut Checks, when: &str, of_unit: u64| -> Result<()> {
        let metrics = setting.agent.settled()?;
        let now = entries(&metrics)?.of(&unit);
        checks.equal(format!("entries of the unit {when}"), now, "sent", of_unit);
        let lost = metrics.count("ctpressure_events_lost_total", &[("kind", "tags")])?;
        checks.equal(format!("events_lost_total{{tags}} {when}"), lost, "zero", 0);
        check_sum(checks, &metrics, when)
    };
    send(0, FIRST)?;
    check(&mut checks, "at first", FIRST)?;
    // Its first tags are moved while more come, and once more while all of them leave.
    kernel::set_limit(150_000)?;
    setting.agent.sample()?;
    setting.agent.sample()?;
    send(FIRST, MORE)?;
    check(&mut checks, "after a raise", FIRST + MORE)?;
    kernel::set_limit(300_000)?;
    setting.agent.sample()?;
    setting.agent.sample()?;
    flush_table()?;
    check(&mut checks, "after a flush", 0)?;
    send(FIRST + MORE, MORE)?;
    check(&mut checks, "after another raise", MORE)?;
    checks.finish()?;
    setting.agent.stop()
}

/// To one of two servers, by chance: two packets of one flow may be sent to different ones.
const TWO_SERVERS: &str = "
table ip ctp_servers {
  chain output {
    type nat hook output priority -100;
    ip daddr 198.19.1.0/24 dnat to numgen random mod 2 map { 0 : 198.19.0.1, 1 : 198.19.0.2 }
  }
}
";

pub(super) fn clashes(mechanism: Option<Mechanism>) -> Result<()> {
    resolved(mechanism, "")
}

pub(super) fn clashes_at_confirm(mechanism: Option<Mechanism>) -> Result<()> {
    const WITHOUT: &str = "--without-function __nf_conntrack_hash_insert";
    if Mechanism::allowed().contains(&Mechanism::Fentry) {
        return resolved(mechanism, WITHOUT);
    }
    // A kretprobe does not see which entry was confirmed: then inserts are not counted, and nothing says that there are none.
    let setting = Setting::new(mechanism, 60_000, WITHOUT)?;
    generator::send(None, "--flows 500")?;
    let metrics = setting.agent.settled()?;
    let mut checks = Checks::new();
    for name in ["inserts_total", "entries"] {
        let series = metrics.select(&format!("ctpressure_{name}"), &[]).count();
        checks.equal(format!("series of {name}"), series, "none", 0);
    }
    let state = setting.agent.status()?["state"].to_string();
    checks.holds(state.contains("degraded"), || format!("it is {state}"));
    flush_table()?;
    let metrics = setting.agent.settled()?;
    let deletes = metrics.count("ctpressure_deletes_total", &[])?;
    checks.at_least("deletes_total", deletes, 500);
    checks.finish()?;
    setting.agent.stop()
}

pub(super) fn clashes_when_full(mechanism: Option<Mechanism>) -> Result<()> {
    const FLOWS: u64 = 4_000;
    ensure!(online_cpus() >= 2, "two CPUs are needed");
    let _unit = Unit::start(UNIT)?;
    let setting = Setting::new(mechanism, 500, "")?;
    // Whoever needs room looks where its own tuple belongs: there its twin is.
    kernel::write("/sys/module/nf_conntrack/parameters/hashsize", "1024")?;
    in_its_group(&format!("race --source 192.0.2.1:5355 --flows {FLOWS}"))?;
    let growth = setting.growth()?;
    let mut checks = Checks::new();
    checks.at_least("kernel early_drop", growth.kernel("early_drop"), FLOWS / 2);
    let lost = |kind| growth.counter("events_lost_total", &[("kind", kind)]);
    let lost = lost("sockets")? + lost("tags")?;
    let of_host = growth.counter("inserts_total", &[("owner_kind", "host")])?;
    println!("{lost} inserts of the unit are the host's");
    // Nobody else sends: what is the host's is said to be another's.
    checks.equal(
        "inserts of the host",
        of_host,
        "events_lost_total{sockets, tags}",
        lost,
    );
    drop(growth);
    thread::sleep(Duration::from_secs(2));
    wait_for("the table to be empty", HANG, || {
        flush_table()?;
        Ok((kernel::entries()? <= setting.entries).then_some(()))
    })?;
    let metrics = setting.agent.settled()?;
    let left = entries(&metrics)?;
    for owner in [Owner::unit(UNIT), Owner::host()] {
        let name = format!("entries of {owner} after a flush");
        checks.equal(name, left.of(&owner), "zero", 0);
    }
    check_sum(&mut checks, &metrics, "after a flush")?;
    checks.finish()?;
    setting.agent.stop()
}

fn resolved(mechanism: Option<Mechanism>, arguments: &str) -> Result<()> {
    const FLOWS: u64 = 4_000;
    ensure!(online_cpus() >= 2, "two CPUs are needed");
    let _unit = Unit::start(UNIT)?;
    let setting = Setting::new(mechanism, 60_000, arguments)?;
    net::nft(None, TWO_SERVERS)?;
    let plain = in_its_group(&format!("race --source 192.0.2.1:5353 --flows {FLOWS}"))?;
    let translated =
        format!("race --source 192.0.2.1:5354 --destination 198.19.1.0/24 --flows {FLOWS}");
    let translated = in_its_group(&translated)?;
    let mut checks = Checks::new();
    let refused = plain.error("EPERM") + translated.error("EPERM");
    let growth = setting.growth()?;
    let resolved = growth.kernel("clashres");
    println!("{resolved} clashes resolved, {refused} packets refused");
    checks.at_least("kernel clashres", resolved, 20);
    let inserts = growth.counter("inserts_total", &[])?;
    let deletes = growth.counter("deletes_total", &[])?;
    checks.equal(
        "inserts - deletes",
        inserts - deletes,
        "entries",
        growth.entries(),
    );
    let dropped = growth.counter("drops_total", &[("reason", "clash")])?;
    checks.equal("drops_total{clash}", dropped, "refused", refused);
    let status = setting.agent.status()?;
    let total = status["totals"]["inserts"]
        .as_u64()
        .with_context(|| format!("no inserts in /status: {}", status["totals"]))?;
    let by_owner = ByOwner::read(&growth.metrics, "inserts_total", "direction")?.sum();
    checks.equal("inserts of all owners", by_owner, "all inserts", total);
    check_sum(&mut checks, &growth.metrics, "after clashes")?;
    drop(growth);
    // What lost a clash expires after a second, and stays until somebody comes by: the census does not remove it.
    thread::sleep(Duration::from_secs(2));
    setting.agent.wait_for_next_census()?;
    let metrics = setting.agent.settled()?;
    check_sum(&mut checks, &metrics, "at a census after clashes")?;
    for check in metrics.select("ctpressure_self_check_failures_total", &[]) {
        checks.equal(format!("{:?}", check.labels), check.value, "none", 0.0);
    }
    // A look at each bucket reaps it.
    flush_table()?;
    wait_for("the table to be empty", HANG, || {
        flush_table()?;
        Ok((kernel::entries()? <= setting.entries).then_some(()))
    })?;
    let metrics = setting.agent.settled()?;
    let unit = entries(&metrics)?.of(&Owner::unit(UNIT));
    checks.equal("entries of the unit after a flush", unit, "zero", 0);
    check_sum(&mut checks, &metrics, "after a flush")?;
    drop(Statistics::read()?);
    checks.finish()?;
    setting.agent.stop()
}
