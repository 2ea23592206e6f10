//! Which kernel function is probed, by which mechanism, and what the probes count.
//!
//! * `plan`: the hook plan, data;
//! * `select`: which candidate a kernel offers, pure;
//! * `object`, `attach`: the eBPF object is loaded and hung into the kernel;
//! * `counted`: which counts that gives, pure;
//! * `totals`, `ring`: what comes back, exact counts and detail.

mod armer;
mod arming;
mod attach;
mod choice;
mod code;
mod counted;
mod error;
mod globals;
mod insert_records;
mod link;
mod map_error;
mod object;
mod on_demand;
mod options;
mod owner_maps;
pub(crate) mod plan;
pub(crate) mod privileges;
mod ring;
mod ring_filler;
mod running;
pub(crate) mod select;
mod status;
mod tag_groups;
mod tags;
mod totals;

use std::{
    io,
    os::fd::AsFd as _,
    sync::{Arc, Mutex, MutexGuard},
};

use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use conntrack_ebpf::{
    counter::{COUNTERS, Counter, Counters},
    owner::OwnerState,
    state::{DUE_SOCKET, PerCpuState},
};

use armer::Armer;
#[cfg(test)]
pub(crate) use arming::ArmingStatus;
pub(crate) use arming::{ArmMode, ArmedFor, Room};
pub(crate) use attach::outlook;
pub(crate) use choice::nothing;
use counted::Counted;
pub(crate) use error::AttachError;
use insert_records::InsertRecords;
use on_demand::OnDemand;
pub(crate) use options::{InsertBudget, Mechanism, Options};
pub(crate) use owner_maps::{InsertMarks, OwnerMaps};
pub(crate) use ring::RingReader;
pub use ring_filler::RingFiller;
pub(crate) use status::{HookStatus, ProbeStatus, ProgramTime};
pub(crate) use tags::{TagMapIds, TagReader};
pub(crate) use totals::{DropTotals, Lost, Totals};

use crate::{
    kernel::{Root, conntrack::Presence},
    owners::SlotMaps,
    sys::{bpf, lock::locked, mapping::MappedArray},
};

/// An insert that waits for its socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WaitingInsert {
    /// The CPU that it came on.
    pub cpu: usize,
    /// Which of that CPU's places it is in.
    pub place: usize,
    /// The number of those that were in that place before: no other insert has it.
    pub turn: u32,
}

/// The attached probes. Dropping them detaches everything; nothing is pinned, so the kernel does
/// the same if the process dies.
pub struct Probes {
    // Detached in reverse order: see `Drop`.
    attached: Vec<attach::Attached>,
    /// What is attached while a table may fill.
    armer: Armer,
    /// What is attached under pressure.
    reserve: Option<OnDemand>,
    state: Arc<MappedArray<PerCpuState>>,
    ring: Option<RingBuf<MapData>>,
    owners: Mutex<OwnerMaps>,
    insert_records: InsertRecords,
    status: ProbeStatus,
    counts_at_confirm: bool,
    sees_confirm: bool,
    counted: Counted,
    presence: Presence,
}

impl Probes {
    /// Loads the programs and attaches them by the hook plan.
    ///
    /// `owners`: who is charged from the first entry on.
    ///
    /// # Errors
    /// `AttachError::NotLoaded` while there is nothing to probe yet; the others are final. An
    /// event for which no hook can be had is not an error: see [`Probes::status`].
    pub fn attach(options: &Options, owners: &SlotMaps) -> Result<Self, AttachError> {
        attach::attach(options, owners)
    }

    /// Somebody watches inserts from now on, so that all are to have a record as far as the budget goes; or nobody does.
    ///
    /// # Errors
    /// If the map can't be written.
    pub(crate) fn watch_inserts(&self, watched: bool) -> io::Result<()> {
        self.armer.watch(watched);
        self.insert_records.watch(watched)
    }

    /// All tables were looked at: what only matters while one fills is attached, or detached, if need be.
    pub(crate) fn look(&self, room: Room) {
        self.armer.look(room);
    }

