//! When each new connection pays for the programs that only tell something of a table that fills. Pure.
//!
//! Two programs at a new flow tell whose packet a full table drops and for whom it evicts (`new_flow`), and what is lost at the
//! confirmation (`confirm`). None of it can happen while every table has room and chains are short. So they are attached only when it
//! may soon: *armed*. While they are not, the program that counts inserts counts a lease down on each CPU, and wakes the agent when a
//! table may have filled since its last look.

use std::time::Duration;

use serde::Serialize;

/// Inserts that a CPU may make while the programs are being attached. Attaching takes milliseconds, on a busy machine some more; a core
/// inserts some 200 in a millisecond at most.
const ROOM_OF_CPU: u64 = 16_384;
/// Part of the limit that is left at least, as its divisor.
const ROOM_OF_LIMIT: u64 = 4;
/// Entries for each bucket, of which each is in two chains: from here on they are watched, and there one of them may be too long (the
/// kernel's least limit for a chain is 50, `MIN_CHAINLEN`; at an average of 24 one in some thousands is as long).
const WATCHED_CHAINS: u64 = 4;
const LONG_CHAINS: u64 = 12;
/// A lease that is shorter wakes the agent too often.
const LEAST_LEASE: u64 = 256;
/// How long the programs stay attached after the last reason for it.
pub(super) const PATIENCE: Duration = Duration::from_mins(1);

/// When the programs are attached that are needed only while a table fills.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ArmMode {
    /// When a table may fill, or its chains become long
    #[default]
    Auto,
    /// Always
    Always,
}

/// Why the programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub(crate) enum ArmedFor {
    /// The agent was told to.
    Asked,
    /// This kernel does not tell for which task a program runs, so that packets are asked.
    Packets,
    /// On this kernel inserts are counted where the packet is confirmed.
    Confirmation,
    /// No table was looked at yet, or none can be read.
    Unseen,
    /// The limit is so low that a burst fills a table before anything could be attached.
    SmallLimit,
    /// A table has little room.
    Room,
    /// The hash table's chains are long, or one was too long.
    Chains,
    /// Somebody watches inserts, and so wants to see their packets too.
    Watched,
    /// A lease ended: more was inserted since the last look than a table has room for.
    Burst,
}

impl ArmedFor {
    /// The word in metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Packets => "packets",
            Self::Confirmation => "confirmation",
            Self::Unseen => "unseen",
            Self::SmallLimit => "small_limit",
            Self::Room => "room",
            Self::Chains => "chains",
            Self::Watched => "watched",
            Self::Burst => "burst",
        }
    }
}

/// Whether the programs are attached that are needed only while a table fills.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ArmingStatus {
    /// They are.
    pub(crate) armed: bool,
    /// Why; of what is not armed, why it was last.
    pub(crate) reason: Option<ArmedFor>,
    /// Times that they were attached since the probes were.
    pub(crate) times: u64,
    /// From the end of the last lease until they were attached, microseconds; `None`: none ended with that.
    pub(crate) burst_to_armed_us: Option<u64>,
    /// Why the thread that attaches them has no real-time priority, so that a busy machine may keep it waiting.
    pub(crate) without_priority: Option<String>,
}

/// What one look at all tables shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Room {
    /// How many entries each table may have; 0: unlimited.
    pub(crate) limit: u64,
    /// Entries of the table that has the most.
    pub(crate) fullest: u64,
    /// Entries of all.
    pub(crate) entries: u64,
    /// Buckets of the hash table that all share.
    pub(crate) buckets: u64,
    /// Chains that were too long, as the kernel counts them.
    pub(crate) chains_too_long: u64,
    /// Inserts on all CPUs before the look.
    pub(crate) inserts: u64,
}

