//! What keeps a loaded program attached to a kernel function.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use super::select::Resolved;
use crate::sys::{bpf, perf};

/// What keeps a program attached.
pub(super) enum Link {
    Tracing { _link: OwnedFd },
    Kprobe(perf::Kprobe),
}

impl Link {
    /// Times that the kernel skipped the probe, because another one was being handled on that CPU.
    pub(super) fn missed(&self) -> u64 {
        match self {
            Self::Tracing { .. } => 0,
            Self::Kprobe(probe) => probe.missed(),
        }
    }
}

/// Attaches a loaded program; why that can't be done.
pub(super) fn hang(hook: &Resolved, program: BorrowedFd<'_>) -> Result<Link, String> {
    let refused =
        |error: String| format!("{} on {}: attach: {error}", hook.program, hook.symbol.name);
    if hook.btf.is_some() {
        let link = bpf::attach_tracing(program).map_err(|error| refused(error.to_string()))?;
        return Ok(Link::Tracing { _link: link });
    }
    let probe = perf::attach_kprobe(&hook.kprobe_target(), hook.at_return, program);
    let probe = probe.map_err(|error| refused(kprobe_refusal(&error)))?;
    Ok(Link::Kprobe(probe))
}

/// A refused kprobe with the usual cause.
fn kprobe_refusal(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::PermissionDenied {
        format!("{error}; needs CAP_SYS_ADMIN, or CAP_PERFMON with kernel.perf_event_paranoid <= 2")
    } else {
        error.to_string()
    }
}
