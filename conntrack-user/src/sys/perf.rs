//! `perf_event_open(2)` of a kprobe or kretprobe, with a BPF program on it.
//! See `kernel/trace/trace_event_perf.c`, `create_local_trace_kprobe`.

use std::{
    ffi::CString,
    fs, io,
    mem::{size_of, zeroed},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
};

use aya_obj::generated::perf_event_attr;

use super::bpf;

/// `_IOW('$', 8, __u32)`, `include/uapi/linux/perf_event.h`
const PERF_EVENT_IOC_SET_BPF: libc::c_ulong = 0x4004_2408;
const PERF_EVENT_IOC_ENABLE: libc::c_ulong = 0x2400;
const KPROBE_TYPE: &str = "/sys/bus/event_source/devices/kprobe/type";
const RETPROBE_BIT: &str = "/sys/bus/event_source/devices/kprobe/format/retprobe";

/// A kprobe with its program. It is there as long as this lives, and silently gone when the
/// module is unloaded.
#[derive(Debug)]
pub(crate) struct Kprobe {
    /// On kernels that have such links; detached before the event is closed.
    link: Option<OwnedFd>,
    _event: OwnedFd,
}

impl Kprobe {
    /// Times that the kernel skipped it; 0 where the kernel does not tell (before 6.8).
    pub(crate) fn missed(&self) -> u64 {
        let link = self.link.as_ref().map(OwnedFd::as_fd);
        link.and_then(|link| bpf::kprobe_missed(link).ok())
            .unwrap_or(0)
    }
}

/// Hangs `program` at the entry (or, with `at_return`, the return) of a kernel function.
///
/// `symbol` is a name in /proc/kallsyms, or `module:name`.
pub(crate) fn attach_kprobe(
    symbol: &str,
    at_return: bool,
    program: BorrowedFd<'_>,
) -> io::Result<Kprobe> {
    let name = CString::new(symbol)?;
    // SAFETY: `struct perf_event_attr` is made of integers; all zero is its default.
    let mut attr: perf_event_attr = unsafe { zeroed() };
    attr.type_ = read_number(KPROBE_TYPE, "")?;
    attr.size = u32::try_from(size_of::<perf_event_attr>()).map_err(io::Error::other)?;
    if at_return {
        attr.config = 1 << read_number(RETPROBE_BIT, "config:")?;
    }
    attr.__bindgen_anon_3.kprobe_func = name.as_ptr() as u64;

    // SAFETY: `attr` and the name in it live beyond the call. All processes, CPU 0: a kprobe is
    // not bound to a CPU, but the call wants one.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attr,
            -1,
            0,
            -1,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor.
    let event = unsafe { OwnedFd::from_raw_fd(fd) };
    let link = bpf::link_perf_event(program, event.as_fd()).ok();
    if link.is_none() {
        // Before 5.15.
        ioctl(&event, PERF_EVENT_IOC_SET_BPF, program.as_raw_fd())?;
    }
    ioctl(&event, PERF_EVENT_IOC_ENABLE, 0)?;
    Ok(Kprobe {
        link,
        _event: event,
    })
}

const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;

fn ioctl(event: &OwnedFd, request: libc::c_ulong, argument: RawFd) -> io::Result<()> {
    // SAFETY: both requests take a number, not a pointer. (musl declares the request as an int.)
    let ret = unsafe { libc::ioctl(event.as_raw_fd(), request as _, argument) };
    if ret < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// A number from a file of one line, behind `prefix`.
fn read_number(path: &str, prefix: &str) -> io::Result<u32> {
    let text = fs::read_to_string(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?;
    let number = text
        .trim()
        .strip_prefix(prefix)
        .and_then(|number| number.parse().ok());
    number.ok_or_else(|| io::Error::other(format!("{path}: unexpected `{}`", text.trim())))
}
