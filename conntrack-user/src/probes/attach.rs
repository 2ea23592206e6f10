//! Loads the programs of the plan and hangs them into the kernel.

use std::{
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use conntrack_ebpf::{
    budget::WINDOW_NS,
    global::{self, FIELDS, MISSING},
};

use super::{
    Mechanism, Options,
    error::AttachError,
    object::{self, Maps, Programs},
    plan::{COUNTS_AT_CONFIRM, Event, EventKind, PLAN, Point},
    privileges,
    select::{self, BtfFunction, Kernel, KernelSymbol, Resolved},
    status::{FieldStatus, HookStatus},
};
use crate::{
    kernel::{Root, btf::Btf, conntrack::Presence, kallsyms::Symbols},
    sys::{bpf, perf},
};

/// The module that conntrack is in, where it is one.
const MODULE: &str = "nf_conntrack";
/// Where the kernel describes its types.
const VMLINUX_BTF: &str = "/sys/kernel/btf/vmlinux";
/// First part of the names that can be in the plan.
const SYMBOLS: &[&str] = &["nf_c", "__nf_c", "early_drop", "init_conntrack"];
/// How long `early_drop` can take at the most, in jiffies of any HZ: a quarter of a second at
/// 1000, a second at 250.
const STALE_TICKS: u32 = 250;

/// A program that is loaded and attached. Dropping it detaches it.
pub(super) struct Attached {
    pub(super) program: &'static str,
    pub(super) function: String,
    // Declared, and so closed, before `fd`.
    _link: OwnedFd,
    pub(super) fd: OwnedFd,
}

/// Everything that [`attach`] made.
pub(super) struct Outcome {
    pub(super) attached: Vec<Attached>,
    pub(super) hooks: Vec<HookStatus>,
    pub(super) fields: Vec<FieldStatus>,
    pub(super) maps: Maps,
    pub(super) presence: Presence,
    pub(super) counts_at_confirm: bool,
    pub(super) sees_confirm: bool,
}

/// The running kernel, as the plan asks for it.
struct Running<'a> {
    vmlinux: &'a Btf<'a>,
    module: Option<&'a Btf<'a>>,
    symbols: Symbols,
    without: &'a [String],
}

impl Running<'_> {
    fn hidden(&self, name: &str) -> bool {
        self.without.iter().any(|hidden| hidden == name)
    }
}

impl Kernel for Running<'_> {
    fn btf_function(&self, name: &str) -> Option<BtfFunction> {
        let find = |btf: &Btf<'_>, in_module| {
            let id = btf.function_id(name)?;
            let parameters = btf.function_params(id)?;
            Some(BtfFunction { id, in_module, parameters })
        };
        find(self.vmlinux, false).or_else(|| self.module.and_then(|btf| find(btf, true)))
    }

    fn symbol(&self, name: &str) -> Option<KernelSymbol> {
        if self.hidden(name) {
            return None;
        }
        let symbol = self.symbols.exact(name)?;
        Some(KernelSymbol { name: symbol.name.clone(), module: symbol.module.clone() })
    }

    fn suffixed_symbol(&self, name: &str) -> Option<KernelSymbol> {
        if self.hidden(name) {
            return None;
        }
        let symbol = self.symbols.with_suffix(name).next()?;
        Some(KernelSymbol { name: symbol.name.clone(), module: symbol.module.clone() })
    }
}

/// Finds out what the kernel offers, loads and attaches.
pub(super) fn attach(options: &Options) -> Result<Outcome, AttachError> {
    let root = Root::system();
    let presence = Presence::read(&root).map_err(AttachError::Presence)?;
    if !presence.is_loaded() {
        return Err(AttachError::NotLoaded);
    }
    privileges::require()?;
    let path = options.btf.as_deref().unwrap_or(Path::new(VMLINUX_BTF));
    let vmlinux_bytes = fs::read(path)
        .map_err(|error| AttachError::NoBtf { path: path.to_owned(), error: error.to_string() })?;
    let unusable = |path: &Path| {
        let path: PathBuf = path.to_owned();
        move |error: crate::kernel::btf::BtfError| AttachError::NoBtf {
            path,
            error: error.to_string(),
        }
    };
    let vmlinux = Btf::parse(&vmlinux_bytes).map_err(unusable(path))?;
    let module_path = Path::new("/sys/kernel/btf").join(MODULE);
    let module_bytes = read_if_there(&module_path)
        .map_err(|error| AttachError::NoBtf { path: module_path.clone(), error: error.to_string() })?;
    let module = module_bytes
        .as_deref()
        .map(|bytes| Btf::parse_split(bytes, &vmlinux))
        .transpose()
        .map_err(unusable(&module_path))?;
    let symbols = Symbols::read(&root, SYMBOLS).map_err(AttachError::Symbols)?;
    let running = Running {
        vmlinux: &vmlinux,
        module: module.as_ref(),
        symbols,
        without: &options.without_functions,
    };

    // Whether inserts leave their record to the confirmation is frozen before anything is
    // attached; if the hook there then fails after all, once more without it.
    let plan = choose(options, &running);
    let offered = plan.iter().any(|(event, candidates)| {
        event.kind == EventKind::Confirm && candidates.iter().any(Result::is_ok)
    });
    let outcome = attach_plan(options, &running, presence, plan, offered)?;
    if offered && !outcome.sees_confirm {
        drop(outcome);
        return attach_plan(options, &running, presence, choose(options, &running), false);
    }
    Ok(outcome)
}

