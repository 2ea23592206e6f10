//! Who holds an address or the table of a network namespace, and who held it before and still has entries there.
//!
//! | `untagged` | `tagged` | claim |
//! |---|---|---|
//! | nobody else | nobody | plain: all entries are the holder's |
//! | A | A | base A: what has no tag is A's, what enters is tagged as the holder's |
//! | A | A, B | the same; tags tell B and the holder |
//! | nobody else | B | base is the holder, and tags tell B |
//! | A | A, and the holder is [`UNKNOWN`] | A is gone: who uses its address next is not known yet |
//! | [`UNKNOWN`] | nobody | it was found after something had used it: what has no tag is nobody's |
//!
//! Said of an address in the names below; a table is held in the same way.

use std::collections::BTreeSet;

use conntrack_ebpf::owner::{Claim, FLAG_SOCKET, FLAG_TAGGED, HOST, UNKNOWN};

/// The owner of an address, as far as counts are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holding {
    holder: u32,
    /// Another whose entries have no tag.
    untagged: Option<u32>,
    /// Others whose entries have tags.
    tagged: BTreeSet<u32>,
}

/// What becomes of an address that nobody has any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Released {
    /// An earlier holder has entries with it, and holds it again.
    Returned,
    Free,
}

impl Holding {
    /// All entries with the address are, and will be, `holder`'s.
    pub(super) const fn new(holder: u32) -> Self {
        Self {
            holder,
            untagged: None,
            tagged: BTreeSet::new(),
        }
    }

    /// `holder` has the address now, but what is already in the table was charged to nobody.
    pub(super) const fn late(holder: u32) -> Self {
        let mut holding = Self::new(holder);
        holding.untagged = Some(UNKNOWN);
        holding
    }

    pub(super) const fn holder(&self) -> u32 {
        self.holder
    }

    /// Notes what came to be known of its holders. If its tags have no use any more, they are to be swept.
    pub(super) fn learn(&mut self, sweep: &mut BTreeSet<u32>, change: impl FnOnce(&mut Self)) {
        let before = self.is_plain();
        change(self);
        if !before && self.is_plain() {
            sweep.insert(self.holder);
        }
    }

    /// Whether no tag has to be looked at.
    pub(super) fn is_plain(&self) -> bool {
        self.claim().flags & FLAG_TAGGED == 0
    }

    /// Whether entries may be tagged as `slot`'s because of this address.
    pub(super) fn may_tag(&self, slot: u32) -> bool {
        !self.is_plain() && (self.holder == slot || self.tagged.contains(&slot))
    }

    /// Those before the holder who may still have entries with the address.
    pub(super) fn former(&self) -> impl Iterator<Item = u32> + '_ {
        self.untagged.iter().chain(&self.tagged).copied()
    }

    /// The value for the kernel's map.
    pub(super) fn claim(&self) -> Claim {
        let base = self.untagged.unwrap_or(self.holder);
        let flags = if self.holder == HOST {
            // While another's entries are without a tag, those of sockets can't be: they are the
            // host's meanwhile.
            if base == HOST {
                FLAG_TAGGED | FLAG_SOCKET
            } else {
                FLAG_TAGGED
            }
        } else if base == self.holder && self.tagged.is_empty() {
            0
        } else {
            FLAG_TAGGED
        };
        Claim {
            slot: self.holder,
            base,
            flags,
        }
    }

    /// The address is `to`'s now.
    pub(super) fn hand_over(&mut self, to: u32) {
        if to == self.holder {
            return;
        }
        // Its entries are without a tag if it held the address alone, with one if it didn't; where
        // that changed not long ago, some of both.
        self.untagged.get_or_insert(self.holder);
        self.tagged.insert(self.holder);
        self.tagged.remove(&to);
        self.holder = to;
    }

    /// Forgets those who have no entries any more. `idle` has to be of a time when the claim as
    /// it is was already in the kernel's map: until then they could still get some.
    pub(super) fn settle(&mut self, idle: impl Fn(u32) -> bool) {
        // The tags of an address of the host are those of whoever's sockets used it.
        let over = |slot: u32| slot != HOST && idle(slot);
        let holder = self.holder;
        self.untagged.take_if(|slot| *slot == holder || over(*slot));
        self.tagged.retain(|slot| !over(*slot));
    }

    /// Every entry with the address has a tag, or is the holder's.
    pub(super) fn untagged_gone(&mut self) {
        self.untagged = None;
    }

    /// There is no entry at all with it.
    pub(super) fn emptied(&mut self) {
        *self = Self::new(self.holder);
    }

    /// No entry with the address is tagged as nobody's.
    pub(super) fn nobodys_gone(&mut self) {
        if self.holder != UNKNOWN {
            self.tagged.remove(&UNKNOWN);
        }
    }

    /// Nobody has the address now. If the holder is a slot that is given, it has to be idle.
    pub(super) fn release(&mut self) -> Released {
        let holder = self.holder;
        self.untagged.take_if(|slot| *slot == holder);
        // Entries that are charged to nobody need no claim.
        let next = match self.untagged {
            Some(UNKNOWN) | None => self.tagged.iter().copied().find(|slot| *slot != UNKNOWN),
            Some(slot) => Some(slot),
        };
        let Some(next) = next else {
            return Released::Free;
        };
        self.hand_over(next);
        if holder != UNKNOWN && holder != HOST {
            self.untagged.take_if(|slot| *slot == holder);
            self.tagged.remove(&holder);
        }
        self.untagged.take_if(|slot| *slot == next);
        Released::Returned
    }
}
