//! The ABI between the eBPF programs and user space, and the programs' pure logic.
//!
//! Everything here is `no_std` and free of BPF helpers, so that it is compiled for both sides and
//! tested on the host:
//!
//! * [`record`]: what travels through the ring buffer, one record type for each event;
//! * [`counter`]: what is counted exactly, for each CPU;
//! * [`budget`]: how many records may be made, and what a record stands for;
//! * [`charge`]: the rules by which an entry or a lost packet is charged to an owner;
//! * [`owner`]: what is kept and counted of owners;
//! * [`tag_groups`]: where most tags of entries are, which say who is charged;
//! * [`place`]: the tables in which the programs look owners up;
//! * [`frame`]: which new flow made the kernel evict, over nested contexts;
//! * [`state`]: what each CPU keeps, made of the above;
//! * [`global`]: the read-only globals that user space sets before loading;
//! * [`walk`]: entries copied out of the kernel's hash table.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_op_in_unsafe_fn)]
#![allow(
    clippy::inline_always,
    reason = "a BPF function takes five arguments at most and its calls cost; these are all hot"
)]

pub mod budget;
pub mod charge;
pub mod counter;
pub mod frame;
pub mod global;
pub mod owner;
pub mod place;
pub mod record;
pub mod state;
pub mod tag_groups;
pub mod walk;

#[cfg(feature = "user")]
mod pod {
    use crate::{
        owner::{Address, Claim, OwnerCounts, Service, Tag, TagKey},
        place::{Addresses, Table},
        tag_groups::TagGroup,
    };

    // SAFETY: `repr(C)` integers without padding (sizes asserted in `owner`), so any bytes are a
    // value.
    unsafe impl aya::Pod for Address {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Claim {}
    // SAFETY: as above.
    unsafe impl aya::Pod for TagKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Service {}
    // SAFETY: `repr(C)` of plain bytes without padding (sizes asserted in `place`).
    unsafe impl<K: aya::Pod, V: aya::Pod> aya::Pod for Table<K, V> {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Addresses {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Tag {}
    // SAFETY: `repr(C)` words of 8 bytes.
    unsafe impl aya::Pod for TagGroup {}
    // SAFETY: as for `Address`.
    unsafe impl aya::Pod for OwnerCounts {}
    // SAFETY: `repr(C)` integers without padding (sizes asserted in `walk`).
    unsafe impl aya::Pod for crate::walk::Walk {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::walk::CopiedEntry {}
    // SAFETY: `PerCpuState` is `repr(C)`, has no padding (asserted in `state`), no pointers and no
    // invalid bit patterns: any bytes that the kernel hands out are a value of it.
    unsafe impl aya::Pod for crate::state::PerCpuState {}
}
