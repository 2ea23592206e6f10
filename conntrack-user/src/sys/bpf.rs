//! bpf(2): what aya has no call for. See `include/uapi/linux/bpf.h`.
//!
//! Programs are loaded here because aya 0.14 can't hang a tracing program into a function of a
//! kernel module (it never sets `attach_btf_obj_fd`).

use std::{
    ffi::CStr,
    io,
    mem::{size_of, zeroed},
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
};

use aya_obj::generated::{
    BPF_F_SLEEPABLE, bpf_attach_type, bpf_attr, bpf_btf_info, bpf_cmd, bpf_insn, bpf_link_info,
    bpf_map_type, bpf_prog_info, bpf_prog_type,
};

/// What kind of program to load.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ProgramKind<'a> {
    /// For a kernel function.
    Tracing {
        /// Type id of its FUNC in the BTF of vmlinux or of the module.
        btf_id: u32,
        /// The module's BTF; `None`: vmlinux.
        module: Option<BorrowedFd<'a>>,
        /// At the return (fexit) instead of the entry (fentry).
        at_return: bool,
    },
    Kprobe,
    /// Run on demand by [`run_program`].
    SocketFilter,
    /// Run on demand by [`run_once`].
    RawTracepoint,
    /// Run on demand by [`run_with`] (5.14 and later).
    Syscall,
}

/// What the BTF of a program says of its functions: without it the verifier takes none for a global one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FunctionInfo<'a> {
    /// From [`load_btf`].
    pub btf: BorrowedFd<'a>,
    /// Records of `struct bpf_func_info`, one behind the other.
    pub records: &'a [u8],
    /// Bytes of each.
    pub record_bytes: usize,
}

/// The kernel refused to load a program.
#[derive(Debug, thiserror::Error)]
#[error("{error}{}", verifier_says(.log))]
pub(crate) struct LoadError {
    pub error: io::Error,
    /// The last lines of the verifier's log; empty if it said nothing.
    pub log: String,
}

fn verifier_says(log: &str) -> String {
    if log.is_empty() {
        String::new()
    } else {
        format!("; the verifier says: {log}")
    }
}

/// One call of bpf(2). `attr` has to hold for `cmd` valid pointers that outlive the call.
fn bpf(cmd: bpf_cmd, attr: &mut bpf_attr) -> io::Result<RawFd> {
    // SAFETY: `attr` is a whole, zero-extended `union bpf_attr`; pointers in it were taken by the
    // callers below from values that live beyond this call. The kernel copies and checks the rest.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            cmd as libc::c_int,
            &raw mut *attr,
            size_of::<bpf_attr>(),
        )
    };
    if ret < 0 {
        return Err(io::Error::last_os_error());
    }
    RawFd::try_from(ret).map_err(io::Error::other)
}

fn bpf_fd(cmd: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    let fd = bpf(cmd, attr)?;
    // SAFETY: for the commands used with this function the kernel returns a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn attr() -> bpf_attr {
    // SAFETY: `union bpf_attr` is made of integers; all zero is its empty value.
    unsafe { zeroed() }
}

fn address<T: ?Sized>(pointer: *const T) -> u64 {
    pointer.cast::<u8>() as u64
}

/// `BPF_PROG_LOAD`. On failure it is tried once more to get the verifier's log.
pub(crate) fn load_program(
    name: &str,
    kind: ProgramKind<'_>,
    instructions: &[bpf_insn],
    license: &CStr,
) -> Result<OwnedFd, LoadError> {
    load_with_info(name, kind, instructions, license, None)
}

/// As [`load_program`], with what its BTF says of its functions.
pub(crate) fn load_with_info(
    name: &str,
    kind: ProgramKind<'_>,
    instructions: &[bpf_insn],
    license: &CStr,
    info: Option<FunctionInfo<'_>>,
) -> Result<OwnedFd, LoadError> {
    match try_load(name, kind, instructions, license, info, &mut []) {
        Ok(fd) => Ok(fd),
        Err(error) => {
            // As large as any kernel takes it (`UINT_MAX >> 8` before 5.16): what it says last is at its end.
            let mut log = vec![0; (1 << 24) - 1];
            let retried = try_load(name, kind, instructions, license, info, &mut log);
            let text = CStr::from_bytes_until_nul(&log).map(CStr::to_string_lossy);
            let text = text.unwrap_or_default();
            let mut tail: Vec<&str> = text.lines().rev().skip(1).take(3).collect();
            tail.reverse();
            retried.map_err(|_| LoadError {
                error,
                log: tail.join(" | "),
            })
        }
    }
}

