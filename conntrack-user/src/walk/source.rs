//! Where the entries of a census came from, as JSON has it.

use serde::Serialize;

/// Where entries came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum CensusSource {
    /// The kernel's hash table, which a program walked over.
    Hash {
        /// How often it began anew, since the kernel made another hash table meanwhile.
        restarts: u32,
        /// Buckets that it went over again, since entries had moved meanwhile.
        torn_buckets: u64,
        /// Entries whose memory held none any more when it was copied.
        unreadable: u64,
        /// The longest time that a CPU was held, nanoseconds.
        cpu_held_ns: u64,
    },
    /// The kernel's list of each network namespace.
    Ctnetlink {
        /// Why not the hash table.
        reason: String,
    },
}

impl CensusSource {
    /// Entries that a walk could not read.
    pub(crate) const fn unreadable(&self) -> u64 {
        match self {
            Self::Hash { unreadable, .. } => *unreadable,
            Self::Ctnetlink { .. } => 0,
        }
    }

    /// Times that the walk began anew.
    pub(crate) const fn restarts(&self) -> u32 {
        match self {
            Self::Hash { restarts, .. } => *restarts,
            Self::Ctnetlink { .. } => 0,
        }
    }
}
