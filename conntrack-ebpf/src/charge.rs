//! Who is charged: the rules, for the programs in the kernel and for a census of user space alike.
//!
//! An entry is charged to one owner, in one direction ([`Party`]). The first of these that knows
//! somebody decides:
//!
//! 1. **The table** ([`Table`]). A network namespace that has an owner, and is not the host's, is that owner's
//!    with all its entries: ingress if the server's address is the owner's and the source's is not,
//!    else egress. In one without an owner all is nobody's: addresses mean something else there, since
//!    claims on addresses are those of the host's namespace.
//! 2. **The source** of the original direction: whoever has that address opened the connection
//!    (egress). At an address of the host ([`FLAG_SOCKET`]) it is the owner of the sending socket's
//!    cgroup, else the host.
//! 3. **The server**, the source of the replies, so after DNAT: whoever has that address (ingress).
//! 4. Else nobody that is known ([`Party::NOBODY`]).
//!
//! A packet that got no entry ([`Flow::refused`]) is charged by the same rules. No NAT rule has seen it, so its
//! destination stands for the server, unless that is the address of a Service: then the server is the one
//! owner behind the Service, or nobody if there are several.
//!
//! An entry that leaves is charged to whom it was charged to when it entered, though its address may
//! have changed hands. While such entries may be left, the address has [`FLAG_TAGGED`] (an address of
//! the host always has it): what enters is tagged with its party ([`Entering::is_tagged`]), and what leaves
//! ([`Flow::leaving`]) is charged by its tag. Without one it is the claim's `base`, who had the address before;
//! if nobody had ([`UNKNOWN`]), it was charged by the rules that follow, and is now. A table that changes hands,
//! or had entries when its owner was found, is claimed in the same way.
//!
//! So whoever can't tag an entry that should be (the map is full) charges it to whom it is charged to when it leaves without
//! one: [`Flow::untagged`].
//!
//! How a field is read is the caller's business; what costs the kernel a hundred instructions and does not
//! always decide is a function, called at most once, and only when it decides.

use crate::owner::{Claim, Direction, FLAG_SOCKET, FLAG_TAGGED, HOST, Party, UNKNOWN};

/// A connection: an entry, or what a packet would have opened.
#[derive(Clone, Copy, Debug)]
pub struct Flow<'a, S> {
    /// The claim on the source of its original direction.
    pub source: Option<&'a Claim>,
    /// The table that it is in.
    pub table: Table<'a>,
    /// Gives the claim on the source of its replies; of a packet without an entry, on its destination.
    pub server: S,
}

/// Who an entry that enters its table is charged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entering {
    /// As far as the entry tells by itself.
    pub party: Party,
    /// `FLAG_*` of the claim.
    flags: u32,
}

impl Entering {
    /// Charged to nobody: the owner is not known.
    pub const NOBODY: Self = Self::untagged(Party::NOBODY);

    #[inline(always)]
    const fn untagged(party: Party) -> Self {
        Self { party, flags: 0 }
    }

    /// Its socket knows better: see [`by_socket`].
    #[inline(always)]
    pub const fn asks_socket(self) -> bool {
        self.flags & FLAG_SOCKET != 0
    }

    /// It gets `party` as its tag.
    #[inline(always)]
    pub const fn is_tagged(self) -> bool {
        self.flags & FLAG_TAGGED != 0
    }
}

/// For the sake of what an entry has a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagFor {
    /// The address that is the source of the original direction.
    Source,
    /// The address that is the source of the replies.
    Server,
    /// The network namespace whose table it is in.
    Table,
}

/// The table of a network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table<'a> {
    /// The host's, in which claims on addresses hold.
    Host,
    /// That of an owner, by this claim.
    Owned(&'a Claim),
    /// Nobody's that is known.
    Foreign,
}

impl<'a> Table<'a> {
    /// The table of the network namespace `netns`, on which `claim_of` gives the claim.
    #[inline(always)]
    pub fn of(
        netns: u32,
        host_netns: u32,
        claim_of: impl FnOnce(u32) -> Option<&'a Claim>,
    ) -> Self {
        if netns == host_netns {
            return Self::Host;
        }
        claim_of(netns).map_or(Self::Foreign, Self::Owned)
    }
}

#[inline(always)]
const fn egress(slot: u32) -> Party {
    Party::new(slot, Direction::Egress)
}

#[inline(always)]
const fn ingress(slot: u32) -> Party {
    Party::new(slot, Direction::Ingress)
}

/// Whether a flow [is going to ask for its socket](Entering::asks_socket): told by the claim on its source
/// and its table.
#[inline(always)]
pub fn asks_socket<'a>(source: Option<&Claim>, table: impl FnOnce() -> Table<'a>) -> bool {
    source.is_some_and(|claim| claim.flags & FLAG_SOCKET != 0) && table() == Table::Host
}