fn try_load(
    name: &str,
    kind: ProgramKind<'_>,
    instructions: &[bpf_insn],
    license: &CStr,
    info: Option<FunctionInfo<'_>>,
    log: &mut [u8],
) -> io::Result<OwnedFd> {
    let mut attr = attr();
    // SAFETY: the members written belong to the variant of BPF_PROG_LOAD; all start as zero.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.insns = address(instructions.as_ptr());
    load.insn_cnt = u32::try_from(instructions.len()).map_err(io::Error::other)?;
    load.license = address(license.as_ptr());
    set_name(&mut load.prog_name, name);
    match kind {
        ProgramKind::Kprobe => load.prog_type = bpf_prog_type::BPF_PROG_TYPE_KPROBE as u32,
        ProgramKind::SocketFilter => {
            load.prog_type = bpf_prog_type::BPF_PROG_TYPE_SOCKET_FILTER as u32;
        }
        ProgramKind::RawTracepoint => {
            load.prog_type = bpf_prog_type::BPF_PROG_TYPE_RAW_TRACEPOINT as u32;
        }
        ProgramKind::Syscall => {
            load.prog_type = bpf_prog_type::BPF_PROG_TYPE_SYSCALL as u32;
            load.prog_flags = BPF_F_SLEEPABLE;
        }
        ProgramKind::Tracing {
            btf_id,
            module,
            at_return,
        } => {
            load.prog_type = bpf_prog_type::BPF_PROG_TYPE_TRACING as u32;
            load.expected_attach_type = if at_return {
                bpf_attach_type::BPF_TRACE_FEXIT as u32
            } else {
                bpf_attach_type::BPF_TRACE_FENTRY as u32
            };
            load.attach_btf_id = btf_id;
            if let Some(module) = module {
                load.__bindgen_anon_1.attach_btf_obj_fd = module.as_raw_fd().cast_unsigned();
            }
        }
    }
    if let Some(info) = info {
        load.prog_btf_fd = info.btf.as_raw_fd().cast_unsigned();
        load.func_info = address(info.records.as_ptr());
        load.func_info_rec_size = u32::try_from(info.record_bytes).map_err(io::Error::other)?;
        let records = info.records.len() / info.record_bytes.max(1);
        load.func_info_cnt = u32::try_from(records).map_err(io::Error::other)?;
    }
    if !log.is_empty() {
        load.log_level = 1;
        load.log_buf = address(log.as_ptr());
        load.log_size = u32::try_from(log.len()).map_err(io::Error::other)?;
    }
    bpf_fd(bpf_cmd::BPF_PROG_LOAD, &mut attr)
}

/// `BPF_RAW_TRACEPOINT_OPEN` without a name: attaches a loaded tracing program to its target.
/// It is attached as long as the returned descriptor is open.
pub(crate) fn attach_tracing(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attr = attr();
    attr.raw_tracepoint.prog_fd = program.as_raw_fd().cast_unsigned();
    bpf_fd(bpf_cmd::BPF_RAW_TRACEPOINT_OPEN, &mut attr)
}

