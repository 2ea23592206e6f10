//! The statistics that the kernel itself keeps for each table (`struct ip_conntrack_stat`).
//!
//! They are read from `/proc/net/stat/nf_conntrack` by the names in its first line (columns were
//! renamed and their meaning changed between 5.4, 5.10 and 5.15), or, where a kernel has no such
//! file (Ubuntu's generic ones), asked for by ctnetlink. What they mean is not what their names
//! say:
//!
//! * `insert` counts only entries made by ctnetlink or BPF, `found` only NAT tuples that were
//!   taken;
//! * `new`, `delete`, `ignore` and `searched` are always 0 on newer kernels: not read at all;
//! * `drop` has packets lost to a full table and to unresolved clashes; chains that are too long
//!   and dying
//!   entries are in `insert_failed` only;
//! * live entries that the garbage collector evicts are in none of them.

use std::path::PathBuf;
use std::{fs, io};

use super::Root;

mod accumulator;
mod netlink;
mod procfs;

pub(crate) use accumulator::Accumulator;
pub(crate) use netlink::ask;
pub(crate) use procfs::{parse, parse_entries};

/// A number that the kernel counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Stat {
    Found = 0,
    Invalid = 1,
    Insert = 2,
    InsertFailed = 3,
    ClashResolve = 4,
    Drop = 5,
    EarlyDrop = 6,
    IcmpError = 7,
    SearchRestart = 8,
    ChainTooLong = 9,
    ExpectNew = 10,
    ExpectCreate = 11,
    ExpectDelete = 12,
}

/// How many [`Stat`]s there are.
pub(crate) const STATS: usize = 13;

/// Each number's name, its column in `/proc/net/stat/nf_conntrack`, and its attribute of ctnetlink (`enum
/// ctattr_stats_cpu`), by [`Stat`]. Columns that are not here are dead (`new`, `delete`, `ignore`, `searched`,
/// `delete_list`).
const SOURCES: [(&str, &str, Option<u16>); STATS] = [
    ("found", "found", Some(2)),
    ("invalid", "invalid", Some(4)),
    ("insert", "insert", Some(8)),
    ("insert_failed", "insert_failed", Some(9)),
    ("clash_resolve", "clashres", Some(14)),
    ("drop", "drop", Some(10)),
    ("early_drop", "early_drop", Some(11)),
    ("icmp_error", "icmp_error", Some(12)),
    ("search_restart", "search_restart", Some(13)),
    ("chain_too_long", "chainlength", Some(15)),
    ("expect_new", "expect_new", None),
    ("expect_create", "expect_create", None),
    ("expect_delete", "expect_delete", None),
];

/// The values of one CPU, by [`Stat`]; `None` where this kernel or this way of reading has none.
pub(crate) type CpuStats = [Option<u32>; STATS];

/// One reading of a table's statistics: 32-bit numbers of each CPU, which wrap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatsReading {
    /// Entries in the table, where the source says it.
    pub entries: Option<u64>,
    /// One row for each possible CPU, in order.
    pub rows: Vec<CpuStats>,
}

/// The statistics of one table, summed over the CPUs. `None`: this kernel, or the way to read it,
/// has no such number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct KernelStats {
    /// Tuples that NAT tried and found taken: rises with port shortage.
    pub found: u64,
    /// Packets that could not be tracked; they pass, without an entry.
    pub invalid: u64,
    /// Entries made by ctnetlink or BPF; not those made by packets.
    pub insert: u64,
    /// Entries that could not be inserted: clash, chain too long, dying.
    pub insert_failed: u64,
    /// Clashes that were resolved without loss (5.10 and later).
    pub clash_resolve: Option<u64>,
    /// Packets lost: table full, allocation failure, unresolved clash.
    pub drop: u64,
    /// Live entries evicted to make room for a new one.
    pub early_drop: u64,
    /// ICMP errors that belong to no entry, or are broken.
    pub icmp_error: u64,
    /// Look-ups that began anew because the table was being resized or changed.
    pub search_restart: u64,
    /// Entries not inserted because their hash chain was too long (5.15 and later).
    pub chain_too_long: Option<u64>,
    /// Expectations made in all (not by ctnetlink).
    pub expect_new: Option<u64>,
    /// Expectations made (not by ctnetlink).
    pub expect_create: Option<u64>,
    /// Expectations that ended (not by ctnetlink).
    pub expect_delete: Option<u64>,
}

