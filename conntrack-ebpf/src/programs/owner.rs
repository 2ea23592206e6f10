//! The maps of owners, what the rules of [`conntrack_ebpf::charge`] read of them and of the kernel, and the
//! counters of owners.

use core::{arch::asm, mem::MaybeUninit, sync::atomic::AtomicU64};

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    macros::map,
    maps::{Array, HashMap},
};
use conntrack_ebpf::{
    charge::{self, Entering, Flow, Table},
    counter::Counter,
    global::ADDRESSES_VALUE,
    owner::{Claim, DEFAULT_SLOTS, Direction, MOST_SERVICES, OwnerCounts, Party, Service},
    place::{Addresses, Cgroups},
    record::{DropReason, FLAG_INGRESS, Tuple},
    state::PerCpuState,
};

use super::{
    globals,
    maps::{self, add_one, count_atomic},
    memory::{ByHelper, Entry, Memory},
    read, tags,
};

/// Addresses of owners: two tables, of which each CPU's state says which is read. One element, whose address the code
/// has by [`ADDRESSES_VALUE`].
#[map]
static ADDRESSES: Array<[Addresses; 2]> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// cgroup v2 ids of owners that share the host's addresses, likewise.
#[map]
static CGROUPS: Array<Cgroups> = Array::with_max_entries(2, BPF_F_MMAPABLE);

/// Network namespaces of owners; written by user space.
#[map]
static NAMESPACES: HashMap<u32, Claim> = HashMap::with_max_entries(4096, 0);

/// Who is behind a Service address; written by user space, read only for packets without an entry.
#[map]
static SERVICES: HashMap<Service, u32> = HashMap::with_max_entries(MOST_SERVICES, 0);

/// The counters of each [`OwnerState`](conntrack_ebpf::owner::OwnerState): those of the first CPU, then those of the next. (Why it is not a per-CPU
/// map: see `STATE`.)
#[map]
static OWNERS: Array<OwnerCounts> = Array::with_max_entries(2 * DEFAULT_SLOTS, BPF_F_MMAPABLE);

/// `struct net *` of the host's network namespace, once it was met (until then no address at all): it is there for as long as the
/// host is. Compared, it saves a read.
static HOST_NET: AtomicU64 = AtomicU64::new(u64::MAX);

/// What user space says about addresses now.
#[inline(always)]
fn addresses(state: *mut PerCpuState) -> &'static Addresses {
    let both: *const Addresses;
    // SAFETY: it puts a number into a register, which user space has made the address of the map's element. By hand, so that nothing is
    // added to the number before.
    unsafe {
        asm!("{both} = {value} ll", both = out(reg) both, value = const ADDRESSES_VALUE,
            options(pure, nomem, nostack, preserves_flags));
    }
    // SAFETY: a live map value; the index is 0 or 1.
    unsafe { &*both.add(maps::tables(state) as usize & 1) }
}

/// The table of a network namespace.
#[inline(always)]
fn table<M: Memory>(net: u64) -> Table<'static> {
    // SAFETY: an aligned word that lives as long as the program; BPF loads of it don't tear.
    if net == unsafe { HOST_NET.as_ptr().read_volatile() } {
        return Table::Host;
    }
    let netns = read::netns::<M>(net);
    let table = Table::of(
        netns,
        globals::HOST_NETNS.load(),
        #[inline(always)]
        // SAFETY: user space replaces an element as a whole; a reader sees the old one or the new.
        |netns| unsafe { NAMESPACES.get(netns) },
    );
    if table == Table::Host {
        // SAFETY: as above; all write the same.
        unsafe { HOST_NET.as_ptr().write_volatile(net) }
    }
    table
}

/// An entry, as the rules read it.
#[inline(always)]
fn flow<'a, E: Entry>(
    table: Table<'a>,
    addresses: &'a Addresses,
    entry: &'a E,
) -> Flow<'a, impl Fn() -> Option<&'a Claim>> {
    Flow {
        source: entry.claim::<0>(addresses),
        table,
        server: #[inline(always)]
        move || entry.claim::<1>(addresses),
    }
}

/// Who an entry that enters the table is charged to.
#[inline(always)]
pub(super) fn of_entry<M: Memory>(state: *mut PerCpuState, entry: &impl Entry) -> Entering {
    let addresses = addresses(state);
    flow(table::<M>(entry.net()), addresses, entry).entering()
}

/// Whether the entry of a flow with this tuple is going to ask for its socket.
#[inline(always)]
pub(super) fn asks_socket(state: *mut PerCpuState, tuple: u64, net: u64) -> bool {
    let addresses = addresses(state);
    charge::asks_socket(read::source_claim(tuple, addresses), || {
        table::<ByHelper>(net)
    })
}

/// Charges an entry that entered the table to whom its addresses tell. Softirqs are off.
#[inline(always)]
pub(super) fn entered<M: Memory>(
    state: *mut PerCpuState,
    entering: Entering,
    entry: &impl Entry,
) -> Party {
    let party = tagged::<M>(state, entry, entering, false);
    count_one_insert(party);
    party
}

/// Charges an entry that entered the table and asks for its socket, to this control group. Softirqs are off.
#[inline(always)]
pub(super) fn entered_by_cgroup<M: Memory>(
    state: *mut PerCpuState,
    cgroup: u64,
    entry: &impl Entry,
) -> Party {
    let entering = charge::by_socket(slot_of_cgroup(state, cgroup));
    entered::<M>(state, entering, entry)
}

/// Counts an insert where softirqs are off.
#[inline(always)]
fn count_one_insert(party: Party) {
    if let Some(counts) = counts(party) {
        // SAFETY: a live, aligned word of a map value of this CPU.
        unsafe { add_one(&raw mut (*counts).inserts) }
    }
}

