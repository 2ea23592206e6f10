//! What can be chosen about the probes.

use std::fmt;

use conntrack_ebpf::owner::{FIRST, MAX_SLOTS, OwnerState};
use ctpressure_model::{cost::entry::kernel_version, words::grouped};

use super::ArmMode;
use crate::kernel::{Root, release};

/// How a program is hung into a kernel function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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

/// Insert records for each second and CPU. To make one and to read it costs more than all the rest that is done of an insert; a
/// few tell where connections go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InsertBudget {
    /// Records while nobody watches inserts.
    pub unwatched: u32,
    /// Records while somebody watches inserts.
    pub watched: u32,
}

impl InsertBudget {
    /// The same, whether or not somebody watches.
    pub(crate) const fn always(records: u32) -> Self {
        Self {
            unwatched: records,
            watched: records,
        }
    }
}

/// How the probes are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Use this mechanism only; `None`: the first that the kernel offers, hook by hook.
    pub mechanism: Option<Mechanism>,
    /// Insert records for each second and CPU before sampling begins.
    pub insert_budget: InsertBudget,
    /// Beyond the budget one insert in this many has a record; 0: none.
    pub insert_one_in: u32,
    /// Drop records for each second and CPU.
    pub drop_budget: u32,
    /// Eviction records for each second and CPU.
    pub eviction_budget: u32,
    /// Size of the ring buffer in bytes; rounded up to a power of two of at least a page.
    pub ring_bytes: u32,
    /// Owners that can be told apart, and two more; the counters of one take 160 bytes for each
    /// possible CPU.
    pub owner_slots: u32,
    /// What the eBPF programs log (aya-log), for debugging them; 0: nothing, 1: errors, up to
    /// 5: everything. At 0 the verifier removes the calls.
    pub ebpf_log_level: u8,
    /// When what only matters while a table fills is attached.
    pub arm: ArmMode,
    /// Functions to treat as if the kernel did not have them (for tests).
    pub without_functions: Vec<String>,
    /// Where vmlinux BTF is; `None`: /sys/kernel/btf/vmlinux.
    pub btf: Option<std::path::PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mechanism: None,
            insert_budget: InsertBudget {
                unwatched: 10,
                watched: 500,
            },
            insert_one_in: 128,
            drop_budget: 10_000,
            eviction_budget: 10_000,
            ring_bytes: 1 << 20,
            owner_slots: conntrack_ebpf::owner::DEFAULT_SLOTS,
            ebpf_log_level: 0,
            arm: ArmMode::default(),
            without_functions: Vec::new(),
            btf: None,
        }
    }
}

impl Options {
    /// Takes no more owner slots than this kernel makes a map for; what is to be said if it was told to.
    pub(crate) fn fit(&mut self, root: &Root) -> Option<String> {
        let version = release::release(root).ok();
        let cpus = release::cpu_numbers(root).ok()?;
        let most = most_slots(version.as_deref().and_then(kernel_version), cpus);
        let wanted = self.owner_slots;
        self.owner_slots = wanted.min(most);
        (wanted > most).then(|| {
            format!(
                "{} owner slots (--owner-slots) do not fit at {cpus} CPUs, since kernels before 5.11 make no map of 4 GiB: there are \
                 {}, and what owners beyond that do is charged to nobody",
                grouped(wanted.into()),
                grouped(most.into())
            )
        })
    }
}

/// The slots whose counters fit into one map. Before 5.11 its size is charged as locked memory, in pages that are counted in 32 bits
/// (`bpf_map_charge_init`, with a page for the map itself); of an unknown kernel that is taken for granted.
fn most_slots(version: Option<(u32, u32)>, cpus: usize) -> u32 {
    if version >= Some((5, 11)) {
        return MAX_SLOTS;
    }
    let page = procfs::page_size();
    let of_one = (cpus.max(1) * size_of::<OwnerState>()) as u64;
    // One page for the map, one that is rounded up, one that may not be reached.
    let slots = u64::from(u32::MAX).saturating_sub(3 * page) / of_one;
    u32::try_from(slots)
        .unwrap_or(MAX_SLOTS)
        .clamp(FIRST, MAX_SLOTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_5_11_a_map_of_4_gib_is_not_asked_for() {
        for (version, cpus, slots) in [
            (Some((6, 12)), 4_096, MAX_SLOTS),
            (Some((5, 11)), 512, MAX_SLOTS),
            (Some((5, 10)), 409, MAX_SLOTS),
            (Some((5, 10)), 512, 52_428),
            (None, 512, 52_428),
        ] {
            assert_eq!(most_slots(version, cpus), slots, "{version:?}, {cpus}");
        }
        // As the kernel reckons it.
        for cpus in [1, 409, 410, 512, 4_096, 8_192] {
            let slots = u64::from(most_slots(Some((5, 10)), cpus));
            let bytes = 4096 + (slots * cpus as u64 * 160).next_multiple_of(4096);
            assert!(bytes < u64::from(u32::MAX) - 4096, "{cpus}: {bytes}");
        }
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = Root::at(folder.path());
        let write = |path: std::path::PathBuf, text: &str| {
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, text).expect("a file");
        };
        write(root.sys("devices/system/cpu/possible"), "0-511\n");
        write(root.proc("sys/kernel/osrelease"), "5.10.0-46-amd64\n");
        let mut options = Options {
            owner_slots: MAX_SLOTS,
            ..Options::default()
        };
        let said = options.fit(&root).expect("said");
        assert!(said.contains("65,536") && said.contains("52,428"), "{said}");
        assert_eq!(options.owner_slots, 52_428);
        assert_eq!(options.fit(&root), None);
    }
}