/// Makes the maps and attaches what is in the plan.
fn attach_plan(
    options: &Options,
    running: &Running<'_>,
    presence: Presence,
    plan: Vec<(&'static Event, Candidates)>,
    record_at_confirm: bool,
) -> Result<Outcome, AttachError> {
    let (mut globals, fields) = find_fields(running.vmlinux);
    globals.extend(settings(options, record_at_confirm));
    let (programs, maps) = object::open(&globals, ring_size(options.ring_bytes))?;

    let mut outcome = Outcome {
        attached: Vec::new(),
        hooks: Vec::new(),
        fields,
        maps,
        presence,
        counts_at_confirm: false,
        sees_confirm: false,
    };
    let mut module_fd = ModuleBtf::default();
    for (event, candidates) in plan {
        attach_event(event, candidates, &programs, &mut module_fd, &mut outcome)?;
    }
    Ok(outcome)
}

fn read_if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

type Candidates = Vec<Result<(Mechanism, Vec<Resolved>), String>>;

/// For each event its candidates as this kernel has them, and why it lacks the others.
fn choose(options: &Options, kernel: &impl Kernel) -> Vec<(&'static Event, Candidates)> {
    let resolve = |candidate: &super::plan::Candidate| {
        if options.mechanism.is_some_and(|forced| forced != candidate.mechanism) {
            return Err(format!("{} was not asked for", candidate.mechanism));
        }
        let hooks = select::resolve(candidate, kernel)
            .map_err(|reason| format!("{}: {reason}", candidate.mechanism))?;
        Ok((candidate.mechanism, hooks))
    };
    PLAN.iter().map(|event| (event, event.candidates.iter().map(resolve).collect())).collect()
}

/// Offsets of every field that the programs read.
fn find_fields(vmlinux: &Btf<'_>) -> (Vec<(&'static str, u32)>, Vec<FieldStatus>) {
    FIELDS
        .iter()
        .map(|field| {
            let name = format!("{}.{}", field.structure, field.members.join("."));
            let found = match vmlinux.member(field.structure, field.members) {
                Ok(member) if field.size == 0 || member.size == field.size => {
                    Ok(member.offset_bytes)
                }
                Ok(member) => Err(format!("has {} bytes, not {}", member.size, field.size)),
                Err(error) => Err(error.to_string()),
            };
            let offset = found.as_ref().copied().unwrap_or(MISSING);
            let status = FieldStatus {
                field: name,
                offset: found.as_ref().ok().copied(),
                purpose: field.purpose,
                reason: found.err(),
            };
            ((field.global, offset), status)
        })
        .unzip()
}

