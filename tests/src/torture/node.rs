//! The node that is tortured: its agent, pods and units, and what they have sent so far.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    fs,
    net::Ipv4Addr,
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard},
};

use anyhow::{Context as _, Result, ensure};

use super::schedule::Sender;
use crate::{
    containers::lookalike::Lookalike,
    guest::{
        agent::{Agent, Mechanism},
        bpf::Inventory,
        command::{self, HANG, wait_for},
        generator, kernel, net,
        owned::Owner,
        unit::{self, Unit},
    },
    traffic::{bench::flush_table, tally::Tally},
};

/// A network namespace without an owner: nobody's process is in it.
pub(super) const FOREIGN: &str = "ctp-foreign";
/// Another one, whose entries nothing touches: every census meets them.
pub(super) const CROWD: &str = "ctp-crowd";
/// Where a server answers.
const SERVER: &str = "ctp-server";
pub(super) const SERVER_ADDRESS: &str = "203.0.113.2:7000";
/// The host's addresses from which it sends (see [`net::dead_end`]), and towards the server.
pub(super) const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(super) const HOST6: &str = "fd00:c7::1";
pub(super) const TO_SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

/// Units by the names of their control groups. What connects has its counts with no truth beside them: TCP sends again.
const UNIT: &str = "torture.service";
pub(super) const CONNECTING: &str = "connecting.service";

/// A file system of its own, which can be filled.
pub(super) const JOURNAL: &str = "/tmp/ctp-journal";

/// The limit at the begin.
const LIMIT: u64 = 12_000;

/// The addresses of pods.
pub(super) const fn pod_address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 91, 0, 10 + last)
}

/// All of it.
#[derive(Debug)]
pub(super) struct Node {
    agent: RwLock<Agent>,
    pods: Mutex<BTreeMap<u8, Lookalike>>,
    /// How many were ever made: each has a name of its own.
    made: Mutex<u32>,
    /// By source and kind of flows: how many were sent, so that no two are the same.
    numbers: Mutex<HashMap<(String, bool), u64>>,
    limit: Mutex<u64>,
    /// Entries of [`CROWD`].
    crowd: u64,
    server: Child,
    _units: [Unit; 2],
    inventory: Inventory,
}

/// What a sender's packets are, and whose.
pub(super) struct Flows {
    pub(super) owner: Owner,
    pub(super) tally: Tally,
}

impl Node {
    pub(super) fn new(mechanism: Option<Mechanism>, crowd: u64) -> Result<Self> {
        kernel::write("/proc/sys/net/ipv4/ip_forward", "1")?;
        // What pods send goes through a queue of this length.
        kernel::write("/proc/sys/net/core/netdev_max_backlog", "200000")?;
        // A connection whose packets a full table refuses is given up after seconds, not after two minutes or a quarter of an hour.
        for retries in ["tcp_syn_retries", "tcp_retries2"] {
            kernel::write(&format!("/proc/sys/net/ipv4/{retries}"), "3")?;
        }
        for namespace in [FOREIGN, CROWD, SERVER] {
            net::add_namespace(namespace)?;
        }
        net::batch(
            None,
            &format!(
                "link add ctp-srv type veth peer name eth0 netns {SERVER}\n\
                 addr add {TO_SERVER}/30 dev ctp-srv\n\
                 link set ctp-srv up\n"
            ),
        )?;
        net::batch(
            Some(SERVER),
            "link set lo up\naddr add 203.0.113.2/30 dev eth0\nlink set eth0 up\n",
        )?;
        net::dead_end(None)?;
        for namespace in [FOREIGN, CROWD] {
            net::dead_end(Some(namespace))?;
        }
        track(LIMIT, crowd)?;
        let units = [Unit::start(UNIT)?, Unit::start(CONNECTING)?];
        let mut server = Command::new("ip");
        server.args(["netns", "exec", SERVER, "ctgen", "serve"]);
        server.args(["--listen", SERVER_ADDRESS]);
        let server = command::spawn(&mut server)?;
        fs::create_dir_all(JOURNAL)?;
        command::output("mount", &["-t", "tmpfs", "-o", "size=12m", "ctp", JOURNAL])?;
        let inventory = Inventory::take()?;
        Ok(Self {
            agent: RwLock::new(start(mechanism, false)?.wait_until_ready()?),
            pods: Mutex::default(),
            made: Mutex::default(),
            numbers: Mutex::default(),
            limit: Mutex::new(LIMIT),
            crowd,
            server,
            _units: units,
            inventory,
        })
    }

    /// The agent that runs now; it is not replaced while this is held.
    pub(super) fn agent(&self) -> RwLockReadGuard<'_, Agent> {
        self.agent.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills the agent and starts another one, after `between`.
    pub(super) fn replace_agent(
        &self,
        mechanism: Option<Mechanism>,
        controller: bool,
        between: impl FnOnce() -> Result<()>,
        then: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let mut agent = self.agent.write().unwrap_or_else(PoisonError::into_inner);
        agent.kill()?;
        between()?;
        let next = start(mechanism, controller)?;
        then()?;
        *agent = next.wait_until_ready()?;
        Ok(())
    }

