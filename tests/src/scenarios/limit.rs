//! The limit controller on a real kernel.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::setting::Setting;
use crate::guest::{
    agent::{Agent, Mechanism},
    checks::Checks,
    command::{self, HANG, wait_for},
    generator,
    kernel::{self, Statistics},
};

mod fight;
mod floods;
mod foreign;
mod timeout;

pub(super) use fight::fight;
pub(super) use floods::floods;
pub(super) use foreign::{foreign, lock};
pub(super) use timeout::timeout;

/// The limit when it begins.
const LIMIT: u64 = 2_048;
/// New flows a second of the ramp, and how many come.
const RATE: u64 = 90;
const FLOWS: u64 = 3_000;
/// Who floods.
const FLOODER: &str = "198.18.200.1";

/// What `ctpressure limit` says of an agent, as JSON.
fn limit(agent: &Agent, arguments: &[&str]) -> Result<Value> {
    let socket = agent.socket();
    let mut words = vec!["limit"];
    words.extend(arguments);
    words.extend(["-o", "json", "--socket"]);
    let socket = socket.to_string_lossy();
    words.push(&socket);
    let text = command::output("ctpressure", &words)?;
    serde_json::from_str(&text).context("ctpressure limit printed no JSON")
}

/// The changes of this kind that an agent knows.
fn changes<'a>(view: &'a Value, purpose: &str, outcome: &str) -> Vec<&'a Value> {
    let changes = view["controller"]["changes"].as_array();
    changes
        .into_iter()
        .flatten()
        .filter(|change| change["purpose"] == purpose && change["outcome"] == outcome)
        .collect()
}

fn wait_until_it_acts(agent: &Agent) -> Result<()> {
    wait_for("the controller to act", HANG, || {
        Ok((limit(agent, &[])?["controller"]["state"] == "acting").then_some(()))
    })
}

/// Where a controller keeps what it did; nothing of what it was before.
struct State(PathBuf);

impl Default for State {
    fn default() -> Self {
        Self(PathBuf::from("/tmp/ctp-limit.state"))
    }
}

impl State {
    /// For a controller that acts soon.
    fn flags(&self) -> String {
        let path = self.0.display();
        format!("--limit-controller on --raise-for 1s --raise-cooldown 10s --limit-state {path}")
    }
}

impl Drop for State {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}

pub(super) fn raise(mechanism: Option<Mechanism>) -> Result<()> {
    let state = State::default();
    let setting = Setting::new(mechanism, LIMIT, &state.flags())?;
    let agent = &setting.agent;
    wait_until_it_acts(agent)?;
    let mut checks = Checks::new();
    flood(agent, &mut checks)?;
    command::output("conntrack", &["-F"])?;
    ramp(agent, &mut checks)?;
    rival(agent, &mut checks)?;
    by_hand(agent, &mut checks)?;
    second(setting, &state.flags(), &mut checks)?;
    checks.finish()
}

/// One sender's flood fills the table: it is given nothing, and named.
fn flood(agent: &Agent, checks: &mut Checks) -> Result<()> {
    generator::send(
        None,
        &format!(
            "--source {FLOODER}/32 --protocol udp,tcp --first 1000000 --flows 4000 --rate 2000"
        ),
    )?;
    let view = wait_for("the flood to be refused", HANG, || {
        let view = limit(agent, &[])?;
        Ok((!changes(&view, "raise", "refused").is_empty()).then_some(view))
    })?;
    let reason = changes(&view, "raise", "refused")[0]["reason"].to_string();
    checks.holds(reason.contains(FLOODER), || {
        format!("the refusal does not name the sender: {reason}")
    });
    checks.equal(
        "limit after a flood",
        kernel::sysctl("nf_conntrack_max")?,
        "before",
        LIMIT,
    );
    Ok(())
}