/// The globals that are not offsets.
fn settings(options: &Options, record_at_confirm: bool) -> [(&'static str, u32); 7] {
    let windows_a_second = u32::try_from(1_000_000_000 / WINDOW_NS).unwrap_or(1);
    let per_window = |per_second: u32| per_second.div_ceil(windows_a_second);
    [
        (global::INSERT_BUDGET, per_window(options.insert_budget)),
        (global::INSERT_ONE_IN, options.insert_one_in),
        (global::DROP_BUDGET, per_window(options.drop_budget)),
        (global::EVICTION_BUDGET, per_window(options.eviction_budget)),
        (global::RECORD_AT_CONFIRM, u32::from(record_at_confirm)),
        (global::WAKE_AT_BYTES, ring_size(options.ring_bytes) / 4),
        (global::STALE_TICKS, STALE_TICKS),
    ]
}

/// A size that the kernel takes: a power of two, at least a page of any architecture.
fn ring_size(bytes: u32) -> u32 {
    bytes.clamp(1 << 16, 1 << 30).next_power_of_two()
}

/// The BTF object of the module, looked up when first needed; or why it can't be had.
#[derive(Default)]
struct ModuleBtf(Option<Result<OwnedFd, String>>);

impl ModuleBtf {
    fn get(&mut self) -> Result<&OwnedFd, String> {
        let found = self.0.get_or_insert_with(|| match bpf::module_btf(MODULE) {
            Ok(Some(fd)) => Ok(fd),
            Ok(None) => Err(format!("the kernel has no BTF object of {MODULE}")),
            Err(error) => {
                Err(format!("BTF of modules can't be listed ({error}); this needs CAP_SYS_ADMIN"))
            }
        });
        found.as_ref().map_err(Clone::clone)
    }
}

/// Attaches the first candidate that works.
fn attach_event(
    event: &'static Event,
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
                outcome.hooks.extend(hooks.iter().map(|hook| HookStatus {
                    event: event.name,
                    function: hook.symbol.name.clone(),
                    mechanism: Some(mechanism),
                    at_return: hook.point == Point::Return,
                    module: hook.symbol.module.clone(),
                    attached: true,
                    reason: (!reasons.is_empty()).then(|| reasons.join("; ")),
                }));
                outcome.counts_at_confirm |=
                    hooks.iter().any(|hook| hook.program == COUNTS_AT_CONFIRM);
                outcome.sees_confirm |= event.kind == EventKind::Confirm;
                outcome.attached.extend(attached);
                return Ok(());
            }
            Err(Failure::Fatal(error)) => return Err(error),
            Err(Failure::Here(reason)) => reasons.push(format!("{mechanism}: {reason}")),
        }
    }
    let reason = format!("{}: {}", event.without, reasons.join("; "));
    tracing::warn!(event = event.name, reason, "no hook for this event");
    outcome.hooks.push(HookStatus {
        event: event.name,
        function: event.candidates[0].hooks[0].function.base().to_owned(),
        mechanism: None,
        at_return: false,
        module: None,
        attached: false,
        reason: Some(reason),
    });
    Ok(())
}

/// Why a candidate did not attach.
enum Failure {
    /// The next one may.
    Here(String),
    /// None will.
    Fatal(AttachError),
}

impl From<object::ObjectError> for Failure {
    fn from(error: object::ObjectError) -> Self {
        Self::Fatal(error.into())
    }
}

/// All hooks of a candidate; on failure those before are detached again.
fn attach_all(
    hooks: &[Resolved],
    programs: &Programs,
    module: &mut ModuleBtf,
) -> Result<Vec<Attached>, Failure> {
    let mut attached = Vec::with_capacity(hooks.len());
    for hook in hooks {
        attached.push(attach_hook(hook, programs, module)?);
    }
    Ok(attached)
}

fn attach_hook(
    hook: &Resolved,
    programs: &Programs,
    module: &mut ModuleBtf,
) -> Result<Attached, Failure> {
    let (code, license) = programs.code(hook.program)?;
    let here = |what: &str, error: &dyn std::fmt::Display| {
        Failure::Here(format!("{} on {}: {what}: {error}", hook.program, hook.symbol.name))
    };
    let at_return = hook.point == Point::Return;
    let kind = match hook.btf {
        None => bpf::ProgramKind::Kprobe,
        Some(function) => {
            let module =
                if function.in_module { Some(module.get().map_err(Failure::Here)?) } else { None };
            bpf::ProgramKind::Tracing(bpf::TracingTarget {
                btf_id: function.id,
                module: module.map(|fd| fd.as_fd()),
                at_return,
            })
        }
    };
    let fd = bpf::load_program(hook.program, kind, code, license).map_err(|error| {
        if error.error.kind() == io::ErrorKind::PermissionDenied && error.log.is_empty() {
            return Failure::Fatal(AttachError::NotPermitted {
                what: "load eBPF programs".to_owned(),
                error: error.error,
            });
        }
        here("load", &error)
    })?;
    let link = if hook.btf.is_some() {
        bpf::attach_tracing(fd.as_fd()).map_err(|error| here("attach", &error))?
    } else {
        perf::attach_kprobe(&hook.kprobe_target(), at_return, fd.as_fd())
            .map_err(|error| here("attach", &kprobe_refusal(&error)))?
    };
    Ok(Attached { program: hook.program, function: hook.symbol.name.clone(), _link: link, fd })
}

/// A refused kprobe with the usual cause.
fn kprobe_refusal(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::PermissionDenied {
        format!("{error}; needs CAP_SYS_ADMIN, or CAP_PERFMON with kernel.perf_event_paranoid <= 2")
    } else {
        error.to_string()
    }
}
