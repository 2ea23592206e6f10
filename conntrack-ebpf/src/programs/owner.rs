//! The maps of owners, what the rules of [`conntrack_ebpf::charge`] read of them and of the kernel, and the
//! counters of owners.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    macros::map,
    maps::{Array, HashMap},
};
use conntrack_ebpf::{
    charge::{self, Entering, Flow},
    counter::Counter,
    owner::{
        Address, Claim, DEFAULT_SLOTS, Direction, MOST_SERVICES, OwnerCounts, OwnerState, Party,
        Service, TagKey,
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

/// The owner of the table of a network namespace.
#[inline(always)]
fn slot_of_table(addresses: &Addresses, netns: impl FnOnce() -> u32) -> Option<u32> {
    charge::slot_of_table(
        addresses.namespaces != 0,
        globals::HOST_NETNS.load(),
        netns,
        // SAFETY: user space replaces an element as a whole; a reader sees the old one or the new.
        |netns| unsafe { NAMESPACES.get(netns) }.copied(),
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
        table: slot_of_table(addresses, || netns::<M>(ct)),
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
        slot_of_table(addresses, || read::netns::<ByHelper>(net))
    })
}

/// Charges an entry that entered the table to whom its addresses tell. Softirqs are off.
#[inline(always)]
pub(super) fn entered<M: Memory>(state: *mut PerCpuState, entering: Entering, ct: u64) {
    if let Some(counts) = counts(entering.party) {
        // SAFETY: a live map value of this CPU.
        unsafe { (*counts).inserts += 1 }
    }
    tag::<M>(state, ct, entering);
}

/// As [`entered`], where a softirq may interrupt.
#[inline(always)]
pub(super) fn entered_interruptible<M: Memory>(
    state: *mut PerCpuState,
    entering: Entering,
    ct: u64,
) {
    count_insert(entering.party);
    tag::<M>(state, ct, entering);
}

/// Charges an entry that asks for its socket, whose cgroup this is.
#[inline(always)]
pub(super) fn entered_by_socket(state: *mut PerCpuState, cgroup: u64, ct: u64) -> Party {
    let entering = charge::by_socket(slot_of_cgroup(cgroup));
    entered_interruptible::<ByHelper>(state, entering, ct);
    entering.party
}

/// Charges an entry that asks for its socket, but whose packet was not seen.
#[inline(always)]
pub(super) fn entered_without_socket(state: *mut PerCpuState) {
    count_insert(charge::by_socket(None).party);
    count_atomic(state, Counter::SocketsMissed, 1);
}

/// The slot of the owner of a socket's cgroup; 0: it has none.
#[inline(always)]
fn slot_of_cgroup(cgroup: u64) -> Option<u32> {
    let cgroups = CGROUPS.get(active()).filter(|_| cgroup != 0)?;
    cgroups.find(cgroup).map(|slot| *slot as u32)
}

/// Tags an entry if it has to be.
#[inline(always)]
fn tag<M: Memory>(state: *mut PerCpuState, ct: u64, entering: Entering) {
    if entering.is_tagged() && TAGS.insert(tag_key::<M>(ct), entering.party, 0).is_err() {
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
        return Party::NOBODY;
    };
    flow::<M>(addresses, ct).leaving(
        #[inline(always)]
        |_| take_tag::<M>(ct),
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
    let netns = || read::netns::<ByHelper>(net);
    let flow = Flow {
        source: claim(tuple.src),
        table: slot_of_table(addresses, netns),
        server: #[inline(always)]
        || claim(tuple.dst),
    };
    flow.refused(
        // SAFETY: as for `NAMESPACES`.
        #[inline(always)]
        || unsafe { SERVICES.get(Service::asked(tuple, netns())) }.copied(),
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

/// Counts a delete. Softirqs are off.
#[inline(always)]
pub(super) fn count_delete(party: Party) {
    if let Some(counts) = counts(party) {
        // SAFETY: a live map value of this CPU.
        unsafe { (*counts).deletes += 1 }
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