/// `BPF_LINK_CREATE` of a program on a perf event (5.15 and later).
pub(crate) fn link_perf_event(
    program: BorrowedFd<'_>,
    event: BorrowedFd<'_>,
) -> io::Result<OwnedFd> {
    let mut attr = attr();
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd().cast_unsigned();
    attr.link_create.__bindgen_anon_2.target_fd = event.as_raw_fd().cast_unsigned();
    attr.link_create.attach_type = bpf_attach_type::BPF_PERF_EVENT as u32;
    bpf_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// Times that the kernel did not run a linked kprobe, because another one was being handled on
/// that CPU (6.8 and later; 0 before).
pub(crate) fn kprobe_missed(link: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY: `struct bpf_link_info` is made of integers; all zero is valid.
    let mut info: bpf_link_info = unsafe { zeroed() };
    object_info(link, &mut info)?;
    // SAFETY: the link is one of a kprobe, so the kernel has filled in this variant or nothing.
    Ok(unsafe {
        info.__bindgen_anon_1
            .perf_event
            .__bindgen_anon_1
            .kprobe
            .missed
    })
}

/// `BPF_PROG_TEST_RUN` of a socket filter, so many times, on an empty packet.
pub(crate) fn run_program(program: BorrowedFd<'_>, times: u32) -> io::Result<()> {
    let packet = [0_u8; 64];
    let mut attr = attr();
    attr.test.prog_fd = program.as_raw_fd().cast_unsigned();
    attr.test.data_in = address(packet.as_ptr());
    attr.test.data_size_in = 64;
    attr.test.repeat = times;
    bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr).map(|_| ())
}

/// `BPF_PROG_TEST_RUN` of a raw tracepoint that looks at no argument (5.10 and later): what it returns. It runs in the
/// calling thread.
pub(crate) fn run_once(program: BorrowedFd<'_>) -> io::Result<u32> {
    let mut attr = attr();
    attr.test.prog_fd = program.as_raw_fd().cast_unsigned();
    bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr)?;
    // SAFETY: the member belongs to the variant of this command; the kernel has filled it in.
    Ok(unsafe { attr.test.retval })
}

/// `BPF_PROG_TEST_RUN` of a [`ProgramKind::Syscall`], which reads and writes `context`: what it returns.
pub(crate) fn run_with(program: BorrowedFd<'_>, context: &mut [u8]) -> io::Result<u32> {
    let mut attr = attr();
    attr.test.prog_fd = program.as_raw_fd().cast_unsigned();
    attr.test.ctx_in = context.as_mut_ptr() as u64;
    attr.test.ctx_size_in = u32::try_from(context.len()).map_err(io::Error::other)?;
    bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr)?;
    // SAFETY: as in `run_once`.
    Ok(unsafe { attr.test.retval })
}

/// `BPF_BTF_LOAD`: types for [`FunctionInfo`].
pub(crate) fn load_btf(types: &[u8]) -> io::Result<OwnedFd> {
    let mut attr = attr();
    // SAFETY: the members written belong to the variant of BPF_BTF_LOAD; all start as zero.
    let load = unsafe { &mut attr.__bindgen_anon_7 };
    load.btf = address(types.as_ptr());
    load.btf_size = u32::try_from(types.len()).map_err(io::Error::other)?;
    bpf_fd(bpf_cmd::BPF_BTF_LOAD, &mut attr)
}

/// `BPF_MAP_CREATE` of an array of maps that are like `inner`.
pub(crate) fn create_array_of_maps(
    name: &str,
    maps: u32,
    inner: BorrowedFd<'_>,
) -> io::Result<OwnedFd> {
    let mut attr = attr();
    // SAFETY: the members written belong to the variant of BPF_MAP_CREATE; all start as zero.
    let create = unsafe { &mut attr.__bindgen_anon_1 };
    create.map_type = bpf_map_type::BPF_MAP_TYPE_ARRAY_OF_MAPS as u32;
    create.key_size = 4;
    create.value_size = 4;
    create.max_entries = maps;
    create.inner_map_fd = inner.as_raw_fd().cast_unsigned();
    set_name(&mut create.map_name, name);
    bpf_fd(bpf_cmd::BPF_MAP_CREATE, &mut attr)
}

/// `BPF_OBJ_NAME_LEN` is 16 with the closing zero; longer names are cut.
fn set_name(field: &mut [std::ffi::c_char; 16], name: &str) {
    for (to, from) in field.iter_mut().zip(name.bytes().take(15)) {
        *to = std::ffi::c_char::from_ne_bytes([from]);
    }
}

/// `BPF_MAP_UPDATE_ELEM` of element 0 of an array whose value is `value` (a data section).
pub(crate) fn write_section(map: BorrowedFd<'_>, value: &[u8]) -> io::Result<()> {
    write_element(map, 0, value)
}

