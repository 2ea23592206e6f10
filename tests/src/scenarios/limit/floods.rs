//! Floods are given nothing, and whoever sends them is named.

use std::net::Ipv4Addr;

use anyhow::Result;

use super::{LIMIT, State, changes, limit, wait_until_it_acts};
use crate::{
    containers::lookalike::Lookalike,
    guest::{
        agent::{Agent, Mechanism},
        checks::Checks,
        command::{self, HANG, wait_for},
        generator, kernel,
        net::{self, ip},
    },
    scenarios::setting::Setting,
};

/// A network namespace that is another machine, its address, and the node's on the wire to it.
const OUTSIDE: &str = "ctp-outside";
const ATTACKER: &str = "203.0.113.9";
const NODE: &str = "203.0.113.1";
/// What is attacked, behind the node: nobody answers.
const VICTIM: &str = "198.19.0.1";
const POD: Ipv4Addr = Ipv4Addr::new(10, 89, 0, 5);

/// Another machine, for which this one forwards.
fn outside() -> Result<()> {
    net::add_namespace(OUTSIDE)?;
    for arguments in [
        format!("link add ctpout type veth peer name eth0 netns {OUTSIDE}"),
        format!("addr add {NODE}/24 dev ctpout"),
        "link set ctpout up".to_owned(),
    ] {
        ip(None, &arguments)?;
    }
    for arguments in [
        "link set lo up".to_owned(),
        format!("addr add {ATTACKER}/24 dev eth0"),
        "link set eth0 up".to_owned(),
        format!("route add default via {NODE}"),
    ] {
        ip(Some(OUTSIDE), &arguments)?;
    }
    kernel::write("/proc/sys/net/ipv4/ip_forward", "1")
}

/// Waits until the advice names whoever floods; the limit is what it was.
fn named(agent: &Agent, who: &str, checks: &mut Checks) -> Result<()> {
    let view = wait_for("the advice to name who floods", HANG, || {
        let view = limit(agent, &[])?;
        let advice = view["controller"]["advice"].to_string();
        Ok((advice.contains(who) && advice.contains("notrack")).then_some(view))
    });
    let Ok(view) = view else {
        let view = limit(agent, &[])?;
        checks.holds(false, || format!("{who} is not named: {view}"));
        return Ok(());
    };
    let now = view["controller"]["now"].to_string();
    checks.holds(now.contains("not for a flood"), || format!("{who}: {now}"));
    checks.equal(
        "raises",
        changes(&view, "raise", "applied").len(),
        "none",
        0,
    );
    checks.equal(
        format!("the limit while {who} floods"),
        kernel::sysctl("nf_conntrack_max")?,
        "before",
        LIMIT,
    );
    Ok(())
}

pub(in crate::scenarios) fn floods(mechanism: Option<Mechanism>) -> Result<()> {
    let state = State::default();
    let setting = Setting::new(mechanism, LIMIT, &state.flags())?;
    outside()?;
    let agent = &setting.agent;
    wait_until_it_acts(agent)?;
    let mut checks = Checks::new();
    generator::send(
        Some(OUTSIDE),
        &format!(
            "--protocol tcp --source {ATTACKER}/32 --destination {VICTIM}/32 --destination-ports 80 \
             --flows 6000 --rate 3000"
        ),
    )?;
    checks.at_least(
        "entries of the SYN flood",
        kernel::entries()?,
        LIMIT * 8 / 10,
    );
    named(
        agent,
        &format!("{ATTACKER} towards {VICTIM}:80 tcp"),
        &mut checks,
    )?;

    command::output("conntrack", &["-F"])?;
    let arguments =
        format!("send --source {POD}/32 --destination 198.19.0.0/24 --flows 6000 --rate 3000");
    let pod = Lookalike::make(1, POD, 2.0, &arguments)?;
    wait_for("the pod's flood to end", HANG, || pod.counts())?;
    checks.at_least(
        "entries of the pod's flood",
        kernel::entries()?,
        LIMIT * 8 / 10,
    );
    named(agent, "batch/job-1", &mut checks)?;
    pod.remove()?;
    checks.finish()?;
    setting.agent.stop()
}
