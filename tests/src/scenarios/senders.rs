//! Whose are flows from the host's own address, of every kind that there is: who sends is charged, whoever made the socket.

use anyhow::{Context as _, Result};
use kinds::{CLIENT, FEW, KINDS, QUEUE, QUEUED_PORT, REQUESTS, TO_CLIENT, UNTRACKED_PORT};

use super::setting::Setting;
use crate::guest::{
    agent::{Agent, Mechanism},
    checks::Checks,
    command::{HANG, wait_for},
    net::{self, ip},
    owned::{ByOwner, Owner},
    unit::Unit,
};

mod kinds;

/// One way to open flows.
struct Kind {
    name: &'static str,
    /// Units that have to be there.
    units: &'static [&'static str],
    /// Opens them, and says who has to be charged.
    run: fn(&Ground) -> Result<ByOwner>,
}

/// What the kinds need to know.
struct Ground {
    /// The kernel tells for which task a program runs.
    told: bool,
    /// The probes that look at packets are not attached.
    calm: bool,
    /// Packets are looked at by kprobes, and that of a task's own flow is not, when the flow begins.
    by_kprobe: bool,
}

impl Ground {
    /// Of what a task sends and another one lets go on: when it begins the sender is known, when it enters the table no longer.
    fn of_judged(&self, unit: &str) -> Owner {
        if self.told && self.by_kprobe {
            Owner::host()
        } else {
            self.of_socket(unit)
        }
    }

    /// Of what the kernel sends by itself in a softirq: whose socket it is, only the packet tells.
    fn of_socket(&self, unit: &str) -> Owner {
        if self.calm {
            Owner::host()
        } else {
            Owner::unit(unit)
        }
    }
}

fn rules() -> String {
    format!(
        "table inet ctp_senders {{
  chain received {{
    type filter hook prerouting priority raw;
    udp dport {UNTRACKED_PORT} notrack
  }}
  chain sent {{
    type filter hook output priority 100;
    udp dport {QUEUED_PORT} queue num {QUEUE}
  }}
}}
"
    )
}

pub(super) fn senders(mechanism: Option<Mechanism>) -> Result<()> {
    let mut names: Vec<&str> = KINDS.iter().flat_map(|kind| kind.units).copied().collect();
    names.sort_unstable();
    names.dedup();
    let _units: Vec<Unit> = names.into_iter().map(Unit::start).collect::<Result<_>>()?;
    make_client()?;
    let mut setting = Setting::new(mechanism, 200_000, "")?;
    net::nft(None, &rules())?;
    let reason = wait_for("the probes to be detached, if ever", HANG, || {
        let status = setting.agent.status()?;
        let arming = &status["arming"];
        let reason = arming["reason"].as_str().unwrap_or_default().to_owned();
        let settled = reason == "packets" || arming["armed"] == false;
        Ok(settled.then_some(reason))
    })?;
    let told = reason != "packets";
    let mut checks = Checks::new();
    let calm = Ground {
        told,
        calm: told,
        by_kprobe: mechanism == Some(Mechanism::Kprobe),
    };
    each_kind(&mut checks, &setting, &calm)?;
    setting.agent.stop()?;
    if calm.calm {
        setting = Setting::with_agent(Agent::start(mechanism, "--arm always")?)?;
        let armed = Ground {
            calm: false,
            ..calm
        };
        each_kind(&mut checks, &setting, &armed)?;
        setting.agent.stop()?;
    }
    checks.finish()
}

fn make_client() -> Result<()> {
    net::add_namespace(CLIENT)?;
    ip(
        None,
        &format!("link add ctp-in type veth peer name eth0 netns {CLIENT}"),
    )?;
    ip(None, &format!("addr add {TO_CLIENT}/30 dev ctp-in"))?;
    ip(None, "link set ctp-in up")?;
    ip(Some(CLIENT), "addr add 198.51.100.2/30 dev eth0")?;
    ip(Some(CLIENT), "link set eth0 up").map(drop)
}

fn each_kind(checks: &mut Checks, setting: &Setting, ground: &Ground) -> Result<()> {
    let inserts = |metrics: &_| ByOwner::read(metrics, "inserts_total", "direction");
    let mut last = inserts(&setting.agent.settled()?)?;
    let all_before = last.sum();
    println!("{}", if ground.calm { "calm:" } else { "armed:" });
    for kind in &KINDS {
        let expected = (kind.run)(ground).context(kind.name)?;
        // Nobody sends any more.
        let now = inserts(&setting.agent.sample()?)?;
        let growth = now.since(&last)?;
        last = now;
        for ((owner, direction), number) in &growth.0 {
            println!("{:42} {owner} {direction}: {number}", kind.name);
        }
        growth.check(checks, kind.name, &expected);
    }
    let growth = setting.growth()?;
    let entered = growth.counter("deletes_total", &[])? + growth.entries();
    checks.equal(
        "inserts of all",
        last.sum() - all_before,
        "deletes and entries",
        entered,
    );
    let sent_again = if ground.calm { 2 * FEW } else { 0 };
    let judged = if ground.of_judged("") == Owner::host() {
        FEW
    } else {
        0
    };
    let expected = u64::from(REQUESTS + sent_again + judged);
    let unseen = growth.counter("events_lost_total", &[("kind", "sockets")])?;
    checks.equal("events_lost_total{sockets}", unseen, "expected", expected);
    Ok(())
}
