//! What to change in the kernel's maps.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;

use conntrack_ebpf::owner::{Address, Claim};

use crate::owners::Owner;

/// What the kernel's maps should say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotMaps {
    /// From an address to who is charged.
    pub addresses: HashMap<Address, Claim>,
    /// From the ID of a control group to a slot.
    pub cgroups: HashMap<u64, u32>,
    /// From the inode number of a network namespace, other than the host's, to a slot.
    pub netns: HashMap<u32, u32>,
}

/// What to change in one map. Keys of the two lists differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapChanges<K, V> {
    /// First: keys to remove.
    pub remove: Vec<K>,
    /// Then: keys to add, or to give another value.
    pub set: Vec<(K, V)>,
}

impl<K, V> Default for MapChanges<K, V> {
    fn default() -> Self {
        Self {
            remove: Vec::new(),
            set: Vec::new(),
        }
    }
}

/// What to change, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The map of control groups.
    pub cgroups: MapChanges<u64, u32>,
    /// The map of network namespaces.
    pub netns: MapChanges<u32, u32>,
    /// The map of addresses.
    pub addresses: MapChanges<Address, Claim>,
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
    pub problems: Vec<String>,
}

impl SlotMaps {
    /// The claim of an address.
    pub fn claim(&self, address: IpAddr) -> Option<Claim> {
        self.addresses.get(&Address::of(address)).copied()
    }
}

impl Changes {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Turns `maps` into `wished`, and notes what that takes.
    pub(super) fn take_over(&mut self, maps: &mut SlotMaps, wished: SlotMaps) {
        self.cgroups = difference(&maps.cgroups, &wished.cgroups);
        self.netns = difference(&maps.netns, &wished.netns);
        self.addresses = difference(&maps.addresses, &wished.addresses);
        *maps = wished;
    }
}

fn difference<K: Copy + Eq + Hash, V: Copy + Eq>(
    before: &HashMap<K, V>,
    after: &HashMap<K, V>,
) -> MapChanges<K, V> {
    let missing = |key: &&K| !after.contains_key(*key);
    let differs = |(key, value): &(&K, &V)| before.get(*key) != Some(*value);
    MapChanges {
        remove: before.keys().filter(missing).copied().collect(),
        set: after
            .iter()
            .filter(differs)
            .map(|(key, value)| (*key, *value))
            .collect(),
    }
}