impl Room {
    /// How many more entries the fullest table may have until the programs have to be attached, if `cpus` insert; or why they
    /// have to be now.
    pub(super) fn left(&self, before: Option<&Self>, cpus: u64) -> Result<u64, ArmedFor> {
        let grown = before.is_some_and(|before| self.chains_too_long > before.chains_too_long);
        let room_of_cpus = ROOM_OF_CPU.saturating_mul(cpus.max(1));
        let long_from = self.buckets.saturating_mul(LONG_CHAINS);
        let short_below = long_from
            .saturating_sub(room_of_cpus)
            .min(self.buckets.saturating_mul(WATCHED_CHAINS));
        let short = short_below.saturating_sub(self.entries);
        if grown || short == 0 {
            return Err(ArmedFor::Chains);
        }
        if self.limit == 0 {
            return Ok(short);
        }
        let spared = (self.limit / ROOM_OF_LIMIT).max(room_of_cpus);
        let calm_below = self.limit.saturating_sub(spared);
        if calm_below == 0 || calm_below < self.limit / ROOM_OF_LIMIT {
            return Err(ArmedFor::SmallLimit);
        }
        match calm_below.checked_sub(self.fullest) {
            None | Some(0) => Err(ArmedFor::Room),
            Some(left) => Ok(left.min(short)),
        }
    }
}

/// What one of `cpus` may insert before the agent looks again, when so many are left; `None`: too little.
pub(super) fn lease(left: u64, cpus: u64) -> Option<u64> {
    let lease = left / cpus.max(1);
    (lease >= LEAST_LEASE).then_some(lease)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(limit: u64, fullest: u64) -> Room {
        Room {
            limit,
            fullest,
            entries: fullest,
            buckets: 262_144,
            ..Room::default()
        }
    }

    fn left(limit: u64, fullest: u64, cpus: u64) -> Result<u64, ArmedFor> {
        room(limit, fullest).left(None, cpus)
    }

    #[test]
    fn a_table_with_room_is_calm_until_it_has_less_than_a_burst_takes() {
        assert_eq!(left(262_144, 1_000, 2), Ok(195_608));
        assert_eq!(left(262_144, 196_607, 2), Ok(1));
        assert_eq!(left(262_144, 196_608, 2), Err(ArmedFor::Room));
        assert_eq!(left(262_144, 300_000, 2), Err(ArmedFor::Room));
        // Many CPUs insert more meanwhile.
        assert_eq!(left(262_144, 1_000, 8), Ok(130_072));
        assert_eq!(left(262_144, 1_000, 64), Err(ArmedFor::SmallLimit));
    }

    #[test]
    fn a_small_limit_is_never_calm_and_none_always() {
        for limit in [1, 2_000, 20_000, 40_000] {
            assert_eq!(left(limit, 0, 2), Err(ArmedFor::SmallLimit), "{limit}");
        }
        assert_eq!(left(200_000, 0, 2), Ok(150_000));
        assert_eq!(left(0, 1_000_000, 2), Ok(48_576));
        assert_eq!(left(0, 1_100_000, 2), Err(ArmedFor::Chains));
    }

    #[test]
    fn long_chains_are_not_calm_whatever_the_limit() {
        assert_eq!(left(10_000_000, 1_048_575, 2), Ok(1));
        let mut few_buckets = room(262_144, 100);
        few_buckets.buckets = 4096;
        assert_eq!(few_buckets.left(None, 2), Ok(16_284));
        few_buckets.buckets = 2048;
        assert_eq!(few_buckets.left(None, 2), Err(ArmedFor::Chains));
        assert_eq!(left(10_000_000, 1_048_576, 2), Err(ArmedFor::Chains));
        let (before, mut now) = (room(262_144, 10), room(262_144, 10));
        assert!(now.left(Some(&before), 1).is_ok());
        now.chains_too_long = 1;
        assert_eq!(now.left(Some(&before), 1), Err(ArmedFor::Chains));
        assert!(now.left(Some(&now), 1).is_ok(), "it was before that");
    }

    #[test]
    fn leases_of_all_cpus_are_no_more_than_what_is_left() {
        assert_eq!(lease(100_000, 4), Some(25_000));
        assert_eq!(lease(1_024, 4), Some(256));
        assert_eq!(lease(1_023, 4), None);
        assert_eq!(lease(u64::MAX, 1), Some(u64::MAX));
    }
}
