//! Who an entry or a packet is charged to, and the counters of owners.
//!
//! The rules, in this order (see `conntrack_ebpf::owner` for the maps):
//!
//! 1. a table that is a pod's own: that pod;
//! 2. the original source: its owner opened the connection (egress). If that is an address of the
//!    host, the sending socket's cgroup tells more;
//! 3. the source of the replies, after DNAT: its owner is the real server (ingress);
//! 4. else nobody that is known.
//!
//! A packet that never got an entry has its destination in place of the source of replies; if that
//! is a Service address, the one owner that is known to be behind it.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    macros::map,
    maps::{Array, HashMap},
};
use conntrack_ebpf::{
    counter::Counter,
    owner::{
        Address, Claim, DEFAULT_SLOTS, Direction, FLAG_SOCKET, FLAG_TAGGED, HOST, MOST_SERVICES,
        OwnerCounts, OwnerState, Party, Service, TagKey, UNKNOWN,
    },
    place::{Addresses, Cgroups},
    record::{DropReason, FLAG_INGRESS, Tuple},
    state::PerCpuState,
};

use super::{
    globals,
    maps::count_atomic,
    read::{self, ByHelper, Memory},
};

/// Addresses of owners: two tables, of which [`ACTIVE`] says which is read.
#[map]
static ADDRESSES: Array<Addresses> = Array::with_max_entries(2, BPF_F_MMAPABLE);

/// cgroup v2 ids of owners that share the host's addresses, likewise.
#[map]
static CGROUPS: Array<Cgroups> = Array::with_max_entries(2, BPF_F_MMAPABLE);

/// Index of the tables that are read.
#[map]
static ACTIVE: Array<u32> = Array::with_max_entries(1, 0);

/// Network namespaces of owners; written by user space.
#[map]
static NAMESPACES: HashMap<u32, u32> = HashMap::with_max_entries(4096, 0);

/// Entries whose owner their addresses do not tell.
#[map]
static TAGS: HashMap<TagKey, Party> = HashMap::with_max_entries(65_536, 0);

/// Who is behind a Service address; written by user space, read only for packets without an entry.
#[map]
static SERVICES: HashMap<Service, u32> = HashMap::with_max_entries(MOST_SERVICES, 0);

/// The counters of each slot: those of the first CPU, then those of the next. (Why it is not a per-CPU
/// map: see `STATE`.)
#[map]
static OWNERS: Array<OwnerState> = Array::with_max_entries(DEFAULT_SLOTS, BPF_F_MMAPABLE);

const NOBODY: Party = Party::new(UNKNOWN, Direction::Egress);

/// Who an entry is charged to, as far as it tells by itself.
#[derive(Clone, Copy)]
pub(super) struct Found {
    pub(super) party: Party,
    /// `FLAG_*` of the claim.
    flags: u32,
}

impl Found {
    const fn plain(party: Party) -> Self {
        Self { party, flags: 0 }
    }

    /// Its socket is to be asked, by [`of_socket`].
    pub(super) const fn asks_socket(self) -> bool {
        self.flags & FLAG_SOCKET != 0
    }

    const fn is_tagged(self) -> bool {
        self.flags & FLAG_TAGGED != 0
    }
}

/// The tables that are read now.
#[inline(always)]
fn active() -> u32 {
    ACTIVE.get(0).copied().unwrap_or(0)
}

/// What user space says about addresses now.
#[inline(always)]
fn addresses() -> Option<&'static Addresses> {
    ADDRESSES.get(active())
}

/// The claim on the source of one direction of an entry.
#[inline(always)]
fn claim<M: Memory, const REPLY: u32>(
    addresses: &'static Addresses,
    ct: u64,
) -> Option<&'static Claim> {
    addresses.find(read::ct_source::<M, REPLY>(ct))
}

/// The slot of a namespace that is not the host's, if it has an owner.
#[inline(always)]
fn slot_of_namespace(addresses: &Addresses, netns: impl FnOnce() -> u32) -> Option<u32> {
    if addresses.namespaces == 0 {
        return None;
    }
    let netns = netns();
    if netns == globals::HOST_NETNS.load() {
        return None;
    }
    // SAFETY: user space replaces an element as a whole; a reader sees the old one or the new.
    unsafe { NAMESPACES.get(netns) }.copied()
}

/// The inode number of an entry's network namespace.
#[inline(always)]
fn netns<M: Memory>(ct: u64) -> u32 {
    read::netns::<M>(read::ct_net::<M>(ct))
}

/// Which way a connection in the own table of `slot` goes.
#[inline(always)]
fn direction_within(
    slot: u32,
    source: Option<&'static Claim>,
    server: impl FnOnce() -> Option<&'static Claim>,
) -> Direction {
    let own = |claim: Option<&Claim>| claim.is_some_and(|claim| claim.slot == slot);
    if !own(source) && own(server()) {
        Direction::Ingress
    } else {
        Direction::Egress
    }
}

