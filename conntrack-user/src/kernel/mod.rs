//! What the running kernel is: its types ([`btf`]), functions (`kallsyms`), limits (`sysctl`),
//! statistics (`stats`), tables (`tables`) and their entries (`entries`), the slab cache of entries (`slab`), the node's memory (`memory`),
//! what the machine under it allows (`allowances`), which network namespace is the host's (`host`), what holds this process back (`confinement`), and whether conntrack is there at all (`conntrack`).
//!
//! Every reader takes a [`Root`], so that the state of a kernel that is not booted can be read
//! from a folder of captured files.

pub(crate) mod allowances;
pub mod btf;
pub(crate) mod confinement;
pub(crate) mod conntrack;
pub(crate) mod entries;
pub(crate) mod files;
pub(crate) mod host;
pub(crate) mod kallsyms;
pub(crate) mod memory;
pub(crate) mod namespace;
pub(crate) mod overlays;
mod problem;
pub(crate) mod release;
mod root;
pub(crate) mod slab;
pub(crate) mod stats;
pub(crate) mod sysctl;
pub(crate) mod tables;

#[cfg(test)]
pub(crate) mod fixtures;

pub use problem::Problem;
pub(crate) use problem::{KnownProblems, Said};
pub use root::Root;
