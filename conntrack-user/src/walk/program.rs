//! The program of the walk, loaded into the kernel, and its maps.

use std::{
    collections::{HashMap, HashSet},
    io, mem,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

use aya::maps::MapData;
use aya_obj::{Object, btf::BtfFeatures};
use conntrack_ebpf::walk::{
    AGAIN_MAP, CopiedEntry, ENTRIES, ENTRIES_MAP, PROGRAM, RunEnd, WALK_MAP, Walk,
};

use super::error::{NoHashWalk, not_loaded};
use crate::sys::{
    bpf::{self, FunctionInfo, ProgramKind},
    mapping::MappedArray,
};

/// The object that the build script made; empty if it had no BPF toolchain.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/walk"));

/// What every kernel from 5.10 on takes in the BTF of a program: functions, and global ones among them.
const FEATURES: BtfFeatures =
    BtfFeatures::new(true, true, false, false, false, false, false, false);

/// The program, ready to run.
pub(super) struct WalkProgram {
    program: OwnedFd,
    /// By which the program goes on in a long chain: it is emptied when nobody has it open.
    _again: MapData,
    pub(super) walk: MappedArray<Walk>,
    pub(super) entries: MappedArray<CopiedEntry>,
}

impl WalkProgram {
    /// Loads it.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub(super) fn load() -> Result<Self, NoHashWalk> {
        if OBJECT.is_empty() {
            return Err(NoHashWalk::LeftOut);
        }
        let mut object = Object::parse(OBJECT).map_err(not_loaded)?;
        let definitions = mem::take(&mut object.maps);
        let mut maps = HashMap::new();
        for (name, definition) in &definitions {
            let map = MapData::create(definition.clone(), name, None).map_err(not_loaded)?;
            maps.insert(name.as_str(), map);
        }
        let text: HashSet<usize> = object
            .functions
            .keys()
            .map(|(section, _)| *section)
            .collect();
        let by_fd = definitions.iter().filter_map(|(name, definition)| {
            let fd = maps.get(name.as_str())?.fd().as_fd().as_raw_fd();
            Some((name.as_str(), fd, definition))
        });
        object.relocate_maps(by_fd, &text).map_err(not_loaded)?;
        object.relocate_calls(&text).map_err(not_loaded)?;
        let types = object
            .fixup_and_sanitize_btf(&FEATURES)
            .map_err(not_loaded)?;
        let types = types.ok_or_else(|| incomplete("types"))?.to_bytes();
        let types = bpf::load_btf(&types).map_err(not_loaded)?;

        let program = object
            .programs
            .get(PROGRAM)
            .ok_or_else(|| incomplete(PROGRAM))?;
        let function = object
            .functions
            .get(&program.function_key())
            .ok_or_else(|| incomplete(PROGRAM))?;
        let program = bpf::load_with_info(
            PROGRAM,
            ProgramKind::RawTracepoint,
            &function.instructions,
            &program.license,
            Some(FunctionInfo {
                btf: types.as_fd(),
                records: &function.func_info.func_info_bytes(),
                record_bytes: function.func_info_rec_size,
            }),
        )
        .map_err(not_loaded)?;
        let mut take = |name: &str| maps.remove(name).ok_or_else(|| incomplete(name));
        let again = take(AGAIN_MAP)?;
        bpf::write_element(again.fd().as_fd(), 0, &program.as_raw_fd().to_ne_bytes())
            .map_err(not_loaded)?;
        let (walk, entries) = (take(WALK_MAP)?, take(ENTRIES_MAP)?);
        Ok(Self {
            walk: MappedArray::new(walk.fd().as_fd(), 1).map_err(not_loaded)?,
            entries: MappedArray::new(entries.fd().as_fd(), ENTRIES as usize)
                .map_err(not_loaded)?,
            _again: again,
            program,
        })
    }

    /// One run; how it ended is in [`Walk::end`].
    ///
    /// # Errors
    /// If the kernel refuses to run it.
    pub(super) fn run(&self) -> Result<Walk, NoHashWalk> {
        let end = mem::offset_of!(Walk, end);
        self.walk.write_word(0, end, RunEnd::NotRun as u64);
        let not_run = |error: io::Error| NoHashWalk::NotRun(error.to_string());
        bpf::run_once(self.program.as_fd()).map_err(not_run)?;
        Ok(self.walk.read(0))
    }
}

fn incomplete(what: &str) -> NoHashWalk {
    NoHashWalk::NotLoaded(format!("the object has no {what}"))
}
