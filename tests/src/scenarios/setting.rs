//! What most scenarios begin with: a table that is tracked, an agent, and the counts of both
//! before anything is sent.

use anyhow::{Result, ensure};

use crate::{
    guest::{
        agent::{Agent, Mechanism},
        checks::Checks,
        command::{HANG, Late, wait_for},
        kernel::{self, Statistics},
        net,
        prom::Metrics,
    },
    traffic::tally::Tally,
};

/// Buckets that make a scan of eight of them come back empty now and then at a limit of 20,000,
/// so that there are drops as well as evictions.
pub(super) const MANY_BUCKETS: u64 = 262_144;

/// All that the generator sends.
pub(super) const ALL_KINDS: &str =
    "--protocol udp,tcp,icmp,sctp,gre,other --family 4,6 --threads 2";

/// The same from two CPUs at once.
pub(super) const MIXED: &str =
    "--protocol udp,tcp,icmp,sctp,gre,other --family 4,6 --threads 2 --cpus 0,1";

/// Rounds of [`exact_or_bounded`].
const ROUNDS: u32 = 2;

/// One in so many runs may have been skipped in each of them.
const FEW: u64 = 200;

/// What a round of [`exact_or_bounded`] saw. It failed already if a count was off by more than `skipped`.
pub(super) struct Round {
    /// Runs of programs that the kernel skipped, as the agent counts them.
    pub(super) skipped: u64,
    /// Flows that were sent.
    pub(super) flows: u64,
}

/// Runs a round until the kernel skips no run of a program, so that every count is exact. It skips a
/// program that interrupts itself on a CPU (fentry), or that comes while another one or a reader of a BPF map is
/// interrupted there (kprobe): that is chance, and more of it the busier the machine, so in a guest that is kept waiting there may be
/// no round without. If few are skipped in one of them, that every count was within what the agent says it missed is enough: exact, or
/// bounded and said. [`Late`] if there were many.
pub(super) fn exact_or_bounded(mut round: impl FnMut() -> Result<Round>) -> Result<()> {
    let mut few = false;
    for number in 1..=ROUNDS {
        let Round { skipped, flows } = round()?;
        if skipped == 0 {
            return Ok(());
        }
        println!("round {number}: {skipped} runs skipped by the kernel, every count within that");
        few |= skipped <= flows / FEW;
    }
    if !few {
        let late = "the kernel skipped many runs in each round".to_owned();
        return Err(Late(late).into());
    }
    Ok(())
}

/// A running agent and the counts when it had just become ready.
pub(super) struct Setting {
    pub(super) agent: Agent,
    pub(super) metrics: Metrics,
    pub(super) statistics: Statistics,
    pub(super) entries: u64,
}

impl Setting {
    /// Tracks what goes to the dead end in this network namespace, sets the limit, starts the
    /// agent.
    pub(super) fn new(mechanism: Option<Mechanism>, limit: u64, arguments: &str) -> Result<Self> {
        kernel::never_expire()?;
        kernel::set_limit(limit)?;
        net::track_into_dead_end(None)?;
        let agent = Agent::start(mechanism, arguments)?;
        if !arguments.contains("--without-function") {
            let status = agent.status()?;
            let totals = &status["totals"];
            let counted = ["inserts", "deletes", "evictions"].map(|name| totals[name].is_u64());
            // What is not counted is no proof of anything.
            ensure!(counted == [true; 3], "not counted: {}", status["reason"]);
        }
        Self::with_agent(agent)
    }

    /// Nobody sends yet.
    pub(super) fn with_agent(agent: Agent) -> Result<Self> {
        let (metrics, statistics, entries) = of_one_moment(|| agent.sample())?;
        Ok(Self {
            agent,
            metrics,
            statistics,
            entries,
        })
    }

    /// The counts when everything has come to rest, as growth since the beginning.
    pub(super) fn growth(&self) -> Result<Growth<'_>> {
        let (metrics, statistics, entries) = of_one_moment(|| self.agent.settled())?;
        Ok(Growth {
            before: self,
            metrics,
            statistics,
            entries,
        })
    }
}

/// The agent's counts and the kernel's while no entry leaves: above 95 % of the limit `gc_worker` takes those out that are not assured,
/// hundreds at once, whenever it comes by.
fn of_one_moment(metrics: impl Fn() -> Result<Metrics>) -> Result<(Metrics, Statistics, u64)> {
    wait_for("a moment in which no entry leaves", HANG, || {
        let before = kernel::entries()?;
        let (metrics, statistics) = (metrics()?, Statistics::read()?);
        let after = kernel::entries()?;
        Ok((before == after).then_some((metrics, statistics, after)))
    })
}

/// What has been counted since the beginning of a [`Setting`].
pub(super) struct Growth<'a> {
    before: &'a Setting,
    pub(super) metrics: Metrics,
    statistics: Statistics,
    entries: u64,
}

impl Growth<'_> {
    /// Growth of a counter of ctpressure (without its prefix).
    pub(super) fn counter(&self, name: &str, labels: &[(&str, &str)]) -> Result<u64> {
        let name = format!("ctpressure_{name}");
        let (now, before) = (
            self.metrics.count(&name, labels)?,
            self.before.metrics.count(&name, labels)?,
        );
        anyhow::ensure!(
            now >= before,
            "{name}{labels:?} went back from {before} to {now}"
        );
        Ok(now - before)
    }

    /// Growth of a statistic of the kernel in this network namespace.
    pub(super) fn kernel(&self, name: &str) -> u64 {
        self.statistics.since(&self.before.statistics, name)
    }

    /// Growth of the table.
    pub(super) fn entries(&self) -> u64 {
        self.entries.wrapping_sub(self.before.entries)
    }

    /// Inserts, table-full drops, evictions and deletes against the kernel and the generator, to
    /// the entry.
    pub(super) fn check_exact(&self, checks: &mut Checks, tally: &Tally) -> Result<()> {
        let skipped = self.check_exact_but_skipped(checks, tally)?;
        checks.equal("events_lost_total{missed_runs}", skipped, "zero", 0);
        Ok(())
    }

    /// The same, but if the kernel skipped runs of programs, each count may be off by as many. Gives
    /// how many those were.
    pub(super) fn check_exact_but_skipped(
        &self,
        checks: &mut Checks,
        tally: &Tally,
    ) -> Result<u64> {
        let skipped = self.missed_runs()?;
        let inserts = self.counter("inserts_total", &[])?;
        let table_full = self.counter("drops_total", &[("reason", "table_full")])?;
        let evictions = self.counter("evictions_total", &[("role", "victim")])?;
        let left = self.counter("deletes_total", &[])? + self.entries();
        let refused = tally.error("EPERM");
        for (name, count, whose, there) in [
            ("inserts_total", inserts, "accepted flows", tally.accepted),
            ("drops_total{table_full}", table_full, "EPERM", refused),
            (
                "drops_total{table_full}",
                table_full,
                "kernel drop",
                self.kernel("drop"),
            ),
            (
                "all drops_total",
                self.counter("drops_total", &[])?,
                "EPERM",
                refused,
            ),
            (
                "evictions_total",
                evictions,
                "early_drop",
                self.kernel("early_drop"),
            ),
            ("deletes + live", left, "inserts_total", inserts),
        ] {
            if count.abs_diff(there) > skipped {
                checks.equal(name, count, whose, there);
            }
        }
        Ok(skipped)
    }

    /// Runs of programs that the kernel skipped.
    fn missed_runs(&self) -> Result<u64> {
        self.counter("events_lost_total", &[("kind", "missed_runs")])
    }
}
