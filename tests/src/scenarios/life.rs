//! The agent's life: killed, waiting for conntrack, outliving it.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use super::{of_kernel_only, setting::Setting};
use crate::{
    guest::{
        agent::{Agent, Mechanism},
        bpf::Inventory,
        checks::Checks,
        command::{HANG, wait_for},
        generator, kernel, net,
    },
    traffic::bench::flush_table,
};

pub(super) fn kill9(mechanism: Option<Mechanism>) -> Result<()> {
    let (times, at_least) = if of_kernel_only() { (4, 1) } else { (10, 3) };
    kernel::set_limit(2_000)?;
    net::track_into_dead_end(None)?;
    let before = Inventory::take()?;
    let sending = generator::start(None, "--flows 1000000 --rate 1000 --seconds 230")?;
    // How long it takes to attach here: from some 0.5 s to several on an emulated machine with much to do.
    let begun = Instant::now();
    Agent::start(mechanism, "")?.stop()?;
    let whole = begun.elapsed().max(Duration::from_secs(1));
    let mut caught = 0;
    for turn in 0..times {
        let mut agent = Agent::launch(mechanism, "")?;
        // Moments from the first system calls to well after the attach, none twice.
        let part = f64::from(20 + turn * 733 % 2_000) / 2_000.0;
        thread::sleep(whole.mul_f64(2.0 * part));
        let there = Inventory::take()?.beyond(&before);
        agent.signal(Signal::SIGKILL)?;
        agent.wait(HANG)?;
        caught += u64::from(there.0 > 0);
        // Freeing is deferred by the kernel (RCU); staying is what must not be.
        wait_for("programs, maps and links to go", HANG, || {
            Ok((Inventory::take()?.beyond(&before) == (0, 0, 0)).then_some(()))
        })
        .with_context(|| {
            let left = Inventory::take().map(|now| now.beyond(&before));
            format!("kill {turn}: programs, maps, links were {there:?}, left are {left:?}")
        })?;
        no_probe_left().with_context(|| format!("kill {turn}"))?;
    }
    drop(sending);
    ensure!(
        caught >= at_least,
        "only {caught} of {times} kills met a loaded program: nothing was shown"
    );
    Ok(())
}

/// No kprobe on conntrack is left (where the kernel lists them).
fn no_probe_left() -> Result<()> {
    let list = Path::new("/sys/kernel/debug/kprobes/list");
    if let Ok(text) = fs::read_to_string(list) {
        let left = text
            .lines()
            .find(|line| line.contains("conntrack") || line.contains("early_drop"));
        ensure!(left.is_none(), "a kprobe is left: {left:?}");
    }
    Ok(())
}

/// Takes conntrack out of the kernel: no rules, no entries, no module.
fn unload_conntrack() -> Result<()> {
    net::clean_up()?;
    kernel::unload_module("nf_conntrack")?;
    ensure!(
        !kernel::has_module("nf_conntrack"),
        "nf_conntrack is still loaded"
    );
    Ok(())
}

/// Waits until the agent says by its metrics that conntrack is loaded (1) and it is attached, or that it is not (0).
fn wait_until_loaded(agent: &Agent, loaded: f64) -> Result<()> {
    wait_for("the agent to see conntrack come or go", HANG, || {
        let found = agent.scrape()?.value("ctpressure_conntrack_loaded", &[]);
        Ok((found == Some(loaded)).then_some(()))
    })
}

