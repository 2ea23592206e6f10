//! The embedded eBPF object: its globals are set, its maps made, its code made ready to load.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    ffi::CStr,
    io, mem,
    mem::offset_of,
    os::fd::{AsFd as _, AsRawFd as _},
    sync::Arc,
};

use aya::maps::{Array, Map, MapData, RingBuf};
use aya_obj::{EbpfSectionKind, Object, generated::bpf_insn};
use conntrack_ebpf::{
    global::{
        ADDRESSES_MAP, CGROUPS_MAP, EVENTS_MAP, INSERT_BUDGET_MAP, NAMESPACES_MAP, OWNERS_MAP,
        SERVICES_MAP, STATE_MAP, TAG_GROUPS_MAP, TAGS_MAP, WAKES_MAP,
    },
    state::PerCpuState,
};

use super::{
    code,
    owner_maps::OwnerMaps,
    tags::{TagRoom, Tags},
};
use crate::{
    kernel::{Root, release},
    sys::{bpf, mapping::MappedArray},
};

/// The object that the build script made; empty if it had no BPF toolchain.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/conntrack"));

/// Why the object can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// The program was built without a BPF toolchain.
    #[error("this ctpressure was built without its eBPF programs")]
    LeftOut,
    /// The object and this program do not belong together.
    #[error("the embedded eBPF object is not usable: {0}")]
    Malformed(String),
    /// How many CPUs there are is not known.
    #[error("cannot tell how many CPUs there can be: {0}")]
    Cpus(io::Error),
    /// The kernel refused a map.
    #[error("cannot create the BPF map {name}: {error}")]
    Map {
        /// The name of the map.
        name: String,
        /// What the kernel said.
        error: io::Error,
    },
}

/// For `map_err`, so by value.
#[expect(clippy::needless_pass_by_value, reason = "map_err hands over a value")]
fn malformed(error: impl ToString) -> ObjectError {
    ObjectError::Malformed(error.to_string())
}

/// What went wrong with the map of this name.
fn refused(name: &str) -> impl Fn(io::Error) -> ObjectError {
    move |error| ObjectError::Map {
        name: name.to_owned(),
        error,
    }
}

/// Programs ready to load; their maps exist.
pub(super) struct Programs {
    object: Object,
    /// Kept until the programs that use them are loaded.
    _maps: Vec<MapData>,
}

/// The maps that user space reads.
pub(super) struct Maps {
    /// By the number of the CPU.
    pub(super) state: Arc<MappedArray<PerCpuState>>,
    /// See [`PerCpuState::wake_at`].
    pub(super) wakes: RingBuf<MapData>,
    pub(super) ring: RingBuf<MapData>,
    pub(super) owners: OwnerMaps,
    pub(super) insert_budget: Array<MapData, u32>,
}

/// Of each table of owners there are two, see [`conntrack_ebpf::place`].
const TABLES: usize = 2;
/// aya-log's level and its ring buffer, which is as small as can be while nothing is logged.
const LOG_LEVEL: &str = "AYA_LOG_LEVEL";
const LOG_MAP: &str = "AYA_LOGS";
const SMALLEST_RING: u32 = 1 << 16;

