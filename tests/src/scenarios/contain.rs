//! `ctpressure contain`: what it does for the others while a pod floods the table, and that it touches nobody else and leaves nothing behind.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    containers::lookalike::Lookalike,
    guest::{
        agent::{Agent, Mechanism},
        checks::Checks,
        command::{self, HANG, wait_for},
        entries::{self, Entry},
        generator, kernel,
        kernel::Statistics,
        net,
    },
    scenarios::setting::Setting,
    traffic::bench::flush_table,
};

/// As in the demo.
const LIMIT: u64 = 2_000;
/// The culprit's.
const FLOOD: &str = "--flows 60000 --rate 1500";
const FLOOD_RATE: u64 = 1_500;
/// What each of the others opens while the flood goes on, over six seconds.
const FLOWS: u64 = 120;
/// What the culprit is let.
const RATE: u64 = 10;
/// The burst of the limit, and what the time of a measurement may be off by.
const SLACK: u64 = 15;

const CULPRIT: &str = "batch/job-1";

fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 89, 0, 4 + number)
}

fn address6(number: u32) -> String {
    format!("fd00:89::{number}")
}

/// A pod with an IPv6 address beside its other one, which does nothing yet.
fn pod(number: u8) -> Result<Lookalike> {
    let pod = Lookalike::make(number.into(), address(number), 0.0, "send --flows 0")?;
    let own = address6(number.into());
    net::batch(
        None,
        &format!(
            "addr add fe80::1/64 dev ctpv{number} nodad\n\
             route replace {own}/128 dev ctpv{number}\n"
        ),
    )?;
    net::batch(
        Some(&pod.network()),
        &format!(
            "addr add {own}/128 dev eth0 nodad\n\
             route add default via fe80::1 dev eth0\n"
        ),
    )?;
    Ok(pod)
}

/// Arguments of `ctgen` for flows of both families from a pod's addresses.
fn from(number: u8, what: &str) -> String {
    let (v4, v6) = (address(number), address6(number.into()));
    format!("send --family 4,6 --source {v4}/32 --source6 {v6}/128 {what}")
}

/// What `ctpressure contain` says, arguments split at spaces.
fn contain(agent: &Agent, arguments: &str) -> Result<Value> {
    let socket = agent.socket();
    let words = format!("contain {arguments} -o json --socket {}", socket.display());
    let words: Vec<&str> = words.split(' ').collect();
    let said = command::output("ctpressure", &words)?;
    serde_json::from_str(&said).with_context(|| format!("{arguments} prints no JSON: {said}"))
}

/// The entries that a pod opened.
fn of(number: u8, all: &[Entry]) -> Vec<Entry> {
    let own: [IpAddr; 2] = [
        address(number).into(),
        address6(number.into())
            .parse()
            .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
    ];
    let own = |entry: &&Entry| own.contains(&entry.original.source);
    all.iter().filter(own).copied().collect()
}

fn count(entries: &[Entry]) -> Result<u64> {
    Ok(u64::try_from(entries.len())?)
}

/// Ends a generator that was to go on.
struct Flood(Child);

impl Drop for Flood {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// What became of the others' flows.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    victim: u64,
    bystander: u64,
    /// Since it was contained.
    evicted: u64,
    dropped: u64,
    culprit: u64,
}

/// The culprit floods until the table is full; `act`; then the other two open their flows while the flood goes on.
fn incident(
    [culprit, victim, bystander]: [&Lookalike; 3],
    act: impl FnOnce() -> Result<()>,
) -> Result<Outcome> {
    flush_table()?;
    let flood = Flood(culprit.run(&from(1, FLOOD))?);
    wait_for("the table to be full", HANG, || {
        Ok((kernel::entries()? + 20 >= LIMIT).then_some(()))
    })?;
    act()?;
    let before = Statistics::read()?;
    let rate = FLOWS / 6;
    let opened = [
        victim.run(&from(2, &format!("--flows {FLOWS} --rate {rate}")))?,
        bystander.run(&from(3, &format!("--flows {FLOWS} --rate {rate}")))?,
    ];
    for opened in opened {
        let tally = generator::counted(opened)?;
        ensure!(tally.sent == FLOWS, "sent {} of {FLOWS}", tally.sent);
    }
    let after = Statistics::read()?;
    let all = entries::list(None)?;
    drop(flood);
    Ok(Outcome {
        victim: count(&of(2, &all))?,
        bystander: count(&of(3, &all))?,
        evicted: after.since(&before, "early_drop"),
        dropped: after.since(&before, "drop"),
        culprit: count(&of(1, &all))?,
    })
}