pub(super) fn not_loaded(mechanism: Option<Mechanism>) -> Result<()> {
    const FLOWS: u64 = 300;
    unload_conntrack()?;
    let agent = Agent::launch(mechanism, "")?;
    let status = wait_for("the agent to say that it waits", HANG, || {
        Ok(agent
            .status()
            .ok()
            // From the first sample on; before it the agent has not looked yet.
            .filter(|status| {
                status["state"] == "waiting" && status["uptime_seconds"].as_f64() > Some(0.0)
            }))
    })?;
    let mut checks = Checks::new();
    let reason = status["reason"].as_str().unwrap_or("").to_owned();
    checks.holds(reason.contains("nf_conntrack"), || {
        format!("the reason is `{reason}`")
    });
    checks.holds(agent.log().contains("nf_conntrack"), || {
        format!("the log is `{}`", agent.log())
    });
    let (ready, body) = agent.get("/readyz")?;
    // A rollout must not stop at a node that tracks no connections.
    checks.equal("/readyz while waiting", ready, "expected", 200);
    checks.holds(body.contains("waiting: nf_conntrack"), || {
        format!("/readyz says `{body}`")
    });
    let (_, short) = agent.get("/status")?;
    checks.holds(short.contains("\"waiting_for\": \"nf_conntrack\""), || {
        format!("/status says `{short}`")
    });
    checks.equal(
        "conntrack_loaded while waiting",
        agent.scrape()?.value("ctpressure_conntrack_loaded", &[]),
        "expected",
        Some(0.0),
    );
    checks.equal(
        "/healthz while waiting",
        agent.get("/healthz")?.0,
        "expected",
        200,
    );
    checks.equal(
        "/metrics while waiting",
        agent.get("/metrics")?.0,
        "expected",
        200,
    );

    kernel::load_module("nf_conntrack")?;
    net::track_into_dead_end(None)?;
    wait_until_loaded(&agent, 1.0)?;
    let setting = Setting::with_agent(agent)?;
    let tally = generator::send(None, &format!("--flows {FLOWS} --family 4,6"))?;
    let growth = setting.growth()?;
    growth.check_exact(&mut checks, &tally)?;
    checks.equal("accepted", tally.accepted, "flows", FLOWS);
    checks.finish()?;
    drop(growth);
    setting.agent.stop()
}

pub(super) fn module_reload(mechanism: Option<Mechanism>) -> Result<()> {
    const FLOWS: u64 = 300;
    let setting = Setting::new(mechanism, 10_000, "")?;
    generator::send(None, &format!("--flows {FLOWS}"))?;
    let mut checks = Checks::new();
    let before = setting.growth()?;
    checks.equal(
        "inserts before",
        before.counter("inserts_total", &[])?,
        "flows",
        FLOWS,
    );
    drop(before);
    flush_table()?;
    thread::sleep(Duration::from_secs(1));
    unload_conntrack()?;
    wait_until_loaded(&setting.agent, 0.0)?;
    checks.equal(
        "/readyz while unloaded",
        setting.agent.get("/readyz")?.0,
        "expected",
        200,
    );
    // Counters don't go back, and don't go away either, while there is nothing to count.
    let away = setting
        .agent
        .scrape()?
        .count("ctpressure_inserts_total", &[])?;
    kernel::load_module("nf_conntrack")?;
    net::track_into_dead_end(None)?;
    wait_until_loaded(&setting.agent, 1.0)?;
    generator::send(None, &format!("--first 5000 --flows {FLOWS}"))?;
    let metrics = setting.agent.settled()?;
    let inserts = metrics.count("ctpressure_inserts_total", &[])?;
    let base = setting.metrics.count("ctpressure_inserts_total", &[])?;
    checks.equal("inserts_total while unloaded", away, "before", base + FLOWS);
    checks.equal(
        "inserts_total at the end",
        inserts,
        "flows of both loads",
        base + 2 * FLOWS,
    );
    checks.equal(
        "table_entries",
        metrics.value("ctpressure_table_entries", &[("netns", "host")]),
        "flows",
        Some(300.0),
    );
    checks.finish()?;
    setting.agent.stop()
}

/// Which modules the kernel loads because of an agent: none for a census over the hash table; for one over ctnetlink those that the
/// security model names.
pub(super) fn modules_loaded(mechanism: Option<Mechanism>) -> Result<()> {
    const CTNETLINK: &str = "nf_conntrack_netlink";
    let mut checks = Checks::new();
    for (source, named) in [("hash", &[][..]), ("ctnetlink", &["nfnetlink", CTNETLINK])] {
        kernel::unload_module(CTNETLINK)?;
        let before = kernel::modules()?;
        let agent = Agent::start(mechanism, &format!("--census {source}"))?;
        agent.wait_for_census()?;
        let made_from = agent.status()?["census"]["source"]["kind"].clone();
        checks.holds(made_from == source, || {
            format!("--census {source}: it was made from {made_from}")
        });
        let after = kernel::modules()?;
        let loaded: Vec<_> = after.difference(&before).collect();
        println!("--census {source}: loaded {loaded:?}");
        for module in &loaded {
            checks.holds(named.contains(&module.as_str()), || {
                format!("{module} was loaded, and the security model does not say so")
            });
        }
        agent.stop()?;
    }
    checks.finish()
}
