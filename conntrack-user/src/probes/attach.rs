//! Loads the programs of the plan and hangs them into the kernel.

use std::{
    fmt::Display,
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    sync::{Arc, Mutex},
};

use conntrack_ebpf::owner;

use super::{
    ArmMode, Mechanism, Options, ProbeStatus, Probes,
    armer::Armer,
    arming::ArmedFor,
    choice::{self, Candidates, choose, no_hook, status_of},
    counted::Counted,
    error::AttachError,
    globals::{AtConfirm, TaskFields, find_fields, ring_size, settings},
    insert_records::InsertRecords,
    link::{Link, hang},
    object::{self, Programs},
    on_demand::{Loaded, OnDemand},
    plan::{
        COUNTS_AT_CONFIRM, EventKind, HookEvent, NEW_FLOW_PACKET, NEW_FLOW_PACKET_EVENT,
        counts_entries,
    },
    privileges,
    running::{Running, SYMBOLS},
    select::{self, Resolved},
    status::HookStatus,
    tag_groups,
    tags::TagRoom,
};
use crate::{
    kernel::{Root, btf::Btf, conntrack::Presence, host, kallsyms::Symbols, release, sysctl},
    owners::SlotMaps as Charged,
    sys::bpf,
};

/// The module that conntrack is in, where it is one.
const MODULE: &str = "nf_conntrack";
/// Where the kernel describes its types.
const VMLINUX_BTF: &str = "/sys/kernel/btf/vmlinux";
/// A program that is loaded and attached. Dropping it detaches it.
pub(super) struct Attached {
    pub(super) hook: Resolved,
    /// See [`counts_entries`].
    pub(super) counts_entries: bool,
    // Declared, and so closed, before `fd`.
    link: Link,
    pub(super) fd: OwnedFd,
}

impl Attached {
    /// Times that the kernel skipped the program because one of ours was running on that CPU.
    pub(super) fn missed_runs(&self) -> io::Result<u64> {
        Ok(bpf::program_info(self.fd.as_fd())?.recursion_misses + self.link.missed())
    }
}

/// Finds out what the kernel offers, loads and attaches.
pub(super) fn attach(options: &Options, owners: &Charged) -> Result<Probes, AttachError> {
    with_running(options, |running, presence| {
        // What inserts leave to the confirmation is frozen before anything is attached; if the hook there then
        // fails after all, once more without it.
        let plan = choose(options, running);
        let offered = at_confirm(&plan);
        let outcome = attach_plan(options, owners, running, presence, plan, offered)?;
        let had = AtConfirm {
            records: offered.records && outcome.sees_confirm,
            counts: outcome.counts_at_confirm,
        };
        if had != offered {
            drop(outcome);
            let plan = choose(options, running);
            return attach_plan(options, owners, running, presence, plan, had);
        }
        Ok(outcome)
    })
}