    pub(super) fn pods(&self) -> MutexGuard<'_, BTreeMap<u8, Lookalike>> {
        locked(&self.pods)
    }

    /// Makes a pod, unless there is one of this number or of this address; waits until the agent knows it.
    pub(super) fn make_pod(&self, pod: u8, address: u8) -> Result<()> {
        let address = pod_address(address);
        let mut pods = self.pods();
        if pods.contains_key(&pod) || pods.values().any(|pod| pod.address == address) {
            return Ok(());
        }
        let number = {
            let mut made = locked(&self.made);
            *made += 1;
            *made
        };
        pods.insert(
            pod,
            Lookalike::make(number, address, 0.0, "send --flows 0")?,
        );
        drop(pods);
        Ok(())
    }

    /// Whether there were pods that are gone.
    pub(super) fn has_lost_pods(&self) -> bool {
        let there = self.pods().len();
        *locked(&self.made) as usize > there
    }

    /// Waits until the agent knows all pods that are there: before that, what they send is nobody's.
    pub(super) fn wait_for_pods(&self) -> Result<()> {
        let names: Vec<String> = self.pods().values().map(|pod| pod.name.clone()).collect();
        let agent = self.agent();
        wait_for("the agent to know all pods", HANG, || {
            let status = agent.status()?;
            let owners = status["owners"].as_array().context("no owners")?;
            let known = |name: &String| {
                owners
                    .iter()
                    .any(|owner| owner["owner"]["pod"] == name.as_str() && owner["present"] == true)
            };
            Ok(names.iter().all(known).then_some(()))
        })
    }

    pub(super) fn remove_pod(&self, pod: u8) -> Result<Option<Owner>> {
        let Some(pod) = self.pods().remove(&pod) else {
            return Ok(None);
        };
        let owner = Owner::pod(pod.namespace, &pod.name);
        pod.remove()?;
        Ok(Some(owner))
    }

    /// Has a sender send; `None` if it is not there.
    pub(super) fn send(
        &self,
        sender: Sender,
        portless: bool,
        flows: u64,
        rate: u32,
    ) -> Result<Option<Flows>> {
        let of_pod = |number: u8| {
            let pods = self.pods();
            let pod = pods.get(&number)?;
            Some((Owner::pod(pod.namespace, &pod.name), pod.address))
        };
        let (owner, source) = match sender {
            Sender::Pod(pod) | Sender::AsPod(pod) => match of_pod(pod) {
                Some((owner, address)) => (owner, format!("--source {address}/32")),
                None => return Ok(None),
            },
            Sender::Host | Sender::Unit => {
                let source = format!("--family 4,6 --source {HOST}/32 --source6 {HOST6}/128");
                let unit = sender == Sender::Unit;
                let owner = if unit {
                    Owner::unit(UNIT)
                } else {
                    Owner::host()
                };
                (owner, source)
            }
            Sender::Nobody => (Owner::unknown(), "--family 4,6".to_owned()),
            // An address that a pod has, or had.
            Sender::Foreign => {
                let source = format!("--source {}/32", pod_address(0));
                (Owner::unit(FOREIGN), source)
            }
        };
        let table = if sender == Sender::Foreign {
            FOREIGN
        } else {
            ""
        };
        let Some(first) = self.first(format!("{table}{source}"), portless, flows) else {
            return Ok(None);
        };
        let protocols = if portless {
            "gre,other"
        } else {
            "udp,tcp,icmp,sctp"
        };
        let mut arguments =
            format!("{source} --protocol {protocols} --flows {flows} --first {first}");
        if rate > 0 {
            write!(arguments, " --rate {rate}")?;
        }
        let tally = match sender {
            Sender::Pod(pod) => {
                let running = match self.pods().get(&pod) {
                    Some(pod) => pod.run(&format!("send {arguments}"))?,
                    None => return Ok(None),
                };
                match generator::counted(running) {
                    Ok(tally) => tally,
                    // It was killed with its pod.
                    Err(_) if !self.pods().contains_key(&pod) => return Ok(None),
                    Err(error) => return Err(error),
                }
            }
            Sender::Unit => generator::counted(in_unit(UNIT, &format!("send {arguments}"))?)?,
            Sender::Foreign => generator::send(Some(FOREIGN), &arguments)?,
            Sender::AsPod(_) | Sender::Host | Sender::Nobody => generator::send(None, &arguments)?,
        };
        ensure!(tally.sent == flows, "{sender:?} sent {tally:?}");
        Ok(Some(Flows { owner, tally }))
    }

    /// The number of the first of so many flows that nobody has sent yet; `None` if there are not so many.
    fn first(&self, source: String, portless: bool, flows: u64) -> Option<u64> {
        // Of two classes each, 65,536 destinations.
        const MOST_PORTLESS: u64 = 2 * 65_536;
        let mut numbers = locked(&self.numbers);
        let next = numbers.entry((source, portless)).or_default();
        let first = *next;
        if portless && first + flows > MOST_PORTLESS {
            return None;
        }
        *next += flows;
        Some(first)
    }

    /// Makes the hash table anew; not with fewer buckets than the crowd needs.
    pub(super) fn set_buckets(&self, buckets: u64) -> Result<()> {
        set_buckets(buckets.max(self.crowd / CHAIN))
    }

    pub(super) fn set_limit(&self, entries: u64) -> Result<()> {
        let mut limit = locked(&self.limit);
        *limit = entries;
        kernel::set_limit(entries)
    }

    /// Takes conntrack out of the kernel, and another agent finds it gone.
    pub(super) fn reload_modules(&self, mechanism: Option<Mechanism>) -> Result<()> {
        let limit = locked(&self.limit);
        let unload = || {
            for namespace in TRACKED {
                net::nft(namespace, "flush ruleset\n")?;
            }
            kernel::unload_module("nf_conntrack")
        };
        self.replace_agent(mechanism, false, unload, || track(*limit, self.crowd))
    }

    /// Ends all: nothing of the agent stays behind.
    pub(super) fn end(mut self) -> Result<()> {
        let agent = self
            .agent
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        agent.stop()?;
        self.server.kill()?;
        self.server.wait()?;
        for pod in locked(&self.pods).split_off(&0).into_values() {
            pod.remove()?;
        }
        command::output("umount", &[JOURNAL])?;
        let inventory = self.inventory;
        wait_for("the agent's programs and maps to go", HANG, || {
            let left = Inventory::take()?.beyond(&inventory);
            Ok((left == (0, 0, 0)).then_some(()))
        })
    }
}

