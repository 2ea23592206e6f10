//! The thread that attaches what is needed only while a table fills, and detaches it. See [`super::arming`] for when.

use std::{
    io,
    mem::offset_of,
    os::fd::AsFd as _,
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use aya::maps::{MapData, RingBuf};
use conntrack_ebpf::{
    counter::Counter,
    state::{NewFlow, PerCpuState},
};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::{EfdFlags, EventFd},
    time::{ClockId, clock_gettime},
};

use super::{
    arming::{ArmedFor, ArmingStatus, PATIENCE, Room, lease},
    on_demand::OnDemand,
    privileges,
};
use crate::{
    kernel::{Root, release},
    sys::{lock::locked, mapping::MappedArray, priority},
};

/// How long inserts may still wait for their confirmation, after they were told that it is not seen any more.
const CONFIRMED_WITHIN: Duration = Duration::from_millis(100);
/// How long the thread rests after it gave new leases, so that nobody can keep it busy: far less than a lease lasts in the worst burst.
const REST: Duration = Duration::from_millis(1);

/// What the thread and its callers share.
struct Shared {
    state: Arc<MappedArray<PerCpuState>>,
    programs: OnDemand,
    bell: EventFd,
    plan: Mutex<Plan>,
}

/// What is wanted, and why.
struct Plan {
    /// Why they are never detached, if so.
    always: Option<ArmedFor>,
    watched: bool,
    stop: bool,
    /// The last look, and what each CPU had inserted then.
    room: Option<Room>,
    inserts: Vec<u64>,
    /// Why they were attached last, and how long they stay for it.
    reason: ArmedFor,
    until: Option<Instant>,
    /// What is still left of the room, when so many were inserted.
    lease: Option<(u64, u64)>,
    armed: bool,
    status: ArmingStatus,
}

impl Plan {
    /// What one CPU may insert before the agent has to look again; `None`: too little is left.
    fn lease(&self, inserts: &[u64]) -> Option<u64> {
        let (left, at) = self.lease?;
        let came = inserts.iter().sum::<u64>().saturating_sub(at);
        lease(left.saturating_sub(came), online_cpus(inserts.len()))
    }

    fn is_held(&self) -> bool {
        self.lease.is_none() || self.until.is_some_and(|until| Instant::now() < until)
    }

    /// Attached from now on, for a while after there is no reason any more.
    fn hold(&mut self, reason: ArmedFor) {
        self.reason = reason;
        self.until = Some(Instant::now() + PATIENCE);
    }

    fn wanted(&self) -> bool {
        self.always.is_some() || self.watched || self.is_held()
    }

    /// Why they are attached, or were last.
    fn reason(&self) -> ArmedFor {
        match self.always {
            Some(reason) => reason,
            None if self.watched && !self.is_held() => ArmedFor::Watched,
            None => self.reason,
        }
    }
}

/// Arms and disarms; dropping it disarms and ends the thread.
pub(super) struct Armer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Armer {
    /// `programs` are attached, and stay so until the first look. `always`: and for ever.
    pub(super) fn new(
        programs: OnDemand,
        state: Arc<MappedArray<PerCpuState>>,
        wakes: RingBuf<MapData>,
        always: Option<ArmedFor>,
    ) -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let shared = Arc::new(Shared {
            programs,
            bell: EventFd::from_value_and_flags(0, flags)?,
            plan: Mutex::new(Plan {
                always,
                watched: false,
                stop: false,
                room: None,
                inserts: vec![0; state.len()],
                reason: ArmedFor::Unseen,
                until: None,
                lease: None,
                armed: true,
                status: ArmingStatus::default(),
            }),
            state,
        });
        shared.set_armed(true);
        let idle = always.is_some() || shared.programs.is_empty();
        let thread = if idle {
            None
        } else {
            let shared = Arc::clone(&shared);
            let work = move || shared.run(wakes);
            Some(
                thread::Builder::new()
                    .name("armer".to_owned())
                    .spawn(work)?,
            )
        };
        Ok(Self { shared, thread })
    }

    pub(super) fn programs(&self) -> &OnDemand {
        &self.shared.programs
    }

    /// All tables were looked at.
    pub(super) fn look(&self, room: Room) {
        if self.shared.plan_for(room) {
            self.shared.ring();
        }
    }

    /// Somebody watches inserts from now on, or nobody does.
    pub(super) fn watch(&self, watched: bool) {
        {
            let mut plan = locked(&self.shared.plan);
            if plan.watched == watched {
                return;
            }
            plan.watched = watched;
            if watched && !plan.is_held() {
                plan.reason = ArmedFor::Watched;
            }
        }
        self.shared.ring();
    }

    pub(super) fn status(&self) -> ArmingStatus {
        let plan = locked(&self.shared.plan);
        ArmingStatus {
            // Not what was tried: they may have been refused.
            armed: self.shared.programs.is_attached(),
            reason: Some(plan.reason()),
            ..plan.status.clone()
        }
    }
}

impl Drop for Armer {
    fn drop(&mut self) {
        locked(&self.shared.plan).stop = true;
        self.shared.ring();
        if let Some(thread) = self.thread.take() {
            // It can't panic: there is nothing to tell of it.
            drop(thread.join());
        }
        self.shared.set_armed(false);
        self.shared.programs.detach();
    }
}

impl Shared {
    fn ring(&self) {
        // Refused only when it was rung often enough.
        let _: nix::Result<usize> = self.bell.write(1);
    }

    /// What every CPU has inserted.
    fn inserts(&self) -> Vec<u64> {
        let inserts = |state: PerCpuState| state.counters[Counter::HashInserts as usize];
        self.state.iter().map(inserts).collect()
    }

