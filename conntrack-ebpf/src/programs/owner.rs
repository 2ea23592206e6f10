//! The maps of owners, what the rules of [`conntrack_ebpf::charge`] read of them and of the kernel, and the
//! counters of owners.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    macros::map,
    maps::{Array, HashMap},
};
use conntrack_ebpf::{
    charge::{self, Entering, Flow, Table},
    counter::Counter,
    owner::{
        Address, Claim, DEFAULT_SLOTS, Direction, MOST_SERVICES, OwnerCounts, OwnerState, Party,
        Service,
    },
    place::{Addresses, Cgroups},
    record::{DropReason, FLAG_INGRESS, Tuple},
    state::PerCpuState,
};

use super::{
    globals,
    maps::{add_one, count_atomic},
    read::{self, ByHelper, Memory},
    tags,
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
static NAMESPACES: HashMap<u32, Claim> = HashMap::with_max_entries(4096, 0);

/// Who is behind a Service address; written by user space, read only for packets without an entry.
#[map]
static SERVICES: HashMap<Service, u32> = HashMap::with_max_entries(MOST_SERVICES, 0);

/// The counters of each slot: those of the first CPU, then those of the next. (Why it is not a per-CPU
/// map: see `STATE`.)
#[map]
static OWNERS: Array<OwnerState> = Array::with_max_entries(DEFAULT_SLOTS, BPF_F_MMAPABLE);

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

/// The table of a network namespace.
#[inline(always)]
fn table(netns: u32) -> Table<'static> {
    Table::of(
        netns,
        globals::HOST_NETNS.load(),
        #[inline(always)]
        // SAFETY: user space replaces an element as a whole; a reader sees the old one or the new.
        |netns| unsafe { NAMESPACES.get(netns) },
    )
}

/// The inode number of an entry's network namespace.
#[inline(always)]
fn netns<M: Memory>(ct: u64) -> u32 {
    read::netns::<M>(read::ct_net::<M>(ct))
}

/// An entry, as the rules read it.
#[inline(always)]
fn flow<M: Memory>(
    addresses: &'static Addresses,
    ct: u64,
) -> Flow<'static, impl Fn() -> Option<&'static Claim>> {
    Flow {
        source: addresses.find(read::ct_source::<M, 0>(ct)),
        table: table(netns::<M>(ct)),
        server: #[inline(always)]
        move || addresses.find(read::ct_source::<M, 1>(ct)),
    }
}

/// Who an entry that enters the table is charged to.
#[inline(always)]
pub(super) fn of_entry<M: Memory>(ct: u64) -> Entering {
    let Some(addresses) = addresses() else {
        return Entering::NOBODY;
    };
    flow::<M>(addresses, ct).entering()
}

/// Whether the entry of a flow from `source` is going to ask for its socket.
#[inline(always)]
pub(super) fn asks_socket(source: Address, net: u64) -> bool {
    let Some(addresses) = addresses() else {
        return false;
    };
    charge::asks_socket(addresses.find(source), || {
        table(read::netns::<ByHelper>(net))
    })
}

/// Charges an entry that entered the table to whom its addresses tell. Softirqs are off.
#[inline(always)]
pub(super) fn entered<M: Memory>(state: *mut PerCpuState, entering: Entering, ct: u64) -> Party {
    let party = tagged::<M>(state, ct, entering, false);
    if let Some(counts) = counts(party) {
        // SAFETY: a live, aligned word of a map value of this CPU.
        unsafe { add_one(&raw mut (*counts).inserts) }
    }
    party
}

/// As [`entered`], where a softirq may interrupt; `clash`: it lost one and is inserted all the same.
#[inline(always)]
pub(super) fn entered_interruptible<M: Memory>(
    state: *mut PerCpuState,
    entering: Entering,
    ct: u64,
    clash: bool,
) -> Party {
    let mut party = tagged::<M>(state, ct, entering, clash);
    // It is in the table already: if it was found dying there before it had its tag, it left without one. Whoever takes the tag out
    // says who is charged.
    if entering.is_tagged()
        && read::ct_status(ct).is_some_and(|status| status & read::DYING != 0)
        && tags::take::<M>(ct, clash).is_some()
    {
        party = untagged::<M>(ct);
        if entering.party.slot() != party.slot() {
            count_atomic(state, Counter::SocketsMissed, 1);
        }
    }
    count_insert(party);
    party
}

