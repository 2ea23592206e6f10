//! What most scenarios begin with: a table that is tracked, an agent, and the counts of both
//! before anything is sent.

use anyhow::Result;

use crate::{
    guest::{
        agent::{Agent, Mechanism},
        checks::Checks,
        command::Late,
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

/// Rounds of [`until_none_is_skipped`].
const ROUNDS: u32 = 5;

/// Repeats what gives how many runs of programs the kernel skipped, until that is none: it skips every
/// kprobe program of a CPU while another one is interrupted there, or while somebody who reads a
/// BPF map is, which is chance, and more of it the busier the machine. What was skipped is counted
/// as missed; that all the rest is exact is shown by a round without. [`Late`] if there was none: a guest that is kept waiting
/// puts tasks aside in the middle of a program.
pub(super) fn until_none_is_skipped(mut round: impl FnMut() -> Result<u64>) -> Result<()> {
    for _ in 0..ROUNDS {
        let skipped = round()?;
        if skipped == 0 {
            return Ok(());
        }
        println!("{skipped} runs skipped by the kernel: once more");
    }
    Err(Late(format!(
        "the kernel skipped runs in each of {ROUNDS} rounds"
    ))
    .into())
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
        Self::with_agent(Agent::start(mechanism, arguments)?)
    }

    /// Nobody sends yet.
    pub(super) fn with_agent(agent: Agent) -> Result<Self> {
        let metrics = agent.sample()?;
        Ok(Self {
            metrics,
            statistics: Statistics::read()?,
            entries: kernel::entries()?,
            agent,
        })
    }

    /// The counts when everything has come to rest, as growth since the beginning.
    pub(super) fn growth(&self) -> Result<Growth<'_>> {
        let metrics = self.agent.settled()?;
        Ok(Growth {
            before: self,
            metrics,
            statistics: Statistics::read()?,
            entries: kernel::entries()?,
        })
    }
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