/// Who an entry that enters the table is charged to.
#[inline(always)]
pub(super) fn of_entry<M: Memory>(ct: u64) -> Found {
    let Some(addresses) = addresses() else {
        return Found::plain(NOBODY);
    };
    let source = claim::<M, 0>(addresses, ct);
    if let Some(slot) = slot_of_namespace(addresses, || netns::<M>(ct)) {
        let direction = direction_within(slot, source, || claim::<M, 1>(addresses, ct));
        return Found::plain(Party::new(slot, direction));
    }
    if let Some(claim) = source {
        return Found {
            party: Party::new(claim.slot, Direction::Egress),
            flags: claim.flags,
        };
    }
    match claim::<M, 1>(addresses, ct) {
        Some(claim) => Found {
            party: Party::new(claim.slot, Direction::Ingress),
            // Whoever sent it is elsewhere: there is no socket to ask.
            flags: if claim.flags & FLAG_SOCKET == 0 {
                claim.flags
            } else {
                0
            },
        },
        None => Found::plain(NOBODY),
    }
}

/// Whether the entry of a flow from `source` is going to ask for its socket: see [`of_entry`].
#[inline(always)]
pub(super) fn asks_socket(source: Address, net: u64) -> bool {
    let Some(addresses) = addresses() else {
        return false;
    };
    let is_host = |claim: &Claim| claim.flags & FLAG_SOCKET != 0;
    addresses.find(source).is_some_and(is_host)
        && slot_of_namespace(addresses, || read::netns::<ByHelper>(net)).is_none()
}

/// Charges an entry that entered the table to whom its addresses tell. Softirqs are off.
#[inline(always)]
pub(super) fn entered<M: Memory>(state: *mut PerCpuState, found: Found, ct: u64) {
    if let Some(counts) = counts(found.party) {
        // SAFETY: a live map value of this CPU.
        unsafe { (*counts).inserts += 1 }
    }
    if found.is_tagged() {
        tag::<M>(state, ct, found.party);
    }
}

/// As [`entered`], where a softirq may interrupt.
#[inline(always)]
pub(super) fn entered_interruptible<M: Memory>(state: *mut PerCpuState, found: Found, ct: u64) {
    count_insert(found.party);
    if found.is_tagged() {
        tag::<M>(state, ct, found.party);
    }
}

/// Charges an entry at an address of the host to the owner of its socket's cgroup, else the host.
#[inline(always)]
pub(super) fn entered_by_socket(state: *mut PerCpuState, cgroup: u64, ct: u64) -> Party {
    let party = of_socket(cgroup);
    count_insert(party);
    if party.slot() != HOST {
        tag::<ByHelper>(state, ct, party);
    }
    party
}

/// Charges an entry at an address of the host to the host: its packet was not seen.
#[inline(always)]
pub(super) fn entered_without_socket(state: *mut PerCpuState) {
    count_insert(Party::new(HOST, Direction::Egress));
    count_atomic(state, Counter::SocketsMissed, 1);
}

#[inline(always)]
fn of_socket(cgroup: u64) -> Party {
    let slot = match CGROUPS.get(active()) {
        Some(cgroups) if cgroup != 0 => cgroups.find(cgroup),
        _ => None,
    };
    let slot = slot.map_or(HOST, |slot| *slot as u32);
    Party::new(slot, Direction::Egress)
}

#[inline(always)]
fn tag<M: Memory>(state: *mut PerCpuState, ct: u64, party: Party) {
    if TAGS.insert(tag_key::<M>(ct), party, 0).is_err() {
        count_atomic(state, Counter::TagsLost, 1);
    }
}

#[inline(always)]
fn tag_key<M: Memory>(ct: u64) -> TagKey {
    let mut key = TagKey::default();
    // SAFETY: a local of the right type.
    unsafe { read::copy_ct_tuple::<M, 0>(ct, &raw mut key.tuple) };
    key.netns = netns::<M>(ct);
    key.zone = u32::from(read::ct_zone::<M>(ct));
    key
}

/// The tag of an entry, removed.
#[inline(always)]
fn take_tag<M: Memory>(ct: u64) -> Option<Party> {
    let key = tag_key::<M>(ct);
    // SAFETY: only the insert and the delete of this entry touch its element.
    let party = unsafe { TAGS.get(key) }.copied()?;
    let _: Result<(), i32> = TAGS.remove(key);
    Some(party)
}

