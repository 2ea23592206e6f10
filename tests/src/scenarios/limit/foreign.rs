//! What is no demand of the node: tables of others, connections that nobody answers, entries that waiting packets hold. And who is no
//! holder of the lock.

use std::{
    fmt::Write as _,
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::Result;

use super::{State, changes, limit, wait_until_it_acts};
use crate::{
    guest::{
        agent::{Agent, Mechanism},
        checks::Checks,
        command::{self, HANG, wait_for},
        generator,
        kernel::{self, entries_of},
        net::{self, ip, nft},
    },
    scenarios::setting::Setting,
};

/// A network namespace that anybody made, in which whoever made it answers himself.
const OWN: &str = "ctp-own";
const SERVER: &str = "127.0.0.1:7000";
const TRACK: &str = "table inet ctp { chain track { type filter hook input priority filter; ct state new accept; }\n}\n";
const LIMIT: u64 = 600;
const FLOWS: u64 = 540;
/// Who sends what nobody answers.
const SENDER: &str = "198.18.200.1";
/// The node's lock, as versions before the file had it.
const SOCKET: &str = "ctpressure/limit-controller";
/// Seconds in which a controller that wants to raise has done so.
const LONG_ENOUGH: Duration = Duration::from_secs(8);

/// A process that is ended when dropped.
struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        // Either it is already gone, or it is to be.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Fills the table of a namespace with connections that were answered.
fn answer_oneself() -> Result<Background> {
    net::add_namespace(OWN)?;
    ip(Some(OWN), "link set lo up")?;
    nft(Some(OWN), TRACK)?;
    let words = ["netns", "exec", OWN, "ctgen", "serve", "--listen", SERVER];
    let mut serve = Command::new("ip");
    let serve = Background(command::spawn(serve.args(words).stdout(Stdio::null()))?);
    let connect = |flows: u64| {
        let words = ["netns", "exec", OWN, "ctgen", "connect", "--destination"];
        let flows = flows.to_string();
        let words = [words.as_slice(), &[SERVER, "--flows", &flows]].concat();
        command::output("ip", &words)
    };
    // Until it listens, each is refused; all that are asked for come only once, or the table is full of those before.
    wait_for("an answer", HANG, || Ok(connect(1).ok()))?;
    connect(FLOWS)?;
    wait_for("answered connections", HANG, || {
        Ok((entries_of(OWN)? >= FLOWS).then_some(()))
    })?;
    Ok(serve)
}

/// Waits until the controller says this; it has raised nothing, then and for a while.
fn said_and_not_raised(
    agent: &Agent,
    what: &str,
    words: &[&str],
    checks: &mut Checks,
) -> Result<()> {
    let said = wait_for(what, HANG, || {
        let view = limit(agent, &[])?;
        let controller = &view["controller"];
        let text = format!("{} {}", controller["now"], controller["advice"]);
        Ok(words.iter().all(|word| text.contains(word)).then_some(()))
    });
    if said.is_err() {
        let view = limit(agent, &[])?;
        checks.holds(false, || format!("{what}: {words:?} not said: {view}"));
    }
    thread::sleep(LONG_ENOUGH);
    let raises = changes(&limit(agent, &[])?, "raise", "applied").len();
    checks.equal(format!("raises, {what}"), raises, "none", 0);
    checks.equal(
        format!("the limit, {what}"),
        kernel::sysctl("nf_conntrack_max")?,
        "before",
        LIMIT,
    );
    Ok(())
}

/// Half-seen connections: one direction only, so `ESTABLISHED` without an answer.
fn one_way_established() -> Result<()> {
    let entries = (0..FLOWS).fold(String::new(), |mut text, flow| {
        let port = 2_000 + flow;
        // Writing to a string can't fail.
        let _ = writeln!(
            text,
            "-I -p tcp -s {SENDER} -d 198.19.0.1 --sport {port} --dport 60440 --state ESTABLISHED --timeout 290"
        );
        text
    });
    command::output_with_input("conntrack", &["-R", "-"], &entries).map(drop)
}

/// Entries that are counted and in no list: the packets wait in a queue, the list is flushed.
fn held_by_packets() -> Result<()> {
    let queue = [
        "qdisc", "add", "dev", "ctp0", "root", "netem", "delay", "60s", "limit", "100000",
    ];
    command::output("tc", &queue)?;
    let flows = format!("--source {SENDER}/32 --flows {FLOWS} --rate 2000");
    generator::send(None, &flows)?;
    command::output("conntrack", &["-F"]).map(drop)
}

pub(in crate::scenarios) fn foreign(mechanism: Option<Mechanism>) -> Result<()> {
    let state = State::default();
    let setting = Setting::new(mechanism, LIMIT, &state.flags())?;
    let agent = &setting.agent;
    wait_until_it_acts(agent)?;
    let mut checks = Checks::new();
    let serve = answer_oneself()?;
    let told = [OWN, "--raise-netns"];
    said_and_not_raised(agent, "while somebody answers himself", &told, &mut checks)?;
    command::output("ip", &["netns", "exec", OWN, "conntrack", "-F"])?;

    one_way_established()?;
    checks.at_least("one-way entries", kernel::entries()?, FLOWS);
    let told = ["not for a flood", SENDER];
    said_and_not_raised(agent, "with one-way ESTABLISHED", &told, &mut checks)?;
    command::output("conntrack", &["-F"])?;

    held_by_packets()?;
    checks.at_least("entries in no list", kernel::entries()?, FLOWS);
    let told = ["in no list"];
    said_and_not_raised(agent, "while packets wait", &told, &mut checks)?;
    command::output("tc", &["qdisc", "del", "dev", "ctp0", "root"])?;
    setting.agent.stop()?;
    drop(serve);
    ip(None, &format!("netns delete {OWN}"))?;

    // Whoever runs the node may want it.
    let flags = format!("{} --raise-netns {OWN}", state.flags());
    let agent = Agent::start(mechanism, &flags)?;
    wait_until_it_acts(&agent)?;
    let _serve = answer_oneself()?;
    let raised = wait_for("a named table to raise the limit", HANG, || {
        Ok((kernel::sysctl("nf_conntrack_max")? > LIMIT).then_some(()))
    });
    checks.holds(raised.is_ok(), || "a named table raises nothing".to_owned());
    checks.finish()?;
    agent.stop()
}

pub(in crate::scenarios) fn lock(mechanism: Option<Mechanism>) -> Result<()> {
    let state = State::default();
    let flags = format!("--limit-controller on --limit-state {}", state.0.display());
    kernel::load_module("nf_conntrack")?;
    let mut hold = Command::new("ctgen");
    let hold = hold.args(["hold", SOCKET]).uid(1000).stdout(Stdio::null());
    let _holder = Background(command::spawn(hold)?);
    wait_for("somebody to hold the socket", HANG, || {
        let sockets = command::output("ss", &["-Hlx"])?;
        Ok(sockets.contains(SOCKET).then_some(()))
    })?;
    let agent = Agent::start(mechanism, &flags)?;
    let acts = wait_until_it_acts(&agent);
    let mut checks = Checks::new();
    checks.holds(acts.is_ok(), || "user 1000 holds the lock".to_owned());
    // Another controller is kept away all the same.
    let other = Agent::start(None, &flags)?;
    let view = wait_for("the second to stand by", HANG, || {
        let view = limit(&other, &[])?;
        Ok((view["controller"]["state"] == "standby").then_some(view))
    })?;
    let why = view["controller"]["why"].to_string();
    checks.holds(why.contains(&format!("process {} ", agent.pid())), || {
        format!("the second does not say who acts: {why}")
    });
    checks.finish()?;
    other.stop()?;
    agent.stop()
}
