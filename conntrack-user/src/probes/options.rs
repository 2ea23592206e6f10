//! What can be chosen about the probes.

use std::fmt;

/// How a program is hung into a kernel function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mechanism {
    /// fentry and fexit: BPF trampolines, cheap, need BTF of the function.
    Fentry,
    /// kprobe and kretprobe: work by symbol alone.
    Kprobe,
}

impl fmt::Display for Mechanism {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
        })
    }
}

/// How the probes are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Use this mechanism only; `None`: the first that the kernel offers, hook by hook.
    pub mechanism: Option<Mechanism>,
    /// Insert records for each second and CPU before sampling begins.
    pub insert_budget: u32,
    /// Beyond the budget one insert in this many has a record; 0: none.
    pub insert_one_in: u32,
    /// Drop records for each second and CPU.
    pub drop_budget: u32,
    /// Eviction records for each second and CPU.
    pub eviction_budget: u32,
    /// Size of the ring buffer in bytes; rounded up to a power of two of at least a page.
    pub ring_bytes: u32,
    /// Owners that can be told apart, and two more; the counters of one take 144 bytes for each
    /// possible CPU.
    pub owner_slots: u32,
    /// What the eBPF programs log (aya-log), for debugging them; 0: nothing, 1: errors, up to
    /// 5: everything. At 0 the verifier removes the calls.
    pub ebpf_log_level: u8,
    /// Functions to treat as if the kernel did not have them (for tests).
    pub without_functions: Vec<String>,
    /// Where vmlinux BTF is; `None`: /sys/kernel/btf/vmlinux.
    pub btf: Option<std::path::PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mechanism: None,
            insert_budget: 500,
            insert_one_in: 128,
            drop_budget: 10_000,
            eviction_budget: 10_000,
            ring_bytes: 1 << 20,
            owner_slots: conntrack_ebpf::owner::DEFAULT_SLOTS,
            ebpf_log_level: 0,
            without_functions: Vec::new(),
            btf: None,
        }
    }
}
