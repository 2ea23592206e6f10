//! A probe that is loaded but attached only when it is needed: what it costs, each new connection
//! pays while it is.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::Mutex,
};

use super::{Mechanism, plan, select::Resolved, status::HookStatus};
use crate::sys::{bpf, lock::locked, perf};

pub(super) struct Reserve {
    fd: OwnedFd,
    hook: Resolved,
    state: Mutex<ReserveState>,
}

#[derive(Default)]
struct ReserveState {
    probe: Option<perf::Kprobe>,
    /// Runs that were missed while it was attached before.
    missed: u64,
    /// Why it could not be attached.
    refused: Option<String>,
}

impl Reserve {
    pub(super) fn new(fd: OwnedFd, hook: Resolved) -> Self {
        Self {
            fd,
            hook,
            state: Mutex::default(),
        }
    }

    /// Attaches or detaches it; whether that changed anything. One that was refused is not tried
    /// again.
    pub(super) fn set(&self, wanted: bool) -> bool {
        let mut state = locked(&self.state);
        if state.probe.is_some() == wanted || (wanted && state.refused.is_some()) {
            return false;
        }
        if wanted {
            match perf::attach_kprobe(&self.hook.kprobe_target(), false, self.fd.as_fd()) {
                Ok(probe) => state.probe = Some(probe),
                Err(error) => {
                    state.refused = Some(format!(
                        "{error}; table-full drops at the host's addresses are charged to the host"
                    ));
                }
            }
        } else if let Some(probe) = state.probe.take() {
            state.missed += probe.missed();
        }
        true
    }

    /// Times that the kernel skipped it.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub(super) fn missed_runs(&self) -> io::Result<u64> {
        let state = locked(&self.state);
        let now = state.probe.as_ref().map_or(0, perf::Kprobe::missed);
        Ok(state.missed + now + bpf::program_info(self.fd.as_fd())?.recursion_misses)
    }

    /// Its hook while it is attached, or was refused.
    pub(super) fn status(&self) -> Option<HookStatus> {
        let state = locked(&self.state);
        let attached = state.probe.is_some();
        (attached || state.refused.is_some()).then(|| HookStatus {
            event: plan::NEW_FLOW_PACKET_EVENT,
            function: self.hook.symbol.name.clone(),
            mechanism: attached.then_some(Mechanism::Kprobe),
            at_return: false,
            module: self.hook.symbol.module.clone(),
            attached,
            reason: state.refused.clone(),
        })
    }
}
