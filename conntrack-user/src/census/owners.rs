//! Whose an entry is: the place where owners are plugged in.

use std::collections::BTreeMap;

use conntrack_ebpf::owner::Party;

use crate::kernel::entries::Entry;
use crate::sys::netns::Inode;

/// Who knows the owners of entries: the running agent, or a look around of one's own.
pub trait Owners {
    /// Who the entry is charged to, in which direction; `None`: nobody who is known.
    fn party(&self, netns: Inode, entry: &Entry) -> Option<Party>;

    /// The name of a slot, such as `default/web-0`.
    fn name(&self, slot: u32) -> String;

    /// The slot that stands for all owners of the same workload; one without a workload stands for itself.
    fn workload(&self, slot: u32) -> u32 {
        slot
    }

    /// The name of the workload that a slot stands for, such as `Deployment default/web`.
    fn workload_name(&self, slot: u32) -> String {
        self.name(slot)
    }
}

/// Names of what keys hold as numbers.
#[derive(Clone, Copy, Default)]
pub struct Labels<'a> {
    /// Names of owners; without them slots are shown as numbers.
    pub owners: Option<&'a (dyn Owners + Sync)>,
    /// Names of network namespaces; others go by their inode number.
    pub namespaces: Option<&'a BTreeMap<Inode, String>>,
}

impl Labels<'_> {
    /// The name of an owner.
    pub fn owner(&self, slot: u32) -> String {
        self.owners
            .map_or_else(|| format!("slot {slot}"), |owners| owners.name(slot))
    }

    /// The name of a workload.
    pub fn workload(&self, slot: u32) -> String {
        self.owners.map_or_else(
            || format!("slot {slot}"),
            |owners| owners.workload_name(slot),
        )
    }

    /// The name of a network namespace.
    pub fn netns(&self, inode: Inode) -> String {
        self.namespaces
            .and_then(|names| names.get(&inode).cloned())
            .unwrap_or_else(|| inode.to_string())
    }
}