/// Who an entry was charged to when it entered the table, now that it leaves.
#[inline(always)]
pub(super) fn of_leaving<M: Memory>(ct: u64) -> Party {
    let Some(addresses) = addresses() else {
        return NOBODY;
    };
    let source = claim::<M, 0>(addresses, ct);
    if let Some(slot) = slot_of_namespace(addresses, || netns::<M>(ct)) {
        let direction = direction_within(slot, source, || claim::<M, 1>(addresses, ct));
        return Party::new(slot, direction);
    }
    let mut tag_looked_for = false;
    if let Some(claim) = source {
        if claim.flags & FLAG_TAGGED == 0 {
            return Party::new(claim.slot, Direction::Egress);
        }
        if let Some(party) = take_tag::<M>(ct) {
            return party;
        }
        // Entries from before anybody had the address were charged by the rules that follow.
        if claim.base != UNKNOWN {
            return Party::new(claim.base, Direction::Egress);
        }
        tag_looked_for = true;
    }
    let Some(claim) = claim::<M, 1>(addresses, ct) else {
        return NOBODY;
    };
    if claim.flags & FLAG_TAGGED == 0 || claim.flags & FLAG_SOCKET != 0 {
        return Party::new(claim.slot, Direction::Ingress);
    }
    if !tag_looked_for && let Some(party) = take_tag::<M>(ct) {
        return party;
    }
    if claim.base == UNKNOWN {
        return NOBODY;
    }
    Party::new(claim.base, Direction::Ingress)
}

/// Who a packet is charged to that got no entry.
#[inline(always)]
pub(super) fn of_packet(tuple: &Tuple, net: u64, cgroup: u64) -> Party {
    let Some(addresses) = addresses() else {
        return NOBODY;
    };
    let claim_of = |words: [u32; 4]| addresses.find(Address::of_family(words, tuple.l3num));
    let source = claim_of(tuple.src);
    let netns = || read::netns::<ByHelper>(net);
    if let Some(slot) = slot_of_namespace(addresses, netns) {
        let direction = direction_within(slot, source, || claim_of(tuple.dst));
        return Party::new(slot, direction);
    }
    if let Some(claim) = source {
        if claim.flags & FLAG_SOCKET != 0 {
            return of_socket(cgroup);
        }
        return Party::new(claim.slot, Direction::Egress);
    }
    // No NAT rule got to see the packet.
    // SAFETY: as for `NAMESPACES`.
    match unsafe { SERVICES.get(Service::asked(tuple, netns())) } {
        Some(slot) if *slot == UNKNOWN => return NOBODY,
        Some(slot) => return Party::new(*slot, Direction::Ingress),
        None => {}
    }
    match claim_of(tuple.dst) {
        Some(claim) => Party::new(claim.slot, Direction::Ingress),
        None => NOBODY,
    }
}

/// Who a packet is charged to whose entry did not reach the table.
#[inline(always)]
pub(super) fn of_lost_entry(ct: u64, cgroup: u64) -> Party {
    let found = of_entry::<ByHelper>(ct);
    if found.asks_socket() {
        of_socket(cgroup)
    } else {
        found.party
    }
}

/// The direction as a flag of a record.
#[inline(always)]
pub(super) const fn flags(party: Party) -> u8 {
    match party.direction() {
        Direction::Egress => 0,
        Direction::Ingress => FLAG_INGRESS,
    }
}

/// This CPU's counters of a party; there are none for a slot beyond the map.
#[inline(always)]
fn counts(party: Party) -> Option<*mut OwnerCounts> {
    let (slot, slots) = (party.slot(), globals::OWNER_SLOTS.load());
    if slot >= slots {
        return None;
    }
    let state = OWNERS.get_ptr_mut(read::cpu() * slots + slot)?;
    // SAFETY: a live map value; a direction is 0 or 1.
    Some(unsafe { &raw mut (*state)[party.direction() as usize] })
}

/// Counts an insert where a softirq may interrupt.
#[inline(always)]
fn count_insert(party: Party) {
    if let Some(counts) = counts(party) {
        // SAFETY: a live, aligned word of a map value.
        unsafe { super::maps::add(&raw mut (*counts).inserts, 1) }
    }
}

/// Counts a delete. Softirqs are off.
#[inline(always)]
pub(super) fn count_delete(party: Party) {
    if let Some(counts) = counts(party) {
        // SAFETY: a live map value of this CPU.
        unsafe { (*counts).deletes += 1 }
    }
}

/// Counts an eviction for both sides. `cause` is [`NOBODY`] if it is not known.
#[inline(always)]
pub(super) fn count_eviction(victim: Party, cause: Party) {
    if let Some(counts) = counts(victim) {
        // SAFETY: a live, aligned word of a map value.
        unsafe { super::maps::add(&raw mut (*counts).victims, 1) }
    }
    if let Some(counts) = counts(cause) {
        // SAFETY: as above.
        unsafe { super::maps::add(&raw mut (*counts).causes, 1) }
    }
}

/// Counts a lost packet.
#[inline(always)]
pub(super) fn count_drop(party: Party, reason: DropReason) {
    if let Some(counts) = counts(party) {
        // SAFETY: as above; reasons begin with 1, and there is a counter for each.
        unsafe { super::maps::add(&raw mut (*counts).drops[reason as usize - 1], 1) }
    }
}

/// The cause of evictions that nothing is known about.
pub(super) const fn unknown_cause() -> Party {
    NOBODY
}