/// Reads the object, sets `globals` and makes the maps, the ring with `ring_bytes`.
pub(super) fn open(
    globals: &[(&str, u32)],
    ring_bytes: u32,
    owner_slots: u32,
    tags: TagRoom,
    log_level: u8,
    preempt_variable: Option<u32>,
) -> Result<(Programs, Maps), ObjectError> {
    if OBJECT.is_empty() {
        return Err(ObjectError::LeftOut);
    }
    let mut object = Object::parse(OBJECT).map_err(malformed)?;
    forget_types(&mut object);
    let (tags, of_tags) = Tags::new(tags).map_err(refused(TAGS_MAP))?;
    set_globals(&mut object, &[globals, &tags.globals()].concat(), log_level)?;

    let mut definitions = mem::take(&mut object.maps);
    if let Some(ring) = definitions.get_mut(EVENTS_MAP) {
        ring.set_max_entries(ring_bytes);
    }
    if let (0, Some(log)) = (log_level, definitions.get_mut(LOG_MAP)) {
        log.set_max_entries(SMALLEST_RING);
    }
    let cpus = release::cpu_numbers(&Root::system()).map_err(ObjectError::Cpus)?;
    for (name, of_each) in [(STATE_MAP, 1), (OWNERS_MAP, 2 * owner_slots as usize)] {
        if let Some(map) = definitions.get_mut(name) {
            map.set_max_entries(u32::try_from(cpus * of_each).map_err(malformed)?);
        }
    }
    let mut made = HashMap::with_capacity(definitions.len());
    made.extend(of_tags);
    for (name, definition) in &definitions {
        if let Entry::Vacant(place) = made.entry(name.as_str()) {
            place.insert(create(name, definition.clone())?);
        }
    }

    let text: HashSet<usize> = object
        .functions
        .keys()
        .map(|(section, _)| *section)
        .collect();
    let by_fd = definitions.iter().filter_map(|(name, definition)| {
        Some((
            name.as_str(),
            made.get(name.as_str())?.fd().as_fd().as_raw_fd(),
            definition,
        ))
    });
    object.relocate_maps(by_fd, &text).map_err(malformed)?;
    object.relocate_calls(&text).map_err(malformed)?;
    put_in(&mut object, &definitions, &made, preempt_variable);
    if !tags.has_places() {
        let functions = object.functions.values_mut();
        functions.for_each(|function| code::take_out_exchanges(&mut function.instructions));
    }

    let fd_of = |name: &str| {
        let map = made
            .get(name)
            .ok_or_else(|| malformed(format!("it has no map {name}")))?;
        map.fd().as_fd().try_clone_to_owned().map_err(malformed)
    };
    let (addresses_fd, cgroups_fd) = (fd_of(ADDRESSES_MAP)?, fd_of(CGROUPS_MAP)?);
    let (state_fd, counts_fd) = (fd_of(STATE_MAP)?, fd_of(OWNERS_MAP)?);
    let mut take = |name: &str| {
        let map = made
            .remove(name)
            .ok_or_else(|| malformed(format!("it has no map {name}")))?;
        Map::from_map_data(map).map_err(malformed)
    };
    let state = MappedArray::new(state_fd.as_fd(), cpus).map_err(refused(STATE_MAP))?;
    let state = Arc::new(state);
    for cpu in 0..cpus {
        // Nobody waits for it yet.
        state.write_word(cpu, offset_of!(PerCpuState, wake_at), u64::MAX);
    }
    let wakes = take(WAKES_MAP)?.try_into().map_err(malformed)?;
    let ring = take(EVENTS_MAP)?.try_into().map_err(malformed)?;
    let owners = OwnerMaps {
        addresses: MappedArray::new(addresses_fd.as_fd(), 1).map_err(refused(ADDRESSES_MAP))?,
        cgroups: MappedArray::new(cgroups_fd.as_fd(), TABLES).map_err(refused(CGROUPS_MAP))?,
        state: Arc::clone(&state),
        tables: 0,
        namespaces: take(NAMESPACES_MAP)?.try_into().map_err(malformed)?,
        namespaces_told: HashMap::new(),
        tags,
        counts: MappedArray::new(counts_fd.as_fd(), cpus * owner_slots as usize)
            .map_err(refused(OWNERS_MAP))?,
        services: take(SERVICES_MAP)?.try_into().map_err(malformed)?,
        services_told: HashMap::new(),
        slots: owner_slots,
        cpus,
        asks_sockets: false,
    };
    let insert_budget = take(INSERT_BUDGET_MAP)?.try_into().map_err(malformed)?;
    let programs = Programs {
        object,
        _maps: made.into_values().collect(),
    };
    Ok((
        programs,
        Maps {
            state,
            wakes,
            ring,
            owners,
            insert_budget,
        },
    ))
}

/// Lets go of types and line numbers, which are larger than the code: each program would be given a copy.
fn forget_types(object: &mut Object) {
    object.btf = None;
    object.btf_ext = None;
    for function in object.functions.values_mut() {
        function.func_info.func_info = Vec::new();
        function.func_info.num_info = 0;
        function.line_info.line_info = Vec::new();
        function.line_info.num_info = 0;
    }
}