/// Charges an entry that asks for its socket, whose cgroup this is.
#[inline(always)]
pub(super) fn entered_by_socket(
    state: *mut PerCpuState,
    cgroup: u64,
    ct: u64,
    clash: bool,
) -> Party {
    let entering = charge::by_socket(slot_of_cgroup(cgroup));
    entered_interruptible::<ByHelper>(state, entering, ct, clash)
}

/// Charges an entry that asks for its socket, but whose packet was not seen.
#[inline(always)]
pub(super) fn entered_without_socket(state: *mut PerCpuState) -> Party {
    let party = charge::by_socket(None).party;
    count_insert(party);
    count_atomic(state, Counter::SocketsMissed, 1);
    party
}

/// The slot of the owner of a socket's cgroup; 0: it has none.
#[inline(always)]
fn slot_of_cgroup(cgroup: u64) -> Option<u32> {
    let cgroups = CGROUPS.get(active()).filter(|_| cgroup != 0)?;
    cgroups.find(cgroup).map(|slot| *slot as u32)
}

/// Tags an entry if it has to be; gives who it is charged to: if there is no room for the tag, whoever it will be
/// charged to when it leaves without one.
#[inline(always)]
fn tagged<M: Memory>(state: *mut PerCpuState, ct: u64, entering: Entering, clash: bool) -> Party {
    if !entering.is_tagged() {
        return entering.party;
    }
    if tags::put::<M>(ct, clash, entering.party) {
        return entering.party;
    }
    count_atomic(state, Counter::TagsLost, 1);
    untagged::<M>(ct)
}

#[inline(always)]
fn untagged<M: Memory>(ct: u64) -> Party {
    match addresses() {
        Some(addresses) => flow::<M>(addresses, ct).untagged(),
        None => Party::NOBODY,
    }
}

/// Who an entry was charged to when it entered the table, now that it leaves.
#[inline(always)]
pub(super) fn of_leaving<M: Memory>(ct: u64) -> Party {
    let Some(addresses) = addresses() else {
        return Party::NOBODY;
    };
    flow::<M>(addresses, ct).leaving(
        #[inline(always)]
        |_| {
            let clash = read::ct_status(ct).is_some_and(|status| status & read::NAT_CLASH != 0);
            tags::take::<M>(ct, clash)
        },
    )
}

/// Who a packet is charged to that got no entry.
#[inline(always)]
pub(super) fn of_packet(tuple: &Tuple, net: u64, cgroup: u64) -> Party {
    let Some(addresses) = addresses() else {
        return Party::NOBODY;
    };
    let claim = #[inline(always)]
    |words: [u32; 4]| addresses.find(Address::of_family(words, tuple.l3num));
    let netns = read::netns::<ByHelper>(net);
    let flow = Flow {
        source: claim(tuple.src),
        table: table(netns),
        server: #[inline(always)]
        || claim(tuple.dst),
    };
    flow.refused(
        // SAFETY: as for `NAMESPACES`.
        #[inline(always)]
        || unsafe { SERVICES.get(Service::asked(tuple, netns)) }.copied(),
        #[inline(always)]
        || slot_of_cgroup(cgroup),
    )
}

/// Who a packet is charged to whose entry did not reach the table.
#[inline(always)]
pub(super) fn of_lost_entry(ct: u64, cgroup: u64) -> Party {
    let entering = of_entry::<ByHelper>(ct);
    if entering.asks_socket() {
        charge::by_socket(slot_of_cgroup(cgroup)).party
    } else {
        entering.party
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

/// Counts a delete, of an entry that is still `held` or not. Softirqs are off.
#[inline(always)]
pub(super) fn count_delete(party: Party, held: bool) {
    if let Some(counts) = counts(party) {
        // SAFETY: a live, aligned word of a map value of this CPU.
        unsafe { add_one(&raw mut (*counts).deletes) }
        if held {
            // SAFETY: as above.
            unsafe { add_one(&raw mut (*counts).held) }
        }
    }
}

/// Counts an eviction for both sides. `cause` is [`Party::NOBODY`] if it is not known.
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
