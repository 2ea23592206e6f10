//! What the running kernel is: its types ([`btf`]), functions ([`kallsyms`]), limits ([`sysctl`]),
//! statistics ([`stats`]), tables ([`tables`]) and their entries ([`entries`]), how much memory an entry takes ([`slab`]),
//! and whether conntrack is there at all ([`conntrack`]).
//!
//! Every reader takes a [`Root`], so that the state of a kernel that is not booted can be read
//! from a folder of captured files.

pub mod btf;
pub mod conntrack;
pub mod entries;
pub mod kallsyms;
pub mod release;
mod root;
pub mod slab;
pub mod stats;
pub mod sysctl;
pub mod tables;

#[cfg(test)]
pub(crate) mod fixtures;

pub use root::Root;