/// Flushes the tables of the host and of the foreign network namespace.
pub(super) fn flush() -> Result<()> {
    flush_table()?;
    flush_of(FOREIGN)
}

/// Flushes the table of a network namespace.
pub(super) fn flush_of(namespace: &str) -> Result<()> {
    command::output("ip", &["netns", "exec", namespace, "conntrack", "-F"]).map(drop)
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn start(mechanism: Option<Mechanism>, controller: bool) -> Result<Agent> {
    let mut arguments = format!("--journal {JOURNAL}/journal --journal-size 4MiB");
    if controller {
        arguments += " --limit-controller on --raise-for 1s --raise-cooldown 10s --limit-state /tmp/ctp-limit";
    }
    Agent::launch(mechanism, &arguments)
}

/// Flows of the crowd that are sent in one go, which ends in time also beside all else.
const PART: usize = 50_000;
/// Entries in each bucket, at most on average: with many more the kernel drops what comes to the longest chains.
const CHAIN: u64 = 8;
/// Room for what the kernel itself sends there.
const SPARE: u64 = 100;

/// Network namespaces whose connections are tracked.
const TRACKED: [Option<&str>; 3] = [None, Some(FOREIGN), Some(CROWD)];

/// Has conntrack look at everything in [`TRACKED`], where nothing expires by itself, and makes the crowd's entries.
fn track(limit: u64, crowd: u64) -> Result<()> {
    for module in ["nf_conntrack", "nf_conntrack_netlink"] {
        kernel::load_module(module)?;
    }
    for namespace in TRACKED {
        // First: what comes before would expire in the middle of a comparison.
        kernel::nothing_expires(namespace)?;
        net::nft(namespace, net::TRACK)?;
    }
    if crowd > 0 {
        // The limit is for each table; what is beyond it stays when it is lowered.
        kernel::set_limit(crowd + SPARE)?;
        set_buckets(crowd.next_power_of_two())?;
        for first in (0..crowd).step_by(PART) {
            let flows = (crowd - first).min(PART as u64);
            let arguments = format!("--protocol udp,tcp,icmp,sctp --first {first} --flows {flows}");
            generator::send(Some(CROWD), &format!("--family 4,6 {arguments}"))?;
        }
        let entries = kernel::entries_of(CROWD)?;
        ensure!(
            (crowd..=crowd + SPARE).contains(&entries),
            "{entries} entries of {crowd}"
        );
    }
    kernel::set_limit(limit)
}

fn set_buckets(buckets: u64) -> Result<()> {
    let path = "/sys/module/nf_conntrack/parameters/hashsize";
    kernel::write(path, &buckets.to_string())
}

/// Entries of all tables.
pub(super) fn all_entries() -> Result<u64> {
    Ok(kernel::entries()? + kernel::entries_of(FOREIGN)? + kernel::entries_of(CROWD)?)
}

/// Runs `ctgen` in the control group of a unit.
pub(super) fn in_unit(unit: &str, arguments: &str) -> Result<Child> {
    let mut command = unit::in_unit(unit, "ctgen");
    command.args(arguments.split_whitespace());
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command::spawn(&mut command)
}
