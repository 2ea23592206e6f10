//! The only unsafe code of the user side. Each function wraps one system call and says in its
//! SAFETY line why the call is sound.
#![allow(unsafe_code, reason = "this is the room for it")]

pub(crate) mod bpf;
pub(crate) mod ethtool;
pub(crate) mod lock;
pub(crate) mod mapping;
pub(crate) mod netlink;
pub(crate) mod netns;
pub(crate) mod perf;
pub(crate) mod priority;
pub(crate) mod readiness;
pub(crate) mod tcp;
