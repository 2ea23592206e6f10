//! The only unsafe code of the user side. Each function wraps one system call and says in its
//! SAFETY line why the call is sound.
#![allow(unsafe_code, reason = "this is the room for it")]

pub mod bpf;
pub mod mapping;
pub mod netlink;
pub mod netns;
pub mod perf;
pub mod priority;
pub mod readiness;
