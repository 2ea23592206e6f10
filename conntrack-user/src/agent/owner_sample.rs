//! What one owner has, at one second.

use conntrack_ebpf::record::DropReason;
use serde::{Serialize, Serializer, ser::SerializeMap as _};

use crate::owners::Owner;

/// Counts of one owner in one direction, from when it was first seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OwnerTotals {
    /// Entries that entered a table.
    pub inserts: u64,
    /// Entries that left it.
    pub deletes: u64,
    /// Entries that are in it.
    pub live: u64,
    /// Live entries that were removed to make room.
    pub victims: u64,
    /// Live entries of anybody that were removed to make room for this owner's.
    pub causes: u64,
    /// Packets lost, by [`DropReason`] less 1.
    #[serde(serialize_with = "drops_by_name")]
    pub drops: [u64; DropReason::ALL.len()],
}

/// One owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OwnerSample {
    /// Its slot.
    pub slot: u32,
    /// Who it is.
    pub owner: Owner,
    /// It is there; else it is gone and may still have entries.
    pub present: bool,
    /// Connections that it opened.
    pub egress: OwnerTotals,
    /// Connections to it.
    pub ingress: OwnerTotals,
}

impl OwnerTotals {
    /// Packets lost for this reason.
    pub const fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize - 1]
    }

    /// Nothing was ever counted.
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

fn drops_by_name<S: Serializer>(
    drops: &[u64; DropReason::ALL.len()],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    for reason in DropReason::ALL {
        let number = drops[reason as usize - 1];
        if number > 0 {
            map.serialize_entry(reason.name(), &number)?;
        }
    }
    map.end()
}