/// With and without, in the flood of the demo.
fn flooded(agent: &Agent, pods: [&Lookalike; 3], checks: &mut Checks) -> Result<()> {
    let limit = format!("{CULPRIT} --rate {RATE}/s --for 60s --yes");
    let nothing = incident(pods, || Ok(()))?;
    let limited = incident(pods, || contain(agent, &limit).map(drop))?;
    contain(agent, &format!("{CULPRIT} --lift"))?;
    let mut said = Value::Null;
    let whole = incident(pods, || {
        said = contain(agent, &format!("{limit} --delete-entries"))?;
        Ok(())
    })?;
    println!("of {FLOWS} flows each, nothing done: {nothing:?}");
    println!("of {FLOWS} flows each, limit: {limited:?}");
    println!("of {FLOWS} flows each, limit and deletion: {whole:?}; {said}");
    checks.at_most(
        "flows of the victim alive, nothing done",
        nothing.victim,
        FLOWS / 2,
    );
    checks.at_least(
        "flows of the victim alive, limit",
        limited.victim,
        nothing.victim + 1,
    );
    checks.equal("flows of the victim alive", whole.victim, "opened", FLOWS);
    checks.equal(
        "flows of the bystander alive",
        whole.bystander,
        "opened",
        FLOWS,
    );
    checks.equal("evictions", whole.evicted, "none", 0);
    checks.equal("drops", whole.dropped, "none", 0);
    checks.at_most("entries of the culprit", whole.culprit, RATE * 8 + SLACK);
    let entries = &said["entries"];
    checks.at_least(
        "deleted",
        entries["deleted"].as_u64().unwrap_or(0),
        LIMIT * 9 / 10,
    );
    checks.holds(entries["refused"] == 0, || format!("refused: {entries}"));
    let listed = contain(agent, "--list")?;
    let refused = listed["contained"][0]["refused_packets"].as_u64();
    checks.at_least("refused packets", refused.unwrap_or(0), FLOOD_RATE * 3);
    contain(agent, &format!("{CULPRIT} --lift"))?;
    checks.holds(!has_table()?, || "a table is left after --lift".to_owned());
    Ok(())
}

fn has_table() -> Result<bool> {
    Ok(net::nft_list(None, "list tables")?.contains("ctpressure"))
}

/// In a table that is at rest: only the entries of who is contained go, all of them, of both families.
fn only_its_own(agent: &Agent, pods: [&Lookalike; 3], checks: &mut Checks) -> Result<()> {
    flush_table()?;
    for (number, pod) in (1..).zip(pods) {
        generator::counted(pod.run(&from(number, "--flows 300 --rate 600"))?)?;
    }
    let before = entries::list(None)?;
    let dry = contain(agent, &format!("{CULPRIT} --delete-entries"))?;
    checks.equal(
        "entries after the dry run",
        kernel::entries()?,
        "before",
        count(&before)?,
    );
    checks.holds(!has_table()?, || "a dry run made a table".to_owned());
    checks.holds(
        dry["entries"]["found"] == 300 && dry["done"] == false,
        || dry.to_string(),
    );
    let addresses = dry["plan"]["addresses"].as_array().map_or(0, Vec::len);
    checks.equal("addresses", addresses, "of both families", 2);
    let done = contain(
        agent,
        &format!("{CULPRIT} --rate 0/s --for 60s --delete-entries --yes"),
    )?;
    let noted = &done["noted"]["journal"];
    checks.holds(done["entries"]["deleted"] == 300 && *noted == true, || {
        done.to_string()
    });
    let after = entries::list(None)?;
    checks.equal("entries of the culprit", count(&of(1, &after))?, "none", 0);
    for number in [2, 3] {
        let kept = of(number, &before)
            .iter()
            .all(|entry| after.contains(entry));
        checks.holds(kept, || format!("pod {number} lost entries"));
    }
    // Of both families nothing passes at this rate, and of others everything.
    for (number, pod) in (1..).zip(pods) {
        let tally =
            generator::counted(pod.run(&from(number, "--first 1000 --flows 100 --rate 200"))?)?;
        ensure!(tally.sent == 100, "{tally:?}");
    }
    let all = entries::list(None)?;
    let counts = [1, 2, 3].map(|number| of(number, &all).len());
    checks.equal("entries of the three", counts, "expected", [0, 400, 400]);
    contain(agent, &format!("{CULPRIT} --lift")).map(drop)
}

