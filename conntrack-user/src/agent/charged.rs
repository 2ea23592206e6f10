//! By what entries are charged at one moment: for who reads a table beside the agent, and is to come to the same owners.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use crate::{
    census::Charging,
    owners::{FormerHolder, Owner, SlotMaps, TableOwners},
    probes::TagMapIds,
    sys::netns::Inode,
};

/// What the programs were told, whose the slots are, and where the tags of single entries are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Charged {
    pub(crate) maps: Arc<SlotMaps>,
    pub(crate) owners: BTreeMap<u32, Owner>,
    pub(crate) tables: TableOwners,
    /// Who had the addresses that nobody has any more.
    pub(crate) former: Arc<HashMap<IpAddr, FormerHolder>>,
    /// Inode number of the host's network namespace; 0: not known.
    pub(crate) host_netns: Inode,
    /// `None`: no programs are attached, so no entry has a tag.
    pub(crate) tags: Option<TagMapIds>,
}

impl Charged {
    /// The same for who goes through a table; `None`: it is not known which table is the host's.
    pub(crate) fn charging(&self) -> Option<Charging> {
        let owners = self.owners.iter().map(|(slot, owner)| (*slot, owner));
        (self.host_netns != 0).then(|| Charging {
            tables: self.tables.clone(),
            ..Charging::new(Arc::clone(&self.maps), self.host_netns, owners)
        })
    }
}