    /// Entries that were inserted into the hash table since they were attached: cheap.
    pub(crate) fn hash_inserts(&self) -> u64 {
        self.counters()[Counter::HashInserts as usize]
    }

    /// What has been counted since they were attached, over all CPUs and namespaces.
    ///
    /// # Errors
    /// If the kernel does not tell which runs were missed.
    pub fn totals(&self) -> io::Result<Totals> {
        let (mut missed_runs, mut missed_counts) = (0, 0);
        for program in &self.attached {
            let missed = program.missed_runs()?;
            missed_runs += missed;
            if program.counts_entries {
                missed_counts += missed;
            }
        }
        missed_runs += self.armer.programs().missed_runs()?;
        if let Some(reserve) = &self.reserve {
            missed_runs += reserve.missed_runs()?;
        }
        let mut totals = self.name(&self.counters());
        totals.lost.missed_runs = missed_runs;
        totals.lost.missed_counts = missed_counts;
        Ok(totals)
    }

    /// The counters, over all CPUs.
    fn counters(&self) -> Counters {
        let mut sums: Counters = [0; COUNTERS];
        for cpu in self.state.iter() {
            for (sum, count) in sums.iter_mut().zip(cpu.counters) {
                *sum += count;
            }
        }
        sums
    }

    /// Inserts and deletes since they were attached, over all owners; cheaper than [`Probes::totals`].
    pub fn moved(&self) -> (u64, u64) {
        let totals = self.name(&self.counters());
        (totals.inserts.unwrap_or(0), totals.deletes.unwrap_or(0))
    }

    /// What the counters mean under the chosen plan; which runs were missed they don't say.
    fn name(&self, sums: &Counters) -> Totals {
        let sum = |counter: Counter| sums[counter as usize];
        let counted = &self.counted;
        let inserts = if self.counts_at_confirm {
            sum(Counter::Confirmed) + sum(Counter::CheckInserts)
        } else {
            sum(Counter::HashInserts)
        } + sum(Counter::ClashInserts);
        let when = |counted: bool, counter| counted.then(|| sum(counter));
        Totals {
            inserts: counted.inserts.then_some(inserts),
            clash_inserts: sum(Counter::ClashInserts),
            deletes: when(counted.deletes, Counter::Deletes),
            evictions: when(counted.evictions, Counter::Evictions),
            evictions_cause_unknown: when(counted.evictions, Counter::EvictionsCauseUnknown),
            drops: DropTotals {
                table_full: when(counted.table_full, Counter::DropTableFull),
                clash: when(counted.clash, Counter::DropClash),
                chain_too_long: when(counted.at_confirm, Counter::DropChainTooLong),
                dying: when(counted.at_confirm, Counter::DropDying),
            },
            refused_table_full: when(counted.table_full, Counter::RefusedTableFull),
            lost: Lost {
                insert_records: sum(Counter::LostInsertRecords),
                insert_weight: sum(Counter::LostInsertWeight),
                drop_records: sum(Counter::LostDropRecords),
                eviction_records: sum(Counter::LostEvictionRecords),
                drops_not_detailed: sum(Counter::DropsNotDetailed),
                evictions_not_detailed: sum(Counter::EvictionsNotDetailed),
                frames: sum(Counter::FramesLost),
                sockets_missed: sum(Counter::SocketsMissed),
                tags: sum(Counter::TagsLost),
                unarmed: sum(Counter::Unarmed),
                ..Lost::default()
            },
        }
    }

    /// Which counts are withheld although their event has a hook, and why.
    pub(crate) fn blind(&self) -> &[String] {
        &self.counted.blind
    }

