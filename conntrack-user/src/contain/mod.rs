//! Stopping one owner that fills the table, by hand: a limit on what it opens, which ends by itself in the kernel, and its entries deleted.
//!
//! * `plan`: who is meant, by which addresses, and what speaks against it: pure;
//! * `rules`: the table of `nf_tables` that holds the limit;
//! * `listing`: what that table says;
//! * `deletion`: the owner's entries, one by one.
//!
//! **Where the limit is.** Behind conntrack's own hook (priority -199, conntrack is -200), on packets whose entry is not confirmed: those, and no
//! others, are about to put an entry into the table. What is refused there never enters it. Before conntrack (`raw`) nothing tells a new UDP flow
//! from the next packet of an old one, so the owner's answered flows would be limited too, and a limit in packets would not be one in entries.
//! What this place costs: while the table is full the kernel looks for an entry to evict before the packet gets here. That happens for the first one
//! only: what is refused gives its place back, so that the table has one to spare from then on, and no more is evicted than what is let through.

mod deletion;
mod listing;
mod plan;
mod rules;

pub(crate) use deletion::{Deletion, delete_entries};
pub(crate) use listing::{Contained, lift, list};
pub(crate) use plan::{ContainPlan, Wanted, plan};
pub(crate) use rules::limit;
