//! A table that is full of closed connections and can't be given more room.

use std::process::Stdio;

use anyhow::Result;
use nix::sys::signal::Signal;

use super::{State, changes, limit, wait_until_it_acts};
use crate::{
    guest::{
        agent::{Agent, Mechanism},
        checks::Checks,
        command::{self, HANG, wait_for},
        kernel,
        net::{self, ip},
    },
    scenarios::setting::Setting,
};

const CLIENT: &str = "ctp-client";
const LIMIT: u64 = 600;
const FLOWS: u64 = 540;
const TIME_WAIT: &str = "nf_conntrack_tcp_timeout_time_wait";

/// Opens connections from another network namespace to this one, and closes them.
fn connections() -> Result<()> {
    let serve = command::spawn(
        std::process::Command::new("ctgen")
            .args(["serve", "--listen", "203.0.113.1:7000"])
            .stdout(Stdio::null()),
    );
    let mut serve = serve?;
    let connected = wait_for("the server", HANG, || {
        let flows = FLOWS.to_string();
        let words = ["netns", "exec", CLIENT, "ctgen", "connect", "--destination"];
        let rest = ["203.0.113.1:7000", "--flows", &flows];
        // Until it listens, each is refused.
        let tally = command::output("ip", &[words.as_slice(), &rest].concat())?;
        let tally: crate::traffic::tally::Tally = serde_json::from_str(&tally)?;
        Ok((tally.accepted > 0).then_some(()))
    });
    serve.kill()?;
    serve.wait()?;
    connected
}

fn wait_for_timeout(seconds: u64) -> Result<()> {
    wait_for(&format!("a timeout of {seconds} s"), HANG, || {
        Ok((kernel::sysctl(TIME_WAIT)? == seconds).then_some(()))
    })
}

/// As full as it was; until the timeout is shortened.
fn fill_again(before: u64) -> Result<()> {
    command::output("conntrack", &["-F"])?;
    connections()?;
    wait_for_timeout(before / 4)
}

pub(in crate::scenarios) fn timeout(mechanism: Option<Mechanism>) -> Result<()> {
    let state = State::default();
    let flags = format!("{} --max-limit {LIMIT} --shorten-timeouts", state.flags());
    let setting = Setting::new(mechanism, LIMIT, &flags)?;
    net::add_namespace(CLIENT)?;
    ip(
        None,
        &format!("link add ctpcli type veth peer name eth0 netns {CLIENT}"),
    )?;
    ip(None, "addr add 203.0.113.1/24 dev ctpcli")?;
    ip(None, "link set ctpcli up")?;
    ip(Some(CLIENT), "addr add 203.0.113.2/24 dev eth0")?;
    ip(Some(CLIENT), "link set eth0 up")?;
    let agent = &setting.agent;
    wait_until_it_acts(agent)?;
    let before = kernel::sysctl(TIME_WAIT)?;
    let mut checks = Checks::new();
    connections()?;
    wait_for_timeout(before / 4)?;
    let view = wait_for("the agent to say so", HANG, || {
        let view = limit(agent, &[])?;
        Ok((!changes(&view, "shorten", "applied").is_empty()).then_some(view))
    })?;
    checks.equal(
        "shortened from",
        view["controller"]["shortened"]["from"].as_u64(),
        "before",
        Some(before),
    );
    checks.equal(
        "limit",
        kernel::sysctl("nf_conntrack_max")?,
        "before",
        LIMIT,
    );
    wait_for("the metric", HANG, || {
        let name = "ctpressure_limit_timeout_shortened_from_seconds";
        let metrics = agent.scrape()?;
        Ok((metrics.count(name, &[])? == before).then_some(()))
    })?;
    // Killed: it stays shortened, until the next one puts it back.
    setting.agent.signal(Signal::SIGKILL)?;
    drop(setting);
    checks.equal(
        "after kill -9",
        kernel::sysctl(TIME_WAIT)?,
        "short",
        before / 4,
    );
    let next = Agent::start(mechanism, &flags)?;
    wait_for_timeout(before)?;
    // Shortened again, when the table is as full again; an end in order puts it back itself.
    fill_again(before)?;
    next.stop()?;
    checks.equal(
        "after the end",
        kernel::sysctl(TIME_WAIT)?,
        "before",
        before,
    );
    // Killed again, and the next one has no controller.
    let killed = Agent::start(mechanism, &flags)?;
    fill_again(before)?;
    killed.signal(Signal::SIGKILL)?;
    drop(killed);
    let without = Agent::start(
        mechanism,
        &format!("--limit-state {}", state.0.to_string_lossy()),
    )?;
    wait_for_timeout(before)?;
    without.stop()?;
    checks.finish()
}