    /// Takes note of a look; whether the thread has to do something.
    fn plan_for(&self, room: Room) -> bool {
        let mut plan = locked(&self.plan);
        let now = self.inserts();
        let cpus = now
            .iter()
            .zip(&plan.inserts)
            .filter(|(now, before)| now > before);
        let cpus = cpus.count() as u64;
        let sum: u64 = now.iter().sum();
        let left = room.left(plan.room.as_ref(), cpus);
        // What came since the count was read is not in the tables' counts.
        let came = sum.saturating_sub(room.inserts);
        let left = left.and_then(|left| left.checked_sub(came).ok_or(ArmedFor::Room));
        match left {
            Ok(left) => {
                plan.lease = Some((left, sum));
                match plan.lease(&now) {
                    None => plan.hold(ArmedFor::Room),
                    // While they are attached nobody has to be woken.
                    Some(lease) if !plan.armed => self.give(lease, &now),
                    Some(_) => {}
                }
            }
            Err(reason) => {
                plan.lease = None;
                plan.hold(reason);
            }
        }
        plan.room = Some(room);
        plan.inserts = now;
        plan.wanted() != plan.armed
    }

    /// Gives each CPU a lease from here on.
    fn give(&self, lease: u64, inserts: &[u64]) {
        for (cpu, inserts) in inserts.iter().enumerate() {
            self.wake_at(cpu, inserts.saturating_add(lease));
        }
    }

    fn wake_at(&self, cpu: usize, inserts: u64) {
        let offset = offset_of!(PerCpuState, wake_at);
        self.state.write_word(cpu, offset, inserts);
        self.state.write_word(cpu, offset_of!(PerCpuState, due), 0);
    }

    /// Tells the programs.
    fn set_armed(&self, armed: bool) {
        for cpu in 0..self.state.len() {
            let offset = offset_of!(PerCpuState, armed);
            self.state.write_word(cpu, offset, u64::from(armed));
        }
    }

    /// What the thread does until it is told to stop.
    fn run(&self, mut wakes: RingBuf<MapData>) {
        if let Err(error) = priority::real_time() {
            let why = error.to_string();
            tracing::info!(
                why,
                "no real-time priority: a busy machine may keep the armer waiting"
            );
            locked(&self.plan).status.without_priority = Some(why);
        }
        // Those of a thread are its own, and this one begins before the agent has dropped its.
        if let Err(error) = privileges::drop_unneeded() {
            tracing::warn!(%error, "the armer keeps capabilities that it does not need");
        }
        loop {
            let ended_ns = self.wait(&mut wakes);
            let (stop, wanted, armed) = {
                let mut plan = locked(&self.plan);
                if ended_ns.is_some() && !plan.armed {
                    let inserts = self.inserts();
                    match plan.lease(&inserts) {
                        Some(lease) => self.give(lease, &inserts),
                        None => plan.hold(ArmedFor::Burst),
                    }
                }
                (plan.stop, plan.wanted(), plan.armed)
            };
            match (wanted, armed) {
                _ if stop => return,
                (true, false) => self.arm(ended_ns),
                (false, true) => self.disarm(),
                _ => thread::sleep(REST),
            }
        }
    }

    /// Waits for a wake-up; when the lease ended, if that was one.
    fn wait(&self, wakes: &mut RingBuf<MapData>) -> Option<u64> {
        let mut fds = [
            PollFd::new(self.bell.as_fd(), PollFlags::POLLIN),
            PollFd::new(wakes.as_fd(), PollFlags::POLLIN),
        ];
        // Interrupted at most: then there is nothing to read.
        let _: nix::Result<i32> = poll(&mut fds, PollTimeout::NONE);
        let _: nix::Result<u64> = self.bell.read();
        let mut ended_ns = None;
        while let Some(record) = wakes.next() {
            let time = record.first_chunk().copied().map(u64::from_ne_bytes);
            ended_ns = ended_ns.or(time);
        }
        ended_ns
    }

    fn arm(&self, ended_ns: Option<u64>) {
        let attached = self.programs.attach();
        // Not before: an insert would wait for a program that is not there.
        self.set_armed(attached);
        let took = ended_ns.and_then(|ended| monotonic_ns().checked_sub(ended));
        for cpu in 0..self.state.len() {
            self.wake_at(cpu, u64::MAX);
        }
        let mut plan = locked(&self.plan);
        plan.armed = true;
        plan.status.times += u64::from(attached);
        if let Some(took) = took.filter(|_| attached && plan.reason == ArmedFor::Burst) {
            plan.status.burst_to_armed_us = Some(took / 1000);
        }
        tracing::debug!(reason = plan.reason.name(), attached, "armed");
    }

    fn disarm(&self) {
        {
            let inserts = self.inserts();
            let Some(lease) = locked(&self.plan).lease(&inserts) else {
                return;
            };
            self.give(lease, &inserts);
        }
        self.set_armed(false);
        thread::sleep(CONFIRMED_WITHIN);
        if locked(&self.plan).wanted() {
            self.set_armed(self.programs.is_attached());
            return;
        }
        self.programs.detach();
        // Nobody writes it any more: what was remembered must not be taken for a flow that comes later.
        for cpu in 0..self.state.len() {
            for word in 0..size_of::<NewFlow>() / 8 {
                let offset = offset_of!(PerCpuState, new_flow) + word * 8;
                self.state.write_word(cpu, offset, 0);
            }
        }
        let mut plan = locked(&self.plan);
        plan.armed = false;
        tracing::debug!("disarmed");
    }
}

/// CPUs that can insert now, of so many numbers.
fn online_cpus(numbers: usize) -> u64 {
    release::online_cpus(&Root::system()).map_or(numbers as u64, |cpus| cpus.min(numbers) as u64)
}

fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from);
    now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}
