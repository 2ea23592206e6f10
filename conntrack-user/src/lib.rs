//! The user side of ctpressure, one room for each question:
//!
//! * `sys`: the only unsafe code: bpf(2), netlink sockets, perf events, capabilities;
//! * [`kernel`]: what the running kernel is;
//! * [`probes`]: which function is probed how, the loader, exact totals, the ring reader;
//! * `walk`: all entries of the tables, from the kernel's hash table or from ctnetlink;
//! * `census`: what a table is full of;
//! * `contain`: stopping one owner by hand: a limit on what it opens, its entries deleted;
//! * `doctor`: what is wrong or risky on this node, and what to do about it;
//! * [`owners`]: who is on this node, and which slot each has;
//! * [`kube_events`]: what `kubectl describe` says of a pod or the node;
//! * [`limit`]: the limit controller: when to raise the limit, how far, and putting it back;
//! * [`agent`]: the sampler and its snapshot, the life cycle of the probes;
//! * `recorder`: what writes the journal while the agent runs;
//! * [`serve`]: HTTP and the local socket;
//! * [`cli`]: arguments and printing.

#![deny(unsafe_code)]

pub mod agent;
mod census;
pub mod cli;
mod contain;
mod doctor;
pub mod kernel;
pub mod kube_events;
pub mod limit;
pub mod owners;
pub mod probes;
mod recorder;
pub mod serve;
mod sys;
mod walk;