/// What was done until now is counted, and in the journal.
fn noted(agent: &Agent, journal: &Path, checks: &mut Checks) -> Result<()> {
    let metrics = agent.sample()?;
    for (action, times) in [("limit", 3), ("delete", 2), ("lift", 3)] {
        let labels = [("action", action)];
        let counted = metrics.count("ctpressure_contain_actions_total", &labels)?;
        checks.equal(action, counted, "done", times);
    }
    let line = b"300 entries of batch/job-1 were deleted";
    let has_it = |file: &Path| {
        let bytes = fs::read(file).unwrap_or_default();
        bytes.windows(line.len()).any(|part| part == line)
    };
    let files = fs::read_dir(journal)?.collect::<Result<Vec<_>, _>>()?;
    let is_there = files.iter().any(|file| has_it(&file.path()));
    checks.holds(is_there, || "it is not in the journal".to_owned());
    Ok(())
}

/// Who is killed leaves nothing that lasts.
fn killed(agent: &Agent, culprit: &Lookalike, checks: &mut Checks) -> Result<()> {
    flush_table()?;
    let socket = agent.socket();
    let mut tool = Command::new("ctpressure")
        .args([
            "contain",
            CULPRIT,
            "--rate",
            "0/s",
            "--for",
            "5s",
            "--delete-entries",
            "--yes",
            "--socket",
        ])
        .arg(socket)
        .stdout(Stdio::null())
        .spawn()?;
    wait_for("the table", HANG, || Ok(has_table()?.then_some(())))?;
    tool.kill()?;
    tool.wait()?;
    generator::counted(culprit.run(&from(1, "--flows 100 --rate 200"))?)?;
    checks.equal(
        "entries while it is contained",
        count(&of(1, &entries::list(None)?))?,
        "none",
        0,
    );
    thread::sleep(Duration::from_secs(6));
    let rules = net::nft_list(None, "list table inet ctpressure")?;
    checks.holds(!rules.contains("elements"), || {
        format!("after the time: {rules}")
    });
    generator::counted(culprit.run(&from(1, "--first 1000 --flows 100 --rate 200"))?)?;
    checks.equal(
        "entries after the time",
        count(&of(1, &entries::list(None)?))?,
        "opened",
        100,
    );
    let listed = contain(agent, "--list")?;
    checks.holds(listed["contained"] == Value::Array(Vec::new()), || {
        listed.to_string()
    });
    checks.holds(!has_table()?, || "a table is left after --list".to_owned());
    Ok(())
}

pub(super) fn contained(mechanism: Option<Mechanism>) -> Result<()> {
    let journal = tempfile::Builder::new().prefix("ctp-contain-").tempdir()?;
    let arguments = format!("--journal {}", journal.path().display());
    let setting = Setting::new(mechanism, LIMIT, &arguments)?;
    let agent = &setting.agent;
    for file in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        kernel::write(&format!("/proc/sys/net/{file}"), "1")?;
    }
    let pods = [pod(1)?, pod(2)?, pod(3)?];
    let three = [&pods[0], &pods[1], &pods[2]];
    wait_for("the agent to know the addresses of the pods", HANG, || {
        let known = (1..=3).map(|number| contain(agent, &format!("batch/job-{number}")));
        let known = known.map(|said| {
            Ok(said.map_or(0, |said| {
                said["plan"]["addresses"].as_array().map_or(0, Vec::len)
            }))
        });
        let known: Vec<usize> = known.collect::<Result<_>>()?;
        Ok((known == [2, 2, 2]).then_some(()))
    })?;
    let mut checks = Checks::new();
    only_its_own(agent, three, &mut checks)?;
    flooded(agent, three, &mut checks)?;
    noted(agent, journal.path(), &mut checks)?;
    killed(agent, three[0], &mut checks)?;
    for (who, why) in [
        ("host", "the node itself"),
        ("shop/nobody", "nobody on this node"),
    ] {
        let refused = contain(agent, &format!("{who} --yes")).err();
        let refused = refused.map_or_else(String::new, |error| format!("{error:#}"));
        checks.holds(refused.contains(why), || format!("{who}: {refused}"));
    }
    checks.holds(!has_table()?, || "what was refused made a table".to_owned());
    for pod in pods {
        pod.remove()?;
    }
    checks.finish()?;
    setting.agent.stop()
}
