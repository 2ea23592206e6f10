//! What to change in the kernel's maps.

use std::collections::HashMap;

use conntrack_ebpf::owner::{Address, Claim};

use crate::{kernel::Problem, owners::Owner};

/// What the kernel's maps should say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotMaps {
    /// From an address to who is charged. A census looks two up for each entry, so its hash is a quick one.
    pub addresses: hashbrown::HashMap<Address, Claim>,
    /// From the ID of a control group to a slot.
    pub cgroups: HashMap<u64, u32>,
    /// From the inode number of a network namespace, other than the host's, to who is charged for its table.
    pub netns: HashMap<u32, Claim>,
}

/// What to change, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// [`Slots::maps`](super::Slots::maps) is not what it was before.
    pub maps: bool,
    /// Tags of these slots have no use any more, except those of entries whose original source has
    /// a claim with [`FLAG_TAGGED`](conntrack_ebpf::owner::FLAG_TAGGED): sockets of the host have
    /// left tags too.
    pub sweep_tags: Vec<u32>,
    /// These have no owner any more: their counts are final, and no tag of theirs has any use. None
    /// of them is given to another owner before the next turn.
    pub freed: Vec<u32>,
    /// These have a new owner, from whom everything is counted that is counted from now on.
    pub given: Vec<(u32, Owner)>,
    /// What is wrong, and what it means; each is said once.
    pub problems: Vec<Problem>,
}

impl Changes {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
