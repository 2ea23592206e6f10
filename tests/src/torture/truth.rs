//! What has to hold: all the while, and to the entry when everything rests.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::node::{
    CROWD, FOREIGN, Flows, HOST, HOST6, Node, TO_SERVER, all_entries, flush, flush_of, pod_address,
};
use crate::guest::{
    agent::Agent,
    checks::Checks,
    command::{HANG, wait_for},
    entries,
    kernel::{self, Statistics},
    owned::{ByOwner, Owner},
    prom::Metrics,
};

/// What a bounded agent may take, whatever is done to it.
const MOST_MEMORY_KIB: u64 = 200 << 10;
const MOST_FILES: usize = 400;

/// What a round has done, as far as counts hang on it.
#[derive(Default)]
pub(super) struct Done {
    /// What was sent, and by whom.
    pub(super) sent: Vec<Flows>,
    /// Of whom it is not known how much was sent.
    pub(super) unsure: BTreeSet<Owner>,
    /// The agent began anew: its counts are not those from before.
    pub(super) begun_anew: bool,
    /// Conntrack began anew.
    pub(super) reloaded: bool,
    /// Packets of one flow were sent at the same moment.
    pub(super) clashed: bool,
}

impl Done {
    pub(super) fn add(&mut self, other: Self) {
        self.sent.extend(other.sent);
        self.unsure.extend(other.unsure);
        self.begun_anew |= other.begun_anew;
        self.reloaded |= other.reloaded;
        self.clashed |= other.clashed;
    }

    /// Whether somebody sent by the address of a pod that was removed meanwhile.
    fn outlived_a_pod(&self) -> bool {
        let mut owners = self.sent.iter().map(|flows| &flows.owner);
        owners.any(|owner| self.unsure.contains(owner))
    }
}

/// Counts at a moment at which everything rests.
pub(super) struct Counts {
    metrics: Metrics,
    /// Of all owners, also those that are forgotten.
    totals: Value,
    statistics: Statistics,
    /// Of all tables.
    entries: u64,
    /// There are entries by addresses of pods that this agent did not see, or that were gone by then: to it they are nobody's.
    has_unseen: bool,
}

impl Counts {
    pub(super) fn read(agent: &Agent) -> Result<Self> {
        let metrics = agent.settled()?;
        let counts = Self {
            metrics,
            totals: agent.status()?["totals"].clone(),
            statistics: Statistics::read()?,
            entries: all_entries()?,
            has_unseen: false,
        };
        Ok(counts)
    }

    /// Growth of a total, by its place in `/status`.
    fn total(&self, before: &Self, place: &str) -> Result<u64> {
        let of = |totals: &Value| {
            let total = totals.pointer(place).and_then(Value::as_u64);
            total.with_context(|| format!("no total {place} in {totals}"))
        };
        let (now, before) = (of(&self.totals)?, of(&before.totals)?);
        ensure!(now >= before, "{place} went from {before} to {now}");
        Ok(now - before)
    }

    fn by_owner(&self, name: &str, beside: &str) -> Result<ByOwner> {
        ByOwner::read(&self.metrics, name, beside)
    }

    /// Runs of programs that the kernel skipped, and flows whose socket was not seen, since the agent began.
    fn skipped(&self) -> Result<[u64; 2]> {
        let lost = |kind| {
            self.metrics
                .count("ctpressure_events_lost_total", &[("kind", kind)])
        };
        Ok([lost("missed_runs")?, lost("sockets")?])
    }
}

/// Waits for everything to rest and compares; gives the counts for the next round.
pub(super) fn check(node: &Node, before: &Counts, done: &Done) -> Result<Counts> {
    if done.clashed {
        // What lost a clash expires after a second, and is taken out by whoever finds it.
        thread::sleep(Duration::from_millis(1_500));
        entries::list(None)?;
    }
    let agent = node.agent();
    if done.begun_anew || done.reloaded {
        agent.wait_for_census()?;
    }
    let mut now = Counts::read(&agent)?;
    let began = done.begun_anew || done.reloaded;
    let unseen = began && node.has_lost_pods() || done.outlived_a_pod();
    now.has_unseen = now.entries > 0 && (before.has_unseen || unseen);
    let mut checks = Checks::new();
    let [missed, sockets] = now.skipped()?;
    if !began {
        growth(&mut checks, before, &now, done, missed, sockets)?;
    }
    live(&mut checks, &now, missed + sockets)?;
    self_check(&mut checks, &now.metrics, missed);
    bounded(&mut checks, &agent)?;
    checks.finish()?;
    Ok(now)
}

