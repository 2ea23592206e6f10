//! Entries of which the same is counted: they are told once, with their number.
//!
//! Most entries of a table are like many others: one client asks one server over and over, from another port each time. What they have in
//! common is found by one look-up in place of one for each grouping. Where no two are alike it is one look-up more.

use conntrack_ebpf::owner::{Party, TagKey};
use ctpressure_model::verdict::Tunnel;
use hashbrown::{DefaultHashBuilder, HashTable};

use super::{
    charging::{Charge, Charging, TagSeen},
    groups::{hash, same},
};
use crate::{
    kernel::entries::{FoundEntry, PortSet, Shape, TableEntry},
    probes::TagReader,
    sys::netns::Inode,
};

/// Different kinds that are kept at most; then all are told, and others take their place.
const MOST_KINDS: usize = 1 << 12;

/// What entries of one kind have in common: their shape, and their network namespace and class.
type Key = [u64; 13];

/// Entries of one kind that are charged to the same owner.
pub(crate) struct Alike<'a> {
    pub(crate) netns: Inode,
    /// One of them: of the others the client's port or ICMP id, the time-out, the mark and the time of the first packet differ.
    pub(crate) entry: &'a TableEntry,
    pub(crate) charge: Charge,
    /// What the caller said of each of them.
    pub(crate) class: u16,
    /// How many.
    pub(crate) entries: u64,
}

struct Kind {
    key: Key,
    netns: Inode,
    class: u16,
    first: TableEntry,
    charges: Charges,
}

/// Who entries of a kind are charged to.
enum Charges {
    /// All to the same.
    Same(Charge, u64),
    /// To whom each one's tag says.
    ByTag(Vec<(Charge, u64)>),
}

/// Where tags of entries are.
pub(crate) trait Tags {
    /// The tag of an entry, if it has one.
    fn tag(&self, key: &TagKey) -> Option<Party>;
}

impl Tags for TagReader {
    fn tag(&self, key: &TagKey) -> Option<Party> {
        Self::tag(self, key)
    }
}

/// For [`AlikeEntries::new`]: nobody has tags.
pub(crate) const NO_TAGS: Option<&TagReader> = None;

/// Charges entries, and gathers those that are alike.
pub(crate) struct AlikeEntries<'a, T = TagReader> {
    owners: &'a Charging,
    tags: Option<&'a T>,
    /// Source ports that tell a tunnel.
    tunnel_ports: PortSet,
    kinds: Vec<Kind>,
    places: HashTable<u32>,
    /// Addresses are chosen by strangers, so the hash is a keyed one.
    hasher: DefaultHashBuilder,
}

impl<'a, T: Tags> AlikeEntries<'a, T> {
    /// None yet. Without `tags` an entry is charged as far as it tells by itself. `tunnels`: those whose outer flows are told apart.
    pub(crate) fn new<'t>(
        owners: &'a Charging,
        tags: Option<&'a T>,
        tunnels: impl Iterator<Item = &'t Tunnel>,
    ) -> Self {
        Self {
            owners,
            tags,
            tunnel_ports: tunnels.filter_map(|tunnel| tunnel.port).collect(),
            kinds: Vec::new(),
            places: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
        }
    }

    /// Counts an entry, which is of this `class`. Tells all that there are if there is no room for another kind.
    #[inline]
    pub(crate) fn add(
        &mut self,
        netns: Inode,
        found: &impl FoundEntry,
        class: u16,
        tell: impl FnMut(&Alike<'_>),
    ) {
        let key = key(found.shape(self.tunnel_ports), netns, class);
        let hash = hash(&self.hasher, &key);
        let kinds = &self.kinds;
        let is_it = |place: &u32| {
            let kind = kinds.get(*place as usize);
            kind.is_some_and(|kind| same(&kind.key, &key))
        };
        let place = self.places.find(hash, is_it).copied();
        match place.and_then(|place| self.kinds.get_mut(place as usize)) {
            Some(Kind {
                charges: Charges::Same(_, entries),
                ..
            }) => *entries += 1,
            Some(Kind {
                charges: Charges::ByTag(charges),
                ..
            }) => {
                let Some(entry) = found.entry() else { return };
                let tag_of = |key: &TagKey| self.tags?.tag(key);
                let charge = self.owners.charge(netns, &entry, tag_of);
                match charges.iter_mut().find(|(found, _)| *found == charge) {
                    Some((_, entries)) => *entries += 1,
                    None => charges.push((charge, 1)),
                }
            }
            None => {
                let Some(first) = found.entry() else { return };
                if self.kinds.len() == MOST_KINDS {
                    self.tell(tell);
                }
                let charges = self.charge(netns, &first);
                let kind = Kind {
                    key,
                    netns,
                    class,
                    first,
                    charges,
                };
                self.insert(hash, kind);
            }
        }
    }

    /// Whom the first entry of a kind is charged to.
    fn charge(&self, netns: Inode, entry: &TableEntry) -> Charges {
        let charge = self.owners.charge(netns, entry, |key| self.tags?.tag(key));
        if self.tags.is_some() && charge.tag != TagSeen::NotAsked {
            Charges::ByTag(vec![(charge, 1)])
        } else {
            Charges::Same(charge, 1)
        }
    }

    #[cold]
    fn insert(&mut self, hash: u64, kind: Kind) {
        // There are no more than `MOST_KINDS`.
        let place = u32::try_from(self.kinds.len()).unwrap_or(u32::MAX);
        self.kinds.push(kind);
        let (kinds, hasher) = (&self.kinds, &self.hasher);
        self.places.insert_unique(hash, place, |place| {
            let kind = kinds.get(*place as usize);
            kind.map_or(0, |kind| self::hash(hasher, &kind.key))
        });
    }

    /// Tells all that there are, in the order of the first of each; none is left.
    pub(crate) fn tell(&mut self, mut tell: impl FnMut(&Alike<'_>)) {
        self.places.clear();
        for kind in self.kinds.drain(..) {
            let mut each = |charge, entries| {
                tell(&Alike {
                    netns: kind.netns,
                    entry: &kind.first,
                    charge,
                    class: kind.class,
                    entries,
                });
            };
            match kind.charges {
                Charges::Same(charge, entries) => each(charge, entries),
                Charges::ByTag(charges) => {
                    for (charge, entries) in charges {
                        each(charge, entries);
                    }
                }
            }
        }
    }
}

#[inline]
fn key(shape: Shape, netns: Inode, class: u16) -> Key {
    let mut key = [u64::from(netns) | u64::from(class) << 32; 13];
    key[..shape.len()].copy_from_slice(&shape);
    key
}
