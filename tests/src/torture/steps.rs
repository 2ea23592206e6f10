//! Carries out the actions of a schedule.

use std::{
    fs,
    io::Write as _,
    net::TcpStream,
    os::unix::net::UnixStream,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use nix::{
    sys::time::TimeSpec,
    time::{ClockId, clock_settime},
};

use super::{
    node::{CONNECTING, HOST, JOURNAL, Node, SERVER_ADDRESS, flush, in_unit},
    schedule::{Action, Sender},
    truth::Done,
};
use crate::guest::{agent::Mechanism, entries, generator, owned::Owner};

/// How long what is held is held.
const HELD: Duration = Duration::from_secs(3);

/// Does one thing to the node; what it means for the counts.
pub(super) fn carry_out(node: &Node, action: &Action) -> Result<Done> {
    let mut done = Done::default();
    match *action {
        Action::Send {
            sender,
            portless,
            flows,
            rate,
        } => match node.send(sender, portless, flows, rate)? {
            Some(flows) => done.sent.push(flows),
            None => done.unsure.extend(of_gone(sender)),
        },
        Action::Connect { tcp, flows } => connect(tcp, flows)?,
        Action::Clash { flows } => {
            done.clashed = true;
            clash(flows)?;
        }
        Action::MakePod { pod, address } => node.make_pod(pod, address)?,
        Action::RemovePod { pod } => {
            // What it has just sent may be nobody's by now.
            if let Some(owner) = node.remove_pod(pod)? {
                done.unsure.extend([owner, Owner::unknown()]);
            }
        }
        Action::List => {
            entries::list(None)?;
        }
        Action::Limit { entries } => node.set_limit(entries)?,
        Action::Buckets { buckets } => node.set_buckets(buckets)?,
        Action::Flush => flush()?,
        Action::KillAgent { controller, kprobe } => {
            done.begun_anew = true;
            let mechanism = kprobe.then_some(Mechanism::Kprobe);
            node.replace_agent(mechanism, controller, || Ok(()), || Ok(()))?;
        }
        Action::ReloadModules => {
            done.reloaded = true;
            node.reload_modules(None)?;
        }
        Action::SilentClients { clients } => {
            let address = node.agent().address();
            let held: Vec<_> = (0..clients).map(|_| TcpStream::connect(address)).collect();
            thread::sleep(HELD);
            drop(held);
        }
        Action::DeafWatchers { watchers } => {
            let socket = node.agent().socket();
            let held: Vec<_> = (0..watchers)
                .map(|_| {
                    let mut stream = UnixStream::connect(&socket)?;
                    stream.write_all(b"{\"watch\":{}}\n")?;
                    std::io::Result::Ok(stream)
                })
                .collect();
            thread::sleep(HELD);
            drop(held);
        }
        Action::FillDisk => {
            let full = FullDisk::new();
            thread::sleep(HELD);
            drop(full);
        }
        Action::StepClock { seconds } => step_clock(seconds)?,
    }
    Ok(done)
}

/// Whose counts are not sure when a sender has gone.
fn of_gone(sender: Sender) -> Option<Owner> {
    matches!(sender, Sender::Pod(_) | Sender::AsPod(_)).then(Owner::unknown)
}

/// Connects to the server and holds for a second.
fn connect(tcp: bool, flows: u64) -> Result<()> {
    let transport = if tcp { "tcp" } else { "udp" };
    let arguments = format!(
        "connect --transport {transport} --destination {SERVER_ADDRESS} --flows {flows} --hold 1"
    );
    // It may fail: the table may be full.
    let ended = in_unit(CONNECTING, &arguments)?.wait_with_output();
    ended.map(drop).context("waiting for ctgen connect")
}

fn clash(flows: u64) -> Result<()> {
    let arguments = format!("race --source {HOST}:0 --flows {flows}");
    generator::counted(in_unit(CONNECTING, &arguments)?).map(drop)
}

/// While it is there the journal can't be written.
struct FullDisk(String);

impl FullDisk {
    fn new() -> Self {
        let path = format!("{JOURNAL}/ballast");
        // As much as there is room for: the error at the end is what is wanted.
        drop(fs::write(&path, vec![1; 12 << 20]));
        Self(path)
    }
}

impl Drop for FullDisk {
    fn drop(&mut self) {
        // There may have been no room for even its name.
        drop(fs::remove_file(&self.0));
    }
}

fn step_clock(seconds: i64) -> Result<()> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("a clock before 1970")?;
    let then = i64::try_from(now.as_secs())? + seconds;
    clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::new(then, 0)).context("setting the clock")
}