/// What was counted since the last round.
fn growth(
    checks: &mut Checks,
    before: &Counts,
    now: &Counts,
    done: &Done,
    missed: u64,
    sockets: u64,
) -> Result<()> {
    let mut close = |name: String, is: u64, whose: &str, there: u64, slack: u64| {
        checks.holds(is.abs_diff(there) <= slack, || {
            format!("{name} {is} != {whose} {there} (may be off by {slack})")
        });
    };
    // Each packet of a flow of its own opened an entry or was lost.
    let grown = |name: &str, beside: &str| -> Result<ByOwner> {
        now.by_owner(name, beside)?
            .since(&before.by_owner(name, beside)?)
    };
    let (inserts, drops) = (
        grown("inserts_total", "direction")?,
        grown("drops_total", "reason")?,
    );
    // Of what no probe sees, such as a chain that is too long by kprobe, only the kernel's statistics know, and not whose it was.
    let node = |counts: &Counts| counts.metrics.count("ctpressure_node_drops_total", &[]);
    let of_node = node(now)?.saturating_sub(node(before)?);
    let owners: BTreeSet<&Owner> = done.sent.iter().map(|flows| &flows.owner).collect();
    for owner in owners
        .into_iter()
        .filter(|owner| !done.unsure.contains(owner))
    {
        let of_owner = done.sent.iter().filter(|flows| flows.owner == *owner);
        let sent: u64 = of_owner.map(|flows| flows.tally.sent).sum();
        // What comes in from the server, as a flushed connection that it takes up again, was sent by nobody here.
        let own = inserts.0.iter().filter(|((of, direction), _)| {
            of == owner && (owner.kind != "host" || direction == "egress")
        });
        let counted = own.map(|(_, count)| count).sum::<u64>() + drops.of(owner);
        // Where a full table refuses a packet no program may see its socket: then it is the host's, whichever unit has sent it.
        let by_socket = matches!(owner.kind.as_str(), "host" | "cgroup");
        let refused = if by_socket {
            drops.of(&Owner::host())
        } else {
            0
        };
        let name = format!("inserts and drops of {owner}");
        let slack = missed + sockets + refused + of_node;
        close(name, counted, "sent", sent, slack);
    }
    let deletes = now.total(before, "/deletes")?;
    close(
        "entries before and inserts".to_owned(),
        before.entries + now.total(before, "/inserts")?,
        "deletes and entries",
        deletes + now.entries,
        missed,
    );
    let evictions = now.total(before, "/evictions")?;
    let foreign: u64 = done
        .sent
        .iter()
        .filter(|flows| is_elsewhere(flows))
        .map(|flows| flows.tally.error("EPERM"))
        .sum();
    // The statistics are those of the host's table only.
    close(
        "evictions_total".to_owned(),
        evictions,
        "early_drop",
        now.statistics.since(&before.statistics, "early_drop"),
        missed + foreign + of_foreign_table(done),
    );
    if !done.clashed {
        let full = now.total(before, "/drops/table_full")?;
        close(
            "drops_total{table_full}".to_owned(),
            full,
            "kernel drop",
            now.statistics.since(&before.statistics, "drop"),
            missed + foreign,
        );
    }
    Ok(())
}

/// How many flows went to a table beside the host's.
fn of_foreign_table(done: &Done) -> u64 {
    let foreign = done.sent.iter().filter(|flows| is_elsewhere(flows));
    foreign.map(|flows| flows.tally.sent).sum()
}

/// Whether they may have gone to a table beside the host's.
fn is_elsewhere(flows: &Flows) -> bool {
    [Owner::unknown(), Owner::unit(FOREIGN)].contains(&flows.owner)
}