/// Sets the read-only globals, and that of aya-log.
fn set_globals(
    object: &mut Object,
    globals: &[(&str, u32)],
    log_level: u8,
) -> Result<(), ObjectError> {
    let values: Vec<(&str, [u8; 4])> = globals
        .iter()
        .map(|(name, value)| (*name, value.to_ne_bytes()))
        .collect();
    let level = [log_level];
    let values = values
        .iter()
        .map(|(name, value)| (*name, (&value[..], true)))
        .chain([(LOG_LEVEL, (&level[..], true))]);
    object.patch_map_data(values.collect()).map_err(malformed)
}

/// Puts into the code what is known now.
fn put_in(
    object: &mut Object,
    definitions: &HashMap<String, aya_obj::Map>,
    made: &HashMap<&str, MapData>,
    preempt_variable: Option<u32>,
) {
    let fd_of = |name: &str| Some(made.get(name)?.fd().as_fd().as_raw_fd());
    for function in object.functions.values_mut() {
        let code = &mut function.instructions;
        if let Some(id) = preempt_variable {
            code::put_in_variable(code, id);
        }
        if let Some(fd) = fd_of(ADDRESSES_MAP) {
            code::put_in_addresses(code, fd);
        }
        if let Some(fd) = fd_of(TAG_GROUPS_MAP) {
            code::put_in_tag_groups(code, fd);
        }
        for (name, definition) in definitions {
            if let (EbpfSectionKind::Rodata, Some(fd)) = (definition.section_kind(), fd_of(name)) {
                code::put_in_constants(code, fd, definition.data());
            }
        }
    }
}

/// Makes one map; a data section gets its content, the read-only one is frozen.
fn create(name: &str, definition: aya_obj::Map) -> Result<MapData, ObjectError> {
    let failed = refused(name);
    let content = definition.data().to_vec();
    let frozen = definition.section_kind() == EbpfSectionKind::Rodata;
    let map = MapData::create(definition, name, None).map_err(|error| match error {
        aya::maps::MapError::CreateError { name, io_error } => ObjectError::Map {
            name,
            error: io_error,
        },
        other => failed(io::Error::other(other)),
    })?;
    if !content.is_empty() {
        bpf::write_section(map.fd().as_fd(), &content).map_err(&failed)?;
    }
    if frozen {
        bpf::freeze_map(map.fd().as_fd()).map_err(failed)?;
    }
    Ok(map)
}

impl Programs {
    /// The code and licence of a program.
    pub(super) fn code(&self, name: &str) -> Result<(&[bpf_insn], &CStr), ObjectError> {
        let missing = || malformed(format!("it has no program {name}"));
        let program = self.object.programs.get(name).ok_or_else(missing)?;
        let function = self
            .object
            .functions
            .get(&program.function_key())
            .ok_or_else(missing)?;
        Ok((&function.instructions, &program.license))
    }
}

#[cfg(test)]
mod tests {
    use conntrack_ebpf::global::FIELDS;

    use super::super::plan::{NEW_FLOW_PACKET, PLAN};

    #[test]
    fn the_object_has_every_program_and_global_that_is_asked_for() {
        if super::OBJECT.is_empty() {
            // Built without a BPF toolchain, as for clippy: `cargo xtask test` has one.
            assert!(
                std::env::var_os("CTPRESSURE_SKIP_EBPF").is_some(),
                "the eBPF object was left out; run `cargo xtask setup` and build again"
            );
            return;
        }
        let mut object = aya_obj::Object::parse(super::OBJECT).expect("the object parses");
        let planned = PLAN
            .iter()
            .flat_map(|event| event.candidates)
            .flat_map(|candidate| candidate.hooks);
        for hook in planned.chain([&NEW_FLOW_PACKET]) {
            assert!(
                object.programs.contains_key(hook.program),
                "{}",
                hook.program
            );
        }
        let zero = [0; 4];
        let globals = FIELDS
            .iter()
            .map(|field| (field.global, (&zero[..], true)))
            .collect();
        object
            .patch_map_data(globals)
            .expect("every field has its global");
    }
}
