//! Who is charged: the rules, for the programs in the kernel and for a census of user space alike.
//!
//! An entry is charged to one owner, in one direction ([`Party`]). The first of these that knows
//! somebody decides:
//!
//! 1. **The table.** A network namespace that has an owner, and is not the host's, is that owner's
//!    with all its entries: ingress if the server's address is the owner's and the source's is not,
//!    else egress.
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
//! if nobody had ([`UNKNOWN`]), it was charged by the rules that follow, and is now.
//!
//! How a field is read is the caller's business; what costs the kernel a hundred instructions and does not
//! always decide is a function, called at most once, and only when it decides.

use crate::owner::{Claim, Direction, FLAG_SOCKET, FLAG_TAGGED, HOST, Party, UNKNOWN};

/// A connection: an entry, or what a packet would have opened.
#[derive(Clone, Copy, Debug)]
pub struct Flow<'a, S> {
    /// The claim on the source of its original direction.
    pub source: Option<&'a Claim>,
    /// The owner of the table that it is in: see [`slot_of_table`].
    pub table: Option<u32>,
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

/// An address of an entry that may be an owner's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The source of the original direction.
    Source,
    /// The source of the replies.
    Server,
}

#[inline(always)]
const fn egress(slot: u32) -> Party {
    Party::new(slot, Direction::Egress)
}

#[inline(always)]
const fn ingress(slot: u32) -> Party {
    Party::new(slot, Direction::Ingress)
}

/// The owner of the table of a network namespace, unless that is the host's. `owned`: whether any
/// namespace has an owner; if none has, nobody reads which one it is.
#[inline(always)]
pub fn slot_of_table(
    owned: bool,
    host_netns: u32,
    netns: impl FnOnce() -> u32,
    slot_of: impl FnOnce(u32) -> Option<u32>,
) -> Option<u32> {
    if !owned {
        return None;
    }
    let netns = netns();
    if netns == host_netns {
        return None;
    }
    slot_of(netns)
}

/// Whether a flow [is going to ask for its socket](Entering::asks_socket): told by the claim on its source
/// and the owner of the table.
#[inline(always)]
pub fn asks_socket(source: Option<&Claim>, table: impl FnOnce() -> Option<u32>) -> bool {
    source.is_some_and(|claim| claim.flags & FLAG_SOCKET != 0) && table().is_none()
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
    fn in_table_of(self, slot: u32) -> Party {
        let is_own = |claim: Option<&Claim>| claim.is_some_and(|claim| claim.slot == slot);
        if !is_own(self.source) && is_own((self.server)()) {
            ingress(slot)
        } else {
            egress(slot)
        }
    }

    /// Who an entry that enters its table is charged to.
    #[inline(always)]
    pub fn entering(self) -> Entering {
        if let Some(slot) = self.table {
            return Entering::untagged(self.in_table_of(slot));
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

    /// Who an entry that leaves its table was charged to when it entered. `take_tag` gives its tag, for the
    /// sake of the address at this end, which has [`FLAG_TAGGED`].
    #[inline(always)]
    pub fn leaving(self, take_tag: impl Fn(End) -> Option<Party>) -> Party {
        if let Some(slot) = self.table {
            return self.in_table_of(slot);
        }
        let mut is_untagged = false;
        if let Some(claim) = self.source {
            if claim.flags & FLAG_TAGGED == 0 {
                return egress(claim.slot);
            }
            if let Some(party) = take_tag(End::Source) {
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
        if !is_untagged && let Some(party) = take_tag(End::Server) {
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
        self,
        service: impl FnOnce() -> Option<u32>,
        slot_of_cgroup: impl FnOnce() -> Option<u32>,
    ) -> Party {
        if let Some(slot) = self.table {
            return self.in_table_of(slot);
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
