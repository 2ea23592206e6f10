//! Who sends: the task that runs here, where it is a task that makes the kernel insert an entry.
//!
//! A packet that a task sends is confirmed while the call lasts. So its control group is at hand, without a look at the packet. It is
//! not in a softirq, which runs on top of any task, nor in a thread of the kernel, which sends for others. Nor is it where softirqs are
//! off once more than conntrack itself turns them off: there a task passes on what another one sent, as by a verdict on a queued packet
//! (`nf_reinject`), by a tunnel's device or by a tap.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_get_current_cgroup_id, generated};
use conntrack_ebpf::global::{MISSING, PREEMPT_VARIABLE};

use super::{
    globals,
    memory::{Memory as _, Typed},
    read,
};

/// Bits of the preempt count that are set while softirqs are off or one is served, in a hard interrupt and in an NMI
/// (include/linux/preempt.h, 5.4 to 7.3).
const CONTEXT: u32 = 0x00ff_ff00;
/// What softirqs are turned off by, once (`SOFTIRQ_DISABLE_OFFSET`).
const SOFTIRQS_OFF: u32 = 0x200;

/// Where conntrack calls the function that is probed.
#[derive(Clone, Copy)]
pub(super) enum At {
    /// Softirqs are as the sender has them, which is on.
    Begin,
    /// Within a confirmation, which has turned softirqs off.
    Confirmation,
}
/// `PF_KTHREAD` of `task->flags`.
const KERNEL_THREAD: u32 = 0x0020_0000;

/// Whether this kernel tells it at all; a constant for the verifier.
#[inline(always)]
fn is_told() -> bool {
    let counted =
        globals::PREEMPT_OF_CPU.load() != MISSING || globals::PREEMPT_OF_TASK.load() != MISSING;
    counted && globals::TASK_FLAGS.load() != MISSING && globals::IS_REAL_TIME.load() == 0
}

/// The cgroup v2 id of the task that sends; `None`: no task does, or this kernel does not tell.
#[inline(always)]
pub(super) fn cgroup(at: At) -> Option<u64> {
    let context = match at {
        At::Begin => 0,
        At::Confirmation => SOFTIRQS_OFF,
    };
    if !is_told() {
        return None;
    }
    // SAFETY: the helper has no arguments and no preconditions.
    let task = unsafe { generated::bpf_get_current_task_btf() } as u64;
    if preempt_count(task) & CONTEXT != context {
        return None;
    }
    let flags: u32 = Typed::load(task, globals::TASK_FLAGS.load()).unwrap_or(KERNEL_THREAD);
    if flags & KERNEL_THREAD != 0 {
        return None;
    }
    // SAFETY: the helper has no arguments and no preconditions.
    Some(unsafe { bpf_get_current_cgroup_id() })
}

/// The cgroup v2 id of whoever sends this packet: of the task, else of the packet's socket; 0: neither is known, or there is no packet.
#[inline(always)]
pub(super) fn cgroup_of(skb: u64, at: At) -> u64 {
    if skb == 0 {
        return 0;
    }
    cgroup(at).unwrap_or_else(
        #[inline(always)]
        || read::packet_cgroup(skb),
    )
}

#[inline(always)]
fn preempt_count(task: u64) -> u32 {
    let of_cpu = globals::PREEMPT_OF_CPU.load();
    if of_cpu == MISSING {
        return Typed::load(task, globals::PREEMPT_OF_TASK.load()).unwrap_or(CONTEXT);
    }
    // SAFETY: user space has put in a variable of each CPU, which is as large as that.
    unsafe {
        let variable = generated::bpf_this_cpu_ptr(PREEMPT_VARIABLE as *const c_void);
        variable
            .cast::<u8>()
            .add(of_cpu as usize)
            .cast::<u32>()
            .read_volatile()
    }
}
