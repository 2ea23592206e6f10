//! The program that walks over the kernel's hash table of entries (`nf_conntrack_hash`), an object of its own: whoever wants to
//! look at a table loads it without the probes. On any other target this is an empty program.
//!
//! A run is one critical section of RCU, so what a chain leads to stays mapped. The memory of an entry can be used for another one at
//! once (`SLAB_TYPESAFE_BY_RCU`), whose chain then leads elsewhere: as the kernel's own readers do, the value at the end of a chain is
//! compared with the bucket, and a bucket only counts if it is its own (`____nf_conntrack_find`). While the kernel moves all
//! entries to another table (`nf_conntrack_hash_resize`) that value says nothing: the generation is compared before and after.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod program {
    use core::{ffi::c_void, mem::MaybeUninit};

    use aya_ebpf::{
        bindings::BPF_F_MMAPABLE,
        helpers::{bpf_probe_read_kernel, generated},
        macros::{map, raw_tracepoint},
        maps::{Array, ProgramArray},
        programs::RawTracePointContext,
    };
    use conntrack_ebpf::walk::{
        CopiedEntry, ENTRIES as MOST_ENTRIES, ENTRY_BYTES, RunEnd, STATUS, STEPS, TUPLES, Walk,
    };

    #[map]
    static WALK: Array<Walk> = Array::with_max_entries(1, BPF_F_MMAPABLE);

    #[map]
    static ENTRIES: Array<CopiedEntry> = Array::with_max_entries(MOST_ENTRIES, BPF_F_MMAPABLE);

    #[map]
    static AGAIN: ProgramArray = ProgramArray::with_max_entries(1, 0);

    /// `IPS_CONFIRMED` and `IPS_NAT_CLASH` of `ct->status`.
    const CONFIRMED: u64 = 1 << 3;
    const NAT_CLASH: u64 = 1 << 12;
    /// What a node says in the lowest bit: it is the end of a chain (`is_a_nulls`), and the bits above say of which.
    const END: u64 = 1;

    /// A node of a chain (`struct nf_conntrack_tuple_hash`), and what follows the second one of an entry.
    #[derive(Clone, Copy)]
    #[repr(C)]
    struct Node {
        next: u64,
        pprev: u64,
        before_direction: [u8; 39],
        /// 0: original
        direction: u8,
        status: u64,
    }

    /// Where an entry has the direction of its first tuple: 0.
    const DIRECTION: usize = TUPLES as usize + 55;
    /// From the second node of an entry to the begin of it.
    const REPLY_NODE: u64 = TUPLES as u64 + 56;
    const _: () = assert!(STATUS as u64 == REPLY_NODE + 56);

    #[inline(always)]
    fn load<T: Copy>(address: u64) -> Option<T> {
        // SAFETY: the helper checks the address and fails where it can't be read; `T` is an integer.
        unsafe { bpf_probe_read_kernel(address as *const T) }.ok()
    }

    #[inline(always)]
    fn now_ns() -> u64 {
        // SAFETY: the helper has no arguments and no preconditions.
        unsafe { generated::bpf_ktime_get_ns() }
    }

    /// Whether the table is still the one that the walk began with.
    #[inline(always)]
    fn is_as_before(walk: &Walk) -> bool {
        let generation = load::<u32>(walk.generation_at).map(u64::from);
        generation == Some(walk.generation) && load(walk.hash_at) == Some(walk.table)
    }

    /// Copies an entry to its place; `None`: there is none.
    #[inline(always)]
    fn copy(walk: &mut Walk, address: u64) -> Option<Copied> {
        let entry = ENTRIES.get_ptr_mut(walk.found as u32)?;
        let net_at = walk.net_at as usize;
        if net_at > ENTRY_BYTES - size_of::<u64>() {
            return None;
        }
        // SAFETY: a live element of the map; the helper checks the other address, and fills the place with zeroes if it fails.
        let failed = unsafe {
            generated::bpf_probe_read_kernel(
                (&raw mut (*entry).bytes).cast(),
                ENTRY_BYTES as u32,
                address as *const c_void,
            )
        };
        // SAFETY: as above; members of integers, each at a multiple of its size.
        let (next, net, status, direction) = unsafe {
            let bytes = (&raw const (*entry).bytes).cast::<u8>();
            (
                bytes.add(TUPLES as usize).cast::<u64>().read_volatile(),
                bytes.add(net_at).cast::<u64>().read_volatile(),
                bytes.add(STATUS as usize).cast::<u64>().read_volatile(),
                bytes.add(DIRECTION).read_volatile(),
            )
        };
        if net != walk.net {
            walk.net = net;
            let inum = net.wrapping_add(walk.inum_at);
            walk.netns = u64::from(load::<u32>(inum).unwrap_or(0));
        }
        // SAFETY: as above.
        unsafe {
            (&raw mut (*entry).address).write_volatile(address);
            (&raw mut (*entry).netns).write_volatile(walk.netns as u32);
            (&raw mut (*entry).bucket).write_volatile(walk.bucket as u32);
        }
        Some(Copied {
            next,
            is_original: failed == 0 && direction == 0,
            // Another entry may be made in that memory now, which is in no table yet.
            counts: status & CONFIRMED != 0,
            is_wanted: walk.only == 0 || walk.only == walk.netns,
        })
    }

    struct Copied {
        next: u64,
        /// What should be its first node can be read, and is one.
        is_original: bool,
        counts: bool,
        is_wanted: bool,
    }

    /// Goes over one node, or the end of a chain: 0 if there is more to go over.
    ///
    /// A global function, which the verifier looks at once and not in each turn of the loop.
    #[unsafe(no_mangle)]
    #[inline(never)]
    extern "C" fn walk_step() -> u32 {
        let Some(walk) = WALK.get_ptr_mut(0) else {
            return STOP;
        };
        // SAFETY: a live element of the map, which one thread has at a time.
        let walk = unsafe { &mut *walk };
        let node = walk.node;
        walk.stepped += 1;
        if node & END != 0 {
            return end_of_chain(walk, node >> 1);
        }
        if node & ALIGNED == walk.original_bits {
            let Some(copied) = copy(walk, node - u64::from(TUPLES)) else {
                walk.failed = RunEnd::TooLong as u64;
                return STOP;
            };
            if copied.is_original {
                walk.node = copied.next;
                take(walk, &copied);
                return GO_ON;
            }
        }
        let mut read = MaybeUninit::<Node>::uninit();
        // SAFETY: as in `copy`.
        let (failed, seen) = unsafe {
            let failed = generated::bpf_probe_read_kernel(
                read.as_mut_ptr().cast(),
                size_of::<Node>() as u32,
                node as *const c_void,
            );
            (failed, &*read.as_ptr())
        };
        if failed != 0 {
            walk.failed = RunEnd::Unreadable as u64;
            return STOP;
        }
        let is_original = seen.direction == 0;
        if !is_original && seen.status & NAT_CLASH == 0 {
            walk.node = seen.next;
            return GO_ON;
        }
        let before = if is_original {
            u64::from(TUPLES)
        } else {
            REPLY_NODE
        };
        let Some(copied) = copy(walk, node - before) else {
            walk.failed = RunEnd::TooLong as u64;
            return STOP;
        };
        if is_original {
            walk.original_bits = node & ALIGNED;
            walk.node = copied.next;
        } else {
            walk.node = seen.next;
        }
        take(walk, &copied);
        GO_ON
    }

    /// Keeps what was copied, if it counts.
    #[inline(always)]
    fn take(walk: &mut Walk, copied: &Copied) {
        if copied.counts && copied.is_wanted {
            walk.found += 1;
        } else if copied.counts {
            walk.found_others += 1;
        }
    }

    /// See [`Walk::original_bits`].
    const ALIGNED: u64 = 63;

    const GO_ON: u32 = 0;
    const STOP: u32 = 1;

    /// A chain came to its end, at this bucket's.
    #[inline(always)]
    fn end_of_chain(walk: &mut Walk, of_bucket: u64) -> u32 {
        if of_bucket == walk.bucket {
            walk.bucket += 1;
            walk.copied = walk.found;
            walk.others += walk.found_others;
        } else {
            walk.torn += 1;
            walk.found = walk.copied;
        }
        walk.found_others = 0;
        if walk.bucket >= walk.buckets || walk.stepped >= walk.steps {
            walk.node = 0;
            return STOP;
        }
        walk.node = load(walk.table + 8 * walk.bucket).unwrap_or(0);
        GO_ON
    }

    /// The first run of a walk.
    #[inline(always)]
    fn begin(walk: &mut Walk) -> RunEnd {
        let generation = load::<u32>(walk.generation_at);
        let (Some(generation), Some(table), Some(buckets)) = (
            generation,
            load::<u64>(walk.hash_at),
            load::<u32>(walk.size_at),
        ) else {
            return RunEnd::Unreadable;
        };
        if generation & 1 != 0 || load::<u32>(walk.generation_at) != Some(generation) {
            return RunEnd::Changed;
        }
        walk.generation = u64::from(generation);
        walk.buckets = u64::from(buckets);
        walk.table = table;
        RunEnd::Begun
    }

    /// Before the steps of a run; `None`: there are to be some.
    #[inline(always)]
    fn prepare(walk: &mut Walk) -> Option<RunEnd> {
        if walk.node == 0 {
            walk.first = walk.bucket;
            walk.began_ns = now_ns();
            // SAFETY: the helper has no arguments and no preconditions.
            walk.jiffies = unsafe { generated::bpf_jiffies64() };
        }
        if walk.table == 0 {
            return Some(begin(walk));
        }
        if walk.bucket >= walk.buckets {
            return Some(RunEnd::Copied);
        }
        if !is_as_before(walk) {
            return Some(RunEnd::Changed);
        }
        walk.failed = RunEnd::Copied as u64;
        if walk.node == 0 {
            walk.node = load(walk.table + 8 * walk.bucket).unwrap_or(0);
        }
        None
    }

    /// After the steps of a run.
    #[inline(always)]
    fn conclude(walk: &mut Walk) -> RunEnd {
        walk.ended_ns = now_ns();
        if !is_as_before(walk) {
            RunEnd::Changed
        } else if walk.failed != RunEnd::Copied as u64 {
            RunEnd::of(walk.failed)
        } else if walk.node != 0 && walk.bucket == walk.first {
            // Not one bucket came to its end.
            RunEnd::GoesOn
        } else {
            RunEnd::Copied
        }
    }

    /// How it ended is in [`Walk::end`]: what a raw tracepoint returns says nothing.
    #[raw_tracepoint]
    fn walk(ctx: RawTracePointContext) {
        let Some(walk) = WALK.get_ptr_mut(0) else {
            return;
        };
        // SAFETY: a live element of the map, which one thread has at a time; a step takes a reference of its own.
        let prepared = prepare(unsafe { &mut *walk });
        let end = prepared.unwrap_or_else(
            #[inline(always)]
            || {
                for _ in 0..STEPS {
                    if walk_step() != GO_ON {
                        break;
                    }
                }
                // SAFETY: as above.
                conclude(unsafe { &mut *walk })
            },
        );
        // SAFETY: as above.
        unsafe { (*walk).end = end as u64 };
        if end == RunEnd::GoesOn {
            // SAFETY: this program; if it can't be called any more, this one has ended so.
            unsafe { AGAIN.tail_call(&ctx, 0) };
        }
    }
}

#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program in which this can be reached.
    loop {}
}