/// What the tables hold now.
fn live(checks: &mut Checks, now: &Counts, skipped: u64) -> Result<()> {
    let of_tables = now.metrics.count("ctpressure_table_entries", &[])?;
    checks.equal("table_entries", of_tables, "kernel's counts", now.entries);
    let entries = now.by_owner("entries", "direction")?;
    checks.equal("entries of all owners", entries.sum(), "tables", of_tables);
    let unsure = now.by_owner("entries_uncertainty", "direction")?;
    // The list, by who the addresses say they are: several pods may have had one of them.
    let pods: BTreeSet<IpAddr> = (0..=u8::MAX - 10)
        .map(|last| pod_address(last).into())
        .collect();
    let host: BTreeSet<IpAddr> = [HOST.into(), TO_SERVER.into(), HOST6.parse()?].into();
    let mut listed = [0; 3];
    for entry in entries::list(None)? {
        let whose = |address: IpAddr| {
            let of_pod = pods.contains(&address).then_some(0);
            of_pod.or_else(|| host.contains(&address).then_some(1))
        };
        // A connection that was flushed is taken up again by whoever sends next, which may be the server.
        let known = whose(entry.original.source).or_else(|| whose(entry.reply.source));
        listed[known.unwrap_or(2)] += 1;
    }
    // What lost a clash is counted and in no list, until it is found expired.
    let unlisted = kernel::entries()?.saturating_sub(listed.iter().sum());
    let [pods, host, nobody] = listed;
    // Those namespaces are owners by their names.
    let host = host + kernel::entries_of(FOREIGN)? + kernel::entries_of(CROWD)?;
    let mut expected = vec![(&["host", "cgroup"][..], host)];
    if now.has_unseen {
        expected.push((&["pod", "unknown"][..], pods + nobody));
    } else {
        expected.extend([(&["pod"][..], pods), (&["unknown"][..], nobody)]);
    }
    for (kinds, listed) in expected {
        let of = |counts: &ByOwner| -> u64 {
            let theirs = counts
                .0
                .iter()
                .filter(|((owner, _), _)| kinds.contains(&owner.kind.as_str()));
            theirs.map(|(_, count)| count).sum()
        };
        let (is, slack) = (of(&entries), of(&unsure) + skipped + unlisted);
        checks.holds(is.abs_diff(listed) <= slack, || {
            format!("entries of {kinds:?} {is} != listed {listed} (may be off by {slack})")
        });
    }
    Ok(())
}

/// What the agent found wrong with its own counts.
fn self_check(checks: &mut Checks, metrics: &Metrics, missed: u64) {
    for sample in metrics.select("ctpressure_self_check_failures_total", &[]) {
        checks.holds(sample.value == 0.0 || missed > 0, || {
            format!("the self-check {:?} says {}", sample.labels, sample.value)
        });
    }
}

/// What it takes.
fn bounded(checks: &mut Checks, agent: &Agent) -> Result<()> {
    checks.at_most("VmRSS in KiB", agent.memory_kib("VmRSS")?, MOST_MEMORY_KIB);
    let folder = format!("/proc/{}/fd", agent.pid());
    let files = std::fs::read_dir(&folder)
        .with_context(|| format!("listing {folder}"))?
        .count();
    checks.at_most("open files", files, MOST_FILES);
    Ok(())
}

/// Looks at a running agent until `is_over`; what happens to it is not its fault, but what it says is.
pub(super) fn watch(node: &Node, is_over: impl Fn() -> bool) -> Result<()> {
    while !is_over() {
        {
            let agent = node.agent();
            let metrics = scrape(&agent)?;
            let missed =
                metrics.count("ctpressure_events_lost_total", &[("kind", "missed_runs")])?;
            let mut checks = Checks::new();
            self_check(&mut checks, &metrics, missed);
            bounded(&mut checks, &agent)?;
            checks.finish()?;
        }
        thread::sleep(Duration::from_millis(700));
    }
    Ok(())
}

/// An answer of the port, which strangers crowd.
fn scrape(agent: &Agent) -> Result<Metrics> {
    let began = Instant::now();
    loop {
        match agent.scrape() {
            Err(error) if format!("{error:#}").contains("went back") => return Err(error),
            Err(error) if began.elapsed() > HANG => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(100)),
            scraped => return scraped,
        }
    }
}

/// After a flush nobody has an entry.
pub(super) fn emptied(node: &Node) -> Result<()> {
    let agent = node.agent();
    agent.wait_for_census()?;
    wait_for("the tables to be empty", HANG, || {
        flush()?;
        flush_of(CROWD)?;
        Ok((all_entries()? == 0).then_some(()))
    })?;
    let now = Counts::read(&agent)?;
    let [missed, _] = now.skipped()?;
    for (name, beside) in [
        ("entries", "direction"),
        ("entries_uncertainty", "direction"),
    ] {
        let left = now.by_owner(name, beside)?;
        if left.sum() > missed {
            bail!("{name} after a flush: {left:?}");
        }
    }
    Ok(())
}
