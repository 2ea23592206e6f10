//! Names of the read-only globals that user space sets before the programs are loaded.
//!
//! Rust has no CO-RE: offsets are looked up in the running kernel's BTF and handed over. Globals
//! are frozen, so the verifier treats them as constants and drops the branches they switch off.

/// An offset that this kernel does not have; what needs it is switched off. (The largest number that an instruction has room for.)
pub const MISSING: u32 = i32::MAX as u32;

/// One member of a kernel structure that the programs read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Name of the global that carries its offset in bytes.
    pub global: &'static str,
    /// Structure, as BTF has it.
    pub structure: &'static str,
    /// Path of members, outermost first.
    pub members: &'static [&'static str],
    /// Size in bytes that the programs read; BTF has to agree. 0: an embedded structure.
    pub size: u32,
    /// What is not known without it.
    pub purpose: &'static str,
}

macro_rules! fields {
    ($($global:literal $structure:literal $members:expr, $size:literal, $purpose:literal;)*) => {
        /// Every offset that the programs use.
        pub const FIELDS: &[Field] = &[$(Field {
            global: $global,
            structure: $structure,
            members: &$members,
            size: $size,
            purpose: $purpose,
        }),*];
    };
}

fields! {
    "CT_STATUS" "nf_conn" ["status"], 8, "evictions, clash and dying drops";
    "CT_TIMEOUT" "nf_conn" ["timeout"], 4, "telling evictions from expired entries";
    "CT_NET" "nf_conn" ["ct_net", "net"], 8, "netns of a record";
    "CT_ZONE" "nf_conn" ["zone", "id"], 2, "zone of a record";
    "CT_TUPLEHASH" "nf_conn" ["tuplehash"], 0, "tuples of a record";
    "NET_INUM" "net" ["ns", "inum"], 4, "netns of a record";
    "SKB_NFCT" "sk_buff" ["_nfct"], 8, "clash and dying drops, origin of inserts";
    "SKB_SK" "sk_buff" ["sk"], 8, "socket cgroup";
    "SKB_IIF" "sk_buff" ["skb_iif"], 4, "ingress interface";
    "SK_STATE" "sock" ["__sk_common", "skc_state"], 1, "socket cgroup";
    "SK_LISTENER" "sock" ["__sk_common", "skc_listener"], 8, "socket cgroup of an answered SYN";
    "SK_CGROUP" "sock" ["sk_cgrp_data", "cgroup"], 8, "socket cgroup";
    "CGROUP_KN" "cgroup" ["kn"], 8, "socket cgroup";
    "KERNFS_ID" "kernfs_node" ["id"], 8, "socket cgroup";
}

/// Beyond the budget, one insert in this many has a record; 0: none (`u32`).
pub const INSERT_ONE_IN: &str = "INSERT_ONE_IN";
/// Records of drops for each window and CPU (`u32`).
pub const DROP_BUDGET: &str = "DROP_BUDGET";
/// Records of evictions for each window and CPU (`u32`).
pub const EVICTION_BUDGET: &str = "EVICTION_BUDGET";
/// 1: an insert's record is completed when `__nf_conntrack_confirm` returns (`u32`).
pub const RECORD_AT_CONFIRM: &str = "RECORD_AT_CONFIRM";
/// 1: inserts are counted when `__nf_conntrack_confirm` returns (`u32`).
pub const COUNTS_AT_CONFIRM: &str = "COUNTS_AT_CONFIRM";
/// Bytes waiting in the ring from which on the reader is woken for inserts too (`u32`).
pub const WAKE_AT_BYTES: &str = "WAKE_AT_BYTES";
/// Jiffies after which an open `early_drop` is taken for a missed end (`u32`).
pub const STALE_TICKS: &str = "STALE_TICKS";
/// Inode number of the host's network namespace (`u32`).
pub const HOST_NETNS: &str = "HOST_NETNS";
/// Counters of owners for each CPU: two for each slot (`u32`).
pub const OWNER_COUNTS: &str = "OWNER_COUNTS";
/// 1: the kernel is all preemptible (`PREEMPT_RT`), also where softirqs are off (`u32`).
pub const IS_REAL_TIME: &str = "IS_REAL_TIME";
/// 1: an entry's status and namespace follow its tuples at once, so that one read gets all (`u32`).
pub const CT_IN_ONE_PIECE: &str = "CT_IN_ONE_PIECE";
/// Offset of the preempt count in this CPU's variable that user space puts in for [`PREEMPT_VARIABLE`]; [`MISSING`]: there is none (`u32`).
pub const PREEMPT_OF_CPU: &str = "PREEMPT_OF_CPU";
/// Offset of `flags` in `struct task_struct`; [`MISSING`]: it can't be told for which task a program runs (`u32`).
pub const TASK_FLAGS: &str = "TASK_FLAGS";
/// Offset of the preempt count in `struct task_struct`; [`MISSING`]: it is not there (`u32`).
pub const PREEMPT_OF_TASK: &str = "PREEMPT_OF_TASK";

/// Number of a group of tags is a digest shifted right by so much, see [`crate::tag_groups`] (`u32`).
pub const TAG_GROUPS_SHIFT: &str = "TAG_GROUPS_SHIFT";
/// 1: tags are put into places; 0: into the hash maps only, since the kernel has no compare-and-exchange for programs (`u32`).
pub const HAS_TAG_PLACES: &str = "HAS_TAG_PLACES";

/// Stands in the code for the address of a variable of each CPU: aya has no relocation for one. User space puts in the variable's BTF id
/// (`BPF_PSEUDO_BTF_ID`).
pub const PREEMPT_VARIABLE: u64 = 0xc7c7_1234_5678_9abc;

/// Stands in the code for the address of the element of [`ADDRESSES_MAP`], which the program can have without a look-up since it is the
/// only one (`BPF_PSEUDO_MAP_VALUE`). User space puts in the map's descriptor.
pub const ADDRESSES_VALUE: u64 = 0x5a5a_4321_8765_cba9;

/// Likewise for the element of [`TAG_GROUPS_MAP`].
pub const TAG_GROUPS_VALUE: u64 = 0x3c3c_8765_4321_d5e7;

/// Map `0 -> u32`: records of inserts for each window and CPU before sampling begins. Written while the programs run.
pub const INSERT_BUDGET_MAP: &str = "INSERT_BUDGET";
/// The ring buffer's map name.
pub const EVENTS_MAP: &str = "EVENTS";
/// Map `CPU -> PerCpuState`.
pub const STATE_MAP: &str = "STATE";
/// One element, two tables `Address -> Claim`; see [`crate::place`].
pub const ADDRESSES_MAP: &str = "ADDRESSES";
/// Two tables `cgroup id -> slot`.
pub const CGROUPS_MAP: &str = "CGROUPS";
/// Ring buffer of nothing but wake-ups: user space is to look whether a table fills.
pub const WAKES_MAP: &str = "WAKES";
/// Map `inode number of a network namespace -> slot`.
pub const NAMESPACES_MAP: &str = "NAMESPACES";
/// Array of maps `TagKey -> Tag`, see [`TAG_MAPS`](crate::owner::TAG_MAPS).
pub const TAGS_MAP: &str = "TAGS";
/// One element: as many groups of tags as there is room for, see [`crate::tag_groups`].
pub const TAG_GROUPS_MAP: &str = "TAG_GROUPS";
/// Map `CPU * counters of a CPU + Party::index -> OwnerCounts`.
pub const OWNERS_MAP: &str = "OWNERS";
/// Name of the map of Service addresses.
pub const SERVICES_MAP: &str = "SERVICES";