/// Who an entry that [asks for its socket](Entering::asks_socket) is charged to: the owner of the
/// socket's cgroup, if there is one, else the host.
#[inline(always)]
pub fn by_socket(slot_of_cgroup: Option<u32>) -> Entering {
    let slot = slot_of_cgroup.unwrap_or(HOST);
    Entering {
        party: egress(slot),
        // The host is the claim's `base`.
        flags: if slot == HOST { 0 } else { FLAG_TAGGED },
    }
}

impl<'a, S: Fn() -> Option<&'a Claim>> Flow<'a, S> {
    /// Whose it is in the own table of `slot`.
    #[inline(always)]
    fn in_table_of(&self, slot: u32) -> Party {
        // An owner that is gone keeps its addresses here: what it left has to leave as it came.
        let is_own = |claim: Option<&Claim>| {
            claim.is_some_and(|claim| claim.slot == slot || claim.base == slot)
        };
        if !is_own(self.source) && is_own((self.server)()) {
            ingress(slot)
        } else {
            egress(slot)
        }
    }

    /// Who an entry that enters its table is charged to.
    #[inline(always)]
    pub fn entering(&self) -> Entering {
        match self.table {
            Table::Host => {}
            Table::Owned(claim) => {
                return Entering {
                    party: self.in_table_of(claim.slot),
                    flags: claim.flags & FLAG_TAGGED,
                };
            }
            Table::Foreign => return Entering::NOBODY,
        }
        if let Some(claim) = self.source {
            return Entering {
                party: egress(claim.slot),
                flags: claim.flags,
            };
        }
        match (self.server)() {
            // Whoever sent it is elsewhere: there is no socket to ask.
            Some(claim) if claim.flags & FLAG_SOCKET != 0 => {
                Entering::untagged(ingress(claim.slot))
            }
            Some(claim) => Entering {
                party: ingress(claim.slot),
                flags: claim.flags,
            },
            None => Entering::NOBODY,
        }
    }

    /// Who an entry is charged to that should have been [tagged](Entering::is_tagged) and could not be.
    #[inline(always)]
    pub fn untagged(&self) -> Party {
        self.leaving(|_| None)
    }

    /// Who an entry that leaves its table was charged to when it entered. `take_tag` gives its tag, for the
    /// sake of an address that has [`FLAG_TAGGED`], or of the table.
    #[inline(always)]
    pub fn leaving(&self, take_tag: impl Fn(TagFor) -> Option<Party>) -> Party {
        match self.table {
            Table::Host => {}
            Table::Owned(claim) => {
                if claim.flags & FLAG_TAGGED == 0 {
                    return self.in_table_of(claim.slot);
                }
                return match take_tag(TagFor::Table) {
                    Some(party) => party,
                    None if claim.base == UNKNOWN => Party::NOBODY,
                    None => self.in_table_of(claim.base),
                };
            }
            Table::Foreign => return Party::NOBODY,
        }
        let mut is_untagged = false;
        if let Some(claim) = self.source {
            if claim.flags & FLAG_TAGGED == 0 {
                return egress(claim.slot);
            }
            if let Some(party) = take_tag(TagFor::Source) {
                return party;
            }
            if claim.base != UNKNOWN {
                return egress(claim.base);
            }
            is_untagged = true;
        }
        let Some(claim) = (self.server)() else {
            return Party::NOBODY;
        };
        if claim.flags & FLAG_TAGGED == 0 || claim.flags & FLAG_SOCKET != 0 {
            return ingress(claim.slot);
        }
        if !is_untagged && let Some(party) = take_tag(TagFor::Server) {
            return party;
        }
        if claim.base == UNKNOWN {
            return Party::NOBODY;
        }
        ingress(claim.base)
    }

    /// Who a packet is charged to that got no entry. `service` gives the slot of the one owner behind the
    /// Service that it asks for ([`UNKNOWN`]: several; `None`: it asks for none), `slot_of_cgroup` that
    /// of its socket's cgroup.
    #[inline(always)]
    pub fn refused(
        &self,
        service: impl FnOnce() -> Option<u32>,
        slot_of_cgroup: impl FnOnce() -> Option<u32>,
    ) -> Party {
        match self.table {
            Table::Host => {}
            Table::Owned(claim) => return self.in_table_of(claim.slot),
            Table::Foreign => return Party::NOBODY,
        }
        if let Some(claim) = self.source {
            if claim.flags & FLAG_SOCKET != 0 {
                return by_socket(slot_of_cgroup()).party;
            }
            return egress(claim.slot);
        }
        match service() {
            Some(UNKNOWN) => Party::NOBODY,
            Some(slot) => ingress(slot),
            None => (self.server)().map_or(Party::NOBODY, |claim| ingress(claim.slot)),
        }
    }
}

#[cfg(test)]
mod tests;