/// What is going to be done at the confirmation if the kernel takes the first of what it offers.
fn at_confirm(plan: &[(&'static HookEvent, Candidates)]) -> AtConfirm {
    let offers = |kind| plan.iter().filter(move |(event, _)| event.kind == kind);
    let first =
        offers(EventKind::Insert).find_map(|(_, candidates)| candidates.iter().flatten().next());
    AtConfirm {
        records: offers(EventKind::Confirm)
            .any(|(_, candidates)| candidates.iter().any(Result::is_ok)),
        counts: first
            .is_some_and(|(_, hooks)| hooks.iter().any(|hook| hook.program == COUNTS_AT_CONFIRM)),
    }
}

/// What [`Probes::attach`] would hang where, without loading anything: each hook that this kernel
/// offers, and each event for which there is none. Whether the kernel takes the programs then is not known.
///
/// # Errors
/// As [`Probes::attach`].
pub(crate) fn outlook(options: &Options) -> Result<Vec<HookStatus>, AttachError> {
    with_running(options, |running, _| {
        Ok(choice::foresee(choose(options, running)))
    })
}

/// Calls `act` with what the running kernel has.
fn with_running<T>(
    options: &Options,
    act: impl FnOnce(&Running<'_>, Presence) -> Result<T, AttachError>,
) -> Result<T, AttachError> {
    let root = Root::system();
    // First: who lacks them should not be told to wait for conntrack.
    privileges::require()?;
    let presence = Presence::read(&root).map_err(AttachError::Presence)?;
    if !presence.is_loaded() {
        return Err(AttachError::NotLoaded);
    }
    let path = options.btf.as_deref().unwrap_or(Path::new(VMLINUX_BTF));
    let no_btf = |path: &Path, error: &dyn Display| AttachError::NoBtf {
        path: path.to_owned(),
        error: error.to_string(),
    };
    let vmlinux_bytes = fs::read(path).map_err(|error| no_btf(path, &error))?;
    let vmlinux = Btf::parse(&vmlinux_bytes, None).map_err(|error| no_btf(path, &error))?;
    // Without it functions of the module are reached by their symbols.
    let module_bytes = read_if_there(&Path::new("/sys/kernel/btf").join(MODULE));
    let module = module_bytes
        .as_ref()
        .map_err(ToString::to_string)
        .and_then(|bytes| match bytes {
            Some(bytes) => Btf::parse(bytes, Some(&vmlinux))
                .map(Some)
                .map_err(|error| error.to_string()),
            None => Ok(None),
        });
    let gap = vmlinux.gap().map(|gap| gap.to_string());
    let gap = gap.or_else(|| {
        let error = module.as_ref().err()?;
        Some(format!("that of {MODULE} can't be read: {error}"))
    });
    if let Some(gap) = &gap {
        tracing::warn!("this kernel's BTF is read in part: {gap}");
    }
    let module = module.ok().flatten();
    let symbols = Symbols::read(&root, SYMBOLS).map_err(AttachError::Symbols)?;
    let running = Running {
        vmlinux: &vmlinux,
        module: module.as_ref(),
        symbols,
        without: &options.without_functions,
        gap,
    };
    act(&running, presence)
}

/// Makes the maps and attaches what is in the plan.
fn attach_plan(
    options: &Options,
    owners: &Charged,
    running: &Running<'_>,
    presence: Presence,
    plan: Vec<(&'static HookEvent, Candidates)>,
    at_confirm: AtConfirm,
) -> Result<Probes, AttachError> {
    let (mut globals, fields) = find_fields(running.vmlinux);
    let owner_slots = options.owner_slots.clamp(owner::FIRST, owner::MAX_SLOTS);
    let task = TaskFields::find(running.vmlinux);
    let is_real_time = release::is_real_time(&Root::system());
    let settings = settings(
        options,
        at_confirm,
        host_netns(&Root::system()),
        owner_slots,
        is_real_time,
        task,
        &globals,
    );
    let settings: Vec<_> = settings.collect();
    globals.extend(settings);
    let (programs, mut maps) = object::open(
        &globals,
        ring_size(options.ring_bytes),
        owner_slots,
        tag_room(running.vmlinux),
        options.ebpf_log_level,
        task.and_then(TaskFields::preempt_variable),
    )?;
    maps.owners.charge(owners).map_err(AttachError::OwnerMaps)?;
    let insert_records = InsertRecords::new(maps.insert_budget, options.insert_budget);
    insert_records
        .watch(false)
        .map_err(AttachError::OwnerMaps)?;

    let mut outcome = Outcome {
        attached: Vec::new(),
        on_demand: (Vec::new(), Vec::new()),
        status: ProbeStatus {
            hooks: Vec::new(),
            arming: None,
            fields,
        },
        counts_at_confirm: false,
        sees_confirm: false,
    };
    let mut module_fd = ModuleBtf::default();
    for (event, candidates) in plan {
        attach_event(event, candidates, &programs, &mut module_fd, &mut outcome)?;
    }
    let reserve = reserve(options, running, &programs, &mut module_fd, &outcome);
    let always = if options.arm == ArmMode::Always {
        Some(ArmedFor::Asked)
    } else if outcome.counts_at_confirm {
        Some(ArmedFor::Confirmation)
    } else if task.is_none() || is_real_time {
        Some(ArmedFor::Packets)
    } else {
        None
    };
    let (loaded, links) = outcome.on_demand;
    let on_demand = loaded.iter().map(|program| &program.status);
    let counted = Counted::of(
        &outcome.status.hooks.iter().chain(on_demand),
        &outcome.status.fields,
        outcome.counts_at_confirm,
    );
    let armer = Armer::new(
        OnDemand::new(loaded, links),
        Arc::clone(&maps.state),
        maps.wakes,
        always,
    )
    .map_err(AttachError::OwnerMaps)?;
    let probes = Probes {
        attached: outcome.attached,
        armer,
        reserve,
        state: maps.state,
        ring: Some(maps.ring),
        owners: Mutex::new(maps.owners),
        insert_records,
        counted,
        status: outcome.status,
        counts_at_confirm: outcome.counts_at_confirm,
        sees_confirm: outcome.sees_confirm,
        presence,
    };
    Ok(probes)
}

/// What came of the plan.
struct Outcome {
    attached: Vec<Attached>,
    /// What is attached only while a table may fill, and is now.
    on_demand: (Vec<Loaded>, Vec<Link>),
    status: ProbeStatus,
    counts_at_confirm: bool,
    sees_confirm: bool,
}

/// Room for tags of entries of the host's table.
fn tag_room(vmlinux: &Btf<'_>) -> TagRoom {
    // From 6.1 on a program can take memory as it goes wherever it runs (`struct bpf_mem_alloc`).
    let as_needed = vmlinux.member("bpf_htab", &["ma"]).is_ok();
    let limit = sysctl::limit(&Root::system()).unwrap_or(0);
    TagRoom::for_limit(limit, as_needed, tag_groups::can_exchange())
}

/// What fentry does not see of a new flow, for when it matters. There is none where a kprobe sees it
/// anyway, nor where kprobes are not wanted.
fn reserve(
    options: &Options,
    running: &Running<'_>,
    programs: &Programs,
    module: &mut ModuleBtf,
    outcome: &Outcome,
) -> Option<OnDemand> {
    let by_fentry = outcome
        .on_demand
        .0
        .iter()
        .any(|new_flow| new_flow.status.event == "new_flow" && new_flow.hook.btf.is_some());
    if !by_fentry || options.mechanism.is_some() {
        return None;
    }
    let hook = select::resolve_hook(&NEW_FLOW_PACKET, Mechanism::Kprobe, running);
    let loaded = hook.and_then(|hook| match load(&hook, programs, module) {
        Ok(fd) => {
            let status = HookStatus {
                event: NEW_FLOW_PACKET_EVENT,
                function: hook.symbol.name.clone(),
                mechanism: Some(Mechanism::Kprobe),
                at_return: false,
                module: hook.symbol.module.clone(),
                attached: false,
                waits: true,
                reason: None,
            };
            Ok(OnDemand::new(vec![Loaded { hook, fd, status }], Vec::new()))
        }
        Err(AttachFailure::Here(reason)) => Err(reason),
        Err(AttachFailure::Fatal(error)) => Err(error.to_string()),
    });
    loaded
        .inspect_err(|reason| {
            tracing::info!(
                reason,
                "table-full drops at the host's addresses are charged to the host"
            );
        })
        .ok()
}

/// The host's network namespace; 0, which none has, if it can't be told: then nothing is the host's.
fn host_netns(root: &Root) -> u32 {
    host::find(root).map_or(0, |host| host.inode)
}

fn read_if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The BTF object of the module, looked up when first needed; or why it can't be had.
#[derive(Default)]
struct ModuleBtf(Option<Result<OwnedFd, String>>);

impl ModuleBtf {
    fn get(&mut self) -> Result<&OwnedFd, String> {
        let found = self.0.get_or_insert_with(|| match bpf::module_btf(MODULE) {
            Ok(Some(fd)) => Ok(fd),
            Ok(None) => Err(format!("the kernel has no BTF object of {MODULE}")),
            Err(error) => Err(format!(
                "BTF of modules can't be listed ({error}); this needs CAP_SYS_ADMIN"
            )),
        });
        found.as_ref().map_err(Clone::clone)
    }
}

/// Attaches the first candidate that works.
fn attach_event(
    event: &'static HookEvent,
    candidates: Candidates,
    programs: &Programs,
    module: &mut ModuleBtf,
    outcome: &mut Outcome,
) -> Result<(), AttachError> {
    if event.kind == EventKind::Confirm && outcome.counts_at_confirm {
        // The program that counts inserts there does this too.
        outcome.sees_confirm = true;
        return Ok(());
    }
    let mut reasons = Vec::new();
    for candidate in candidates {
        let (mechanism, hooks) = match candidate {
            Ok(candidate) => candidate,
            Err(reason) => {
                reasons.push(reason);
                continue;
            }
        };
        match attach_all(&hooks, programs, module) {
            Ok(attached) => {
                outcome.counts_at_confirm |=
                    hooks.iter().any(|hook| hook.program == COUNTS_AT_CONFIRM);
                outcome.sees_confirm |= event.kind == EventKind::Confirm;
                for (hook, attached) in hooks.iter().zip(attached) {
                    let status = status_of(event, mechanism, hook, &reasons);
                    if event.kind.is_on_demand() {
                        let (hook, fd) = (attached.hook, attached.fd);
                        outcome.on_demand.0.push(Loaded { hook, fd, status });
                        outcome.on_demand.1.push(attached.link);
                    } else {
                        outcome.status.hooks.push(status);
                        outcome.attached.push(attached);
                    }
                }
                return Ok(());
            }
            Err(AttachFailure::Fatal(error)) => return Err(error),
            Err(AttachFailure::Here(reason)) => reasons.push(format!("{mechanism}: {reason}")),
        }
    }
    if reasons.is_empty() {
        reasons.push("not to be had by the mechanism that was asked for".to_owned());
    }
    let status = no_hook(event, &reasons);
    tracing::warn!(
        event = event.name,
        reason = status.reason,
        "no hook for this event"
    );
    outcome.status.hooks.push(status);
    Ok(())
}

/// Why a candidate did not attach.
enum AttachFailure {
    /// The next one may.
    Here(String),
    Fatal(AttachError),
}

impl From<object::ObjectError> for AttachFailure {
    fn from(error: object::ObjectError) -> Self {
        Self::Fatal(error.into())
    }
}

/// All hooks of a candidate; on failure those before are detached again.
fn attach_all(
    hooks: &[Resolved],
    programs: &Programs,
    module: &mut ModuleBtf,
) -> Result<Vec<Attached>, AttachFailure> {
    let mut attached = Vec::with_capacity(hooks.len());
    for hook in hooks {
        attached.push(attach_hook(hook, programs, module)?);
    }
    Ok(attached)
}

/// What went wrong with one hook.
fn here(hook: &Resolved, what: &str, error: &dyn Display) -> AttachFailure {
    AttachFailure::Here(format!(
        "{} on {}: {what}: {error}",
        hook.program, hook.symbol.name
    ))
}

/// Loads the program of a hook.
fn load(
    hook: &Resolved,
    programs: &Programs,
    module: &mut ModuleBtf,
) -> Result<OwnedFd, AttachFailure> {
    let (code, license) = programs.code(hook.program)?;
    let kind = match hook.btf {
        None => bpf::ProgramKind::Kprobe,
        Some(function) => {
            let module = if function.in_module {
                Some(module.get().map_err(AttachFailure::Here)?)
            } else {
                None
            };
            bpf::ProgramKind::Tracing {
                btf_id: function.id,
                module: module.map(|fd| fd.as_fd()),
                at_return: hook.at_return,
            }
        }
    };
    bpf::load_program(hook.program, kind, code, license).map_err(|error| {
        if error.error.kind() == io::ErrorKind::PermissionDenied && error.log.is_empty() {
            return AttachFailure::Fatal(AttachError::NotPermitted {
                what: "load eBPF programs".to_owned(),
                error: error.error,
            });
        }
        here(hook, "load", &error)
    })
}

fn attach_hook(
    hook: &Resolved,
    programs: &Programs,
    module: &mut ModuleBtf,
) -> Result<Attached, AttachFailure> {
    let fd = load(hook, programs, module)?;
    let link = hang(hook, fd.as_fd()).map_err(AttachFailure::Here)?;
    Ok(Attached {
        hook: hook.clone(),
        counts_entries: counts_entries(hook.program),
        link,
        fd,
    })
}
