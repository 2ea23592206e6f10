//! The user side of ctpressure, one room for each question:
//!
//! * [`sys`]: the only unsafe code: bpf(2), netlink sockets, perf events, capabilities;
//! * [`kernel`]: what the running kernel is;
//! * [`probes`]: which function is probed how, the loader, exact totals, the ring reader;
//! * [`census`]: what a table is full of;
//! * [`events`]: what a record means to a person or a script, and filters;
//! * [`pressure`]: how full, by whom, until when: pure functions over samples;
//! * [`doctor`]: what is wrong or risky on this node, and what to do about it;
//! * [`owners`]: who is on this node, and which slot each has;
//! * [`kube_events`]: what `kubectl describe` says of a pod or the node;
//! * [`limit`]: the limit controller: when to raise the limit, how far, and putting it back;
//! * [`agent`]: the sampler and its snapshot, the life cycle of the probes;
//! * [`journal`]: the flight recorder: what is kept on disk, and reading it;
//! * [`serve`]: HTTP and the local socket;
//! * [`cli`]: arguments and printing.

#![deny(unsafe_code)]

pub mod agent;
pub mod census;
pub mod cli;
pub mod doctor;
pub mod events;
pub mod journal;
pub mod kernel;
pub mod kube_events;
pub mod limit;
pub mod owners;
pub mod pressure;
pub mod probes;
pub mod report;
pub mod serve;
pub mod sys;