/// `BPF_MAP_UPDATE_ELEM` of an array; `value` is as long as the map's values are.
pub(crate) fn write_element(map: BorrowedFd<'_>, key: u32, value: &[u8]) -> io::Result<()> {
    let mut attr = attr();
    // SAFETY: the members written belong to the variant of map element commands.
    let element = unsafe { &mut attr.__bindgen_anon_2 };
    element.map_fd = map.as_raw_fd().cast_unsigned();
    element.key = address(&raw const key);
    element.__bindgen_anon_1.value = address(value.as_ptr());
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr).map(|_| ())
}

/// `BPF_MAP_FREEZE`: user space can't write it any more, so the verifier may fold its values.
pub(crate) fn freeze_map(map: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = attr();
    attr.__bindgen_anon_2.map_fd = map.as_raw_fd().cast_unsigned();
    bpf(bpf_cmd::BPF_MAP_FREEZE, &mut attr).map(|_| ())
}

/// What the kernel says of a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProgramInfo {
    /// The kernel's number for it.
    pub id: u32,
    /// Times that it was skipped by the recursion guard (tracing: 5.12; kprobe: 6.8).
    pub recursion_misses: u64,
    /// Nanoseconds that it ran; 0 unless `kernel.bpf_stats_enabled`.
    pub run_time_ns: u64,
    /// Times that it ran; 0 as above.
    pub run_count: u64,
    /// It is machine code, not interpreted.
    pub is_compiled: bool,
}

/// `BPF_OBJ_GET_INFO_BY_FD` of a program.
pub(crate) fn program_info(program: BorrowedFd<'_>) -> io::Result<ProgramInfo> {
    // SAFETY: `struct bpf_prog_info` is made of integers and bit fields; all zero is valid.
    let mut info: bpf_prog_info = unsafe { zeroed() };
    object_info(program, &mut info)?;
    Ok(ProgramInfo {
        id: info.id,
        recursion_misses: info.recursion_misses,
        run_time_ns: info.run_time_ns,
        run_count: info.run_cnt,
        is_compiled: info.jited_prog_len > 0,
    })
}

/// `T` is the info struct that belongs to the kind of object.
fn object_info<T>(object: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    let mut attr = attr();
    attr.info.bpf_fd = object.as_raw_fd().cast_unsigned();
    attr.info.info = address(&raw const *info);
    attr.info.info_len = u32::try_from(size_of::<T>()).map_err(io::Error::other)?;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr).map(|_| ())
}

/// The BTF object of a kernel module: all BTF objects are walked by id. Needs `CAP_SYS_ADMIN`.
///
/// `Ok(None)`: the kernel has no BTF of that module.
pub(crate) fn module_btf(module: &str) -> io::Result<Option<OwnedFd>> {
    let mut id = 0;
    loop {
        let mut next = attr();
        next.__bindgen_anon_6.__bindgen_anon_1.start_id = id;
        match bpf(bpf_cmd::BPF_BTF_GET_NEXT_ID, &mut next) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            Err(error) => return Err(error),
        }
        // SAFETY: the member belongs to the variant of this command; the kernel has filled it in.
        id = unsafe { next.__bindgen_anon_6.next_id };
        let mut by_id = attr();
        by_id.__bindgen_anon_6.__bindgen_anon_1.btf_id = id;
        let btf = match bpf_fd(bpf_cmd::BPF_BTF_GET_FD_BY_ID, &mut by_id) {
            Ok(btf) => btf,
            // Gone since: a program that carried it was unloaded.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
            Err(error) => return Err(error),
        };
        if kernel_btf_name(&btf)?.as_deref() == Some(module) {
            return Ok(Some(btf));
        }
    }
}

/// The name of a BTF object that belongs to the kernel (`vmlinux` or a module).
fn kernel_btf_name(btf: &OwnedFd) -> io::Result<Option<String>> {
    use std::os::fd::AsFd as _;

    let mut name = [0_u8; 64];
    // SAFETY: `struct bpf_btf_info` is made of integers; all zero is valid.
    let mut info: bpf_btf_info = unsafe { zeroed() };
    info.name = address(name.as_mut_ptr());
    info.name_len = 64;
    object_info(btf.as_fd(), &mut info)?;
    let name = CStr::from_bytes_until_nul(&name).map_err(io::Error::other)?;
    Ok((info.kernel_btf != 0).then(|| name.to_string_lossy().into_owned()))
}