/// As [`entered`], where a softirq may interrupt; `clash`: it lost one and is inserted all the same.
#[inline(always)]
pub(super) fn entered_interruptible<M: Memory>(
    state: *mut PerCpuState,
    entering: Entering,
    entry: &impl Entry,
    clash: bool,
) -> Party {
    let mut party = tagged::<M>(state, entry, entering, clash);
    // It is in the table already: if it was found dying there before it had its tag, it left without one. Whoever takes the tag out
    // says who is charged. What ends `put` is a full barrier, and so is how the kernel sets the bit: if this does not see the bit,
    // who deletes the entry sees the tag.
    if entering.is_tagged()
        && read::ct_status(entry.address()).is_some_and(|status| status & read::DYING != 0)
        && tags::take::<M>(entry, || clash).is_some()
    {
        party = untagged::<M>(state, entry);
        if entering.party.slot() != party.slot() {
            count_atomic(state, Counter::SocketsMissed, 1);
        }
    }
    count_insert(party);
    party
}

/// Charges an entry that asks for its socket, whose cgroup this is.
#[inline(always)]
pub(super) fn entered_by_socket<M: Memory>(
    state: *mut PerCpuState,
    cgroup: u64,
    entry: &impl Entry,
    clash: bool,
) -> Party {
    let entering = charge::by_socket(slot_of_cgroup(state, cgroup));
    entered_interruptible::<M>(state, entering, entry, clash)
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
fn slot_of_cgroup(state: *mut PerCpuState, cgroup: u64) -> Option<u32> {
    let cgroups = CGROUPS.get(maps::tables(state)).filter(|_| cgroup != 0)?;
    cgroups.find(cgroup).map(|slot| *slot as u32)
}

/// Tags an entry if it has to be; gives who it is charged to: if there is no room for the tag, whoever it will be
/// charged to when it leaves without one.
#[inline(always)]
fn tagged<M: Memory>(
    state: *mut PerCpuState,
    entry: &impl Entry,
    entering: Entering,
    clash: bool,
) -> Party {
    if !entering.is_tagged() {
        return entering.party;
    }
    if tags::put::<M>(entry, clash, entering.party) {
        return entering.party;
    }
    count_atomic(state, Counter::TagsLost, 1);
    untagged::<M>(state, entry)
}

#[inline(always)]
fn untagged<M: Memory>(state: *mut PerCpuState, entry: &impl Entry) -> Party {
    let addresses = addresses(state);
    flow(table::<M>(entry.net()), addresses, entry).untagged()
}

/// Who an entry was charged to when it entered the table, now that it leaves.
#[inline(always)]
pub(super) fn of_leaving<M: Memory>(state: *mut PerCpuState, entry: &impl Entry) -> Party {
    let addresses = addresses(state);
    flow(table::<M>(entry.net()), addresses, entry).leaving(
        #[inline(always)]
        |_| {
            let clash = #[inline(always)]
            || {
                let status = read::ct_status(entry.address());
                status.is_some_and(|status| status & read::NAT_CLASH != 0)
            };
            tags::take::<M>(entry, clash)
        },
    )
}

/// Who a packet is charged to that got no entry.
#[inline(always)]
pub(super) fn of_packet(state: *mut PerCpuState, tuple: &Tuple, net: u64, cgroup: u64) -> Party {
    let addresses = addresses(state);
    let claim = #[inline(always)]
    |words: [u32; 4]| addresses.find_in_family(words, tuple.l3num);
    let netns = read::netns::<ByHelper>(net);
    let flow = Flow {
        source: claim(tuple.src),
        table: table::<ByHelper>(net),
        server: #[inline(always)]
        || claim(tuple.dst),
    };
    flow.refused(
        // SAFETY: as for `NAMESPACES`.
        #[inline(always)]
        || unsafe { SERVICES.get(Service::asked(tuple, netns)) }.copied(),
        #[inline(always)]
        || slot_of_cgroup(state, cgroup),
    )
}

/// Who a packet is charged to whose entry did not reach the table.
#[inline(always)]
pub(super) fn of_lost_entry(state: *mut PerCpuState, ct: u64, cgroup: u64) -> Party {
    let mut head = MaybeUninit::uninit();
    let entry = <ByHelper>::entry(ct, &mut head);
    let entering = of_entry::<ByHelper>(state, &entry);
    if entering.asks_socket() {
        charge::by_socket(slot_of_cgroup(state, cgroup)).party
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
    let of_cpu = globals::OWNER_COUNTS.load();
    if party.index() >= of_cpu {
        return None;
    }
    OWNERS.get_ptr_mut(read::cpu() * of_cpu + party.index())
}

/// Counts an insert where a softirq may interrupt.
#[inline(always)]
fn count_insert(party: Party) {
    if let Some(counts) = counts(party) {
        // SAFETY: a live, aligned word of a map value.
        unsafe { maps::add(&raw mut (*counts).inserts, 1) }
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
        unsafe { maps::add(&raw mut (*counts).victims, 1) }
    }
    if let Some(counts) = counts(cause) {
        // SAFETY: as above.
        unsafe { maps::add(&raw mut (*counts).causes, 1) }
    }
}

/// Counts a lost packet.
#[inline(always)]
pub(super) fn count_drop(party: Party, reason: DropReason) {
    if let Some(counts) = counts(party) {
        // SAFETY: as above; reasons begin with 1, and there is a counter for each.
        unsafe { maps::add(&raw mut (*counts).drops[reason as usize - 1], 1) }
    }
}