    /// The maps by which the programs charge owners.
    pub fn owners(&self) -> MutexGuard<'_, OwnerMaps> {
        locked(&self.owners)
    }

    /// What has been counted for each slot below `slots`.
    pub fn owner_counts(&self, slots: u32) -> Vec<OwnerState> {
        self.owners().counts(slots)
    }

    /// Inserts whose socket is being asked at this moment, or that were left by a call whose end was missed: they are not charged
    /// to anybody yet, and will be to the host if nobody comes. Each by what tells it from any other.
    pub fn waiting_for_socket(&self) -> Vec<WaitingInsert> {
        let places = self.state.iter().enumerate().flat_map(|(cpu, state)| {
            let places = state.pending.into_iter().enumerate();
            places.map(move |(place, pending)| (cpu, place, pending))
        });
        places
            .filter(|(_, _, pending)| pending.ct != 0 && pending.due & DUE_SOCKET != 0)
            .map(|(cpu, place, pending)| WaitingInsert {
                cpu,
                place,
                turn: pending.turn,
            })
            .collect()
    }

    /// What is attached and which fields were found.
    pub fn status(&self) -> ProbeStatus {
        let mut status = self.status.clone();
        status.hooks.extend(self.armer.programs().status());
        status.hooks.sort_by_key(|hook| plan::place(hook.event));
        let reserve = self.reserve.iter().flat_map(OnDemand::status);
        // What is needed least is only told of when there is something to tell.
        status.hooks.extend(reserve.filter(|hook| !hook.waits));
        status.arming = Some(self.armer.status());
        status
    }

    /// Attaches what is only needed while a table is nearly full, or detaches it
    /// (`plan::NEW_FLOW_PACKET`); whether that changed [`Probes::status`].
    pub fn set_reserve(&self, wanted: bool) -> bool {
        self.reserve.as_ref().is_some_and(|reserve| {
            let before = reserve.is_attached();
            if wanted {
                reserve.attach();
            } else {
                reserve.detach();
            }
            reserve.is_attached() != before
        })
    }

    /// What each program has cost; `None` unless `kernel.bpf_stats_enabled` is 1.
    pub fn run_time(&self) -> Option<Vec<ProgramTime>> {
        let attached = self.attached.iter().map(|one| (&one.hook, &one.fd));
        let on_demand = self.armer.programs().programs().iter();
        let times: Vec<ProgramTime> = attached
            .chain(on_demand.map(|one| (&one.hook, &one.fd)))
            .filter_map(|(hook, fd)| {
                let info = bpf::program_info(fd.as_fd()).ok()?;
                Some(ProgramTime {
                    program: hook.program,
                    function: hook.symbol.name.clone(),
                    #[expect(clippy::cast_precision_loss, reason = "52 bits of ns are 52 days")]
                    seconds: info.run_time_ns as f64 / 1e9,
                    runs: info.run_count,
                })
            })
            .collect();
        times.iter().any(|time| time.runs > 0).then_some(times)
    }

    /// The reading side of the ring buffer; only the first call gets it.
    pub fn take_ring(&mut self) -> Option<RingReader> {
        let ring = self.ring.take()?;
        Some(RingReader::new(ring, Arc::clone(&self.state)))
    }

    /// What the eBPF programs log, when `Options::ebpf_log_level` is not 0; needs
    /// `CAP_SYS_ADMIN`, so ask before dropping it.
    ///
    /// # Errors
    /// If the log's map can't be found.
    pub fn ebpf_logger(&self) -> io::Result<EbpfLogger<&'static dyn log::Log>> {
        // Only programs that log hold the map.
        let mut last = io::Error::other("no program that logs is attached");
        for program in &self.attached {
            let id = bpf::program_info(program.fd.as_fd())?.id;
            match EbpfLogger::init_from_id(id) {
                Ok(logger) => return Ok(logger),
                Err(error) => last = io::Error::other(error),
            }
        }
        Err(last)
    }

    /// Whether the probes are still in the conntrack that they were attached to: kprobes are
    /// silently gone when the module is unloaded.
    pub fn still_attached(&self) -> bool {
        Presence::read(&Root::system()).is_ok_and(|presence| presence == self.presence)
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        // Last attached, first detached: nothing waits for an end that is no longer seen.
        while let Some(program) = self.attached.pop() {
            drop(program);
        }
    }
}