impl KernelStats {
    fn from_totals(totals: &[Option<u64>; STATS]) -> Self {
        let optional = |stat: Stat| totals[stat as usize];
        let always = |stat: Stat| optional(stat).unwrap_or_default();
        Self {
            found: always(Stat::Found),
            invalid: always(Stat::Invalid),
            insert: always(Stat::Insert),
            insert_failed: always(Stat::InsertFailed),
            clash_resolve: optional(Stat::ClashResolve),
            drop: always(Stat::Drop),
            early_drop: always(Stat::EarlyDrop),
            icmp_error: always(Stat::IcmpError),
            search_restart: always(Stat::SearchRestart),
            chain_too_long: optional(Stat::ChainTooLong),
            expect_new: optional(Stat::ExpectNew),
            expect_create: optional(Stat::ExpectCreate),
            expect_delete: optional(Stat::ExpectDelete),
        }
    }

    /// Each with its name, in the order of [`Stat`].
    pub fn named(&self) -> [(&'static str, Option<u64>); STATS] {
        let values = [
            Some(self.found),
            Some(self.invalid),
            Some(self.insert),
            Some(self.insert_failed),
            self.clash_resolve,
            Some(self.drop),
            Some(self.early_drop),
            Some(self.icmp_error),
            Some(self.search_restart),
            self.chain_too_long,
            self.expect_new,
            self.expect_create,
            self.expect_delete,
        ];
        std::array::from_fn(|stat| (SOURCES[stat].0, values[stat]))
    }

    /// Whether nothing was counted.
    pub fn is_zero(&self) -> bool {
        self.named()
            .iter()
            .all(|(_, value)| value.unwrap_or(0) == 0)
    }

    /// Expectations that there are now: connections that a helper has announced. `None`: this way of reading does not say.
    pub fn expectations(&self) -> Option<u64> {
        let (made, ended) = self.expect_create.zip(self.expect_delete)?;
        // The kernel's numbers have 32 bits, and so has what is left of them.
        let there = made.wrapping_sub(ended) & u64::from(u32::MAX);
        // One that ended on another CPU after its number was read.
        (there < 1 << 31).then_some(there).or(Some(0))
    }

    /// What was counted since `before`. Numbers that went back (another instance of the module) count as none.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let mut totals = [None; STATS];
        let values = self.named().into_iter().zip(before.named());
        for (total, ((_, now), (_, before))) in totals.iter_mut().zip(values) {
            *total = now.map(|now| now.saturating_sub(before.unwrap_or_default()));
        }
        Self::from_totals(&totals)
    }
}

impl From<&StatsReading> for KernelStats {
    /// The sums of one reading as they stand in the kernel. For numbers that never go back use an
    /// [`Accumulator`].
    fn from(reading: &StatsReading) -> Self {
        Accumulator::default().add(reading)
    }
}

/// Why there are no statistics.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StatsError {
    /// The file could not be read.
    #[error("{path}: {source}")]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The text is not that of `/proc/net/stat/nf_conntrack`.
    #[error("the kernel's conntrack statistics can't be read: {0}")]
    Text(String),
    /// There is no such file, and the kernel can't be asked.
    #[error(
        "this kernel has no {path} (CONFIG_NF_CONNTRACK_PROCFS is off), and asking by netlink failed: {source}\n\
         help: `modprobe nf_conntrack_netlink`, and run with CAP_NET_ADMIN"
    )]
    Netlink {
        /// The file that is not there.
        path: PathBuf,
        #[source]
        source: crate::sys::netlink::NetlinkError,
    },
}

/// The statistics of the table of the calling thread's network namespace.
///
/// Ask only while conntrack is loaded: the question by netlink would make the kernel load it.
///
/// # Errors
/// When neither the file nor ctnetlink gives them.
pub(crate) fn read(root: &Root) -> Result<StatsReading, StatsError> {
    let path = own_file(root);
    match fs::read_to_string(&path) {
        Ok(text) => parse(&text),
        Err(error) if error.kind() == io::ErrorKind::NotFound && root.is_live() => {
            ask().map_err(|source| StatsError::Netlink { path, source })
        }
        Err(source) => Err(StatsError::File { path, source }),
    }
}

/// The file with the statistics of the calling thread's namespace. `/proc/net` would be that of the
/// process's first thread.
pub(super) fn own_file(root: &Root) -> PathBuf {
    root.proc(if root.is_live() {
        "thread-self/net/stat/nf_conntrack"
    } else {
        "net/stat/nf_conntrack"
    })
}
