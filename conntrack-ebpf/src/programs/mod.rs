//! One file for each event. A file has the event's logic once, and thin programs that hand it
//! the arguments of the probed function: `*_fentry`/`*_fexit` from the trampoline, `*_kprobe`/
//! `*_kretprobe` from the registers.
//!
//! Where user space attaches what is in its hook plan (`conntrack-user/src/probes/plan.rs`).

mod clash;
mod confirm;
mod delete;
mod early_drop;
mod emit;
mod globals;
mod insert;
mod maps;
mod memory;
mod new_flow;
mod owner;
mod read;
mod ring_fill;
mod sender;
mod tags;
