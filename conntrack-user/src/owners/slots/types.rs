//! How much there may be, and how much there is.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use conntrack_ebpf::owner::DEFAULT_SLOTS;
use serde::Serialize;

use crate::owners::Owner;

/// How much there may be of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotLimits {
    /// Slots, with those of the host and of nobody.
    pub slots: u32,
    /// Entries of the address map.
    pub addresses: usize,
    /// Entries of the map of control groups.
    pub cgroups: usize,
    /// Entries of the map of network namespaces.
    pub netns: usize,
    /// How long a slot is kept for an owner that is gone.
    pub grace: Duration,
}

impl Default for SlotLimits {
    fn default() -> Self {
        Self {
            slots: DEFAULT_SLOTS,
            addresses: 1 << 14,
            cgroups: 1 << 14,
            netns: 1 << 12,
            grace: Duration::from_mins(1),
        }
    }
}

/// Where entries are that may be an owner's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the host's table, with this address.
    Address(IpAddr),
    /// In the table of the network namespace with this inode number.
    Table(u32),
}

/// Whether the owner of a slot is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OccupantState {
    /// It was there at the last look.
    Present,
    /// It was not found since then, but may have entries.
    Gone(Instant),
}

/// The owner of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occupant {
    /// Who has the slot.
    pub owner: Owner,
    /// Whether it is there.
    pub state: OccupantState,
    pub(super) cgroups: Vec<u64>,
    pub(super) netns: Option<u32>,
    /// When that network namespace was last found to be its.
    pub(super) turn: u64,
}

/// How many there are, for the agent's own metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Occupancy {
    /// Slots of owners that are there.
    pub present: usize,
    /// Slots of owners that are gone.
    pub gone: usize,
    /// Owners for which there was no slot; what is theirs is charged to nobody.
    pub without: usize,
}