/// A ramp that would run into the limit: it is raised before, and nothing is lost.
fn ramp(agent: &Agent, checks: &mut Checks) -> Result<()> {
    let before = Statistics::read()?;
    let tally = generator::send(
        None,
        &format!(
            "--source 198.18.0.0/28 --source-ports 1024-1027 --destination 198.19.0.0/24 --flows {FLOWS} --rate {RATE}"
        ),
    )?;
    let after = Statistics::read()?;
    checks.equal("EPERM of the ramp", tally.error("EPERM"), "none", 0);
    checks.equal("kernel drop", after.since(&before, "drop"), "none", 0);
    checks.equal(
        "kernel early_drop",
        after.since(&before, "early_drop"),
        "none",
        0,
    );
    let entries = kernel::entries()?;
    checks.at_least("entries", entries, FLOWS);
    let now = kernel::sysctl("nf_conntrack_max")?;
    checks.at_least("limit", now, FLOWS);
    let view = limit(agent, &[])?;
    let raises = changes(&view, "raise", "applied");
    checks.at_least("raises", raises.len(), 1);
    checks.at_most("raises", raises.len(), 3);
    checks.equal(
        "raised_from",
        view["controller"]["raised_from"].as_u64(),
        "before",
        Some(LIMIT),
    );
    println!("raises: {raises:?}");
    // The memory that this many entries were said to take, against the kernel's.
    let metrics = agent.settled()?;
    let measured = metrics.value("ctpressure_table_bytes", &[]);
    let entries = metrics.value("ctpressure_table_entries", &[("netns", "host")]);
    let buckets = metrics.value("ctpressure_table_buckets", &[]);
    let each = view["controller"]["entry_bytes"]["slab"].as_f64();
    if let (Some(measured), Some(entries), Some(buckets), Some(each)) =
        (measured, entries, buckets, each)
    {
        let predicted = entries * each + buckets * 8.0;
        println!("memory: {predicted} bytes predicted, {measured} measured");
        checks.at_most("memory off by", (measured / predicted - 1.0).abs(), 0.05);
    } else {
        checks.holds(false, || {
            format!("memory is not told: {measured:?} {each:?}")
        });
    }
    let applied = [("by", "controller"), ("result", "applied")];
    checks.at_least(
        "limit_changes_total",
        metrics.count("ctpressure_limit_changes_total", &applied)?,
        1,
    );
    Ok(())
}

/// Somebody lowers it below what is there: it is put back after some seconds.
fn rival(agent: &Agent, checks: &mut Checks) -> Result<()> {
    let ours = kernel::sysctl("nf_conntrack_max")?;
    kernel::set_limit(LIMIT)?;
    let lowered = Instant::now();
    wait_for("the limit to be put back", HANG, || {
        Ok((kernel::sysctl("nf_conntrack_max")? == ours).then_some(()))
    })?;
    checks.at_least(
        "seconds until it was put back",
        lowered.elapsed().as_secs(),
        3,
    );
    let view = wait_for("the agent to say so", HANG, || {
        let view = limit(agent, &[])?;
        Ok((!changes(&view, "reapply", "applied").is_empty()).then_some(view))
    })?;
    checks.equal("found", changes(&view, "found", "applied").len(), "one", 1);
    checks.equal(
        "rounds",
        view["controller"]["fight"]["rounds"].as_u64(),
        "one",
        Some(1),
    );
    let metrics = agent.scrape()?;
    checks.equal(
        "limit_fight_rounds",
        metrics.count("ctpressure_limit_fight_rounds", &[])?,
        "one",
        1,
    );
    Ok(())
}

/// By hand: refused below what is there, then done.
fn by_hand(agent: &Agent, checks: &mut Checks) -> Result<()> {
    let socket = agent.socket();
    let refused = Command::new("ctpressure")
        .args(["limit", "set", "1024", "--socket"])
        .arg(&socket)
        .output()
        .context("ctpressure limit set")?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    checks.holds(
        !refused.status.success() && said.contains("entries") && said.contains("--force"),
        || format!("limit set 1024: {} {said}", refused.status),
    );
    limit(agent, &["set", "20000"])?;
    checks.equal(
        "limit by hand",
        kernel::sysctl("nf_conntrack_max")?,
        "asked for",
        20_000,
    );
    thread::sleep(Duration::from_secs(2));
    checks.equal(
        "limit by hand",
        kernel::sysctl("nf_conntrack_max")?,
        "still",
        20_000,
    );
    Ok(())
}

/// A second controller watches, and takes over when the first is killed.
fn second(setting: Setting, flags: &str, checks: &mut Checks) -> Result<()> {
    let other = Agent::start(None, flags)?;
    let first = setting.agent;
    let view = wait_for("the second to stand by", HANG, || {
        let view = limit(&other, &[])?;
        Ok((view["controller"]["state"] == "standby").then_some(view))
    })?;
    let why = view["controller"]["why"].to_string();
    checks.holds(why.contains(&format!("process {} ", first.pid())), || {
        format!("the second does not say who acts: {why}")
    });
    first.signal(Signal::SIGKILL)?;
    let view = wait_for("the second to take over", HANG, || {
        let view = limit(&other, &[])?;
        Ok((view["controller"]["state"] == "acting").then_some(view))
    })?;
    checks.equal(
        "it knows",
        changes(&view, "set", "applied").len(),
        "what was set",
        1,
    );
    other.stop()
}
